//! Writing checkpoints: safetensors, in shards with an index as transformers writes them, tensor by
//! tensor, so that no more than one is in memory besides the model.
//!
//! A shard holds tensors in their order up to a size, a tensor that is larger stands alone; shards are
//! named `model-00001-of-00003.safetensors`, their index `model.safetensors.index.json`.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;

use candle_core::{DType, Device, Tensor, WithDType};
use half::{bf16, f16};
use serde_json::{Map, Value, json};

use crate::{Model, ModelError, NewFolder, TensorFiles};

/// Values that are converted at a time.
const PIECE: usize = 1 << 18;
/// Shards are this large at most, as those of huggingface_hub.
pub const MAX_SHARD_SIZE: u64 = 5_000_000_000;

/// How floats are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StoredDType {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// bfloat16.
    BF16,
}

impl StoredDType {
    /// The tensor type.
    pub fn dtype(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::BF16 => DType::BF16,
        }
    }

    /// The name in `config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::BF16 => "bfloat16",
        }
    }
}

/// A tensor to be written: its name, how its values are stored, its shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Its name.
    pub name: String,
    /// How its values are stored.
    pub dtype: DType,
    /// Its shape.
    pub shape: Vec<usize>,
}

impl Entry {
    fn bytes(&self) -> u64 {
        self.shape.iter().map(|&n| n as u64).product::<u64>() * self.dtype.size_in_bytes() as u64
    }
}

/// Writes the tensors of `entries` into a folder: one file, or shards of at most `max_shard_size`
/// bytes with their index. `load` gives them one by one.
pub fn write_checkpoint(
    folder: &NewFolder,
    entries: &[Entry],
    max_shard_size: u64,
    mut load: impl FnMut(&str) -> Result<Tensor, ModelError>,
) -> Result<(), ModelError> {
    let mut shards: Vec<Vec<&Entry>> = Vec::new();
    let (mut current, mut size) = (Vec::new(), 0);
    for entry in entries {
        if entry.bytes() > max_shard_size {
            shards.push(vec![entry]);
            continue;
        }
        if size + entry.bytes() > max_shard_size {
            shards.push(std::mem::take(&mut current));
            size = 0;
        }
        size += entry.bytes();
        current.push(entry);
    }
    if !current.is_empty() || shards.is_empty() {
        shards.push(current);
    }
    if let [all] = shards.as_slice() {
        return write_file(&folder.path().join("model.safetensors"), all, &mut load);
    }
    let mut map = Map::new();
    for (i, shard) in shards.iter().enumerate() {
        let name = format!("model-{:05}-of-{:05}.safetensors", i + 1, shards.len());
        write_file(&folder.path().join(&name), shard, &mut load)?;
        map.extend(shard.iter().map(|entry| (entry.name.clone(), json!(name))));
    }
    map.sort_keys();
    let count = |entry: &Entry| entry.shape.iter().map(|&n| n as u64).product::<u64>();
    let index = json!({
        "metadata": {
            "total_parameters": entries.iter().map(count).sum::<u64>(),
            "total_size": entries.iter().map(Entry::bytes).sum::<u64>(),
        },
        "weight_map": map,
    });
    let text = serde_json::to_vec_pretty(&index).unwrap_or_default();
    folder.write("model.safetensors.index.json", &text)
}

/// Writes a model's weights.
pub fn write_model(
    folder: &NewFolder,
    model: &Model,
    dtype: StoredDType,
    max_shard_size: u64,
) -> Result<(), ModelError> {
    let weights = model.params().weights();
    let entry = |weight: &std::sync::Arc<savi_nn::Weight>| Entry {
        name: weight.name().to_owned(),
        dtype: dtype.dtype(),
        shape: weight.stored_shape().to_vec(),
    };
    let entries: Vec<Entry> = weights.iter().map(entry).collect();
    let by_name: HashMap<&str, _> = weights.iter().map(|w| (w.name(), w)).collect();
    write_checkpoint(folder, &entries, max_shard_size, |name| match by_name.get(name) {
        Some(weight) => Ok(weight.exported()?),
        None => Err(missing(name)),
    })
}

/// Copies a checkpoint; floats become `dtype` where one is given, whole numbers stay what they are.
pub fn copy_checkpoint(
    folder: &NewFolder,
    tensors: &TensorFiles,
    dtype: Option<StoredDType>,
    max_shard_size: u64,
) -> Result<(), ModelError> {
    let mut entries = Vec::new();
    for (name, _, shape) in tensors.shapes() {
        let stored = tensors.loaded_dtype(&name)?;
        let dtype = match dtype {
            Some(dtype) if stored.is_float() => dtype.dtype(),
            _ => stored,
        };
        entries.push(Entry { name, dtype, shape });
    }
    write_checkpoint(folder, &entries, max_shard_size, |name| {
        tensors.load(name)?.ok_or_else(|| missing(name))
    })
}

fn missing(name: &str) -> ModelError {
    ModelError::Malformed { path: name.into(), reason: "is not there any more".to_owned() }
}

/// `config.json` with the type in which the weights are stored, under the key or keys that it has for
/// it, in its parts as well.
pub fn with_dtype(config: &Value, dtype: StoredDType) -> Value {
    const KEYS: [&str; 2] = ["dtype", "torch_dtype"];
    let mut config = config.clone();
    let Some(map) = config.as_object_mut() else { return config };
    if !KEYS.iter().any(|key| map.contains_key(*key)) {
        map.insert("dtype".to_owned(), json!(dtype.name()));
    }
    fn set(map: &mut Map<String, Value>, name: &str) {
        for (key, value) in map {
            match value {
                Value::Object(part) => set(part, name),
                Value::String(_) if KEYS.contains(&key.as_str()) => *value = json!(name),
                _ => {}
            }
        }
    }
    set(map, dtype.name());
    config
}

/// Writes tensors under their names to a temporary file beside `path` and renames it.
pub fn write_safetensors(
    path: &Path,
    tensors: &BTreeMap<String, Tensor>,
) -> Result<(), ModelError> {
    let entry = |(name, tensor): (&String, &Tensor)| Entry {
        name: name.clone(),
        dtype: tensor.dtype(),
        shape: tensor.dims().to_vec(),
    };
    let entries: Vec<Entry> = tensors.iter().map(entry).collect();
    let partial = path.with_extension("safetensors.partial");
    write_file(&partial, &entries.iter().collect::<Vec<_>>(), &mut |name| {
        tensors.get(name).cloned().ok_or_else(|| missing(name))
    })?;
    fs::rename(&partial, path).map_err(|source| ModelError::Io { path: path.to_owned(), source })
}

fn write_file(
    path: &Path,
    entries: &[&Entry],
    load: &mut dyn FnMut(&str) -> Result<Tensor, ModelError>,
) -> Result<(), ModelError> {
    let io = |source| ModelError::Io { path: path.to_owned(), source };
    let bad = |reason: String| ModelError::Malformed { path: path.to_owned(), reason };
    // Wider values first, by which every tensor is aligned.
    let mut entries = entries.to_vec();
    entries.sort_by_key(|entry| std::cmp::Reverse(entry.dtype.size_in_bytes()));
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    let mut at = 0;
    for entry in &entries {
        let Some(kind) = kind(entry.dtype) else {
            return Err(bad(format!("{}: {:?} cannot be stored", entry.name, entry.dtype)));
        };
        let end = at + entry.bytes();
        let place = json!({"dtype": kind, "shape": entry.shape, "data_offsets": [at, end]});
        if header.insert(entry.name.clone(), place).is_some() {
            return Err(bad(format!("{} is there twice", entry.name)));
        }
        at = end;
    }
    let mut header = Value::Object(header).to_string().into_bytes();
    header.resize(header.len().next_multiple_of(8), b' ');
    let mut out = BufWriter::with_capacity(1 << 20, fs::File::create(path).map_err(io)?);
    out.write_all(&(header.len() as u64).to_le_bytes()).map_err(io)?;
    out.write_all(&header).map_err(io)?;
    for entry in entries {
        let value = load(&entry.name)?;
        if value.dims() != entry.shape {
            let (got, want) = (value.dims(), &entry.shape);
            return Err(bad(format!("{} has shape {got:?}, expected {want:?}", entry.name)));
        }
        write_values(&value, entry.dtype, |bytes| out.write_all(bytes).map_err(io)).map_err(
            |error| match error {
                ModelError::Tensor(error) => bad(format!("{}: {error}", entry.name)),
                other => other,
            },
        )?;
    }
    let file = out.into_inner().map_err(|error| io(error.into_error()))?;
    file.sync_all().map_err(io)
}

/// Safetensors' name of a type.
fn kind(dtype: DType) -> Option<&'static str> {
    Some(match dtype {
        DType::U8 => "U8",
        DType::U32 => "U32",
        DType::I16 => "I16",
        DType::I32 => "I32",
        DType::I64 => "I64",
        DType::BF16 => "BF16",
        DType::F16 => "F16",
        DType::F32 => "F32",
        DType::F64 => "F64",
        _ => return None,
    })
}

/// Gives a tensor's values as little-endian bytes, piece by piece. A value that 16 bits cannot hold is
/// an error.
pub(crate) fn write_values(
    tensor: &Tensor,
    dtype: DType,
    mut write: impl FnMut(&[u8]) -> Result<(), ModelError>,
) -> Result<(), ModelError> {
    let flat = tensor.to_device(&Device::Cpu)?.flatten_all()?;
    let count = flat.elem_count();
    let mut bytes = Vec::new();
    for start in (0..count).step_by(PIECE) {
        let source = flat.narrow(0, start, PIECE.min(count - start))?;
        let piece = source.to_dtype(dtype)?;
        bytes.clear();
        match dtype {
            DType::U8 => bytes.extend(piece.to_vec1::<u8>()?),
            DType::U32 => extend(&mut bytes, &piece, u32::to_le_bytes)?,
            DType::I16 => extend(&mut bytes, &piece, i16::to_le_bytes)?,
            DType::I32 => extend(&mut bytes, &piece, i32::to_le_bytes)?,
            DType::I64 => extend(&mut bytes, &piece, i64::to_le_bytes)?,
            DType::F64 => extend(&mut bytes, &piece, f64::to_le_bytes)?,
            DType::F32 => extend(&mut bytes, &piece, f32::to_le_bytes)?,
            DType::BF16 => extend(&mut bytes, &piece, bf16::to_le_bytes)?,
            DType::F16 => {
                if source.dtype() != DType::F16 {
                    fits(&source, &piece)?;
                }
                extend(&mut bytes, &piece, f16::to_le_bytes)?;
            }
            other => {
                return Err(candle_core::Error::Msg(format!("{other:?} cannot be stored")).into());
            }
        }
        write(&bytes)?;
    }
    Ok(())
}

fn extend<T: WithDType, const N: usize>(
    out: &mut Vec<u8>,
    piece: &Tensor,
    bytes: impl Fn(T) -> [u8; N],
) -> Result<(), ModelError> {
    for value in piece.to_vec1::<T>()? {
        out.extend(bytes(value));
    }
    Ok(())
}

/// Refuses finite values that have become infinite.
fn fits(source: &Tensor, half: &Tensor) -> Result<(), ModelError> {
    let half = half.to_vec1::<f16>()?;
    if half.iter().all(|value| value.is_finite()) {
        return Ok(());
    }
    let source = source.to_dtype(DType::F64)?.to_vec1::<f64>()?;
    match source.iter().zip(&half).find(|(value, half)| value.is_finite() && !half.is_finite()) {
        None => Ok(()),
        Some((value, _)) => {
            let reason =
                format!("{value} is beyond 65504, the largest f16; store it as bf16 or f32");
            Err(candle_core::Error::Msg(reason).into())
        }
    }
}
