use savi_schema::{Media, Message, Part, Role, SCHEMA_VERSION};
use serde_json::json;

use super::*;

fn read(text: &str, format: Option<PairFormat>) -> Result<Vec<Pair>, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pairs.jsonl");
    std::fs::write(&path, text).unwrap();
    let strip = format!("{}, ", path.display());
    read_pairs(&path, format).map_err(|error| error.to_string().replace(&strip, ""))
}

fn written(pairs: &[Pair], format: PairFormat) -> Result<String, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pairs.jsonl");
    write_pairs(&path, pairs, format).map_err(|error| error.to_string())?;
    Ok(std::fs::read_to_string(&path).unwrap())
}

fn pair() -> Pair {
    let media = Media { source: "clips/a.mp4".to_owned(), policy: None };
    Pair {
        schema: SCHEMA_VERSION,
        id: "q1".to_owned(),
        prompt: vec![Message::about_video(media, "What moves?")],
        chosen: "a \"red\" disc".to_owned(),
        rejected: "nothing".to_owned(),
        chosen_score: Some(4.5),
        rejected_score: Some(2.0),
        margin: 0.0,
        provenance: Map::new(),
    }
}

#[test]
fn layouts_that_are_read_and_written_keep_the_pair() {
    for format in [PairFormat::Savi, PairFormat::LlavaHound, PairFormat::Trl] {
        let text = written(&[pair()], format).unwrap();
        assert_eq!(read(&text, None).unwrap(), [pair()], "{}", format.name());
        assert_eq!(PairFormat::from_name(format.name()), Some(format));
    }
}

#[test]
fn llava_hound_rows() {
    let text = written(&[pair()], PairFormat::LlavaHound).unwrap();
    let row: Value = serde_json::from_str(&text).unwrap();
    let expected = json!({
        "id": "q1", "video": "clips/a.mp4", "prompt": "<video>\nWhat moves?",
        "chosen": "a \"red\" disc", "rejected": "nothing", "chosen_score": 4.5, "rejected_score": 2.0,
    });
    assert_eq!(row, expected);
    // Without a mark, id or scores, and with a column that we do not use.
    let text =
        r#"{"video": "v_1", "prompt": "Why?", "answer": "so", "chosen": "a", "rejected": "b"}"#;
    let pairs = read(text, None).unwrap();
    assert_eq!(pairs[0].id, "row-1");
    assert_eq!(pairs[0].chosen_score, None);
    assert!(matches!(&pairs[0].prompt[0].content[0], Part::Video(media) if media.source == "v_1"));
    assert_eq!(pairs[0].prompt[0].words(), "Why?");
    let text = r#"{"video": "v_1", "prompt": "Why?", "chosen": "a"}"#;
    assert_eq!(read(text, None).unwrap_err(), "row 1: missing key \"rejected\"");

    let mut two = pair();
    two.prompt.push(Message::text(Role::User, "And then?"));
    let error = written(&[two], PairFormat::LlavaHound).unwrap_err();
    assert_eq!(error, "record \"q1\": llava-hound: the prompt must be one user turn");
}

#[test]
fn ms_swift_rows() {
    let mut pair = pair();
    pair.prompt.insert(0, Message::text(Role::System, "Be brief."));
    let text = written(&[pair.clone()], PairFormat::MsSwift).unwrap();
    let row: Value = serde_json::from_str(&text).unwrap();
    let expected = json!({
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "<video>What moves?"},
            {"role": "assistant", "content": "a \"red\" disc"},
        ],
        "rejected_response": "nothing",
        "videos": ["clips/a.mp4"],
    });
    assert_eq!(row, expected);
    let back =
        Pair { id: "row-1".to_owned(), chosen_score: None, rejected_score: None, ..pair.clone() };
    assert_eq!(read(&text, None).unwrap(), [back]);
    pair.rejected = "a <video> of it".to_owned();
    assert!(written(&[pair], PairFormat::MsSwift).unwrap_err().contains("contain <video>"));
}

#[test]
fn trl_rows_with_and_without_a_prompt_of_their_own() {
    let user =
        json!({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "Q"}]});
    let (a, b) = (
        json!({"role": "assistant", "content": "a"}),
        json!({"role": "assistant", "content": "b"}),
    );
    let explicit = json!({"prompt": [user], "chosen": [a], "rejected": [b], "images": ["p.png"]});
    let implicit = json!({"chosen": [user, a], "rejected": [user, b], "images": ["p.png"]});
    for row in [explicit, implicit] {
        let pairs = read(&row.to_string(), None).unwrap();
        assert_eq!((pairs[0].chosen.as_str(), pairs[0].rejected.as_str()), ("a", "b"));
        assert!(
            matches!(&pairs[0].prompt[0].content[0], Part::Image(media) if media.source == "p.png")
        );
        assert_eq!(pairs[0].prompt[0].words(), "Q");
    }
    for (row, error) in [
        (
            json!({"prompt": [user], "chosen": [a], "rejected": [b]}),
            "row 1: prompt[0]: image without a file",
        ),
        (
            json!({"prompt": [user], "chosen": [a], "rejected": [b], "images": ["p", "q"]}),
            "row 1: \"q\" has no place in the turns",
        ),
        (
            json!({"prompt": "Q", "chosen": [a], "rejected": [b]}),
            "row 1: prompt is not a list of turns",
        ),
        (json!({"chosen": [a], "rejected": [a]}), "row 1: the prompt has no turns"),
        (
            json!({"prompt": [{"role": "user"}], "chosen": [a], "rejected": [b]}),
            "row 1: missing key \"prompt[0].content\"",
        ),
    ] {
        assert_eq!(read(&row.to_string(), None).unwrap_err(), error);
    }
}

#[test]
fn ids_are_unique_and_layouts_known() {
    let row = r#"{"id": 7, "video": "v", "prompt": "Why?", "chosen": "a", "rejected": "b"}"#;
    let error = read(&format!("{row}\n{row}\n"), None).unwrap_err();
    assert_eq!(error, "row 2: id \"7\" was used in row 1 already");
    assert!(read(r#"{"question": "?"}"#, None).unwrap_err().contains("no known layout"));
    assert!(read("", None).unwrap().is_empty());
}

#[test]
fn every_trainer_s_words_for_a_pair_mean_the_same() {
    let (system, question) = ("Be brief.", "What moves?");
    let ours = json!([{"role": "user", "content": question}]);
    let theirs = json!([{"from": "human", "value": question}]);
    let turn = |text: &str| json!({"from": "gpt", "value": text});
    for row in [
        json!({"instruction": question, "chosen": "a", "rejected": "b"}),
        json!({"conversations": theirs, "chosen": turn("a"), "rejected": turn("b")}),
        json!({"query": question, "response": "a", "rejected_response": "b"}),
        json!({"prompt": question, "chosen": "a", "rejected": "b"}),
        json!({"prompt": ours, "chosen": [{"role": "assistant", "content": "a"}],
            "rejected": [{"role": "assistant", "content": "b"}]}),
    ] {
        let pairs = read(&row.to_string(), None).unwrap_or_else(|error| panic!("{row}: {error}"));
        assert_eq!(pairs[0].prompt, [Message::text(Role::User, question)], "{row}");
        assert_eq!((pairs[0].chosen.as_str(), pairs[0].rejected.as_str()), ("a", "b"), "{row}");
    }
    let row = json!({"instruction": "What", "input": "moves?", "system": system, "chosen": "a", "rejected": "b",
        "history": [["<video>Hm", "so"]], "videos": ["v"]});
    let pair = read(&row.to_string(), None).unwrap().remove(0);
    let said: Vec<String> = pair.prompt.iter().map(Message::words).collect();
    assert_eq!(said, [system, "Hm", "so", "What\nmoves?"]);
    assert!(matches!(&pair.prompt[1].content[0], Part::Video(media) if media.source == "v"));
    // A prompt that is only the common start of two texts; the blank is the answers'.
    let row = json!({"chosen": "The sky is blue.", "rejected": "The sky is green."});
    let pair = read(&row.to_string(), None).unwrap().remove(0);
    assert_eq!((pair.prompt[0].words().as_str(), pair.chosen.as_str()), ("The sky is", " blue."));
    let empty = json!({"prompt": "Q", "chosen": " ", "rejected": "b"});
    assert_eq!(read(&empty.to_string(), None).unwrap_err(), "row 1: chosen is empty");
}

#[test]
fn rows_that_cannot_be_used_are_left_out_where_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pairs.csv");
    let text = "prompt,chosen,rejected\nQ,a,b\nQ,,b\n\"Q,\nR\",c,d\n";
    std::fs::write(&path, text).unwrap();
    let error = read_pairs(&path, None).unwrap_err().to_string();
    assert!(error.ends_with("pairs.csv, row 2: missing key \"chosen\""), "{error}");
    let read = read_pairs_with(&path, None, BadRows::Skip, |_| Ok(())).unwrap();
    assert_eq!(read.skipped, [error]);
    assert_eq!(read.records.len(), 2);
    assert_eq!(read.records[1].prompt[0].words(), "Q,\nR");
}
