//! A row of an annotation file, cell by cell, with errors that name file, row and key.

use std::path::Path;

use savi_data::{DataError, Row};
use serde_json::{Map, Value};

/// A row's cells. A key may have several names, as several carriers of a suite have them.
pub(crate) struct Cells<'a> {
    row: &'a Row,
    cells: Map<String, Value>,
}

impl<'a> Cells<'a> {
    pub(crate) fn of(row: &'a Row) -> Result<Self, DataError> {
        Ok(Self { cells: row.object()?, row })
    }

    /// The first of the names that the row has a value under.
    pub(crate) fn get(&self, names: &[&str]) -> Option<&Value> {
        names.iter().find_map(|name| self.cells.get(*name).filter(|value| !value.is_null()))
    }

    /// A text; a number is written out.
    pub(crate) fn text(&self, names: &[&str]) -> Result<String, DataError> {
        match self.get(names) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(Value::Number(number)) => Ok(number.to_string()),
            Some(_) => Err(self.bad(format!("{:?} is not a text", names[0]))),
            None => Err(self.row.missing(names[0])),
        }
    }

    /// A text without white space around it.
    pub(crate) fn trimmed(&self, names: &[&str]) -> Result<String, DataError> {
        Ok(self.text(names)?.trim().to_owned())
    }

    /// A text, or nothing.
    pub(crate) fn text_or(&self, names: &[&str], otherwise: &str) -> Result<String, DataError> {
        if self.get(names).is_none() { Ok(otherwise.to_owned()) } else { self.text(names) }
    }

    /// A whole number from 0, as a number or as its digits.
    pub(crate) fn index(&self, names: &[&str]) -> Result<usize, DataError> {
        let text = self.text(names)?;
        let bad = || self.bad(format!("{:?} is {text:?}, not a whole number", names[0]));
        text.trim().parse().map_err(|_| bad())
    }

    /// A number.
    pub(crate) fn number(&self, names: &[&str]) -> Result<f64, DataError> {
        let text = self.text(names)?;
        let bad = || self.bad(format!("{:?} is {text:?}, not a number", names[0]));
        text.trim().parse().ok().filter(|number: &f64| number.is_finite()).ok_or_else(bad)
    }

    /// A list of texts; numbers are written out.
    pub(crate) fn texts(&self, names: &[&str]) -> Result<Vec<String>, DataError> {
        let bad = || self.bad(format!("{:?} is not a list of texts", names[0]));
        let text = |value: &Value| match value {
            Value::String(text) => Ok(text.clone()),
            Value::Number(number) => Ok(number.to_string()),
            _ => Err(bad()),
        };
        match self.get(names) {
            Some(Value::Array(list)) => list.iter().map(text).collect(),
            Some(_) => Err(bad()),
            None => Err(self.row.missing(names[0])),
        }
    }

    /// The texts under `a0`, `a1` and so on, `count` of them.
    pub(crate) fn numbered(&self, stem: &str, count: usize) -> Result<Vec<String>, DataError> {
        (0..count).map(|at| self.text(&[&format!("{stem}{at}")])).collect()
    }

    /// The cells of an object in a cell.
    pub(crate) fn within(&self, names: &[&str]) -> Result<Cells<'a>, DataError> {
        match self.get(names) {
            Some(Value::Object(cells)) => Ok(Self { row: self.row, cells: cells.clone() }),
            Some(_) => Err(self.bad(format!("{:?} is no object", names[0]))),
            None => Err(self.row.missing(names[0])),
        }
    }

    pub(crate) fn bad(&self, reason: impl Into<String>) -> DataError {
        self.row.bad(reason)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.row.path
    }
}
