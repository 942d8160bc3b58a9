//! Prompts to learn from: TRL's column `prompt` (words or a conversation), and verl's layout with the known answer in
//! `reward_model.ground_truth`. All other columns are for the rewards.

use std::collections::HashSet;
use std::path::Path;

use savi_data::{DataError, Row, Rows};
use savi_schema::{Message, Part, Role};
use savi_train::PolicyPrompt;
use serde_json::Value;

/// The column that a known answer of verl's layout goes to, where it is not taken.
const ANSWER: &str = "answer";

/// The prompts of a file in order. Rows without an `id` go by the file's name and their number.
pub(super) fn read(path: &Path) -> Result<Vec<PolicyPrompt>, DataError> {
    let mut seen = HashSet::new();
    let mut prompts = Vec::new();
    for row in Rows::open(path)? {
        let row = row?;
        let prompt = read_row(&row)?;
        if !seen.insert(prompt.id.clone()) {
            return Err(row.bad(format!("id {:?} comes twice", prompt.id)));
        }
        prompts.push(prompt);
    }
    Ok(prompts)
}

fn read_row(row: &Row) -> Result<PolicyPrompt, DataError> {
    let mut columns = row.object()?;
    let prompt = columns.shift_remove("prompt").ok_or_else(|| row.missing("prompt"))?;
    let messages = match &prompt {
        Value::String(words) => vec![Message::text(Role::User, words)],
        Value::Array(turns) => {
            turns.iter().map(|turn| message(row, turn)).collect::<Result<_, _>>()?
        }
        _ => return Err(row.bad("prompt is neither words nor a list of turns")),
    };
    if messages.iter().all(|turn: &Message| turn.words().trim().is_empty()) {
        return Err(row.bad("prompt is empty"));
    }
    for key in ["images", "videos", "image", "video"] {
        let empty = |value: &Value| value.is_null() || value.as_array().is_some_and(Vec::is_empty);
        if columns.get(key).is_some_and(|value| !empty(value)) {
            return Err(row.bad(format!("{key}: prompts to learn from are words alone here")));
        }
    }
    let id = match columns.get("id") {
        Some(Value::String(id)) => id.clone(),
        Some(Value::Number(id)) => id.to_string(),
        _ => format!("{}#{}", row.path.display(), row.number),
    };
    let known = columns.get("reward_model").and_then(|model| model.get("ground_truth")).cloned();
    if let Some(known) = known {
        columns.entry(ANSWER).or_insert(known);
    }
    Ok(PolicyPrompt { id, messages, columns })
}

fn message(row: &Row, turn: &Value) -> Result<Message, DataError> {
    let bad = || row.bad(format!("prompt: {turn} is no turn with a role and words"));
    let role: Role = turn
        .get("role")
        .and_then(|role| serde_json::from_value(role.clone()).ok())
        .ok_or_else(bad)?;
    match turn.get("content") {
        Some(Value::String(words)) => Ok(Message::text(role, words)),
        Some(parts @ Value::Array(_)) => {
            let content: Vec<Part> = serde_json::from_value(parts.clone()).map_err(|_| bad())?;
            match content.iter().all(|part| matches!(part, Part::Text { .. })) {
                true => Ok(Message { role, content }),
                false => Err(row.bad("prompt: prompts to learn from are words alone here")),
            }
        }
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Vec<PolicyPrompt>, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("prompts.jsonl");
        std::fs::write(&path, text).unwrap();
        read(&path).map_err(|error| error.to_string())
    }

    #[test]
    fn both_layouts_are_read() {
        let rows = [
            r#"{"prompt": "2 + 2?", "answer": "4", "id": "a"}"#,
            r#"{"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "u"}]}]}"#,
            r#"{"data_source": "openai/gsm8k", "prompt": [{"role": "user", "content": "q"}], "ability": "math", "reward_model": {"style": "rule", "ground_truth": "72"}}"#,
        ];
        let prompts = read_text(&rows.join("\n")).unwrap();
        assert_eq!(prompts[0].id, "a");
        assert_eq!(prompts[0].messages, [Message::text(Role::User, "2 + 2?")]);
        assert_eq!(prompts[1].messages[0].role, Role::System);
        assert!(prompts[1].id.ends_with("prompts.jsonl#2"), "{}", prompts[1].id);
        assert_eq!(prompts[0].columns["answer"], "4");
        assert_eq!(prompts[2].columns["answer"], "72");
        assert_eq!(prompts[2].columns["data_source"], "openai/gsm8k");
    }

    #[test]
    fn mistakes_name_the_row() {
        for (text, expected) in [
            (r#"{"question": "a"}"#, "prompt"),
            (r#"{"prompt": 3}"#, "neither words"),
            (r#"{"prompt": [{"role": "robot", "content": "a"}]}"#, "robot"),
            (r#"{"prompt": ""}"#, "empty"),
            (r#"{"prompt": "a", "images": ["b.png"]}"#, "words alone"),
            ("{\"prompt\": \"a\", \"id\": 1}\n{\"prompt\": \"b\", \"id\": 1}", "twice"),
        ] {
            let error = read_text(text).unwrap_err();
            assert!(error.contains(expected) && error.contains("row "), "{error}");
        }
    }
}
