//! The fields of a request's JSON: each is taken by name, with its type, and what nobody took is refused.

use serde_json::{Map, Value};

use crate::refusal::Refusal;

/// The fields of one object that have not been taken yet.
#[derive(Debug)]
pub(crate) struct Fields {
    values: Map<String, Value>,
    /// Where the object stands, with a point at its end; empty for the body itself.
    path: String,
    known: Vec<&'static str>,
}

impl Fields {
    /// The fields of the object that stands at `path`.
    pub(crate) fn new(value: Value, path: &str) -> Result<Self, Refusal> {
        match value {
            Value::Object(values) => {
                let path = if path.is_empty() { String::new() } else { format!("{path}.") };
                Ok(Self { values, path, known: Vec::new() })
            }
            other if path.is_empty() => Err(Refusal::json(format!("it is {}", kind(&other)))),
            other => Err(Refusal::value(path, format!("is {}, not an object", kind(&other)))),
        }
    }

    /// The whole name of a field.
    pub(crate) fn name(&self, field: &str) -> String {
        format!("{}{field}", self.path)
    }

    /// A field's value; null is as good as none.
    pub(crate) fn take(&mut self, field: &'static str) -> Option<Value> {
        self.known.push(field);
        self.values.remove(field).filter(|value| !value.is_null())
    }

    /// Words.
    pub(crate) fn text(&mut self, field: &'static str) -> Result<Option<String>, Refusal> {
        self.typed(field, "a string", |value| match value {
            Value::String(text) => Ok(text),
            other => Err(other),
        })
    }

    /// Yes or no.
    pub(crate) fn flag(&mut self, field: &'static str) -> Result<Option<bool>, Refusal> {
        self.typed(field, "true or false", |value| value.as_bool().ok_or(value))
    }

    /// A whole number of either sign.
    pub(crate) fn integer(&mut self, field: &'static str) -> Result<Option<i64>, Refusal> {
        self.typed(field, "a whole number", |value| value.as_i64().ok_or(value))
    }

    /// A whole number between bounds, both included.
    pub(crate) fn count(
        &mut self,
        field: &'static str,
        least: u64,
        most: u64,
    ) -> Result<Option<usize>, Refusal> {
        let Some(value) = self.take(field) else { return Ok(None) };
        let count = value.as_u64().filter(|count| (least..=most).contains(count));
        match count.and_then(|count| usize::try_from(count).ok()) {
            Some(count) => Ok(Some(count)),
            None => {
                let reason = format!("{value} is not a whole number from {least} to {most}");
                Err(Refusal::value(self.name(field), reason))
            }
        }
    }

    /// A number that `fits`; `want` says which do.
    pub(crate) fn number(
        &mut self,
        field: &'static str,
        want: &str,
        fits: impl Fn(f64) -> bool,
    ) -> Result<Option<f64>, Refusal> {
        let Some(value) = self.take(field) else { return Ok(None) };
        match value.as_f64().filter(|&number| number.is_finite() && fits(number)) {
            Some(number) => Ok(Some(number)),
            None => Err(Refusal::value(self.name(field), format!("{value} is not {want}"))),
        }
    }

    /// A list.
    pub(crate) fn list(&mut self, field: &'static str) -> Result<Option<Vec<Value>>, Refusal> {
        self.typed(field, "a list", |value| match value {
            Value::Array(list) => Ok(list),
            other => Err(other),
        })
    }

    /// An object, as fields of its own.
    pub(crate) fn object(&mut self, field: &'static str) -> Result<Option<Fields>, Refusal> {
        let name = self.name(field);
        self.take(field).map(|value| Fields::new(value, &name)).transpose()
    }

    /// Fields whose values change nothing that is computed.
    pub(crate) fn ignore(&mut self, fields: &[&'static str]) {
        for field in fields {
            self.take(field);
        }
    }

    /// A field that may only hold what it would be without being said.
    pub(crate) fn only(
        &mut self,
        field: &'static str,
        allowed: &[Value],
        reason: &str,
    ) -> Result<(), Refusal> {
        match self.take(field) {
            Some(value) if !allowed.iter().any(|allowed| same(allowed, &value)) => {
                Err(Refusal::unsupported(self.name(field), reason))
            }
            _ => Ok(()),
        }
    }

    /// Refuses what nobody took, with the nearest name that somebody would have.
    pub(crate) fn finish(self) -> Result<(), Refusal> {
        let Some(field) = self.values.keys().next() else { return Ok(()) };
        let distance = |known: &&'static str| strsim::damerau_levenshtein(known, field);
        let nearest = self.known.iter().copied().min_by_key(distance);
        let nearest = nearest.filter(|known| distance(known) <= 1 + field.chars().count() / 3);
        // Names may be as long as the body.
        let shown: String = field.chars().take(100).collect();
        Err(Refusal::unknown(self.name(&shown), nearest))
    }

    fn typed<T>(
        &mut self,
        field: &'static str,
        want: &str,
        read: impl Fn(Value) -> Result<T, Value>,
    ) -> Result<Option<T>, Refusal> {
        let Some(value) = self.take(field) else { return Ok(None) };
        match read(value) {
            Ok(value) => Ok(Some(value)),
            Err(value) => {
                Err(Refusal::value(self.name(field), format!("is {}, not {want}", kind(&value))))
            }
        }
    }
}

/// Equal, whether numbers are written with a point or without.
fn same(one: &Value, other: &Value) -> bool {
    one == other || one.as_f64().is_some_and(|number| other.as_f64() == Some(number))
}

/// What a value is, in words.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(number) if number.is_f64() => "a number with a point",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn fields(value: Value) -> Fields {
        Fields::new(value, "").unwrap()
    }

    #[test]
    fn what_nobody_took_is_refused_with_the_nearest_name() {
        let mut some = fields(json!({"temprature": 1, "seed": null}));
        some.take("temperature");
        some.take("seed");
        let refusal = some.finish().unwrap_err();
        assert_eq!(refusal.param.as_deref(), Some("temprature"));
        assert!(refusal.message.contains("is temperature meant?"), "{}", refusal.message);
        let refusal = fields(json!({"zebra": 1})).finish().unwrap_err();
        assert_eq!(refusal.message, "zebra: there is no such field");
    }

    #[test]
    fn types_and_bounds() {
        let mut some = fields(json!({"a": 1.5, "b": 3, "c": "x", "d": {"e": true}}));
        assert!(some.count("a", 0, 9).unwrap_err().message.contains("from 0 to 9"));
        assert!(some.count("b", 4, 9).is_err());
        let refusal = some.flag("c").unwrap_err();
        assert_eq!(refusal.message, "c: is a string, not true or false");
        let mut inner = some.object("d").unwrap().unwrap();
        assert_eq!(inner.text("e").unwrap_err().param.as_deref(), Some("d.e"));
    }

    #[test]
    fn values_that_change_nothing_may_stand() {
        let mut some = fields(json!({"best_of": 1.0, "tools": [{}], "echo": null}));
        some.only("best_of", &[json!(1)], "").unwrap();
        some.only("echo", &[json!(false)], "").unwrap();
        let refusal = some.only("tools", &[json!([])], "tools are not called here").unwrap_err();
        assert_eq!(refusal.code, "unsupported_parameter");
    }
}
