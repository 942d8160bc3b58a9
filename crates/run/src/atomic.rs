//! Files that are either whole or absent.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::RunError;

/// Replaces `path` by `bytes`: written beside it, synced, then renamed, so that a reader or a killed
/// process never sees half a file.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), RunError> {
    let temporary = temporary_name(path);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(RunError::io(parent))?;
    }
    let mut file = File::create(&temporary).map_err(RunError::io(&temporary))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(RunError::io(&temporary))?;
    drop(file);
    fs::rename(&temporary, path).map_err(RunError::io(path))?;
    sync_parent(path);
    Ok(())
}

/// [`write_atomic`] of a value as indented JSON with a final newline.
pub fn write_json_atomic<T: Serialize + ?Sized>(path: &Path, value: &T) -> Result<(), RunError> {
    let mut text = serde_json::to_string_pretty(value).map_err(|error| RunError::Encode {
        what: path.display().to_string(),
        reason: error.to_string(),
    })?;
    text.push('\n');
    write_atomic(path, text.as_bytes())
}

/// Makes a rename survive a power cut. Not every file system allows it, and the rename itself is
/// already done, so a refusal is of no consequence.
pub(crate) fn sync_parent(path: &Path) {
    if let Some(parent) = path.parent()
        && let Ok(folder) = File::open(parent)
    {
        let _ = folder.sync_all();
    }
}

fn temporary_name(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    path.with_file_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_whole_and_leaves_nothing_beside() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep/er/file.json");
        write_atomic(&path, b"first, and longer").unwrap();
        write_json_atomic(&path, &[1, 2]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "[\n  1,\n  2\n]\n");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn a_failure_names_the_path() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "x").unwrap();
        let error = write_atomic(&dir.path().join("file/below"), b"").unwrap_err();
        assert!(error.to_string().contains("file"), "{error}");
    }
}
