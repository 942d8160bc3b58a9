//! The filter `tojson` as transformers has it: Python's `json.dumps`, which escapes nothing for HTML.

use minijinja::value::{Kwargs, Rest};
use minijinja::{Error, ErrorKind, Value as Any};
use serde_json::Value;

/// How values are written.
struct Style {
    ascii: bool,
    indent: Option<String>,
    comma: String,
    colon: String,
    sorted: bool,
}

/// `tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn tojson(value: &Any, places: Rest<Any>, names: Kwargs) -> Result<String, Error> {
    if value.is_undefined() {
        return Err(Error::new(ErrorKind::UndefinedError, "tojson of an undefined value"));
    }
    let argument = |place: usize, name: &str| -> Result<Option<Any>, Error> {
        let named: Option<Any> = names.get(name)?;
        Ok(places.get(place).cloned().or(named).filter(|value| !value.is_none()))
    };
    let ascii = argument(0, "ensure_ascii")?.is_some_and(|value| value.is_true());
    let indent = match argument(1, "indent")? {
        None => None,
        Some(indent) => Some(match indent.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(indent)?.min(64)),
        }),
    };
    let (comma, colon) = match argument(2, "separators")? {
        Some(pair) => {
            let get = |at: usize| Ok::<_, Error>(pair.get_item(&Any::from(at))?.to_string());
            (get(0)?, get(1)?)
        }
        // A line ends after a comma, without a blank.
        None => (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned()),
    };
    let sorted = argument(3, "sort_keys")?.is_some_and(|value| value.is_true());
    names.assert_all_used()?;
    let value = serde_json::to_value(value)
        .map_err(|error| Error::new(ErrorKind::BadSerialization, error.to_string()))?;
    let mut out = String::new();
    write(&value, &Style { ascii, indent, comma, colon, sorted }, 0, &mut out);
    Ok(out)
}

fn write(value: &Value, style: &Style, depth: usize, out: &mut String) {
    let line = |depth: usize, out: &mut String| {
        if let Some(indent) = &style.indent {
            out.push('\n');
            out.push_str(&indent.repeat(depth));
        }
    };
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => match number.as_f64().filter(|_| number.is_f64()) {
            Some(value) => out.push_str(&float(value)),
            None => out.push_str(&number.to_string()),
        },
        Value::String(text) => quoted(text, style.ascii, out),
        Value::Array(list) if list.is_empty() => out.push_str("[]"),
        Value::Array(list) => {
            out.push('[');
            for (i, value) in list.iter().enumerate() {
                if i > 0 {
                    out.push_str(&style.comma);
                }
                line(depth + 1, out);
                write(value, style, depth + 1, out);
            }
            line(depth, out);
            out.push(']');
        }
        Value::Object(map) if map.is_empty() => out.push_str("{}"),
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            if style.sorted {
                entries.sort_unstable_by_key(|&(key, _)| key);
            }
            out.push('{');
            for (i, (key, value)) in entries.into_iter().enumerate() {
                if i > 0 {
                    out.push_str(&style.comma);
                }
                line(depth + 1, out);
                quoted(key, style.ascii, out);
                out.push_str(&style.colon);
                write(value, style, depth + 1, out);
            }
            line(depth, out);
            out.push('}');
        }
    }
}

fn quoted(text: &str, ascii: bool, out: &mut String) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            letter if letter < ' ' || (ascii && letter > '~') => {
                let mut units = [0; 2];
                for unit in letter.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            letter => out.push(letter),
        }
    }
    out.push('"');
}

/// A float as Python writes it: the shortest digits, with an exponent below 1e-4 and from 1e16 on.
pub(super) fn float(value: f64) -> String {
    if !value.is_finite() {
        let name = if value.is_nan() { "NaN" } else { "Infinity" };
        return format!("{}{name}", if value < 0.0 { "-" } else { "" });
    }
    let size = value.abs();
    if size != 0.0 && !(1e-4..1e16).contains(&size) {
        let text = format!("{value:e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let (sign, exponent) = match exponent.strip_prefix('-') {
            Some(exponent) => ('-', exponent),
            None => ('+', exponent),
        };
        return format!("{digits}e{sign}{exponent:0>2}");
    }
    format!("{value:?}")
}
