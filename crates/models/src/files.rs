//! Hugging Face directories as they are read: config, and safetensors that are mapped.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};

use candle_core::safetensors::MmapedSafetensors;
use candle_core::{DType, Device, Tensor};
use safetensors::Dtype as Stored;
use savi_nn::{Params, TensorSource, Weights};
use serde_json::Value;

use crate::gguf::{GgufModel, Metadata};
use crate::{ModelError, Processors, StoredDType};

/// Headers are no longer than this (safetensors' own limit).
const LONGEST_HEADER: u64 = 100_000_000;

/// A model as files, before it is built.
#[derive(Debug)]
pub struct ModelFiles {
    /// `config.json`.
    pub config: Value,
    /// How its pictures are prepared.
    pub processors: Processors,
    /// Its tensors.
    pub tensors: TensorFiles,
}

impl ModelFiles {
    /// A model whose files are in memory.
    pub fn from_bytes(config: &[u8], safetensors: &[u8]) -> Result<Self, ModelError> {
        let config = serde_json::from_slice(config).map_err(|e| ModelError::Malformed {
            path: "config.json".into(),
            reason: e.to_string(),
        })?;
        let path = Path::new("model.safetensors");
        let tensors = candle_core::safetensors::load_buffer(safetensors, &Device::Cpu)
            .map_err(|e| malformed(path, e))?;
        let places = tensors.keys().map(|name| (name.clone(), 0)).collect();
        let shards = vec![Shard { path: path.to_owned(), data: Data::Memory(tensors) }];
        let tensors = TensorFiles { shards, places, index: PathBuf::new() };
        Ok(Self { config, processors: Processors::default(), tensors })
    }
}

/// The tensors of a checkpoint: read from mapped files one by one, when they are asked for.
#[derive(Debug)]
pub struct TensorFiles {
    shards: Vec<Shard>,
    /// The shard of each tensor.
    places: BTreeMap<String, usize>,
    /// What lists the shards, where there are several.
    index: PathBuf,
}

#[derive(Debug)]
struct Shard {
    path: PathBuf,
    data: Data,
}

enum Data {
    Mapped(MmapedSafetensors),
    Gguf(GgufModel),
    Memory(HashMap<String, Tensor>),
}

impl std::fmt::Debug for Data {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Mapped(_) => "Mapped",
            Self::Gguf(_) => "Gguf",
            Self::Memory(_) => "Memory",
        })
    }
}

impl TensorFiles {
    /// Maps one safetensors file.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let shard = Shard::open(path)?;
        let places = shard.names().into_iter().map(|name| (name, 0)).collect();
        Ok(Self { shards: vec![shard], places, index: PathBuf::new() })
    }

    /// Names in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.places.keys().map(String::as_str)
    }

    /// Whether the values were packed and become f32 when they are read.
    pub fn dequantised(&self) -> bool {
        self.shards.iter().any(|shard| matches!(shard.data, Data::Gguf(_)))
    }

    /// How most of the values are stored; none where they are packed.
    pub fn stored_dtype(&self) -> Option<StoredDType> {
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for (_, kind, shape) in self.shapes() {
            *counts.entry(kind).or_default() += shape.iter().product::<usize>();
        }
        let (kind, _) = counts.into_iter().max_by_key(|(_, count)| *count)?;
        match kind.as_str() {
            "f32" => Some(StoredDType::F32),
            "f16" => Some(StoredDType::F16),
            "bf16" => Some(StoredDType::BF16),
            _ => None,
        }
    }

    /// Names, how they are stored and shapes, in alphabetical order.
    pub fn shapes(&self) -> Vec<(String, String, Vec<usize>)> {
        let mut all = Vec::new();
        for shard in &self.shards {
            match &shard.data {
                Data::Memory(tensors) => all.extend(tensors.iter().map(|(name, tensor)| {
                    (name.clone(), tensor.dtype().as_str().to_owned(), tensor.dims().to_vec())
                })),
                Data::Mapped(file) => all.extend(file.tensors().into_iter().map(|(name, view)| {
                    let kind = format!("{:?}", view.dtype()).to_lowercase();
                    (name, kind, view.shape().to_vec())
                })),
                Data::Gguf(model) => all.extend(model.shapes()),
            }
        }
        all.retain(|(name, ..)| self.places.contains_key(name));
        all.sort_unstable();
        all
    }

    /// The type that [`load`](Self::load) gives a tensor.
    pub(crate) fn loaded_dtype(&self, name: &str) -> Result<DType, ModelError> {
        let Some(shard) = self.places.get(name).and_then(|&place| self.shards.get(place)) else {
            return Ok(DType::F32);
        };
        let file = match &shard.data {
            Data::Memory(tensors) => {
                return Ok(tensors.get(name).map_or(DType::F32, Tensor::dtype));
            }
            Data::Gguf(_) => return Ok(DType::F32),
            Data::Mapped(file) => file,
        };
        let stored = file.get(name).map_err(|e| malformed(&shard.path, e))?.dtype();
        Ok(match stored {
            Stored::U8 => DType::U8,
            Stored::U16 | Stored::U32 => DType::U32,
            Stored::I16 => DType::I16,
            Stored::I32 => DType::I32,
            Stored::I64 => DType::I64,
            Stored::F16 => DType::F16,
            Stored::BF16 => DType::BF16,
            Stored::F32 => DType::F32,
            Stored::F64 => DType::F64,
            other => {
                let supported = "f32, f16, bf16, f64 and whole numbers";
                let reason = format!("{name} is stored as {other:?} (supported: {supported})");
                return Err(ModelError::Malformed { path: shard.path.clone(), reason });
            }
        })
    }

    /// The tensor of this name, as it is stored.
    pub fn load(&self, name: &str) -> Result<Option<Tensor>, ModelError> {
        let Some(&place) = self.places.get(name) else { return Ok(None) };
        let shard = &self.shards[place];
        match &shard.data {
            Data::Memory(tensors) => Ok(tensors.get(name).cloned()),
            Data::Gguf(model) => model.load(name),
            Data::Mapped(file) => {
                let loaded = file.load(name, &Device::Cpu);
                if let Ok(view) = file.get(name) {
                    forget(view.data());
                }
                loaded.map(Some).map_err(|e| malformed(&shard.path, e))
            }
        }
    }
}

/// Takes the whole pages of a part of a mapped file out of the process, whose copy of them it has: a model would be
/// in memory twice while it is loaded. Whoever asks again reads them from the file again.
fn forget(mapped: &[u8]) {
    // SAFETY: asks for a number.
    let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096).max(1);
    let start = mapped.as_ptr().align_offset(page).min(mapped.len());
    let len = (mapped.len() - start) / page * page;
    if len > 0 {
        let first = mapped[start..].as_ptr().cast_mut().cast();
        // SAFETY: these are whole pages of a mapped file that nobody writes to; they hold the same bytes when they
        // are looked at again. A refusal changes nothing.
        unsafe { libc::madvise(first, len, libc::MADV_DONTNEED) };
    }
}

impl TensorFiles {
    /// All of them at once, for helpers that are not built by name.
    pub fn load_all(&self) -> Result<HashMap<String, Tensor>, ModelError> {
        let pairs = self.names().filter_map(|name| {
            Some(self.load(name).transpose()?.map(|tensor| (name.to_owned(), tensor)))
        });
        pairs.collect()
    }
}

impl TensorSource for TensorFiles {
    fn tensor(&self, name: &str, _shape: &[usize]) -> candle_core::Result<Option<Tensor>> {
        self.load(name).map_err(candle_core::Error::wrap)
    }

    fn names(&self) -> Vec<String> {
        self.places.keys().cloned().collect()
    }

    fn place(&self, name: &str) -> String {
        let shard = self.places.get(name).and_then(|&place| self.shards.get(place));
        match (shard, self.shards.as_slice()) {
            (Some(shard), _) | (None, [shard]) => shard.path.display().to_string(),
            (None, _) => self.index.display().to_string(),
        }
    }
}

impl Shard {
    fn open(path: &Path) -> Result<Self, ModelError> {
        fs::metadata(path).map_err(|source| ModelError::Io { path: path.to_owned(), source })?;
        // SAFETY: a mapped file must not be cut or rewritten in place while it is mapped. Checkpoints
        // are written to a temporary name and renamed, here and by those who publish them.
        let file = unsafe { MmapedSafetensors::new(path) };
        let file = file.map_err(|e| what_is_cut(path).unwrap_or_else(|| malformed(path, e)))?;
        Ok(Self { path: path.to_owned(), data: Data::Mapped(file) })
    }

    fn names(&self) -> Vec<String> {
        match &self.data {
            Data::Mapped(file) => file.tensors().into_iter().map(|(name, _)| name).collect(),
            Data::Memory(tensors) => tensors.keys().cloned().collect(),
            Data::Gguf(model) => model.names().map(str::to_owned).collect(),
        }
    }
}

/// What a file lacks that its header says is in it.
fn what_is_cut(path: &Path) -> Option<ModelError> {
    let file = fs::File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    let bad = |reason: String| {
        Some(ModelError::Malformed {
            path: path.to_owned(),
            reason: format!("{reason}: is it cut off?"),
        })
    };
    let mut size = [0; 8];
    if file.read_exact_at(&mut size, 0).is_err() {
        return bad(format!("has {length} bytes, too few for a safetensors file"));
    }
    let size = u64::from_le_bytes(size);
    if size > LONGEST_HEADER {
        return None;
    }
    let mut header = vec![0; size as usize];
    if file.read_exact_at(&mut header, 8).is_err() {
        return bad(format!("has {length} bytes, its header alone {size}"));
    }
    let header: Value = serde_json::from_slice(&header).ok()?;
    let mut ends: Vec<(u64, &String)> = header
        .as_object()?
        .iter()
        .filter_map(|(name, place)| Some((place.get("data_offsets")?.get(1)?.as_u64()?, name)))
        .collect();
    ends.sort_unstable();
    let there = length - 8 - size;
    let (whole, _) = ends.last()?;
    let (_, first) = ends.iter().find(|(end, _)| *end > there)?;
    bad(format!("has {there} bytes of values, {whole} by its header; {first} is not whole"))
}

fn malformed(path: &Path, error: candle_core::Error) -> ModelError {
    ModelError::Malformed { path: path.to_owned(), reason: error.to_string() }
}

/// Reads `config.json` of a directory and maps its safetensors: one file, or shards by their index.
pub fn read_directory(dir: &Path) -> Result<ModelFiles, ModelError> {
    let config = read_json(&dir.join("config.json"))?;
    let optional = |name: &str| {
        let path = dir.join(name);
        if path.exists() { read_json(&path) } else { Ok(Value::Null) }
    };
    let processors = Processors {
        image: optional("preprocessor_config.json")?,
        video: optional("video_preprocessor_config.json")?,
        whole: optional("processor_config.json")?,
        ..Processors::default()
    };
    let index = dir.join("model.safetensors.index.json");
    if !index.exists() {
        let tensors = TensorFiles::open(&dir.join("model.safetensors"))?;
        return Ok(ModelFiles { config, processors, tensors });
    }
    let bad = |reason: String| ModelError::Malformed { path: index.clone(), reason };
    let value = read_json(&index)?;
    let Some(map) = value.get("weight_map").and_then(Value::as_object) else {
        return Err(bad("no weight_map".to_owned()));
    };
    let mut shards: Vec<Shard> = Vec::new();
    let mut numbers: BTreeMap<&str, (usize, HashSet<String>)> = BTreeMap::new();
    let mut places = BTreeMap::new();
    for (tensor, file) in map {
        let Some(file) = file.as_str() else {
            return Err(bad(format!("weight_map: the shard of {tensor} is not a name")));
        };
        let mut parts = Path::new(file).components();
        if !matches!((parts.next(), parts.next()), (Some(Component::Normal(_)), None)) {
            let reason = format!("{tensor}: the shard {file:?} lies outside the directory");
            return Err(bad(reason));
        }
        if !numbers.contains_key(file) {
            let path = dir.join(file);
            if !path.exists() {
                let shard = path.display();
                return Err(bad(format!("{tensor} should be in {shard}, which does not exist")));
            }
            let shard = Shard::open(&path)?;
            numbers.insert(file, (shards.len(), shard.names().into_iter().collect()));
            shards.push(shard);
        }
        let (number, names) = &numbers[file];
        if !names.contains(tensor) {
            return Err(bad(format!("{tensor} should be in {file}, which does not have it")));
        }
        places.insert(tensor.clone(), *number);
    }
    drop(numbers);
    Ok(ModelFiles { config, processors, tensors: TensorFiles { shards, places, index } })
}

/// Reads a model from a GGUF file, and the file's metadata; its tensors are dequantised one by one, when
/// they are asked for.
pub fn read_gguf(path: &Path) -> Result<(ModelFiles, Metadata), ModelError> {
    let (model, config, metadata) = GgufModel::open(path)?;
    let places = model.names().map(|name| (name.to_owned(), 0)).collect();
    let shards = vec![Shard { path: path.to_owned(), data: Data::Gguf(model) }];
    let processors = Processors::default();
    let tensors = TensorFiles { shards, places, index: PathBuf::new() };
    Ok((ModelFiles { config, processors, tensors }, metadata))
}

/// A checkpoint under the names that a family has here: the first pair whose first part begins a name
/// of the file has its second part in that place.
pub(crate) fn renamed(source: Weights, starts: &[(&str, &str)]) -> Weights {
    let Weights::Checkpoint(source) = source else { return source };
    let here = |name: &str| {
        let pair = starts.iter().find(|(from, _)| name.starts_with(from));
        pair.map(|(from, to)| format!("{to}{}", &name[from.len()..]))
    };
    let pairs = source.names().into_iter().filter_map(|name| Some((here(&name)?, name)));
    let files = pairs.collect();
    Weights::Checkpoint(Box::new(Renamed { source, files }))
}

#[derive(Debug)]
struct Renamed {
    source: Box<dyn TensorSource>,
    /// Names in the file by those here, where they differ.
    files: HashMap<String, String>,
}

impl TensorSource for Renamed {
    fn tensor(&self, name: &str, shape: &[usize]) -> candle_core::Result<Option<Tensor>> {
        let name = self.files.get(name).map_or(name, String::as_str);
        self.source.tensor(name, shape)
    }

    fn place(&self, name: &str) -> String {
        self.source.place(self.files.get(name).map_or(name, String::as_str))
    }

    fn names(&self) -> Vec<String> {
        let here: HashMap<&str, &str> =
            self.files.iter().map(|(here, file)| (file.as_str(), here.as_str())).collect();
        let names = self.source.names().into_iter();
        names.map(|name| here.get(name.as_str()).map_or(name.clone(), |&n| n.to_owned())).collect()
    }
}

/// Closes the checkpoint of a model that was built from it, and refuses tensors that the config has
/// no place for: they would be left out in silence.
pub(crate) fn close(params: &Params, may_stay: impl Fn(&str) -> bool) -> Result<(), ModelError> {
    // Buffers that older files carry along.
    let buffer = |name: &str| {
        ["rotary_emb.inv_freq", "position_ids", "masked_bias"].iter().any(|b| name.ends_with(b))
    };
    let mut left = params.close();
    left.retain(|name| !buffer(name) && !may_stay(name));
    if left.is_empty() {
        return Ok(());
    }
    let more = left.len().saturating_sub(3);
    left.truncate(3);
    let more = if more == 0 { String::new() } else { format!(" and {more} more") };
    Err(ModelError::Malformed {
        path: "the checkpoint".into(),
        reason: format!("the config has no place for {}{more}", left.join(", ")),
    })
}

fn read_json(path: &Path) -> Result<Value, ModelError> {
    let text = fs::read_to_string(path)
        .map_err(|source| ModelError::Io { path: path.to_owned(), source })?;
    serde_json::from_str(&text)
        .map_err(|e| ModelError::Malformed { path: path.to_owned(), reason: e.to_string() })
}
