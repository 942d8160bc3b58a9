//! What the layouts of other trainers have in common: turns, media and their marks, scalars of a row.

pub(crate) mod llama_factory;
pub(crate) mod media;
pub(crate) mod turns;

use serde_json::{Map, Value};

use crate::{DataError, Row};

/// A row's keys, of which those that hold null count as missing.
pub(crate) struct Keys<'a> {
    pub(crate) row: &'a Row,
    pub(crate) object: Map<String, Value>,
}

impl<'a> Keys<'a> {
    pub(crate) fn new(row: &'a Row) -> Result<Self, DataError> {
        Ok(Self { row, object: row.object()? })
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.object.get(key).filter(|value| !value.is_null())
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    pub(crate) fn need(&self, key: &str) -> Result<&Value, DataError> {
        self.get(key).ok_or_else(|| self.row.missing(key))
    }

    /// The text under `key`, if there is any.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>, DataError> {
        self.get(key).map(|value| self.as_text(key, value)).transpose()
    }

    pub(crate) fn need_text(&self, key: &str) -> Result<&str, DataError> {
        self.as_text(key, self.need(key)?)
    }

    pub(crate) fn as_text<'v>(&self, key: &str, value: &'v Value) -> Result<&'v str, DataError> {
        value.as_str().ok_or_else(|| self.row.bad(format!("{key} is {}, not text", kind(value))))
    }

    /// The number under `key`; a table's cell may hold it as text.
    pub(crate) fn number(&self, key: &str) -> Result<Option<f64>, DataError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_f64().or_else(|| value.as_str()?.trim().parse().ok());
        let finite = number.filter(|number| number.is_finite());
        finite.map(Some).ok_or_else(|| self.row.bad(format!("{key} is {value}, not a number")))
    }

    /// The row's id: a string in some files, a number in others, else `row-N`.
    pub(crate) fn id(&self) -> String {
        match self.get("id") {
            Some(Value::String(id)) => id.clone(),
            Some(id) => id.to_string(),
            None => format!("row-{}", self.row.number),
        }
    }
}

/// What kind of value it is, for complaints.
pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
