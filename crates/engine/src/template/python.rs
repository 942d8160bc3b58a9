//! Where Jinja in Python differs from `minijinja`: how values print, filters, tests, and methods of
//! Python's types.

use std::fmt;
use std::sync::Arc;

use minijinja::value::{Enumerator, Kwargs, Object, ObjectRepr, Rest, ValueKind, from_args};
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
    environment.set_unknown_method_callback(method);
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
fn represented(value: &Value, depth: usize) -> String {
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

/// Methods that `minijinja-contrib` has not, or has with other answers.
fn method(
    state: &State<'_, '_>,
    value: &Value,
    name: &str,
    arguments: &[Value],
) -> Result<Value, Error> {
    let Some(text) = value.as_str() else {
        return match (value.kind(), name) {
            (ValueKind::Map | ValueKind::Seq, "copy") => {
                let () = from_args(arguments)?;
                Ok(value.clone())
            }
            (ValueKind::Seq, "index") => {
                let (item,): (&Value,) = from_args(arguments)?;
                let place = value.try_iter()?.position(|other| other == *item);
                place.map(Value::from).ok_or_else(|| missing(item))
            }
            _ => {
                minijinja_contrib::pycompat::unknown_method_callback(state, value, name, arguments)
            }
        };
    };
    let every = |test: fn(char) -> bool| {
        let () = from_args(arguments)?;
        Ok(Value::from(!text.is_empty() && text.chars().all(test)))
    };
    match name {
        "isdigit" | "isnumeric" | "isdecimal" => every(char::is_numeric),
        "isalpha" => every(char::is_alphabetic),
        "isalnum" => every(char::is_alphanumeric),
        "isspace" => every(char::is_whitespace),
        // Letters decide, and there has to be one; what has no case does not count.
        "islower" | "isupper" => {
            let () = from_args(arguments)?;
            let (own, other): (fn(char) -> bool, fn(char) -> bool) = match name {
                "islower" => (char::is_lowercase, char::is_uppercase),
                _ => (char::is_uppercase, char::is_lowercase),
            };
            Ok(Value::from(text.chars().any(own) && !text.chars().any(other)))
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(arguments)?;
            Ok(Value::from(text.strip_prefix(prefix).unwrap_or(text)))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(arguments)?;
            Ok(Value::from(text.strip_suffix(suffix).unwrap_or(text)))
        }
        "casefold" => {
            let () = from_args(arguments)?;
            Ok(Value::from(text.to_lowercase()))
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(arguments)?;
            let parts = if name == "partition" {
                let (before, after) = text.split_once(separator).unwrap_or((text, ""));
                let found = if text.contains(separator) { separator } else { "" };
                [before, found, after]
            } else {
                let (before, after) = text.rsplit_once(separator).unwrap_or(("", text));
                let found = if text.contains(separator) { separator } else { "" };
                [before, found, after]
            };
            Ok(Value::from(parts.map(Value::from).to_vec()))
        }
        "split" | "rsplit" => split(text, name == "rsplit", arguments),
        // Places are counted in characters.
        "find" | "rfind" | "index" | "rindex" => {
            let (part,): (&Value,) = from_args(arguments)?;
            let word = part.as_str().unwrap_or("");
            let at = if name.starts_with('r') { text.rfind(word) } else { text.find(word) };
            match at {
                Some(at) => Ok(Value::from(text[..at].chars().count())),
                None if name.ends_with("find") => Ok(Value::from(-1)),
                None => Err(missing(part)),
            }
        }
        "splitlines" => {
            let (keep,): (Option<bool>,) = from_args(arguments)?;
            let lines = text.split_inclusive('\n').map(|line| match keep {
                Some(true) => Value::from(line),
                _ => {
                    let line = line.strip_suffix('\n').unwrap_or(line);
                    Value::from(line.strip_suffix('\r').unwrap_or(line))
                }
            });
            Ok(Value::from(lines.collect::<Vec<_>>()))
        }
        _ => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, arguments),
    }
}

fn missing(item: &Value) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("{} is not in it", represented(item, 0)))
}

/// `split` and `rsplit`, with a separator or at blanks, at most so often.
fn split(text: &str, from_right: bool, arguments: &[Value]) -> Result<Value, Error> {
    let (by_place, by_place_most, names): (Option<Value>, Option<Value>, Kwargs) =
        from_args(arguments)?;
    let given = |value: Option<Value>| value.filter(|v| !v.is_none() && !v.is_undefined());
    let separator = given(by_place).or(given(names.get("sep")?));
    let most = given(by_place_most).or(given(names.get("maxsplit")?));
    names.assert_all_used()?;
    let most = match most {
        Some(most) => usize::try_from(i64::try_from(most)?).ok(),
        None => None,
    };
    let limit = most.map_or(usize::MAX, |most| most.saturating_add(1));
    let mut parts: Vec<&str> = match &separator {
        Some(separator) => {
            let separator = separator.as_str().unwrap_or("");
            if separator.is_empty() {
                return Err(Error::new(ErrorKind::InvalidOperation, "split needs a separator"));
            }
            if from_right {
                text.rsplitn(limit, separator).collect()
            } else {
                text.splitn(limit, separator).collect()
            }
        }
        None => at_blanks(text, limit, from_right),
    };
    if from_right {
        parts.reverse();
    }
    Ok(Value::from(parts.into_iter().map(Value::from).collect::<Vec<_>>()))
}

/// Words between runs of blanks; the last one of `limit` keeps the blanks within. From the right they
/// come in reverse.
fn at_blanks(text: &str, limit: usize, from_right: bool) -> Vec<&str> {
    let mut parts = Vec::new();
    let mut rest = if from_right { text.trim_end() } else { text.trim_start() };
    while !rest.is_empty() {
        let cut = match (parts.len() + 1 < limit, from_right) {
            (false, _) => None,
            (true, false) => rest.find(char::is_whitespace).map(|at| rest.split_at(at)),
            (true, true) => rest.rfind(char::is_whitespace).map(|at| {
                let width = rest[at..].chars().next().map_or(1, char::len_utf8);
                (&rest[at + width..], &rest[..at])
            }),
        };
        let (part, left) = cut.unwrap_or((rest, ""));
        parts.push(part);
        rest = if from_right { left.trim_end() } else { left.trim_start() };
    }
    parts
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
