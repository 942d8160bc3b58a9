//! How GGUF stores a tensor's values, and how they become f32. Block layouts after ggml's
//! `ggml-common.h` and `ggml-quants.c`.

use half::{bf16, f16};

/// Values of a super-block.
const SUPER: usize = 256;
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
    pub(super) fn of(code: u32) -> Option<Self> {
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

    /// The number that stands for it in files.
    pub(super) fn code(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q2K => 10,
            Self::Q3K => 11,
            Self::Q4K => 12,
            Self::Q5K => 13,
            Self::Q6K => 14,
            Self::BF16 => 30,
        }
    }

    /// Values and bytes of a block.
    pub(super) fn block(self) -> (usize, usize) {
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
            bytes.len().is_multiple_of(size) && bytes.len() / size * values == out.len(),
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

/// Whole blocks of 32 values as Q8_0: the largest of a block becomes 127.
pub(super) fn q8_0(values: &[f32], out: &mut Vec<u8>) {
    for block in values.chunks_exact(32) {
        let scale = block.iter().fold(0f32, |most, value| most.max(value.abs())) / 127.0;
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        out.extend(f16::from_f32(scale).to_le_bytes());
        // A scale that 16 bits cannot hold gives infinity, as every other converter's does.
        out.extend(block.iter().map(|value| (value * inverse).round() as i8 as u8));
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
