//! What a run was made with.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::RunError;

/// `manifest.json`: what a run was made with. It holds no times and no paths of a machine, so that
/// two runs of one config can be compared by it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this layout.
    pub schema: u32,
    /// The command, for example `video run`.
    pub command: String,
    /// Version of the program.
    pub version: String,
    /// Commit of the git working tree in which the run was started, if it was started in one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub working_tree_commit: Option<String>,
    /// Hash of the resolved config.
    pub config_hash: String,
    /// The run's seed.
    pub seed: u64,
    /// The device that computed.
    pub device: String,
    /// The type it computed in.
    pub dtype: String,
    /// Operating system and CPU architecture.
    pub platform: String,
    /// Fingerprints of models by the name they were asked for.
    #[serde(default)]
    pub models: BTreeMap<String, String>,
    /// Hashes of inputs (data folders, prompts) by name.
    #[serde(default)]
    pub inputs: BTreeMap<String, String>,
}

/// BLAKE3 of a file's content, as 64 hexadecimal digits.
pub fn file_hash(path: &Path) -> Result<String, RunError> {
    let mut file = File::open(path).map_err(RunError::io(path))?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut buffer).map_err(RunError::io(path))?;
        if read == 0 {
            return Ok(hasher.finalize().to_hex().to_string());
        }
        hasher.update(&buffer[..read]);
    }
}

/// The commit checked out in the git working tree that holds `start`, read from git's own files;
/// `None` outside of one or where its head cannot be told.
pub fn working_tree_commit(start: &Path) -> Option<String> {
    let start = fs::canonicalize(start).ok()?;
    let mut git = start.ancestors().map(|dir| dir.join(".git")).find(|git| git.exists())?;
    if git.is_file() {
        // A linked working tree: a file that says where its own part of the repository is.
        let text = fs::read_to_string(&git).ok()?;
        git = git.parent()?.join(text.strip_prefix("gitdir:")?.trim());
    }
    let head = fs::read_to_string(git.join("HEAD")).ok()?;
    let Some(reference) = head.trim().strip_prefix("ref: ") else {
        return is_commit(head.trim()).then(|| head.trim().to_owned());
    };
    let common = match fs::read_to_string(git.join("commondir")) {
        Ok(text) => git.join(text.trim()),
        Err(_) => git,
    };
    if let Ok(commit) = fs::read_to_string(common.join(reference)) {
        return Some(commit.trim().to_owned());
    }
    let packed = fs::read_to_string(common.join("packed-refs")).ok()?;
    packed.lines().find_map(|line| {
        let (commit, name) = line.split_once(' ')?;
        (name == reference && is_commit(commit)).then(|| commit.to_owned())
    })
}

fn is_commit(text: &str) -> bool {
    text.len() >= 40 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commit_is_read_from_loose_and_packed_references() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(working_tree_commit(dir.path()), None);
        let git = dir.path().join(".git");
        fs::create_dir_all(git.join("refs/heads")).unwrap();
        fs::write(git.join("HEAD"), "ref: refs/heads/main\n").unwrap();
        let (packed, loose) = ("a".repeat(40), "b".repeat(40));
        fs::write(git.join("packed-refs"), format!("# head\n{packed} refs/heads/main\n")).unwrap();
        let below = dir.path().join("some/folder");
        fs::create_dir_all(&below).unwrap();
        assert_eq!(working_tree_commit(&below), Some(packed));
        fs::write(git.join("refs/heads/main"), format!("{loose}\n")).unwrap();
        assert_eq!(working_tree_commit(&below), Some(loose));
    }

    #[test]
    fn file_hash_is_the_hash_of_the_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let bytes: Vec<u8> = (0..200_000u32).map(|i| i as u8).collect();
        fs::write(&path, &bytes).unwrap();
        assert_eq!(file_hash(&path).unwrap(), blake3::hash(&bytes).to_hex().to_string());
    }
}
