use parquet::data_type::{ByteArray, ByteArrayType};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use savi_schema::{CountRule, FrameSampling};
use serde_json::json;

use super::*;
use crate::read_prompts;

fn read(row: &Value) -> Result<Demonstration, String> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.jsonl");
    std::fs::write(&path, row.to_string()).unwrap();
    let strip = format!("{}, ", path.display());
    let read = read_demonstrations(&path, None, BadRows::Error, |_| Ok(()));
    read.map(|mut read| read.records.remove(0)).map_err(|e| e.to_string().replace(&strip, ""))
}

fn turns(row: &Value) -> Vec<Message> {
    match read(row).unwrap_or_else(|error| panic!("{row}: {error}")).taught {
        Taught::Turns { turns, .. } => turns,
        other => panic!("{other:?}"),
    }
}

#[test]
fn every_trainer_s_words_for_a_demonstration_mean_the_same() {
    let expected =
        [Message::text(Role::User, "What moves?"), Message::text(Role::Assistant, "a disc")];
    let user = json!({"role": "user", "content": "What moves?"});
    let assistant = json!({"role": "assistant", "content": "a disc"});
    for row in [
        json!({"messages": [user, assistant]}),
        json!({"prompt": [user], "completion": [assistant]}),
        json!({"instruction": "What moves?", "input": "", "output": "a disc"}),
        json!({"query": "What moves?", "response": "a disc"}),
        json!({"conversations": [{"from": "human", "value": "What moves?"}, {"from": "gpt", "value": "a disc"}]}),
    ] {
        assert_eq!(turns(&row), expected, "{row}");
    }
    let text = read(&json!({"text": "So it is.", "weight": 0.5})).unwrap();
    assert_eq!((text.taught, text.weight), (Taught::Text("So it is.".to_owned()), 0.5));
    let plain = read(&json!({"prompt": "One, ", "completion": "two"})).unwrap().taught;
    assert!(
        matches!(plain, Taught::Continuation { completion, open: false, .. } if completion == "two")
    );
}

#[test]
fn clips_stand_where_marks_and_parts_say() {
    let said = |words: &str| json!([{"role": "user", "content": words}, {"role": "assistant", "content": "x"}]);
    let marked = turns(
        &json!({"messages": said("Here <video> and <image>."), "videos": ["v"], "images": ["i"]}),
    );
    let kinds: Vec<&str> = marked[0]
        .content
        .iter()
        .map(|part| match part {
            Part::Text { text } => text.as_str(),
            Part::Video(media) | Part::Image(media) => media.source.as_str(),
        })
        .collect();
    assert_eq!(kinds, ["Here ", "v", " and ", "i", "."]);
    // Without a mark before the first words; without files a mark is words.
    let first = turns(&json!({"messages": said("Here."), "video": "v"}));
    assert!(matches!(&first[0].content[0], Part::Video(media) if media.source == "v"));
    assert_eq!(turns(&json!({"messages": said("a <video> tag")}))[0].words(), "a <video> tag");
    let part = json!({"type": "video", "video": "v", "nframes": 7, "video_start": 1.5});
    let own = turns(
        &json!({"messages": [{"role": "user", "content": [part]}, {"role": "assistant", "content": "x"}]}),
    );
    let Part::Video(clip) = &own[0].content[0] else { panic!("{own:?}") };
    let policy = clip.policy.as_ref().unwrap();
    assert_eq!(policy.sampling, FrameSampling::Count { frames: 8, rule: CountRule::Linspace });
    assert_eq!((policy.start, policy.end), (Some(1.5), None));
}

#[test]
fn what_cannot_be_learnt_from_is_told_by_row() {
    let user = json!({"role": "user", "content": "Q"});
    let said = |words: &str| json!({"role": "assistant", "content": words});
    for (row, error) in [
        (json!({"messages": [user]}), "there is no turn of the assistant"),
        (json!({"messages": [user, said(" ")]}), "turn 2, the assistant's answer, is empty"),
        (json!({"messages": [user, said("x"), user]}), "does not end with"),
        (json!({"messages": [{"role": "tool", "content": "1"}]}), "turns of tools"),
        (
            json!({"messages": [user, said("x")], "videos": ["a"], "video": "b"}),
            "both videos and video",
        ),
        (json!({"question": "Q"}), "no known layout"),
        (json!({"text": "x", "weight": "much"}), "not a number"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "video"}]}, said("x")]}),
            "without a file",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"video": "v", "max_pixels": 9}]}, said("x")]}),
            "messages[0].max_pixels",
        ),
    ] {
        let told = read(&row).unwrap_err();
        assert!(told.starts_with("row 1") && told.contains(error), "{told}");
    }
}

#[test]
fn parquet_rows_are_read_as_they_were_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.parquet");
    let schema = "message rows {
        required binary data_source (UTF8);
        required group prompt (LIST) { repeated group list { required group element {
            required binary role (UTF8); required binary content (UTF8); } } }
        optional group reward_model { optional binary ground_truth (UTF8); optional binary style (UTF8); }
    }";
    let schema = std::sync::Arc::new(parquet::schema::parser::parse_message_type(schema).unwrap());
    let packed = WriterProperties::builder().set_compression(parquet::basic::Compression::SNAPPY);
    let file = std::fs::File::create(&path).unwrap();
    let mut writer = SerializedFileWriter::new(file, schema, packed.build().into()).unwrap();
    let mut group = writer.next_row_group().unwrap();
    // Two rows: one with a system's turn before the user's, the other with the user's alone and no style.
    type Column<'a> = (&'a [&'a str], Option<&'a [i16]>, Option<&'a [i16]>);
    let columns: [Column<'_>; 5] = [
        (&["sums", "sums"], None, None),
        (&["system", "user", "user"], Some(&[1, 1, 1]), Some(&[0, 1, 0])),
        (&["Count.", "1 + 1?", "2 + 2?"], Some(&[1, 1, 1]), Some(&[0, 1, 0])),
        (&["2", "4"], Some(&[2, 2]), None),
        (&["rule"], Some(&[2, 1]), None),
    ];
    for (texts, definitions, repetitions) in columns {
        let values: Vec<ByteArray> = texts.iter().map(|&text| text.into()).collect();
        let mut column = group.next_column().unwrap().unwrap();
        let typed = column.typed::<ByteArrayType>();
        typed.write_batch(&values, definitions, repetitions).unwrap();
        column.close().unwrap();
    }
    group.close().unwrap();
    writer.close().unwrap();
    let read = read_prompts(&path, None, BadRows::Error, |_| Ok(())).unwrap().records;
    assert_eq!(read[0].prompt.len(), 2);
    assert_eq!(read[1].prompt, [Message::text(Role::User, "2 + 2?")]);
    assert_eq!(read[0].columns["reward_model"], json!({"ground_truth": "2", "style": "rule"}));
    assert_eq!(read[1].columns["reward_model"], json!({"ground_truth": "4"}));
    assert_eq!(read[1].columns["data_source"], "sums");
}
