//! Tables as rows of JSON: CSV and Parquet, a record (or a group's page) in memory at a time.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row as Record};
use serde_json::{Map, Number, Value};

use crate::DataError;

/// The text of each row's object, or what is wrong with the row.
pub(super) type Texts = Box<dyn Iterator<Item = Result<String, String>>>;

/// Columns whose cells hold lists that are no lists of objects.
const LISTS: [&str; 3] = ["videos", "images", "history"];

/// Rows of a CSV file with names in its first line; `separator` is between cells. An empty cell is null. A cell
/// that is written as a JSON object or a list of them is one, and so is a list of files.
pub(super) fn csv(file: impl Read + 'static, separator: u8) -> Texts {
    let mut reader = csv::ReaderBuilder::new().delimiter(separator).from_reader(file);
    let names: Vec<String> = match reader.headers() {
        Ok(names) => {
            let clean = |name: &str| name.trim_start_matches('\u{feff}').trim().to_owned();
            names.iter().map(clean).collect()
        }
        Err(error) => return Box::new(std::iter::once(Err(told(&error)))),
    };
    if let Some(twice) = names.iter().enumerate().find_map(|(at, name)| {
        names[..at].contains(name).then(|| format!("two columns are called {name:?}"))
    }) {
        return Box::new(std::iter::once(Err(twice)));
    }
    Box::new(reader.into_records().map(move |record| {
        let record = record.map_err(|error| told(&error))?;
        let cells = names.iter().zip(&record);
        let row = cells.map(|(name, text)| (name.clone(), cell(name, text)));
        Ok(Value::Object(row.collect()).to_string())
    }))
}

fn told(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("{len} cells under {expected_len} columns")
        }
        csv::ErrorKind::Utf8 { err, .. } => format!("not UTF-8: {err}"),
        _ => error.to_string(),
    }
}

fn cell(name: &str, text: &str) -> Value {
    if text.is_empty() {
        return Value::Null;
    }
    let object = |value: &Value| match value {
        Value::Object(_) => true,
        Value::Array(list) => {
            LISTS.contains(&name) || !list.is_empty() && list.iter().all(Value::is_object)
        }
        _ => false,
    };
    let structured = text.starts_with(['[', '{']);
    let parsed = structured.then(|| serde_json::from_str(text).ok()).flatten();
    parsed.filter(object).unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Rows of a Parquet file.
pub(super) fn parquet(path: &Path, file: File) -> Result<Texts, DataError> {
    let fail = |reason: String| DataError::File { path: path.to_owned(), reason };
    let reader = SerializedFileReader::new(file).map_err(|error| fail(error.to_string()))?;
    // What cannot be unpacked is said once and before anything is read.
    let unpacked = ["UNCOMPRESSED", "SNAPPY", "GZIP"];
    for group in reader.metadata().row_groups() {
        for column in group.columns() {
            let codec = column.compression().to_string();
            if !unpacked.iter().any(|known| codec.starts_with(known)) {
                return Err(fail(format!(
                    "column {} is packed by {codec}; only {} are read: write the file again with snappy",
                    column.column_path(),
                    unpacked.join(", ")
                )));
            }
        }
    }
    let rows = parquet::record::reader::RowIter::from_file_into(Box::new(reader));
    Ok(Box::new(rows.map(|row| {
        let row = row.map_err(|error| error.to_string())?;
        Ok(Value::Object(object(&row)?).to_string())
    })))
}

fn object(record: &Record) -> Result<Map<String, Value>, String> {
    let mut map = Map::new();
    for (name, field) in record.get_column_iter() {
        // Columns of structures hold every key that any row has: one without a value is as good as none.
        let value = value(field).map_err(|error| match error.is_empty() {
            true => format!(
                "column {name:?} holds bytes or moments, which no layout has: give paths and text"
            ),
            false => error,
        })?;
        if !value.is_null() {
            map.insert(name.clone(), value);
        }
    }
    Ok(map)
}

/// A value as JSON; an empty message stands for one that has no form there.
fn value(field: &Field) -> Result<Value, String> {
    let float = |number: f64| Number::from_f64(number).map_or(Value::Null, Value::Number);
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(value) => Value::Bool(*value),
        Field::Byte(value) => (*value).into(),
        Field::Short(value) => (*value).into(),
        Field::Int(value) => (*value).into(),
        Field::Long(value) => (*value).into(),
        Field::UByte(value) => (*value).into(),
        Field::UShort(value) => (*value).into(),
        Field::UInt(value) => (*value).into(),
        Field::ULong(value) => (*value).into(),
        Field::Float16(value) => float(f64::from(*value)),
        Field::Float(value) => float(f64::from(*value)),
        Field::Double(value) => float(*value),
        Field::Str(text) => Value::String(text.clone()),
        Field::Group(record) => Value::Object(object(record)?),
        Field::ListInternal(list) => {
            Value::Array(list.elements().iter().map(value).collect::<Result<_, _>>()?)
        }
        Field::MapInternal(map) => {
            let entry = |(key, field): &(Field, Field)| match key {
                Field::Str(key) => Ok((key.clone(), value(field)?)),
                _ => Err(String::new()),
            };
            Value::Object(map.entries().iter().map(entry).collect::<Result<_, _>>()?)
        }
        // Columns written without a type of their own are text as often as not.
        Field::Bytes(bytes) => match std::str::from_utf8(bytes.data()) {
            Ok(text) => Value::String(text.to_owned()),
            Err(_) => return Err(String::new()),
        },
        _ => return Err(String::new()),
    })
}
