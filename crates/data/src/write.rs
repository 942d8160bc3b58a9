//! Writing rows: one object per line into a temporary file that takes its name at the end.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use tempfile::NamedTempFile;

use crate::DataError;

/// Writes JSONL. The file appears, whole, with [`finish`](Self::finish); dropped before that, it
/// leaves nothing behind.
pub struct RowWriter {
    path: PathBuf,
    file: BufWriter<NamedTempFile>,
    rows: u64,
}

impl RowWriter {
    /// Starts a file; its folder is made if it is missing.
    pub fn create(path: &Path) -> Result<Self, DataError> {
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        std::fs::create_dir_all(folder).map_err(DataError::io(folder))?;
        let file = tempfile::Builder::new()
            .prefix(".rows-")
            .tempfile_in(folder)
            .map_err(DataError::io(folder))?;
        Ok(Self { path: path.to_owned(), file: BufWriter::new(file), rows: 0 })
    }

    /// Appends one row.
    pub fn write(&mut self, row: &impl Serialize) -> Result<(), DataError> {
        self.rows += 1;
        let line = serde_json::to_string(row).map_err(|error| DataError::Row {
            path: self.path.clone(),
            row: self.rows,
            reason: error.to_string(),
        })?;
        writeln!(self.file, "{line}").map_err(DataError::io(&self.path))
    }

    /// Gives the file its name and returns the number of rows.
    pub fn finish(self) -> Result<u64, DataError> {
        let io = |source| DataError::Io { path: self.path.clone(), source };
        let file = self.file.into_inner().map_err(|error| io(error.into_error()))?;
        set_ordinary_mode(file.as_file()).map_err(io)?;
        file.as_file().sync_all().map_err(io)?;
        file.persist(&self.path).map_err(|error| io(error.error))?;
        Ok(self.rows)
    }
}

/// Temporary files are private to their owner; results are readable like any other file.
#[cfg(unix)]
fn set_ordinary_mode(file: &std::fs::File) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.set_permissions(std::fs::Permissions::from_mode(0o644))
}

#[cfg(not(unix))]
fn set_ordinary_mode(_: &std::fs::File) -> std::io::Result<()> {
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Rows;

    #[test]
    fn a_file_appears_whole_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("new/rows.jsonl");
        let mut writer = RowWriter::create(&path).unwrap();
        writer.write(&serde_json::json!({"text": "two\nlines"})).unwrap();
        assert!(!path.exists());
        drop(writer);
        assert_eq!(std::fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);

        let mut writer = RowWriter::create(&path).unwrap();
        writer.write(&serde_json::json!({"text": "two\nlines"})).unwrap();
        writer.write(&serde_json::json!({"n": 0.1})).unwrap();
        assert_eq!(writer.finish().unwrap(), 2);
        let rows: Vec<_> = Rows::open(&path).unwrap().map(|row| row.unwrap().text).collect();
        assert_eq!(rows, [r#"{"text":"two\nlines"}"#, r#"{"n":0.1}"#]);
    }
}
