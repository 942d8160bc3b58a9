//! GGUF files (versions 2 and 3): metadata, and tensors that are dequantised when they are asked for.
//!
//! Block layouts after ggml's `ggml-common.h` and `ggml-quants.c`; a tensor's dimensions stand in the
//! file innermost first.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use candle_core::{Device, Tensor};
use half::{bf16, f16};
use serde_json::{Value, json};

use crate::ModelError;

/// Values of a super-block.
const SUPER: usize = 256;
/// Longest header that is read: metadata with a large vocabulary takes some ten MiB.
const MAX_HEADER: u64 = 1 << 30;

/// How a tensor's values are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgmlType {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// bfloat16.
    BF16,
    /// 4 bits, one scale.
    Q4_0,
    /// 4 bits, scale and minimum.
    Q4_1,
    /// 5 bits, one scale.
    Q5_0,
    /// 5 bits, scale and minimum.
    Q5_1,
    /// 8 bits, one scale.
    Q8_0,
    /// Super-blocks of 2 bits.
    Q2K,
    /// Super-blocks of 3 bits.
    Q3K,
    /// Super-blocks of 4 bits.
    Q4K,
    /// Super-blocks of 5 bits.
    Q5K,
    /// Super-blocks of 6 bits.
    Q6K,
}

impl GgmlType {
    fn of(code: u32) -> Option<Self> {
        Some(match code {
            0 => Self::F32,
            1 => Self::F16,
            2 => Self::Q4_0,
            3 => Self::Q4_1,
            6 => Self::Q5_0,
            7 => Self::Q5_1,
            8 => Self::Q8_0,
            10 => Self::Q2K,
            11 => Self::Q3K,
            12 => Self::Q4K,
            13 => Self::Q5K,
            14 => Self::Q6K,
            30 => Self::BF16,
            _ => return None,
        })
    }

    /// Values and bytes of a block.
    fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::BF16 => (1, 2),
            Self::Q4_0 => (32, 18),
            Self::Q4_1 => (32, 20),
            Self::Q5_0 => (32, 22),
            Self::Q5_1 => (32, 24),
            Self::Q8_0 => (32, 34),
            Self::Q2K => (SUPER, 84),
            Self::Q3K => (SUPER, 110),
            Self::Q4K => (SUPER, 144),
            Self::Q5K => (SUPER, 176),
            Self::Q6K => (SUPER, 210),
        }
    }

    /// Values of whole blocks as f32.
    ///
    /// # Panics
    /// When the slices are not the same number of whole blocks.
    pub fn dequantize(self, bytes: &[u8], out: &mut [f32]) {
        let (values, size) = self.block();
        assert!(
            bytes.len() % size == 0 && bytes.len() / size * values == out.len(),
            "{} bytes are not {} values of {self:?}",
            bytes.len(),
            out.len()
        );
        for (block, out) in bytes.chunks_exact(size).zip(out.chunks_exact_mut(values)) {
            match self {
                Self::F32 => out[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]),
                Self::F16 => out[0] = half(block),
                Self::BF16 => out[0] = bf16::from_le_bytes([block[0], block[1]]).to_f32(),
                Self::Q4_0 => nibbles(half(block), -8.0 * half(block), [0; 4], &block[2..], out),
                Self::Q4_1 => nibbles(half(block), half(&block[2..]), [0; 4], &block[4..], out),
                Self::Q5_0 => {
                    nibbles(half(block), -16.0 * half(block), four(&block[2..]), &block[6..], out);
                }
                Self::Q5_1 => {
                    let high = four(&block[4..]);
                    nibbles(half(block), half(&block[2..]), high, &block[8..], out);
                }
                Self::Q8_0 => {
                    let scale = half(block);
                    for (out, &q) in out.iter_mut().zip(&block[2..]) {
                        *out = scale * f32::from(q as i8);
                    }
                }
                Self::Q2K => q2_k(block, out),
                Self::Q3K => q3_k(block, out),
                Self::Q4K => q4_k(block, &[0; 32], &block[16..], out),
                Self::Q5K => q4_k(block, &block[16..48], &block[48..], out),
                Self::Q6K => q6_k(block, out),
            }
        }
    }
}

fn half(bytes: &[u8]) -> f32 {
    f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()
}

fn four(bytes: &[u8]) -> [u8; 4] {
    [bytes[0], bytes[1], bytes[2], bytes[3]]
}

/// 32 values of 4 bits, low halves first, with fifth bits from `high`.
fn nibbles(scale: f32, offset: f32, high: [u8; 4], bytes: &[u8], out: &mut [f32]) {
    let high = u32::from_le_bytes(high);
    for i in 0..16 {
        let low = u32::from(bytes[i] & 15) | ((high >> i) & 1) << 4;
        let top = u32::from(bytes[i] >> 4) | ((high >> (i + 16)) & 1) << 4;
        out[i] = scale * low as f32 + offset;
        out[i + 16] = scale * top as f32 + offset;
    }
}

/// 16 sub-blocks of 16 values; scales and minima of 4 bits.
fn q2_k(block: &[u8], out: &mut [f32]) {
    let (scales, quants) = (&block[..16], &block[16..80]);
    let (d, min) = (half(&block[80..]), half(&block[82..]));
    for (sub, out) in out.chunks_exact_mut(16).enumerate() {
        let scale = d * f32::from(scales[sub] & 15);
        let offset = min * f32::from(scales[sub] >> 4);
        // Sub-blocks go by halves of 128 values, then by bit pairs, then by halves of 32 bytes.
        let (at, shift) = (sub / 8 * 32 + sub % 2 * 16, sub % 8 / 2 * 2);
        for (l, out) in out.iter_mut().enumerate() {
            *out = scale * f32::from((quants[at + l] >> shift) & 3) - offset;
        }
    }
}

/// As `q2_k`, with third bits apart and signed scales of 6 bits.
fn q3_k(block: &[u8], out: &mut [f32]) {
    let (high, quants, packed) = (&block[..32], &block[32..96], &block[96..108]);
    let d = half(&block[108..]);
    for (sub, out) in out.chunks_exact_mut(16).enumerate() {
        let low = if sub < 8 { packed[sub] & 15 } else { packed[sub - 8] >> 4 };
        let top = (packed[8 + sub % 4] >> (sub / 4 * 2)) & 3;
        let scale = d * (f32::from(low | top << 4) - 32.0);
        let (at, shift) = (sub / 8 * 32 + sub % 2 * 16, sub % 8 / 2 * 2);
        let bit = sub / 2;
        for (l, out) in out.iter_mut().enumerate() {
            let low = f32::from((quants[at + l] >> shift) & 3);
            let set = (high[sub % 2 * 16 + l] >> bit) & 1 == 1;
            *out = scale * (low - if set { 0.0 } else { 4.0 });
        }
    }
}

/// 8 sub-blocks of 32 values; scales and minima of 6 bits; fifth bits from `high`.
fn q4_k(block: &[u8], high: &[u8], quants: &[u8], out: &mut [f32]) {
    let (d, min, packed) = (half(block), half(&block[2..]), &block[4..16]);
    for (sub, out) in out.chunks_exact_mut(32).enumerate() {
        let (scale, offset) = if sub < 4 {
            (packed[sub] & 63, packed[sub + 4] & 63)
        } else {
            (
                (packed[sub + 4] & 15) | (packed[sub - 4] >> 6) << 4,
                (packed[sub + 4] >> 4) | (packed[sub] >> 6) << 4,
            )
        };
        let (scale, offset) = (d * f32::from(scale), min * f32::from(offset));
        for (l, out) in out.iter_mut().enumerate() {
            let low = (quants[sub / 2 * 32 + l] >> (sub % 2 * 4)) & 15;
            let fifth = (high[l] >> sub) & 1;
            *out = scale * f32::from(low | fifth << 4) - offset;
        }
    }
}

/// 16 sub-blocks of 16 values of 6 bits; signed scales of 8 bits.
fn q6_k(block: &[u8], out: &mut [f32]) {
    let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
    let d = half(&block[208..]);
    for (i, out) in out.iter_mut().enumerate() {
        // Halves of 128 values; in each, four runs of 32 share their bytes.
        let (part, run, l) = (i / 128, i % 128 / 32, i % 32);
        let bits = (low[part * 64 + run % 2 * 32 + l] >> (run / 2 * 4)) & 15;
        let top = (high[part * 32 + l] >> (run * 2)) & 3;
        let value = f32::from(bits | top << 4) - 32.0;
        *out = d * f32::from(scales[i / 16] as i8) * value;
    }
}

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
    pub metadata: BTreeMap<String, Value>,
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
        let Some(place) = self.tensors.get(name) else { return Ok(None) };
        let (values, size) = place.kind.block();
        let elements: usize = place.shape.iter().product();
        let mut bytes = vec![0; elements / values * size];
        self.file
            .read_exact_at(&mut bytes, place.start)
            .map_err(|source| ModelError::Io { path: self.path.clone(), source })?;
        let mut out = vec![0.0; elements];
        place.kind.dequantize(&bytes, &mut out);
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
        Ok(u32::from_le_bytes(four(self.bytes(4)?)))
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
            6 => json!(f32::from_bits(self.u32()?)),
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

/// Divisors of the rotary frequencies, where a file has them.
const ROPE_FREQUENCIES: &str = "rope_freqs.weight";

/// What has to be undone of what the conversion to GGUF did to a tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Undo {
    Nothing,
    /// Rows of each head were put into the order of interleaved rotations.
    Permuted(usize),
}

/// A model in a GGUF file: its config in Hugging Face's layout, and its tensors by their names there.
#[derive(Debug)]
pub(crate) struct GgufModel {
    file: Gguf,
    /// Hugging Face's name to the file's.
    names: BTreeMap<String, (String, Undo)>,
}

impl GgufModel {
    pub(crate) fn open(path: &Path) -> Result<(Value, Self), ModelError> {
        let file = Gguf::open(path)?;
        let bad = |reason: String| ModelError::Malformed { path: path.to_owned(), reason };
        let Some(family) = file.metadata.get("general.architecture").and_then(Value::as_str) else {
            return Err(bad("has no general.architecture".to_owned()));
        };
        let family = family.to_owned();
        let config = config(&file, &family).map_err(bad)?;
        let heads = |key: &str| config[key].as_u64().unwrap_or(1) as usize;
        let mut names = BTreeMap::new();
        for (name, ..) in file.tensors() {
            let Some((ours, part)) = translated(name) else {
                if name == ROPE_FREQUENCIES {
                    continue;
                }
                return Err(bad(format!("has no place for the tensor {name}")));
            };
            let undo = match part {
                "attn_q" if family == "llama" => Undo::Permuted(heads("num_attention_heads")),
                "attn_k" if family == "llama" => Undo::Permuted(heads("num_key_value_heads")),
                _ => Undo::Nothing,
            };
            names.insert(ours, (name.to_owned(), undo));
        }
        Ok((config, Self { file, names }))
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    /// Names, types and shapes.
    pub(crate) fn shapes(&self) -> impl Iterator<Item = (String, String, Vec<usize>)> {
        self.names.iter().filter_map(|(ours, (theirs, _))| {
            let place = self.file.tensors.get(theirs)?;
            Some((ours.clone(), format!("{:?}", place.kind).to_lowercase(), place.shape.clone()))
        })
    }

    pub(crate) fn load(&self, name: &str) -> Result<Option<Tensor>, ModelError> {
        let Some((theirs, undo)) = self.names.get(name) else { return Ok(None) };
        let Some(value) = self.file.load(theirs)? else { return Ok(None) };
        Ok(Some(match *undo {
            Undo::Nothing => value,
            Undo::Permuted(heads) => {
                let shape = value.dims().to_vec();
                let half = shape[0] / heads / 2;
                let rest: usize = shape[1..].iter().product();
                value
                    .reshape((heads, half, 2, rest))?
                    .transpose(1, 2)?
                    .contiguous()?
                    .reshape(shape)?
            }
        }))
    }
}

/// Hugging Face's name of a tensor, and the part of a block that it is.
fn translated(name: &str) -> Option<(String, &str)> {
    let (stem, kind) = name.rsplit_once('.')?;
    let Some(block) = stem.strip_prefix("blk.") else {
        let ours = match stem {
            "token_embd" => "model.embed_tokens",
            "output_norm" => "model.norm",
            "output" => "lm_head",
            _ => return None,
        };
        return Some((format!("{ours}.{kind}"), stem));
    };
    let (layer, part) = block.split_once('.')?;
    let ours = match part {
        "attn_norm" => "input_layernorm",
        "attn_q" => "self_attn.q_proj",
        "attn_k" => "self_attn.k_proj",
        "attn_v" => "self_attn.v_proj",
        "attn_output" => "self_attn.o_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_k_norm" => "self_attn.k_norm",
        "ffn_norm" => "post_attention_layernorm",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_up" => "mlp.up_proj",
        "ffn_down" => "mlp.down_proj",
        _ => return None,
    };
    Some((format!("model.layers.{layer}.{ours}.{kind}"), part))
}

/// `config.json` as the metadata gives it.
fn config(file: &Gguf, family: &str) -> Result<Value, String> {
    if !matches!(family, "llama" | "qwen2" | "qwen3") {
        let supported = "llama, qwen2, qwen3";
        return Err(format!("is of the architecture {family:?} (supported: {supported})"));
    }
    let get = |key: &str| file.metadata.get(&format!("{family}.{key}")).cloned();
    let need = |key: &str| get(key).ok_or_else(|| format!("has no {family}.{key}"));
    let has = |name: &str| file.tensors.contains_key(name);
    let Some(embedding) = file.tensors.get("token_embd.weight") else {
        return Err("has no token_embd.weight".to_owned());
    };
    let heads = need("attention.head_count")?;
    let context = need("context_length")?;
    let mut config = json!({
        "model_type": family,
        "hidden_size": need("embedding_length")?,
        "intermediate_size": need("feed_forward_length")?,
        "num_hidden_layers": need("block_count")?,
        "num_attention_heads": heads,
        "num_key_value_heads": get("attention.head_count_kv").unwrap_or(heads),
        "rms_norm_eps": need("attention.layer_norm_rms_epsilon")?,
        "max_position_embeddings": context,
        "vocab_size": embedding.shape.first(),
        "tie_word_embeddings": !has("output.weight"),
        "rope_theta": get("rope.freq_base").unwrap_or(json!(10_000.0)),
    });
    let mut set = |key: &str, value: Value| config[key] = value;
    if let Some(dim) = get("attention.key_length") {
        set("head_dim", dim);
    }
    if family != "qwen2" {
        set("attention_bias", json!(has("blk.0.attn_q.bias")));
    }
    let original = get("rope.scaling.original_context_length").unwrap_or(context);
    if let Some(tensor) = file.load(ROPE_FREQUENCIES).map_err(|e| e.to_string())? {
        // Llama 3.1: the divisors of all frequencies, ready made.
        let divisors = tensor.flatten_all().and_then(|t| t.to_vec1::<f32>());
        let divisors = divisors.map_err(|e| e.to_string())?;
        set(
            "rope_scaling",
            json!({"rope_type": "longrope", "short_factor": divisors, "long_factor": divisors,
                "attention_factor": 1.0, "original_max_position_embeddings": original}),
        );
    } else if let Some(kind) = get("rope.scaling.type").filter(|kind| kind != "none") {
        set(
            "rope_scaling",
            json!({"rope_type": kind, "factor": need("rope.scaling.factor")?,
                "original_max_position_embeddings": original}),
        );
    }
    Ok(config)
}
