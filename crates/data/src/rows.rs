//! A stream of JSON objects out of a JSONL file, a JSON array, a CSV or a Parquet file, one row in memory at a
//! time. Texts may be packed by gzip.

mod tables;

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{DataError, unique};

/// The largest row that is read; a longer one is taken for a file that is no JSON at all.
const LONGEST_ROW: usize = 256 << 20;

/// One JSON object and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The file.
    pub path: PathBuf,
    /// Its number, from 1: the line of a JSONL file, the element of a JSON array, the record of a table.
    pub number: u64,
    /// The object's text.
    pub text: String,
}

impl Row {
    /// The row as `T`, with missing and repeated keys named.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, DataError> {
        if let Some(key) = unique::repeated_key(&self.text) {
            return Err(DataError::DuplicateKey { path: self.path.clone(), row: self.number, key });
        }
        serde_json::from_str(&self.text).map_err(|error| {
            let reason = error.to_string();
            match reason.strip_prefix("missing field `").and_then(|rest| rest.split_once('`')) {
                Some((key, _)) => self.missing(key),
                None => self.bad(reason),
            }
        })
    }

    /// The row as a JSON object.
    pub fn object(&self) -> Result<Map<String, Value>, DataError> {
        self.parse()
    }

    /// The error of a row that lacks `key`.
    pub fn missing(&self, key: &str) -> DataError {
        DataError::MissingKey { path: self.path.clone(), row: self.number, key: key.to_owned() }
    }

    /// The error of a row that is wrong for another reason.
    pub fn bad(&self, reason: impl Into<String>) -> DataError {
        DataError::Row { path: self.path.clone(), row: self.number, reason: reason.into() }
    }
}

enum Layout {
    Unknown,
    Lines,
    Array,
    Table(tables::Texts),
    Done,
}

/// Reads rows one after the other. The layout is seen from the first character: `[` opens an array,
/// anything else is one object per line. Blank lines are skipped but counted; a byte-order mark is
/// skipped.
pub struct Rows {
    path: PathBuf,
    reader: BufReader<Box<dyn Read>>,
    layout: Layout,
    number: u64,
}

impl Rows {
    /// Opens a file: a table where its name ends with `csv`, `tsv` or `parquet`, else JSON. A `gz` after the
    /// ending of a text says that it is packed.
    pub fn open(path: &Path) -> Result<Self, DataError> {
        let file = File::open(path).map_err(DataError::io(path))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        if name.ends_with(".parquet") {
            let table = Layout::Table(tables::parquet(path, file)?);
            return Ok(Self { layout: table, ..Self::new(path, std::io::empty()) });
        }
        let (name, text): (_, Box<dyn Read>) = match name.strip_suffix(".gz") {
            Some(name) => (name, Box::new(MultiGzDecoder::new(file))),
            None => (name.as_str(), Box::new(file)),
        };
        let table = if name.ends_with(".csv") {
            tables::csv(text, b',')
        } else if name.ends_with(".tsv") {
            tables::csv(text, b'\t')
        } else {
            return Ok(Self::new(path, text));
        };
        Ok(Self { layout: Layout::Table(table), ..Self::new(path, std::io::empty()) })
    }

    /// Reads from anything; `path` is only its name in errors.
    pub fn new(path: &Path, reader: impl Read + 'static) -> Self {
        Self {
            path: path.to_owned(),
            reader: BufReader::with_capacity(1 << 16, Box::new(reader)),
            layout: Layout::Unknown,
            number: 0,
        }
    }

    fn bad(&self, number: u64, reason: impl Into<String>) -> DataError {
        DataError::Row { path: self.path.clone(), row: number, reason: reason.into() }
    }

    fn row(&self, bytes: Vec<u8>) -> Result<Row, DataError> {
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Row { path: self.path.clone(), number: self.number, text }),
            Err(error) => Err(self.bad(self.number, format!("not UTF-8: {}", error.utf8_error()))),
        }
    }

    /// The next byte without taking it.
    fn peek(&mut self) -> Result<Option<u8>, DataError> {
        let buffer = self.reader.fill_buf().map_err(DataError::io(&self.path))?;
        Ok(buffer.first().copied())
    }

    /// The next byte that is not white space, without taking it. Newlines on the way are counted.
    fn skip_blank(&mut self, newlines: &mut u64) -> Result<Option<u8>, DataError> {
        loop {
            match self.peek()? {
                Some(byte) if byte.is_ascii_whitespace() => {
                    *newlines += u64::from(byte == b'\n');
                    self.reader.consume(1);
                }
                other => return Ok(other),
            }
        }
    }

    fn detect(&mut self) -> Result<(), DataError> {
        let start = self.reader.fill_buf().map_err(DataError::io(&self.path))?;
        if start.starts_with(b"\xef\xbb\xbf") {
            self.reader.consume(3);
        }
        let mut newlines = 0;
        self.layout = match self.skip_blank(&mut newlines)? {
            None => Layout::Done,
            Some(b'[') => {
                self.reader.consume(1);
                Layout::Array
            }
            Some(_) => {
                self.number = newlines;
                Layout::Lines
            }
        };
        Ok(())
    }

    fn next_line(&mut self) -> Result<Option<Row>, DataError> {
        loop {
            let mut line = Vec::new();
            let taken = (&mut self.reader)
                .take(LONGEST_ROW as u64 + 1)
                .read_until(b'\n', &mut line)
                .map_err(DataError::io(&self.path))?;
            if taken == 0 {
                return Ok(None);
            }
            self.number += 1;
            if line.len() > LONGEST_ROW {
                return Err(self.bad(self.number, too_long()));
            }
            if !line.trim_ascii().is_empty() {
                return self.row(line.trim_ascii().to_vec()).map(Some);
            }
        }
    }

    fn next_element(&mut self) -> Result<Option<Row>, DataError> {
        let number = self.number + 1;
        let unfinished = "the file ends inside its array";
        let mut newlines = 0;
        let mut next = self.skip_blank(&mut newlines)?;
        if next == Some(b',') && self.number > 0 {
            self.reader.consume(1);
            next = self.skip_blank(&mut newlines)?;
            if next == Some(b']') {
                return Err(self.bad(number, "a comma without an element after it"));
            }
        } else if self.number > 0 && next.is_some_and(|byte| byte != b']') {
            return Err(self.bad(number, "no comma between two elements"));
        }
        match next {
            None => return Err(self.bad(number, unfinished)),
            Some(b']') => {
                self.reader.consume(1);
                return match self.skip_blank(&mut newlines)? {
                    None => Ok(None),
                    Some(_) => Err(self.bad(number, "text after the array")),
                };
            }
            Some(b'{') => {}
            Some(_) => return Err(self.bad(number, "not a JSON object")),
        }
        self.number = number;
        let mut bytes = Vec::new();
        let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
        while let Some(byte) = self.peek()? {
            self.reader.consume(1);
            bytes.push(byte);
            if bytes.len() > LONGEST_ROW {
                return Err(self.bad(number, too_long()));
            }
            match byte {
                _ if escaped => escaped = false,
                b'\\' if in_string => escaped = true,
                b'"' => in_string = !in_string,
                b'{' | b'[' if !in_string => depth += 1,
                b'}' | b']' if !in_string => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return self.row(bytes).map(Some);
            }
        }
        Err(self.bad(number, unfinished))
    }
}

impl Rows {
    fn next_of_table(&mut self) -> Option<Result<Row, DataError>> {
        let Layout::Table(texts) = &mut self.layout else { return None };
        let text = texts.next()?;
        self.number += 1;
        Some(match text {
            Ok(text) => Ok(Row { path: self.path.clone(), number: self.number, text }),
            Err(reason) => Err(self.bad(self.number, reason)),
        })
    }
}

fn too_long() -> String {
    format!("longer than {} MiB", LONGEST_ROW >> 20)
}

impl Iterator for Rows {
    type Item = Result<Row, DataError>;

    fn next(&mut self) -> Option<Self::Item> {
        if matches!(self.layout, Layout::Unknown)
            && let Err(error) = self.detect()
        {
            self.layout = Layout::Done;
            return Some(Err(error));
        }
        let next = match self.layout {
            Layout::Lines => self.next_line(),
            Layout::Array => self.next_element(),
            Layout::Table(_) => self.next_of_table().transpose(),
            Layout::Unknown | Layout::Done => Ok(None),
        };
        // After an error the place in the file is unknown, so the stream ends.
        if !matches!(next, Ok(Some(_))) {
            self.layout = Layout::Done;
        }
        next.transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(text: &'static str) -> Vec<Result<(u64, String), String>> {
        Rows::new(Path::new("f.json"), text.as_bytes())
            .map(|row| row.map(|r| (r.number, r.text)).map_err(|e| e.to_string()))
            .collect()
    }

    fn ok(number: u64, text: &str) -> Result<(u64, String), String> {
        Ok((number, text.to_owned()))
    }

    #[test]
    fn lines_are_numbered_as_an_editor_does() {
        let read = rows("\n{\"a\":1}\r\n\n  \n{\"a\":2}");
        assert_eq!(read, [ok(2, "{\"a\":1}"), ok(5, "{\"a\":2}")]);
        assert_eq!(rows("\u{feff}{\"a\":1}\n"), [ok(1, "{\"a\":1}")]);
        assert!(rows(" \n ").is_empty());
        assert!(rows("").is_empty());
    }

    #[test]
    fn arrays_are_read_element_by_element() {
        let read = rows("[ {\"a\":\"]}\\\"{\"} ,\n{\"b\":[{},{}]}\n]\n");
        assert_eq!(read, [ok(1, "{\"a\":\"]}\\\"{\"}"), ok(2, "{\"b\":[{},{}]}")]);
        assert!(rows("[]").is_empty());
    }

    #[test]
    fn broken_arrays_end_with_the_row_and_the_cause() {
        for (text, rows_before, error) in [
            ("[{\"a\":1}", 1, "f.json, row 2: the file ends inside its array"),
            ("[{\"a\":1", 0, "f.json, row 1: the file ends inside its array"),
            ("[{} {}]", 1, "f.json, row 2: no comma between two elements"),
            ("[{},]", 1, "f.json, row 2: a comma without an element after it"),
            ("[{}] {}", 1, "f.json, row 2: text after the array"),
            ("[1]", 0, "f.json, row 1: not a JSON object"),
        ] {
            let read = rows(text);
            assert_eq!(read.len(), rows_before + 1, "{text}");
            assert_eq!(read.last(), Some(&Err(error.to_owned())), "{text}");
        }
    }

    #[test]
    fn rows_name_the_key_that_is_missing_or_repeated() {
        #[derive(Debug, serde::Deserialize)]
        struct Point {
            #[expect(dead_code, reason = "only read by serde")]
            x: f64,
        }
        let parse = |text: &'static str| {
            let row = Rows::new(Path::new("p.jsonl"), text.as_bytes()).next().unwrap().unwrap();
            row.parse::<Point>().unwrap_err().to_string()
        };
        assert_eq!(parse("{\"y\":1}"), "p.jsonl, row 1: missing key \"x\"");
        assert_eq!(parse("{\"x\":1,\"x\":2}"), "p.jsonl, row 1: key \"x\" appears twice");
        assert!(parse("{\"x\":\"a\"}").contains("row 1: invalid type: string"));
    }

    #[test]
    fn packed_texts_are_unpacked_and_damage_is_named() {
        use std::io::Write;
        let dir = tempfile::tempdir().unwrap();
        let pack = |text: &str| {
            let mut packer = flate2::write::GzEncoder::new(Vec::new(), Default::default());
            packer.write_all(text.as_bytes()).unwrap();
            packer.finish().unwrap()
        };
        let read = |name: &str, bytes: &[u8]| -> Result<Vec<String>, String> {
            let path = dir.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            let rows = Rows::open(&path).map_err(|error| error.to_string())?;
            rows.map(|row| row.map(|row| row.text).map_err(|error| error.to_string())).collect()
        };
        // Two packed pieces in a row are one text.
        let whole = [pack("{\"a\":1}\n"), pack("{\"a\":2}\n")].concat();
        assert_eq!(read("a.jsonl.gz", &whole).unwrap(), ["{\"a\":1}", "{\"a\":2}"]);
        assert_eq!(read("a.csv.GZ", &pack("a,b\n1,x\n")).unwrap(), ["{\"a\":\"1\",\"b\":\"x\"}"]);
        let cut = read("cut.jsonl.gz", &whole[..whole.len() - 4]).unwrap_err();
        assert!(cut.contains("cut.jsonl.gz"), "{cut}");
        let plain = read("plain.jsonl.gz", b"{\"a\": \"not packed\"}\n").unwrap_err();
        assert!(plain.contains("plain.jsonl.gz") && plain.contains("gzip"), "{plain}");
    }

    #[test]
    fn bytes_that_are_no_text_are_named() {
        let mut rows = Rows::new(Path::new("b"), &b"{}\n\xff\xfe\n"[..]);
        assert!(rows.next().unwrap().is_ok());
        let error = rows.next().unwrap().unwrap_err().to_string();
        assert!(error.starts_with("b, row 2: not UTF-8"), "{error}");
        assert!(rows.next().is_none());
    }
}
