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
    assert!(read(&text, None).unwrap_err().contains("written only"));
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
