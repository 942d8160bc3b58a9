//! A folder that appears whole or not at all: filled under another name beside its own, then renamed.

use std::fs;
use std::path::{Path, PathBuf};

use crate::ModelError;

/// A folder of a model that is being written.
#[derive(Debug)]
pub struct NewFolder {
    target: PathBuf,
    partial: PathBuf,
    overwrite: bool,
    done: bool,
}

impl NewFolder {
    /// Begins a folder. What is there already is refused, or with `overwrite` replaced at the end,
    /// provided that it is an empty folder or a model's.
    pub fn begin(target: &Path, overwrite: bool) -> Result<Self, ModelError> {
        let io = |source| ModelError::Io { path: target.to_owned(), source };
        // A name like `models/..` has no last part that another could be made of.
        let Some(name) = target.file_name() else {
            return Err(refused(target, "a folder needs a name of its own"));
        };
        if target.symlink_metadata().is_ok() {
            if !overwrite {
                return Err(refused(
                    target,
                    "exists already; it is replaced only with --overwrite",
                ));
            }
            if !target.is_dir() {
                return Err(refused(target, "is no folder"));
            }
            let empty = fs::read_dir(target).map_err(io)?.next().is_none();
            if !empty && !target.join("config.json").exists() {
                return Err(refused(target, "holds no config.json: what is in it is no model's"));
            }
        }
        let beside = |suffix: &str| {
            let mut other = std::ffi::OsString::from(".");
            other.push(name);
            other.push(suffix);
            target.with_file_name(other)
        };
        let partial = beside(".partial");
        if partial.exists() {
            fs::remove_dir_all(&partial).map_err(io)?;
        }
        fs::create_dir_all(&partial)
            .map_err(|source| ModelError::Io { path: partial.clone(), source })?;
        Ok(Self { target: target.to_owned(), partial, overwrite, done: false })
    }

    /// Where to put the files meanwhile.
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Writes a file of the folder.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), ModelError> {
        let path = self.partial.join(name);
        let io = |source| ModelError::Io { path: path.clone(), source };
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(io)?;
        }
        fs::write(&path, bytes).map_err(io)
    }

    /// Gives the folder its name.
    pub fn finish(mut self) -> Result<(), ModelError> {
        let io = |source| ModelError::Io { path: self.target.clone(), source };
        if self.overwrite && self.target.exists() {
            // The old one goes only after the new one has its name.
            let old = self.partial.with_extension("old");
            if old.exists() {
                fs::remove_dir_all(&old).map_err(io)?;
            }
            fs::rename(&self.target, &old).map_err(io)?;
            if let Err(error) = fs::rename(&self.partial, &self.target) {
                // Whatever this gives, the first error is the one to tell.
                let _ = fs::rename(&old, &self.target);
                return Err(io(error));
            }
            self.done = true;
            return fs::remove_dir_all(&old).map_err(io);
        }
        fs::rename(&self.partial, &self.target).map_err(io)?;
        self.done = true;
        Ok(())
    }
}

impl Drop for NewFolder {
    fn drop(&mut self) {
        if !self.done {
            // Left over, it would be taken away by the next attempt.
            let _ = fs::remove_dir_all(&self.partial);
        }
    }
}

fn refused(path: &Path, reason: &str) -> ModelError {
    ModelError::Malformed { path: path.to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_appears_at_the_end_and_replaces_only_models() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("model");
        let count = || fs::read_dir(dir.path()).unwrap().count();
        let folder = NewFolder::begin(&target, false).unwrap();
        folder.write("config.json", b"{}").unwrap();
        folder.write("more/words.txt", b"a").unwrap();
        assert!(!target.exists());
        folder.finish().unwrap();
        assert!(target.join("more/words.txt").exists() && count() == 1);

        let again = NewFolder::begin(&target, false).unwrap_err().to_string();
        assert!(again.contains("--overwrite") && again.contains("model"), "{again}");
        let folder = NewFolder::begin(&target, true).unwrap();
        folder.write("config.json", b"[]").unwrap();
        folder.finish().unwrap();
        assert_eq!(fs::read(target.join("config.json")).unwrap(), b"[]");
        assert!(!target.join("more").exists() && count() == 1);

        // Given up, it leaves nothing behind, and the old one as it was.
        let folder = NewFolder::begin(&target, true).unwrap();
        folder.write("config.json", b"half").unwrap();
        drop(folder);
        assert_eq!(fs::read(target.join("config.json")).unwrap(), b"[]");
        assert_eq!(count(), 1);

        fs::remove_file(target.join("config.json")).unwrap();
        fs::write(target.join("diary.txt"), "mine").unwrap();
        let other = NewFolder::begin(&target, true).unwrap_err().to_string();
        assert!(other.contains("no config.json"), "{other}");
        assert!(NewFolder::begin(Path::new("/"), true).is_err());
    }
}
