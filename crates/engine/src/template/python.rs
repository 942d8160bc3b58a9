//! Where Jinja in Python differs from `minijinja`: how values print, filters and tests. Two differences stay: none
//! iterates as an empty list, where Jinja has an error, and `safe` marks nothing.

use std::fmt;
use std::sync::Arc;

use minijinja::value::{Enumerator, Kwargs, Object, ObjectRepr, Rest, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value};
use serde_json::Value as Json;

use super::json::float;

/// A list or a dictionary out of JSON, which prints as in Python wherever it becomes a text.
#[derive(Debug)]
enum Container {
    List(Vec<Value>),
    Dictionary(Vec<(Value, Value)>),
}

impl Object for Container {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        match **self {
            Self::List(_) => ObjectRepr::Seq,
            Self::Dictionary(_) => ObjectRepr::Map,
        }
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        match &**self {
            Self::List(items) => items.get(key.as_usize()?).cloned(),
            Self::Dictionary(entries) => {
                entries.iter().find(|(own, _)| own == key).map(|(_, value)| value.clone())
            }
        }
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        match &**self {
            Self::List(items) => Enumerator::Seq(items.len()),
            Self::Dictionary(entries) => {
                Enumerator::Values(entries.iter().map(|(key, _)| key.clone()).collect())
            }
        }
    }

    fn render(self: &Arc<Self>, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&represented(&Value::from_dyn_object(Arc::clone(self)), 0))
    }
}

/// JSON as a template's value.
pub(super) fn value(json: &Json) -> Value {
    match json {
        Json::Array(list) => Value::from_object(Container::List(list.iter().map(value).collect())),
        Json::Object(map) => {
            let entries = map.iter().map(|(key, item)| (Value::from(key), value(item)));
            Value::from_object(Container::Dictionary(entries.collect()))
        }
        plain => Value::from_serialize(plain),
    }
}

/// Makes an environment write and test values as Python does.
pub(super) fn set_up(environment: &mut Environment<'static>) {
    environment.set_unknown_method_callback(super::methods::method);
    environment.set_formatter(|out: &mut Output<'_>, _: &State<'_, '_>, value: &Value| {
        out.write_str(&shown(value)).map_err(|_| Error::from(ErrorKind::WriteFailure))
    });
    environment.add_filter("string", |value: &Value| shown(value));
    environment.add_filter("round", round);
    environment.add_filter("indent", indent);
    // What is undefined has no items; elsewhere it is an error to count them.
    for name in ["length", "count"] {
        environment.add_filter(name, |value: &Value| match value.len() {
            Some(length) => Ok(length),
            None if value.is_undefined() => Ok(0),
            None => {
                let reason = format!("{} has no length", represented(value, 0));
                Err(Error::new(ErrorKind::InvalidOperation, reason))
            }
        });
    }
    environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    // Strings and dictionaries have items and a length, too.
    environment.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String)
    });
}

/// `round(value, precision=0, method='common')`: halves go to the even side, the result is a float.
fn round(value: &Value, precision: Option<usize>, method: Option<&str>) -> Result<f64, Error> {
    let number = f64::try_from(value.clone())?;
    let precision = precision.unwrap_or(0).min(300);
    let scale = 10f64.powi(precision as i32);
    match method.unwrap_or("common") {
        // Written digits are rounded correctly, products with powers of ten are not.
        "common" => Ok(format!("{number:.precision$}").parse().unwrap_or(number)),
        "ceil" => Ok((number * scale).ceil() / scale),
        "floor" => Ok((number * scale).floor() / scale),
        other => {
            Err(Error::new(ErrorKind::InvalidOperation, format!("round has no method {other}")))
        }
    }
}

/// `indent(text, width=4, first=False, blank=False)`: a line end at the end stays.
fn indent(
    value: &Value,
    width: Option<Value>,
    places: Rest<bool>,
    names: Kwargs,
) -> Result<String, Error> {
    let width = width.or(names.get("width")?);
    let first = places.first().copied().or(names.get("first")?).unwrap_or(false);
    let blank = places.get(1).copied().or(names.get("blank")?).unwrap_or(false);
    names.assert_all_used()?;
    let by = match &width {
        None => "    ".to_owned(),
        Some(text) if text.kind() == ValueKind::String => shown(text),
        Some(width) => " ".repeat(usize::try_from(width.clone())?.min(1000)),
    };
    let mut out = String::new();
    for (i, line) in shown(value).split('\n').enumerate() {
        if i > 0 {
            out.push('\n');
        }
        if if i == 0 { first } else { blank || !line.is_empty() } {
            out.push_str(&by);
        }
        out.push_str(line);
    }
    Ok(out)
}

/// Python's `str(value)`.
fn shown(value: &Value) -> String {
    match value.kind() {
        ValueKind::Undefined => String::new(),
        ValueKind::String => value.as_str().unwrap_or("").to_owned(),
        _ => represented(value, 0),
    }
}

/// Python's `repr(value)`.
pub(super) fn represented(value: &Value, depth: usize) -> String {
    // Values come from JSON and cannot hold themselves; a limit all the same.
    if depth > 100 {
        return "...".to_owned();
    }
    let list = |items: Vec<String>| items.join(", ");
    match value.kind() {
        ValueKind::None => "None".to_owned(),
        ValueKind::String => quoted(value.as_str().unwrap_or("")),
        ValueKind::Number if !value.is_integer() => f64::try_from(value.clone()).map_or_else(
            |_| value.to_string(),
            |number| {
                if number.is_finite() { float(number) } else { value.to_string() }
            },
        ),
        ValueKind::Seq | ValueKind::Iterable => match value.try_iter() {
            Ok(items) => {
                let items = items.map(|item| represented(&item, depth + 1)).collect();
                format!("[{}]", list(items))
            }
            Err(_) => value.to_string(),
        },
        // Namespaces and loops are maps here and print by their own names in Python: nobody prints them.
        ValueKind::Map => match value.try_iter() {
            Ok(keys) => {
                let entry = |key: Value| {
                    let item = value.get_item(&key).unwrap_or_default();
                    format!("{}: {}", represented(&key, depth + 1), represented(&item, depth + 1))
                };
                format!("{{{}}}", list(keys.map(entry).collect()))
            }
            Err(_) => value.to_string(),
        },
        _ => value.to_string(),
    }
}

fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut out = String::from(quote);
    for letter in text.chars() {
        match letter {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            letter if letter == quote => out.extend(['\\', letter]),
            letter if letter.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(letter))),
            letter => out.push(letter),
        }
    }
    out.push(quote);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Answers of Python 3.11 and Jinja 3.1.
    #[test]
    fn values_print_and_answer_as_in_python() {
        let mut environment = Environment::new();
        set_up(&mut environment);
        for (expression, told) in [
            (
                "{'a': [1, 2.0, none, true], 'b': \"it's\"}",
                "{'a': [1, 2.0, None, True], 'b': \"it's\"}",
            ),
            ("[1e16, 1e-5, 0.1, 'a\n']", "[1e+16, 1e-05, 0.1, 'a\\n']"),
            ("1.0", "1.0"),
            ("none", "None"),
            ("missing", ""),
            ("['a'] | string", "['a']"),
            ("' a  b c '.split()", "['a', 'b', 'c']"),
            ("' a  b c '.split(none, 1)", "['a', 'b c ']"),
            ("' a  b c '.rsplit(maxsplit=1)", "[' a  b', 'c']"),
            ("'a,b,c'.rsplit(',', 1)", "['a,b', 'c']"),
            ("'a,b,c'.split(',', maxsplit=1)[1]", "b,c"),
            ("''.split(',')", "['']"),
            ("''.split()", "[]"),
            ("'a=b=c'.partition('=')", "['a', '=', 'b=c']"),
            ("'abc'.rpartition('=')", "['', '', 'abc']"),
            ("'éa'.find('a')", "1"),
            ("'ab'.find('c')", "-1"),
            ("'abab'.rindex('b')", "3"),
            ("''.isdigit()", "False"),
            ("'a1'.islower()", "True"),
            ("'a\r\nb\n'.splitlines()", "['a', 'b']"),
            ("'think>x'.removeprefix('think>')", "x"),
            ("[3, 4].index(4)", "1"),
            ("'a' is sequence", "True"),
            ("{} is sequence", "True"),
            ("1 is sequence", "False"),
            ("none is iterable", "False"),
            ("missing is iterable", "True"),
            ("missing | length", "0"),
            ("{'a': 1} | length", "1"),
            ("'abcd'[1:-1]", "bc"),
            ("[1, 2, 3][::-1]", "[3, 2, 1]"),
            ("'-' * 3 ~ 1", "---1"),
            ("{'a': 1}.get('b', 2)", "2"),
            ("'x'.strip().upper()", "X"),
        ] {
            let got = environment.render_str(&format!("{{{{ {expression} }}}}"), ());
            assert_eq!(got.unwrap_or_else(|e| panic!("{expression}: {e}")), told, "{expression}");
        }
        assert!(environment.render_str("{{ 'a'.split('') }}", ()).is_err());
        assert!(environment.render_str("{{ 'a'.index('b') }}", ()).is_err());
        assert!(environment.render_str("{{ 'a'.nothing() }}", ()).is_err());
    }
}
