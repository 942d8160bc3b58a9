//! Answers in a text, and whether two are the same.

use savi_schema::PromptRecord;
use serde_json::Value;

/// The known answer to a prompt in the first of these columns that has one, a dot standing between a column and a key
/// in it.
pub(super) fn known(prompt: &PromptRecord, columns: &[&str]) -> Option<String> {
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    };
    columns.iter().find_map(|name| {
        let whole = prompt.columns.get(*name);
        let inside = || {
            let (column, key) = name.split_once('.')?;
            prompt.columns.get(column)?.get(key)
        };
        text(whole.or_else(inside)?)
    })
}

/// Whether two texts are the same, spaces around them aside.
pub(super) fn same_text(given: &str, known: &str) -> bool {
    given.trim() == known.trim()
}

/// Whether two numbers are the same as far as their digits were written.
pub(super) fn same_number(given: f64, known: f64) -> bool {
    (given - known).abs() <= 1e-9 * known.abs().max(1.0)
}

/// The last number of a text: digits with a point and separators of thousands, the sign where no digit or
/// letter stands before it (`10-3` ends with 3).
pub(super) fn last_number(text: &str) -> Option<f64> {
    let chars: Vec<char> = text.chars().collect();
    let digit = |at: usize| chars.get(at).is_some_and(char::is_ascii_digit);
    let end = (0..chars.len()).rev().find(|&at| digit(at))? + 1;
    let mut start = end - 1;
    let mut point = false;
    while start > 0 {
        let before = chars[start - 1];
        let within = match before {
            '0'..='9' => true,
            // A separator stands between digits, three of which follow it.
            ',' => {
                start >= 2 && digit(start - 2) && (start..start + 3).all(digit) && !digit(start + 3)
            }
            '.' if !point => digit(start),
            _ => false,
        };
        if !within {
            break;
        }
        point |= before == '.';
        start -= 1;
    }
    let digits: String = chars[start..end].iter().filter(|c| **c != ',').collect();
    let number: f64 = digits.parse().ok()?;
    let negative = start > 0
        && matches!(chars[start - 1], '-' | '\u{2212}')
        && !(start > 1 && chars[start - 2].is_alphanumeric());
    Some(if negative { -number } else { number })
}
