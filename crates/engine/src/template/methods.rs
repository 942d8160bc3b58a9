//! Methods of Python's strings, lists and dictionaries, beyond those of `minijinja-contrib`.

use minijinja::value::{Kwargs, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

use super::python::represented;

/// Methods that `minijinja-contrib` has not, or has with other answers.
pub(super) fn method(
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
            let (lower, upper) =
                (text.chars().any(char::is_lowercase), text.chars().any(char::is_uppercase));
            Ok(Value::from(if name == "islower" { lower && !upper } else { upper && !lower }))
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
