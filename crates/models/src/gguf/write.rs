//! GGUF files (version 3) as they are written: metadata, places of tensors, then their values one
//! tensor after the other.

use std::fs;
use std::io::{BufWriter, Write};
use std::path::Path;

use candle_core::{DType, Device, Tensor};

use super::GgmlType;
use super::quants::q8_0;
use crate::ModelError;
use crate::save::write_values;

/// Tensors start at multiples of this.
const ALIGNMENT: u64 = 32;
/// Values that are quantised at a time.
const PIECE: usize = 1 << 18;

/// A value of a file's metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum GgufValue {
    /// A whole number.
    U32(u32),
    /// A number.
    F32(f32),
    /// Yes or no.
    Bool(bool),
    /// Words.
    Text(String),
    /// A list of whole numbers.
    Integers(Vec<i32>),
    /// A list of words.
    Texts(Vec<String>),
}

impl GgufValue {
    fn write(&self, out: &mut Vec<u8>) {
        fn text(out: &mut Vec<u8>, text: &str) {
            out.extend((text.len() as u64).to_le_bytes());
            out.extend(text.as_bytes());
        }
        let mut head = |kind: u32| out.extend(kind.to_le_bytes());
        match self {
            Self::U32(value) => {
                head(4);
                out.extend(value.to_le_bytes());
            }
            Self::F32(value) => {
                head(6);
                out.extend(value.to_le_bytes());
            }
            Self::Bool(value) => {
                head(7);
                out.push(u8::from(*value));
            }
            Self::Text(words) => {
                head(8);
                text(out, words);
            }
            Self::Integers(list) => {
                head(9);
                head(5);
                out.extend((list.len() as u64).to_le_bytes());
                out.extend(list.iter().flat_map(|value| value.to_le_bytes()));
            }
            Self::Texts(list) => {
                head(9);
                head(8);
                out.extend((list.len() as u64).to_le_bytes());
                list.iter().for_each(|words| text(out, words));
            }
        }
    }
}

/// A tensor to be written: its name, type and shape, outermost dimension first.
#[derive(Debug, Clone)]
pub(super) struct GgufEntry {
    pub(super) name: String,
    pub(super) kind: GgmlType,
    pub(super) shape: Vec<usize>,
}

impl GgufEntry {
    fn bytes(&self) -> u64 {
        let (values, size) = self.kind.block();
        (self.shape.iter().product::<usize>() / values * size) as u64
    }
}

/// Writes a file under another name beside its own and renames it. `load` gives the tensors one by one.
pub(super) fn write_file(
    path: &Path,
    metadata: &[(String, GgufValue)],
    entries: &[GgufEntry],
    mut load: impl FnMut(usize) -> Result<Tensor, ModelError>,
) -> Result<(), ModelError> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = Path::new(&partial);
    let written = write(partial, metadata, entries, &mut load);
    let renamed = written.and_then(|()| {
        fs::rename(partial, path).map_err(|source| ModelError::Io { path: path.to_owned(), source })
    });
    if renamed.is_err() {
        // The error is told; what is left of the file is of no use.
        let _ = fs::remove_file(partial);
    }
    renamed
}

fn write(
    path: &Path,
    metadata: &[(String, GgufValue)],
    entries: &[GgufEntry],
    load: &mut dyn FnMut(usize) -> Result<Tensor, ModelError>,
) -> Result<(), ModelError> {
    let io = |source| ModelError::Io { path: path.to_owned(), source };
    let mut header = b"GGUF".to_vec();
    header.extend(3u32.to_le_bytes());
    header.extend((entries.len() as u64).to_le_bytes());
    header.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        header.extend((key.len() as u64).to_le_bytes());
        header.extend(key.as_bytes());
        value.write(&mut header);
    }
    let mut at = 0u64;
    for entry in entries {
        header.extend((entry.name.len() as u64).to_le_bytes());
        header.extend(entry.name.as_bytes());
        header.extend((entry.shape.len() as u32).to_le_bytes());
        header.extend(entry.shape.iter().rev().flat_map(|&n| (n as u64).to_le_bytes()));
        header.extend(entry.kind.code().to_le_bytes());
        header.extend(at.to_le_bytes());
        at = (at + entry.bytes()).next_multiple_of(ALIGNMENT);
    }
    let blank = |length: u64| vec![0; (length.next_multiple_of(ALIGNMENT) - length) as usize];
    header.extend(blank(header.len() as u64));
    let mut out = BufWriter::with_capacity(1 << 20, fs::File::create(path).map_err(io)?);
    out.write_all(&header).map_err(io)?;
    for (i, entry) in entries.iter().enumerate() {
        let bad = |reason: String| ModelError::Malformed {
            path: path.to_owned(),
            reason: format!("{}: {reason}", entry.name),
        };
        let value = load(i)?;
        if value.dims() != entry.shape {
            return Err(bad(format!("shape {:?}, expected {:?}", value.dims(), entry.shape)));
        }
        let put = |bytes: &[u8]| out.write_all(bytes).map_err(io);
        values(&value, entry.kind, put).map_err(|error| match error {
            ModelError::Tensor(error) => bad(error.to_string()),
            other => other,
        })?;
        out.write_all(&blank(entry.bytes())).map_err(io)?;
    }
    let file = out.into_inner().map_err(|error| io(error.into_error()))?;
    file.sync_all().map_err(io)
}

fn values(
    tensor: &Tensor,
    kind: GgmlType,
    mut put: impl FnMut(&[u8]) -> Result<(), ModelError>,
) -> Result<(), ModelError> {
    let dtype = match kind {
        GgmlType::F32 => DType::F32,
        GgmlType::F16 => DType::F16,
        GgmlType::BF16 => DType::BF16,
        GgmlType::Q8_0 => {
            let flat = tensor.to_device(&Device::Cpu)?.flatten_all()?;
            let count = flat.elem_count();
            let mut bytes = Vec::new();
            for start in (0..count).step_by(PIECE) {
                let piece = flat.narrow(0, start, PIECE.min(count - start))?;
                bytes.clear();
                q8_0(&piece.to_dtype(DType::F32)?.to_vec1::<f32>()?, &mut bytes);
                put(&bytes)?;
            }
            return Ok(());
        }
        other => {
            return Err(candle_core::Error::Msg(format!("{other:?} is not written")).into());
        }
    };
    write_values(tensor, dtype, put)
}
