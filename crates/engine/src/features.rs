//! Visual tokens that were computed once: in memory, and on disk where a folder is given.
//!
//! They are found by what they depend on: the contents of the file (or where it is large and no folder is
//! given, its name, size and time), the media policy, and on disk also the weights and settings of what sees.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use candle_core::{DType, Device, Tensor};
use safetensors::SafeTensors;
use savi_models::Plan;
use serde::{Deserialize, Serialize};

use crate::{ClipKey, EngineError};

/// Files up to this size are told apart by their contents even where nothing is kept on disk.
const SMALL: u64 = 64 << 20;
/// Ends the names of kept files.
const ENDING: &str = "safetensors";

/// Where visual tokens outlive the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureFolder {
    /// The folder; it is made where it is missing.
    pub dir: PathBuf,
    /// Bytes of files at most; those used longest ago go first.
    #[serde(default = "ten_gib")]
    pub max_bytes: u64,
}

fn ten_gib() -> u64 {
    10 << 30
}

/// A picture or a clip as the model sees it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) plan: Plan,
    pub(crate) tokens: Tensor,
}

impl Seen {
    fn bytes(&self) -> usize {
        self.tokens.elem_count() * self.tokens.dtype().size_in_bytes()
    }
}

/// Where something was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    Memory,
    Disk,
}

#[derive(Debug, Default)]
struct Memory {
    clock: u64,
    bytes: usize,
    seen: HashMap<ClipKey, (Seen, u64)>,
}

/// Size and time of a file, and what it was found to hold.
type Identity = (u64, Option<SystemTime>, String);

#[derive(Debug)]
pub(crate) struct Features {
    budget: usize,
    folder: Option<FeatureFolder>,
    memory: Mutex<Memory>,
    identities: Mutex<HashMap<PathBuf, Identity>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Features {
    /// At most `budget` bytes in memory.
    pub(crate) fn new(budget: usize, folder: Option<FeatureFolder>) -> Self {
        Self { budget, folder, memory: Mutex::default(), identities: Mutex::default() }
    }

    /// Forgets what is in memory.
    pub(crate) fn clear(&self) {
        *lock(&self.memory) = Memory::default();
    }

    /// Whether anything is kept on disk.
    pub(crate) fn keeps(&self) -> bool {
        self.folder.is_some()
    }

    /// What identifies a source: its contents, without its name. Of what is no file or folder, the name.
    pub(crate) fn identity(&self, source: &str) -> String {
        let (file, part) = match source.rsplit_once("#t=") {
            Some((file, part)) if !Path::new(source).exists() => (file, part),
            _ => (source, ""),
        };
        let path = Path::new(file.strip_prefix("file://").unwrap_or(file));
        match self.contents(path) {
            Some(contents) => format!("{contents}#{part}"),
            None => source.to_owned(),
        }
    }

    fn contents(&self, path: &Path) -> Option<String> {
        let metadata = fs::metadata(path).ok()?;
        if metadata.is_dir() {
            let mut files: Vec<PathBuf> = fs::read_dir(path)
                .ok()?
                .map(|entry| Some(entry.ok()?.path()))
                .collect::<Option<_>>()?;
            files.sort_unstable();
            let mut hash = blake3::Hasher::new();
            for file in files.iter().filter(|file| file.is_file()) {
                hash.update(file.file_name()?.as_encoded_bytes());
                hash.update(self.contents(file)?.as_bytes());
            }
            return Some(format!("folder {}", hash.finalize().to_hex()));
        }
        if !metadata.is_file() {
            return None;
        }
        let (size, time) = (metadata.len(), metadata.modified().ok());
        if let Some((known_size, known_time, identity)) = lock(&self.identities).get(path)
            && *known_size == size
            && *known_time == time
        {
            return Some(identity.clone());
        }
        let identity = if size <= SMALL || self.folder.is_some() {
            let mut hash = blake3::Hasher::new();
            hash.update_reader(File::open(path).ok()?).ok()?;
            hash.finalize().to_hex().to_string()
        } else {
            format!("{} {size} {time:?}", path.display())
        };
        lock(&self.identities).insert(path.to_owned(), (size, time, identity.clone()));
        Some(identity)
    }

    /// Looks in memory, then in the folder; `tower` identifies what sees.
    pub(crate) fn get(
        &self,
        key: &ClipKey,
        tower: Option<&str>,
        device: &Device,
        dtype: DType,
    ) -> Option<(Seen, Found)> {
        {
            let mut memory = lock(&self.memory);
            memory.clock += 1;
            let clock = memory.clock;
            if let Some((seen, used)) = memory.seen.get_mut(key) {
                *used = clock;
                return Some((seen.clone(), Found::Memory));
            }
        }
        let path = self.path(key, tower?)?;
        let bytes = fs::read(&path).ok()?;
        let Some(seen) = read(&bytes, device).filter(|seen| seen.tokens.dtype() == dtype) else {
            tracing::warn!("{}: cannot be read and is made anew", path.display());
            return None;
        };
        // What is used now goes last.
        if let Err(error) = File::options()
            .append(true)
            .open(&path)
            .and_then(|file| file.set_modified(SystemTime::now()))
        {
            tracing::debug!("{}: {error}", path.display());
        }
        self.remember(key, &seen);
        Some((seen, Found::Disk))
    }

    fn remember(&self, key: &ClipKey, seen: &Seen) {
        let mut memory = lock(&self.memory);
        memory.clock += 1;
        let clock = memory.clock;
        if let Some((old, _)) = memory.seen.insert(key.clone(), (seen.clone(), clock)) {
            memory.bytes -= old.bytes();
        }
        memory.bytes += seen.bytes();
        while memory.bytes > self.budget {
            let oldest = memory.seen.iter().min_by_key(|(_, (_, used))| *used);
            let Some(oldest) = oldest.map(|(key, _)| key.clone()) else { break };
            let Some((old, _)) = memory.seen.remove(&oldest) else { break };
            memory.bytes -= old.bytes();
        }
    }

    /// Keeps visual tokens, in memory and in the folder.
    pub(crate) fn insert(
        &self,
        key: &ClipKey,
        tower: Option<&str>,
        seen: &Seen,
    ) -> Result<(), EngineError> {
        self.remember(key, seen);
        let Some((folder, tower)) = self.folder.as_ref().zip(tower) else { return Ok(()) };
        let Some(path) = self.path(key, tower) else { return Ok(()) };
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| EngineError::Io { path, source }
        };
        fs::create_dir_all(&folder.dir).map_err(io(&folder.dir))?;
        let bytes = written(seen)?;
        let mut file = tempfile::NamedTempFile::new_in(&folder.dir).map_err(io(&folder.dir))?;
        file.write_all(&bytes).map_err(io(&path))?;
        file.persist(&path).map_err(|error| io(&path)(error.error))?;
        shrink(folder, &path).map_err(io(&folder.dir))
    }

    fn path(&self, key: &ClipKey, tower: &str) -> Option<PathBuf> {
        let folder = self.folder.as_ref()?;
        let mut hash = blake3::Hasher::new();
        for part in [env!("CARGO_PKG_VERSION"), tower, &key.0] {
            hash.update(&(part.len() as u64).to_le_bytes());
            hash.update(part.as_bytes());
        }
        Some(folder.dir.join(&hash.finalize().to_hex()[..32]).with_extension(ENDING))
    }
}

/// Removes the files that were used longest ago, but not `newest`, until the folder's bound holds.
fn shrink(folder: &FeatureFolder, newest: &Path) -> std::io::Result<()> {
    let mut files = Vec::new();
    for entry in fs::read_dir(&folder.dir)? {
        let (entry, ending) = (entry?, Some(std::ffi::OsStr::new(ENDING)));
        let metadata = entry.metadata()?;
        if metadata.is_file() && entry.path().extension() == ending {
            files.push((metadata.modified()?, metadata.len(), entry.path()));
        }
    }
    let mut bytes: u64 = files.iter().map(|file| file.1).sum();
    files.sort_unstable();
    for (_, size, path) in files {
        if bytes <= folder.max_bytes {
            break;
        }
        if path != newest {
            match fs::remove_file(&path) {
                // Another process was as fast.
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => bytes -= size,
            }
        }
    }
    Ok(())
}

fn written(seen: &Seen) -> Result<Vec<u8>, EngineError> {
    let malformed =
        |reason: String| EngineError::Malformed { file: "visual tokens".to_owned(), reason };
    let plan = serde_json::to_string(&seen.plan).map_err(|error| malformed(error.to_string()))?;
    let tokens = seen.tokens.to_device(&Device::Cpu)?.contiguous()?;
    let metadata = HashMap::from([("plan".to_owned(), plan)]);
    safetensors::serialize([("tokens", &tokens)], Some(metadata))
        .map_err(|error| malformed(error.to_string()))
}

fn read(bytes: &[u8], device: &Device) -> Option<Seen> {
    let (_, metadata) = SafeTensors::read_metadata(bytes).ok()?;
    let plan: Plan = serde_json::from_str(metadata.metadata().as_ref()?.get("plan")?).ok()?;
    let mut tensors = candle_core::safetensors::load_buffer(bytes, device).ok()?;
    let tokens = tensors.remove("tokens")?;
    (tokens.dims2().ok()?.0 == plan.len()).then_some(Seen { plan, tokens })
}
