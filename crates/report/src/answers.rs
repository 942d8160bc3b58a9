//! Answers of a text model under principles: what it thought, which rules it weighed, what is taught of it.

use serde::Serialize;
use serde_json::Value;

use crate::load::Run;
use crate::words::reason;

/// Answers shown of those that are taught, and of those that are left out.
const TAUGHT: usize = 8;
const LEFT_OUT: usize = 4;

/// An answer as the page shows it.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Answer {
    source: String,
    query: String,
    thoughts: Option<String>,
    rules: String,
    answer: String,
    truncated: bool,
    /// The answer at length, where one is taught.
    long: Option<String>,
    dropped: Option<String>,
    raw: String,
}

/// The first answers that are taught, then the first that are left out, by the records of `align` and `clone`.
pub(crate) fn answers(run: &Run) -> Vec<Answer> {
    let long = run.records(1, "clone");
    let all = run.records(0, "align");
    let is_taught = |record: &&Value| record.get("dropped").is_none();
    let taught = all.iter().filter(is_taught).take(TAUGHT);
    let left_out = all.iter().filter(|record| !is_taught(record)).take(LEFT_OUT);
    taught.chain(left_out).map(|record| answer(record, long)).collect()
}

fn answer(record: &Value, long: &[Value]) -> Answer {
    let of = |record: &Value, name: &str| record[name].as_str().unwrap_or_default().to_owned();
    let thoughts = record.get("thoughts");
    let rules = thoughts.and_then(|thoughts| thoughts["rules"].as_array());
    let rules: Vec<String> = rules.into_iter().flatten().map(Value::to_string).collect();
    let same = |other: &&Value| other["id"] == record["id"] && other.get("dropped").is_none();
    let input = of(record, "input");
    let query = of(record, "instruction");
    Answer {
        source: of(record, "source").replace('-', " "),
        query: if input.is_empty() { query } else { format!("{query}\n\n{input}") },
        thoughts: thoughts.map(|thoughts| of(thoughts, "text")),
        rules: rules.join(", "),
        answer: of(record, "answer"),
        truncated: record["truncated"].as_bool().unwrap_or_default(),
        long: long.iter().find(same).map(|long| of(long, "answer")),
        dropped: record["dropped"].as_str().map(reason),
        raw: of(record, "raw"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::load::Stage;

    #[test]
    fn taught_answers_come_first_with_their_long_forms() {
        let record = |id: usize, dropped: Option<&str>| {
            let mut record = json!({
                "id": id.to_string(), "source": "red-team", "instruction": format!("Why {id}?"), "input": "x",
                "raw": "raw", "thoughts": {"text": "Well.", "rules": [3, 7]}, "answer": format!("So {id}."),
                "truncated": id == 1,
            });
            if let Some(dropped) = dropped {
                record["dropped"] = json!(dropped);
            }
            record
        };
        let stage = |round, title: &str, records| Stage {
            round,
            title: title.to_owned(),
            records,
            ..Stage::default()
        };
        let run = Run {
            stages: vec![
                stage(0, "align", vec![record(0, Some("no-answer")), record(1, None)]),
                stage(1, "clone", vec![record(1, None), record(0, Some("empty"))]),
            ],
            ..Run::default()
        };
        let [taught, left_out] = &answers(&run)[..] else { panic!("two answers") };
        assert_eq!((taught.query.as_str(), taught.rules.as_str()), ("Why 1?\n\nx", "3, 7"));
        assert_eq!((taught.long.as_deref(), taught.truncated), (Some("So 1."), true));
        assert_eq!(
            (left_out.dropped.as_deref(), left_out.long.as_deref()),
            (Some("no answer"), None)
        );
        assert!(answers(&Run::default()).is_empty());
    }
}
