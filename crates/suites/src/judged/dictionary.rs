//! A flat dictionary as Python writes it, from the first brace of a text to the next one or to the end: what
//! `ast.literal_eval` makes of that part where every value is a string, a number or a constant.

/// A value of a dictionary.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    /// In single or double quotes.
    Text(String),
    /// A number; `True` and `False` are 1 and 0, as Python has it.
    Number(f64),
    /// `None`.
    Nothing,
}

/// The entries in order; `None` where the text holds no such dictionary.
pub(super) fn parse(text: &str) -> Option<Vec<(String, Value)>> {
    let (_, rest) = text.split_once('{')?;
    let mut rest = rest.split(['{', '}']).next()?.trim();
    let mut entries = Vec::new();
    while !rest.is_empty() {
        let (key, after) = string(rest)?;
        let (value, after) = value(after.trim_start().strip_prefix(':')?.trim_start())?;
        entries.push((key, value));
        rest = after.trim_start();
        if !rest.is_empty() {
            rest = rest.strip_prefix(',')?.trim_start();
        }
    }
    Some(entries)
}

/// The value of a key; the last of equal keys counts.
pub(super) fn get<'a>(entries: &'a [(String, Value)], key: &str) -> Option<&'a Value> {
    entries.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value)
}

impl Value {
    /// What Python's `int` makes of it: a number without its fraction, or a text that is a whole number.
    pub(super) fn whole(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(number.trunc()),
            Self::Text(text) => text.trim().parse::<i64>().ok().map(|number| number as f64),
            Self::Nothing => None,
        }
    }
}

fn value(text: &str) -> Option<(Value, &str)> {
    if text.starts_with(['\'', '"']) {
        return string(text).map(|(text, rest)| (Value::Text(text), rest));
    }
    let end = text.find(|c: char| c == ',' || c.is_whitespace()).unwrap_or(text.len());
    let (word, rest) = text.split_at(end);
    let value = match word {
        "True" => Value::Number(1.0),
        "False" => Value::Number(0.0),
        "None" => Value::Nothing,
        // Rust's numbers include words like `inf`, which are no literals.
        _ if word.contains(|c: char| c.is_alphabetic() && c != 'e' && c != 'E') => return None,
        _ => Value::Number(word.parse().ok()?),
    };
    Some((value, rest))
}

/// A quoted string at the start of `text`, and what follows it. A backslash takes the next character as it is.
fn string(text: &str) -> Option<(String, &str)> {
    let mut chars = text.char_indices();
    let (_, quote) = chars.next().filter(|(_, c)| matches!(c, '\'' | '"'))?;
    let mut inside = String::new();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => inside.push(chars.next()?.1),
            c if c == quote => return Some((inside, &text[at + c.len_utf8()..])),
            '\n' => return None,
            c => inside.push(c),
        }
    }
    None
}
