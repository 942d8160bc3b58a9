//! Answers that were paid for, in a JSON Lines file that only grows.
//!
//! A row is `{"schema": 1, "key": ..., "answer": ...}`; the key is the hash of the canonical call (path, body,
//! hashes of media, and what the server says it serves). Rows are flushed one by one. A last row without its
//! end is what a killed process left: it is cut, with a warning. One process at a time has the file.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::EndpointError;

/// Version of the rows.
const SCHEMA: u32 = 1;

/// Name of a call.
pub(crate) type Key = blake3::Hash;

/// The hash of a value whose keys are put in order.
pub(crate) fn key(value: &Value) -> Key {
    let mut text = String::new();
    canonical(value, &mut text);
    blake3::hash(text.as_bytes())
}

fn canonical(value: &Value, to: &mut String) {
    match value {
        Value::Object(map) => {
            let mut entries: Vec<_> = map.iter().collect();
            entries.sort_by_key(|(key, _)| key.as_str());
            to.push('{');
            for (key, value) in entries {
                to.push_str(&Value::from(key.as_str()).to_string());
                to.push(':');
                canonical(value, to);
                to.push(',');
            }
            to.push('}');
        }
        Value::Array(values) => {
            to.push('[');
            for value in values {
                canonical(value, to);
                to.push(',');
            }
            to.push(']');
        }
        plain => to.push_str(&plain.to_string()),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    schema: u32,
    key: String,
    #[serde(rename = "answer")]
    _answer: IgnoredAny,
}

#[derive(Deserialize)]
struct Row {
    answer: Value,
}

/// The file, and where in it an answer stands.
#[derive(Debug)]
pub(crate) struct Cache {
    path: PathBuf,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    file: File,
    /// Begin and length of rows.
    rows: HashMap<Key, (u64, usize)>,
    end: u64,
}

impl Cache {
    /// Opens the file, or makes it, and reads which answers it holds.
    pub(crate) fn open(path: &Path) -> Result<Self, EndpointError> {
        let fail = |reason: String| EndpointError::Cache { path: path.to_owned(), reason };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(|error| fail(error.to_string()))?;
        }
        let file = OpenOptions::new().read(true).append(true).create(true).open(path);
        let mut file = file.map_err(|error| fail(error.to_string()))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(std::fs::TryLockError::WouldBlock) => {
                return Err(fail("another process or endpoint uses it".to_owned()));
            }
            Err(std::fs::TryLockError::Error(error)) => return Err(fail(error.to_string())),
        }
        let (mut rows, mut end, mut number) = (HashMap::new(), 0u64, 0u64);
        let mut reader = BufReader::new(&file);
        let mut line = Vec::new();
        loop {
            line.clear();
            let length =
                reader.read_until(b'\n', &mut line).map_err(|error| fail(error.to_string()))?;
            if length == 0 {
                break;
            }
            number += 1;
            if line.last() != Some(&b'\n') {
                tracing::warn!("{}: row {number} is not whole and is cut", path.display());
                file.set_len(end).map_err(|error| fail(error.to_string()))?;
                break;
            }
            let head: Head = serde_json::from_slice(&line)
                .map_err(|error| fail(format!("row {number} cannot be read: {error}")))?;
            if head.schema != SCHEMA {
                let reason = format!("row {number} has version {}, not {SCHEMA}", head.schema);
                return Err(fail(reason));
            }
            let key = Key::from_hex(&head.key)
                .map_err(|error| fail(format!("row {number}: key: {error}")))?;
            rows.insert(key, (end, length));
            end += length as u64;
        }
        file.seek(SeekFrom::End(0)).map_err(|error| fail(error.to_string()))?;
        Ok(Self { path: path.to_owned(), inner: Mutex::new(Inner { file, rows, end }) })
    }

    /// The answer to a call, if it is there.
    pub(crate) fn get(&self, key: &Key) -> Result<Option<Value>, EndpointError> {
        let inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(&(begin, length)) = inner.rows.get(key) else { return Ok(None) };
        let mut line = vec![0; length];
        let read = inner.file.read_exact_at(&mut line, begin);
        read.map_err(|error| self.fail(error.to_string()))?;
        let row: Row =
            serde_json::from_slice(&line).map_err(|error| self.fail(error.to_string()))?;
        Ok(Some(row.answer))
    }

    /// Adds an answer.
    pub(crate) fn put(&self, key: &Key, answer: &Value) -> Result<(), EndpointError> {
        let row = json!({"schema": SCHEMA, "key": key.to_hex().as_str(), "answer": answer});
        let line = format!("{row}\n");
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let inner = &mut *inner;
        let written = inner.file.write_all(line.as_bytes()).and_then(|()| inner.file.flush());
        if let Err(error) = written {
            // Half a row in the middle would spoil the file.
            let _ = inner.file.set_len(inner.end);
            return Err(self.fail(error.to_string()));
        }
        inner.rows.insert(*key, (inner.end, line.len()));
        inner.end += line.len() as u64;
        Ok(())
    }

    fn fail(&self, reason: String) -> EndpointError {
        EndpointError::Cache { path: self.path.clone(), reason }
    }
}

impl Drop for Cache {
    /// Closing the file would not do: a process that is just being started holds a copy of the handle, and
    /// the lock with it.
    fn drop(&mut self) {
        let inner = self.inner.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = inner.file.unlock();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_do_not_depend_on_the_order_of_keys() {
        let a = json!({"a": 1, "b": [{"c": "x", "d": null}]});
        let b = json!({"b": [{"d": null, "c": "x"}], "a": 1});
        assert_eq!(key(&a), key(&b));
        assert_ne!(key(&json!({"a": "1"})), key(&json!({"a": 1})));
        assert_ne!(key(&json!(["a", "b"])), key(&json!(["a,", "b"])));
    }

    #[test]
    fn answers_are_found_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/cache.jsonl");
        let (a, b) = (key(&json!(1)), key(&json!(2)));
        {
            let cache = Cache::open(&path).unwrap();
            assert_eq!(cache.get(&a).unwrap(), None);
            cache.put(&a, &json!({"text": "é\n"})).unwrap();
            cache.put(&b, &json!([2])).unwrap();
            assert_eq!(cache.get(&a).unwrap(), Some(json!({"text": "é\n"})));
            let second = Cache::open(&path).unwrap_err().to_string();
            assert!(second.contains("another process"), "{second}");
        }
        let cache = Cache::open(&path).unwrap();
        assert_eq!(cache.get(&b).unwrap(), Some(json!([2])));
        assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2);
    }

    #[test]
    fn the_file_is_free_while_a_copy_of_its_handle_lives() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache.jsonl");
        let cache = Cache::open(&path).unwrap();
        let copy = cache.inner.lock().unwrap().file.try_clone().unwrap();
        drop(cache);
        Cache::open(&path).unwrap();
        drop(copy);
    }

    #[test]
    fn a_torn_row_is_cut_wherever_it_was_torn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache.jsonl");
        let (a, b) = (key(&json!(1)), key(&json!(2)));
        let cache = Cache::open(&path).unwrap();
        cache.put(&a, &json!("first")).unwrap();
        let first = std::fs::metadata(&path).unwrap().len() as usize;
        cache.put(&b, &json!("second")).unwrap();
        drop(cache);
        let whole = std::fs::read(&path).unwrap();
        for length in first..whole.len() {
            std::fs::write(&path, &whole[..length]).unwrap();
            let cache = Cache::open(&path).unwrap();
            assert_eq!(cache.get(&a).unwrap(), Some(json!("first")));
            assert_eq!(cache.get(&b).unwrap(), None);
            cache.put(&b, &json!("second")).unwrap();
            drop(cache);
            assert_eq!(std::fs::read(&path).unwrap(), whole, "{length}");
        }
    }

    #[test]
    fn rows_that_cannot_be_read_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cache.jsonl");
        let good = format!("{{\"schema\":1,\"key\":\"{}\",\"answer\":1}}\n", key(&json!(1)));
        for (row, words) in [
            ("{\"schema\":1}\n", "row 2"),
            ("x\n", "row 2"),
            ("\n", "row 2"),
            (&good.replace("1,\"key", "9,\"key"), "version 9"),
            ("{\"schema\":1,\"key\":\"ff\",\"answer\":1}\n", "key"),
            ("{\"schema\":1,\"key\":\"ff\",\"answer\":1,\"more\":2}\n", "more"),
        ] {
            std::fs::write(&path, format!("{good}{row}")).unwrap();
            let error = Cache::open(&path).unwrap_err().to_string();
            assert!(error.contains(words) && error.contains("cache.jsonl"), "{error}");
        }
    }
}
