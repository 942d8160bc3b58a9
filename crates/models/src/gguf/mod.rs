//! GGUF files (versions 2 and 3): metadata, and tensors that are dequantised when they are asked for.
//! A tensor's dimensions stand in the file innermost first.

mod config;
mod export;
mod model;
mod quants;
mod write;

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use serde_json::{Value, json};

use crate::ModelError;

pub use export::{GgufOptions, write_gguf};
pub(crate) use model::GgufModel;
pub use quants::GgmlType;
pub use write::GgufValue;

/// Longest header that is read: metadata with a large vocabulary takes some ten MiB.
const MAX_HEADER: u64 = 1 << 30;

/// Bytes of a tensor that are read at a time.
const PIECE: usize = 1 << 20;

/// Keys of a file with their values.
pub type Metadata = BTreeMap<String, Value>;

#[derive(Debug)]
struct Place {
    kind: GgmlType,
    /// Outermost first.
    shape: Vec<usize>,
    start: u64,
}

/// A GGUF file, open.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    file: File,
    /// Keys with their values; arrays as they are.
    pub metadata: Metadata,
    tensors: BTreeMap<String, Place>,
}

impl Gguf {
    /// Reads the header. Everything that it declares is checked against the file's length.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        let io = |source| ModelError::Io { path: path.to_owned(), source };
        let file = File::open(path).map_err(io)?;
        let length = file.metadata().map_err(io)?.len();
        let mut header = Header { file: &file, path, at: 0, buffer: Vec::new(), first: 0, length };
        if header.bytes(4)? != b"GGUF" {
            return Err(header.bad("is no GGUF file"));
        }
        let version = header.u32()?;
        if !(2..=3).contains(&version) {
            return Err(header.bad(format!("is GGUF version {version}; 2 and 3 are supported")));
        }
        let (count, keys) = (header.u64()?, header.u64()?);
        let mut metadata = BTreeMap::new();
        for _ in 0..keys {
            let key = header.string()?;
            let kind = header.u32()?;
            let value = header.value(kind, 0)?;
            metadata.insert(key, value);
        }
        let mut places = BTreeMap::new();
        for _ in 0..count {
            let name = header.string()?;
            let rank = header.u32()?;
            if rank > 4 {
                return Err(header.bad(format!("{name} has {rank} dimensions")));
            }
            let mut shape = Vec::new();
            for _ in 0..rank {
                shape.push(header.u64()? as usize);
            }
            shape.reverse();
            let code = header.u32()?;
            let start = header.u64()?;
            let Some(kind) = GgmlType::of(code) else {
                return Err(header.bad(format!("{name} has the unsupported type {code}")));
            };
            places.insert(name, Place { kind, shape, start });
        }
        let alignment = metadata.get("general.alignment").and_then(Value::as_u64).unwrap_or(32);
        if alignment == 0 || !alignment.is_power_of_two() {
            return Err(header.bad(format!("has an alignment of {alignment}")));
        }
        let data = header.at.next_multiple_of(alignment);
        for (name, place) in &mut places {
            place.start = place.start.saturating_add(data);
            let (values, size) = place.kind.block();
            let elements = place.shape.iter().try_fold(1usize, |all, &n| all.checked_mul(n));
            let row = place.shape.last().copied().unwrap_or(1);
            let whole = elements.filter(|_| row % values == 0);
            let bytes = whole.and_then(|n| (n / values).checked_mul(size)).map(|n| n as u64);
            if bytes.is_none_or(|bytes| place.start.saturating_add(bytes) > length) {
                let reason = format!("{name} {:?} reaches beyond the file's end", place.shape);
                return Err(ModelError::Malformed { path: path.to_owned(), reason });
            }
        }
        Ok(Self { path: path.to_owned(), file, metadata, tensors: places })
    }

    /// Names, types and shapes (outermost dimension first), in alphabetical order.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, GgmlType, &[usize])> {
        self.tensors.iter().map(|(name, place)| (name.as_str(), place.kind, &*place.shape))
    }

    /// A tensor as f32.
    pub fn load(&self, name: &str) -> Result<Option<Tensor>, ModelError> {
        self.load_rows(name, |row, _| row)
    }

    /// The same, with row r put where `target(r, rows)` says. The file is read piece by piece: besides
    /// the values there is never more than a piece of it in memory.
    pub(crate) fn load_rows(
        &self,
        name: &str,
        target: impl Fn(usize, usize) -> usize,
    ) -> Result<Option<Tensor>, ModelError> {
        let Some(place) = self.tensors.get(name) else { return Ok(None) };
        let (values, size) = place.kind.block();
        let elements: usize = place.shape.iter().product();
        // The values of a vector are rows of their own.
        let vector = place.shape.len() < 2 && values == 1;
        let width = if vector { 1 } else { place.shape.last().copied().unwrap_or(1).max(1) };
        let (rows, stored) = (elements / width, width / values * size);
        let most = (PIECE / stored.max(1)).max(1);
        let mut bytes = vec![0; most.min(rows) * stored];
        let mut out = vec![0.0; elements];
        for first in (0..rows).step_by(most) {
            let count = most.min(rows - first);
            let piece = &mut bytes[..count * stored];
            self.file
                .read_exact_at(piece, place.start + (first * stored) as u64)
                .map_err(|source| ModelError::Io { path: self.path.clone(), source })?;
            for (i, row) in piece.chunks_exact(stored.max(1)).enumerate() {
                let start = target(first + i, rows) * width;
                place.kind.dequantize(row, &mut out[start..start + width]);
            }
        }
        Ok(Some(Tensor::from_vec(out, place.shape.as_slice(), &Device::Cpu)?))
    }
}

/// The header as it is read, in pieces.
struct Header<'a> {
    file: &'a File,
    path: &'a Path,
    at: u64,
    buffer: Vec<u8>,
    first: u64,
    length: u64,
}

impl Header<'_> {
    fn bad(&self, reason: impl Into<String>) -> ModelError {
        ModelError::Malformed { path: self.path.to_owned(), reason: reason.into() }
    }

    fn bytes(&mut self, count: u64) -> Result<&[u8], ModelError> {
        if count > self.length - self.at || self.at + count > MAX_HEADER {
            return Err(self.bad("ends within its header"));
        }
        let end = self.at + count;
        if self.at < self.first || end > self.first + self.buffer.len() as u64 {
            self.buffer.resize(count.max(1 << 20).min(self.length - self.at) as usize, 0);
            self.first = self.at;
            self.file
                .read_exact_at(&mut self.buffer, self.at)
                .map_err(|source| ModelError::Io { path: self.path.to_owned(), source })?;
        }
        let start = (self.at - self.first) as usize;
        self.at = end;
        Ok(&self.buffer[start..start + count as usize])
    }

    fn u32(&mut self) -> Result<u32, ModelError> {
        let bytes = self.bytes(4)?;
        Ok(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    fn u64(&mut self) -> Result<u64, ModelError> {
        let (low, high) = (self.u32()?, self.u32()?);
        Ok(u64::from(low) | u64::from(high) << 32)
    }

    fn string(&mut self) -> Result<String, ModelError> {
        let length = self.u64()?;
        Ok(String::from_utf8_lossy(self.bytes(length)?).into_owned())
    }

    fn value(&mut self, kind: u32, depth: usize) -> Result<Value, ModelError> {
        Ok(match kind {
            0 => json!(self.bytes(1)?[0]),
            1 => json!(self.bytes(1)?[0] as i8),
            2 => json!(u16::from_le_bytes([self.bytes(1)?[0], self.bytes(1)?[0]])),
            3 => json!(i16::from_le_bytes([self.bytes(1)?[0], self.bytes(1)?[0]])),
            4 => json!(self.u32()?),
            5 => json!(self.u32()? as i32),
            // As the number that was meant: 1e-5, not the nearest f32 in 17 digits.
            6 => json!(f32::from_bits(self.u32()?).to_string().parse::<f64>().ok()),
            7 => json!(self.bytes(1)?[0] != 0),
            8 => json!(self.string()?),
            9 if depth < 2 => {
                let (kind, count) = (self.u32()?, self.u64()?);
                let mut list = Vec::new();
                for _ in 0..count {
                    list.push(self.value(kind, depth + 1)?);
                }
                Value::Array(list)
            }
            10 => json!(self.u64()?),
            11 => json!(self.u64()? as i64),
            12 => json!(f64::from_bits(self.u64()?)),
            other => return Err(self.bad(format!("has metadata of the unknown type {other}"))),
        })
    }
}
