//! The folder of one run: one resolved config, one process at a time.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};

use toml::{Table, Value};

use crate::{Manifest, RunError, working_tree_commit, write_atomic, write_json_atomic};

/// Everything that a run leaves in its folder; `--fresh` removes these and nothing else.
const CONTENTS: [&str; 13] = [
    "config.toml",
    "manifest.json",
    "stages",
    "checkpoints",
    "adapter",
    "model",
    "data",
    "answers-of-endpoint.jsonl",
    "metrics.jsonl",
    "trainer_state.json",
    "tensorboard",
    "evaluations.json",
    "report.html",
];
const LOCK: &str = ".lock";
/// How the folders of a training in progress begin.
const CHECKPOINT: &str = "checkpoint-";

/// What a run folder is opened with.
#[derive(Debug, Clone, Default)]
pub struct FolderOptions {
    /// The command, for example `video run`.
    pub command: String,
    /// Version of the program.
    pub version: String,
    /// Discard a run of another config (or of the same one) and begin anew.
    pub fresh: bool,
    /// The run's seed.
    pub seed: u64,
    /// The device that computes.
    pub device: String,
    /// The type it computes in.
    pub dtype: String,
}

/// An opened run folder. Nobody else opens it until this value is dropped or the process ends.
#[derive(Debug)]
pub struct RunFolder {
    dir: PathBuf,
    manifest: Manifest,
    resumed: bool,
    // Held until the value is dropped; none where another process holds it.
    lock: Option<Lock>,
}

impl RunFolder {
    /// Opens `dir` for the run of `config` (resolved), creating it where needed. A folder with the
    /// same config is continued; one with another config is refused, naming the keys, unless it has
    /// no stages, checkpoints or adapter yet or `fresh` is set.
    pub fn open(dir: &Path, config: &Table, options: &FolderOptions) -> Result<Self, RunError> {
        fs::create_dir_all(dir).map_err(RunError::io(dir))?;
        refuse_foreign(dir)?;
        let lock = lock(dir)?;
        if options.fresh {
            for name in CONTENTS {
                remove(&dir.join(name))?;
            }
            for checkpoint in checkpoints(dir)? {
                remove(&checkpoint)?;
            }
        }
        let config_path = dir.join("config.toml");
        // A run that failed before its first stage or checkpoint has nothing to protect.
        let begun = ["stages", "adapter"].iter().any(|name| dir.join(name).exists());
        let resumed = config_path.exists() && (begun || !checkpoints(dir)?.is_empty());
        if resumed {
            let changed = changed_keys(&read_config(&config_path)?, config);
            if !changed.is_empty() {
                return Err(RunError::ConfigChanged { dir: dir.to_owned(), keys: changed });
            }
        }
        let text = toml::to_string_pretty(config).map_err(|error| RunError::Encode {
            what: config_path.display().to_string(),
            reason: error.to_string(),
        })?;
        let mut manifest = Manifest {
            schema: 1,
            command: options.command.clone(),
            version: options.version.clone(),
            working_tree_commit: working_tree_commit(Path::new(".")),
            config_hash: blake3::hash(text.as_bytes()).to_hex().to_string(),
            seed: options.seed,
            device: options.device.clone(),
            dtype: options.dtype.clone(),
            platform: format!("{}-{}", std::env::consts::OS, std::env::consts::ARCH),
            ..Manifest::default()
        };
        let manifest_path = dir.join("manifest.json");
        if resumed
            && let Ok(text) = fs::read_to_string(&manifest_path)
            && let Ok(before) = serde_json::from_str::<Manifest>(&text)
        {
            warn_of_changes(&before, &manifest);
            manifest.models = before.models;
            manifest.inputs = before.inputs;
        }
        write_json_atomic(&manifest_path, &manifest)?;
        // The config is written last: a folder with a config is a folder that can be continued.
        if !resumed {
            write_atomic(&config_path, text.as_bytes())?;
        }
        Ok(Self { dir: dir.to_owned(), manifest, resumed, lock: Some(lock) })
    }

    /// The folder of a run that another process has opened: nothing is recorded in it.
    pub fn of_another(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), manifest: Manifest::default(), resumed: false, lock: None }
    }

    /// Whether this process is the one that writes.
    pub fn is_ours(&self) -> bool {
        self.lock.is_some()
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// A path inside the folder.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.dir.join(name)
    }

    /// Whether an earlier start of the same run is being continued.
    pub fn resumed(&self) -> bool {
        self.resumed
    }

    /// What the run is made with.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Adds a model's fingerprint to the manifest.
    pub fn record_model(&mut self, name: &str, fingerprint: &str) -> Result<(), RunError> {
        self.manifest.models.insert(name.to_owned(), fingerprint.to_owned());
        self.note()
    }

    /// Adds the hash of an input to the manifest.
    pub fn record_input(&mut self, name: &str, hash: &str) -> Result<(), RunError> {
        self.manifest.inputs.insert(name.to_owned(), hash.to_owned());
        self.note()
    }

    fn note(&self) -> Result<(), RunError> {
        if !self.is_ours() {
            return Ok(());
        }
        write_json_atomic(&self.dir.join("manifest.json"), &self.manifest)
    }
}

/// A folder with content must show that a run made it, or it is left alone.
fn refuse_foreign(dir: &Path) -> Result<(), RunError> {
    let ours = |name: &std::ffi::OsStr| {
        let name = name.to_string_lossy();
        let name = name.strip_suffix(".tmp").unwrap_or(&name);
        name == LOCK || name == "manifest.json"
    };
    let mut foreign = false;
    for entry in fs::read_dir(dir).map_err(RunError::io(dir))? {
        let name = entry.map_err(RunError::io(dir))?.file_name();
        if name == "manifest.json" {
            return Ok(());
        }
        foreign |= !ours(&name);
    }
    if foreign { Err(RunError::NotARunFolder(dir.to_owned())) } else { Ok(()) }
}

/// The states of a training in progress that lie in the folder itself.
fn checkpoints(dir: &Path) -> Result<Vec<PathBuf>, RunError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(RunError::io(dir))? {
        let entry = entry.map_err(RunError::io(dir))?;
        if entry.file_name().to_string_lossy().starts_with(CHECKPOINT) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// A folder's lock, given up with the value. Closing the file would not do: a process that is just being
/// started holds a copy of the handle, and the lock with it.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

fn lock(dir: &Path) -> Result<Lock, RunError> {
    let path = dir.join(LOCK);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(RunError::io(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(Lock(file)),
        Err(fs::TryLockError::WouldBlock) => Err(RunError::Locked(dir.to_owned())),
        Err(fs::TryLockError::Error(error)) => Err(RunError::io(&path)(error)),
    }
}

fn remove(path: &Path) -> Result<(), RunError> {
    let result = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => return Ok(()),
    };
    result.map_err(RunError::io(path))
}

fn read_config(path: &Path) -> Result<Table, RunError> {
    let text = fs::read_to_string(path).map_err(RunError::io(path))?;
    toml::from_str(&text).map_err(|error: toml::de::Error| RunError::Malformed {
        path: path.to_owned(),
        line: None,
        reason: error.to_string(),
    })
}

fn warn_of_changes(before: &Manifest, now: &Manifest) {
    let pairs = [
        ("version", &before.version, &now.version),
        ("device", &before.device, &now.device),
        ("dtype", &before.dtype, &now.dtype),
        ("platform", &before.platform, &now.platform),
    ];
    for (what, before, now) in pairs {
        if before != now {
            tracing::warn!(
                "this run was begun with {what} {before} and continues with {now}: \
                 the rest may differ from an undisturbed run"
            );
        }
    }
}

/// Dotted names of the keys in which two configs differ, in order.
fn changed_keys(before: &Table, now: &Table) -> Vec<String> {
    fn leaves(prefix: &str, table: &Table, into: &mut Vec<(String, Value)>) {
        for (key, value) in table {
            let name = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
            match value {
                Value::Table(inner) => leaves(&name, inner, into),
                leaf => into.push((name, leaf.clone())),
            }
        }
    }
    let (mut old, mut new) = (Vec::new(), Vec::new());
    leaves("", before, &mut old);
    leaves("", now, &mut new);
    let differs = |one: &[(String, Value)], other: &[(String, Value)]| -> Vec<String> {
        one.iter().filter(|leaf| !other.contains(leaf)).map(|(name, _)| name.clone()).collect()
    };
    let mut keys = differs(&old, &new);
    keys.extend(differs(&new, &old));
    keys.sort();
    keys.dedup();
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(text: &str) -> Table {
        toml::from_str(text).unwrap()
    }

    fn open(dir: &Path, config: &str, fresh: bool) -> Result<RunFolder, RunError> {
        let options = FolderOptions { fresh, device: "cpu".to_owned(), ..Default::default() };
        RunFolder::open(dir, &table(config), &options)
    }

    #[test]
    fn the_same_config_continues_and_another_is_refused_by_key() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("runs/a");
        assert!(!open(&run, "seed = 9", false).unwrap().resumed());
        assert!(!open(&run, "seed = 1\n[train]\nbeta = 0.1", false).unwrap().resumed());
        fs::create_dir_all(run.join("stages/01-x")).unwrap();
        assert!(open(&run, "seed = 1\n[train]\nbeta = 0.1", false).unwrap().resumed());
        let error = open(&run, "seed = 2\n[train]\nbeta = 0.1\nlr = 1", false).unwrap_err();
        let RunError::ConfigChanged { keys, .. } = &error else { panic!("{error}") };
        assert_eq!(keys, &["seed", "train.lr"]);
        fs::write(run.join("note.txt"), "mine").unwrap();
        assert!(!open(&run, "seed = 2", true).unwrap().resumed());
        assert!(!run.join("stages").exists());
        assert!(run.join("note.txt").exists(), "--fresh removed what no run made");
    }

    #[test]
    fn what_a_training_has_learnt_is_protected() {
        let dir = tempfile::tempdir().unwrap();
        for learnt in ["checkpoint-3", "adapter"] {
            let run = dir.path().join(learnt);
            assert!(!open(&run, "beta = 1", false).unwrap().resumed());
            fs::create_dir(run.join(learnt)).unwrap();
            assert!(open(&run, "beta = 1", false).unwrap().resumed());
            assert!(matches!(open(&run, "beta = 2", false), Err(RunError::ConfigChanged { .. })));
            assert!(!open(&run, "beta = 2", true).unwrap().resumed());
            assert!(!run.join(learnt).exists());
        }
    }

    #[test]
    fn two_processes_do_not_share_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let first = open(dir.path(), "seed = 1", false).unwrap();
        assert!(matches!(open(dir.path(), "seed = 1", true), Err(RunError::Locked(_))));
        // As a process has it between being forked and becoming another program.
        let copy = first.lock.as_ref().unwrap().0.try_clone().unwrap();
        drop(first);
        assert!(open(dir.path(), "seed = 1", false).is_ok());
        drop(copy);
    }

    #[test]
    fn a_folder_of_something_else_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.tex"), "x").unwrap();
        for fresh in [false, true] {
            let result = open(dir.path(), "seed = 1", fresh);
            assert!(matches!(result, Err(RunError::NotARunFolder(_))));
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_start_that_was_killed_before_the_config_begins_again() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("manifest.json.tmp"), "{").unwrap();
        assert!(!open(dir.path(), "seed = 1", false).unwrap().resumed());
    }

    #[test]
    fn models_and_inputs_stay_in_the_manifest() {
        let dir = tempfile::tempdir().unwrap();
        open(dir.path(), "seed = 1", false).unwrap().record_model("policy", "abc").unwrap();
        fs::create_dir(dir.path().join("stages")).unwrap();
        let folder = open(dir.path(), "seed = 1", false).unwrap();
        assert_eq!(folder.manifest().models["policy"], "abc");
    }
}
