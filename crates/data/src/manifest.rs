//! The manifest of a data set: where it comes from, under which licence, which files belong to
//! which split, and what its columns are called.
//!
//! `datasets/<name>/manifest.toml` lies beside a few sample rows. Files are checked by their SHA-256
//! before they are used, so a silent change upstream cannot move a result.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::DataError;

/// What a data set is.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Its name, equal to its folder's.
    pub name: String,
    /// One sentence on what it holds.
    pub description: String,
    /// SPDX expression, or the words `not stated`.
    pub license: String,
    /// Where its files come from.
    pub source: Source,
    /// Its splits by name.
    pub splits: BTreeMap<String, Split>,
    /// Our name of a column to the name that the files use; equal names are left out.
    #[serde(default)]
    pub columns: BTreeMap<String, String>,
}

/// Where the files of a data set come from.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Source {
    /// Made on this machine by a command of this program.
    Generated {
        /// The command, without the program's name.
        command: String,
    },
    /// A data set on the Hugging Face hub.
    Hub {
        /// `organisation/name`.
        repo: String,
        /// Commit, so that it stays what it is.
        revision: String,
    },
    /// Files under an address of their own.
    Url {
        /// The page that describes them.
        page: String,
    },
}

/// One split.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Split {
    /// Its files; none where the data are generated.
    #[serde(default)]
    pub files: Vec<DataFile>,
    /// Number of rows, where it is fixed.
    #[serde(default)]
    pub rows: Option<u64>,
    /// A split that is only opened for a final measurement, each opening being logged.
    #[serde(default)]
    pub sealed: bool,
}

/// One file of a split.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataFile {
    /// Path below the data folder.
    pub path: PathBuf,
    /// SHA-256 in 64 lower-case hexadecimal digits.
    pub sha256: String,
}

impl Manifest {
    /// Reads `folder/manifest.toml`.
    pub fn load(folder: &Path) -> Result<Self, DataError> {
        let path = folder.join("manifest.toml");
        let text = std::fs::read_to_string(&path).map_err(DataError::io(&path))?;
        let bad = |reason: String| DataError::Manifest { path: path.clone(), reason };
        let manifest: Self = toml::from_str(&text).map_err(|error| bad(error.to_string()))?;
        if folder.file_name().is_some_and(|name| name != manifest.name.as_str()) {
            return Err(bad(format!("name is {:?}, the folder's is another", manifest.name)));
        }
        manifest.fault().map_or(Ok(manifest), |fault| Err(bad(fault)))
    }

    fn fault(&self) -> Option<String> {
        if self.splits.is_empty() {
            return Some("no splits".to_owned());
        }
        for (name, split) in &self.splits {
            for file in &split.files {
                let path = file.path.display();
                if !file.path.components().all(|part| matches!(part, Component::Normal(_))) {
                    return Some(format!("split {name}: {path} leads out of the data folder"));
                }
                let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
                if file.sha256.len() != 64 || !file.sha256.bytes().all(digit) {
                    let hash = &file.sha256;
                    return Some(format!("split {name}: {path}: {hash:?} is not a SHA-256"));
                }
            }
        }
        None
    }

    /// The files of a split below `root`, each checked against its hash.
    pub fn files(&self, split: &str, root: &Path) -> Result<Vec<PathBuf>, DataError> {
        let bad =
            |path: &Path, reason: String| DataError::Manifest { path: path.to_owned(), reason };
        let Some(found) = self.splits.get(split) else {
            let known: Vec<&str> = self.splits.keys().map(String::as_str).collect();
            let reason = format!("{} has no split {split:?}, only {}", self.name, known.join(", "));
            return Err(bad(root, reason));
        };
        let check = |file: &DataFile| {
            let path = root.join(&file.path);
            let hash = sha256(&path)?;
            if hash != file.sha256 {
                return Err(bad(&path, format!("SHA-256 is {hash}, expected {}", file.sha256)));
            }
            Ok(path)
        };
        found.files.iter().map(check).collect()
    }
}

fn sha256(path: &Path) -> Result<String, DataError> {
    let mut file = File::open(path).map_err(DataError::io(path))?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        match file.read(&mut buffer).map_err(DataError::io(path))? {
            0 => break,
            count => hasher.update(&buffer[..count]),
        }
    }
    Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    // printf abc | sha256sum (the example of FIPS 180-2)
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    fn folder(manifest: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("letters");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("manifest.toml"), manifest).unwrap();
        (dir, folder)
    }

    fn manifest(path: &str, hash: &str) -> String {
        format!(
            "name = \"letters\"\ndescription = \"Three letters.\"\nlicense = \"CC0-1.0\"\n\
             [source]\nkind = \"url\"\npage = \"https://example.org\"\n\
             [splits.test]\nfiles = [{{ path = \"{path}\", sha256 = \"{hash}\" }}]\n\
             [columns]\nanswer = \"A\"\n"
        )
    }

    #[test]
    fn files_are_checked_by_their_hash() {
        let (_dir, folder) = folder(&manifest("a.txt", ABC));
        let read = Manifest::load(&folder).unwrap();
        assert_eq!(read.columns["answer"], "A");
        assert!(!read.splits["test"].sealed);
        std::fs::write(folder.join("a.txt"), "abc").unwrap();
        assert_eq!(read.files("test", &folder).unwrap(), [folder.join("a.txt")]);
        std::fs::write(folder.join("a.txt"), "abd").unwrap();
        let error = read.files("test", &folder).unwrap_err().to_string();
        assert!(error.contains(&format!("expected {ABC}")), "{error}");
        let error = read.files("train", &folder).unwrap_err().to_string();
        assert!(error.ends_with("letters has no split \"train\", only test"), "{error}");
    }

    #[test]
    fn unusable_manifests_are_refused() {
        for (text, error) in [
            (manifest("../a.txt", ABC), "leads out of the data folder"),
            (manifest("/etc/passwd", ABC), "leads out of the data folder"),
            (manifest("a.txt", "abc"), "is not a SHA-256"),
            (manifest("a.txt", ABC).replace("letters", "digits"), "the folder's is another"),
            (manifest("a.txt", ABC).replace("license", "licence"), "unknown field `licence`"),
        ] {
            let (_dir, folder) = folder(&text);
            let found = Manifest::load(&folder).unwrap_err().to_string();
            assert!(found.contains(error), "{found}");
        }
    }
}
