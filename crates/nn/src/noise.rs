//! Random masks that depend on a token's place in its record and on nothing else.
//!
//! Dropout must not make a result depend on the batch that a record is in, nor on how its branches
//! are packed. So a mask is not drawn in the order of the pass: every token has a key, made of the
//! record's own key and the tokens from the start of the record down to it (see
//! [`Forest::with_noise`](crate::Forest::with_noise)), and a token's mask in a layer follows from the
//! key, the layer's name and the place in the row alone.

use candle_core::{Device, Result, Tensor, bail};
use rayon::prelude::*;

/// The keys of a pass's tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noise {
    keys: Vec<u64>,
}

impl Noise {
    /// One key for each token, in order.
    pub(crate) fn new(keys: Vec<u64>) -> Self {
        Self { keys }
    }

    /// The tokens' keys.
    pub fn keys(&self) -> &[u64] {
        &self.keys
    }

    /// What the inputs `[tokens, width]` of `layer` are multiplied by: 0 with probability `drop`,
    /// else `1 / (1 - drop)`.
    pub fn mask(&self, layer: &str, rows: usize, width: usize, drop: f64) -> Result<Tensor> {
        if rows != self.keys.len() {
            bail!("{layer}: dropout has keys for {} tokens, not for {rows}", self.keys.len());
        }
        let layer = layer.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let (limit, kept) = ((drop * 4_294_967_296.0) as u64, (1.0 / (1.0 - drop)) as f32);
        let mut mask = vec![0f32; rows * width];
        mask.par_chunks_mut(width.max(1)).zip(&self.keys).for_each(|(row, &key)| {
            let key = mix(key ^ layer);
            for (pair, cells) in row.chunks_mut(2).enumerate() {
                let bits = mix(key.wrapping_add(pair as u64));
                for (cell, draw) in cells.iter_mut().zip([bits >> 32, bits & 0xffff_ffff]) {
                    *cell = if draw < limit { 0.0 } else { kept };
                }
            }
        });
        Tensor::from_vec(mask, (rows, width), &Device::Cpu)
    }
}

/// The key of a token that follows one with the key `before`.
pub(crate) fn next(before: u64, token: u32) -> u64 {
    mix(before ^ (u64::from(token) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// The finaliser of splitmix64 (Steele, Lea & Flood 2014): every bit of the result depends on every
/// bit of the argument.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Forest, Parent};

    fn rows(noise: &Noise, layer: &str) -> Vec<Vec<f32>> {
        noise.mask(layer, noise.keys().len(), 64, 0.25).unwrap().to_vec2().unwrap()
    }

    /// A record as one tree, as two rows, and beside another record.
    #[test]
    fn masks_do_not_depend_on_the_packing() -> Result<()> {
        let (prompt, a, b) = ([5, 6, 7], [8, 9], [8, 4, 4]);
        let mut tree = Forest::new();
        let root = tree.push(Parent::Root, 3);
        tree.push(Parent::Segment(root), 2);
        tree.push(Parent::Segment(root), 3);
        let tree = tree.with_noise(&[&prompt[..], &a, &b].concat(), &[1])?;
        let packed = rows(tree.noise().unwrap(), "l");
        // The other packing parts one token later, after another record.
        let mut other = Forest::new();
        other.push(Parent::Root, 2);
        let root = other.push(Parent::Root, 4);
        other.push(Parent::Segment(root), 1);
        other.push(Parent::Segment(root), 2);
        let ids = [&[1, 1][..], &prompt, &[8], &[9], &[4, 4]].concat();
        let again = rows(other.with_noise(&ids, &[2, 1])?.noise().unwrap(), "l");
        assert_eq!(packed[..5], again[2..7]);
        assert_eq!(packed[5], again[5]);
        assert_eq!(packed[6..], again[7..]);
        assert_ne!(packed[3], packed[4]);
        assert_ne!(packed, rows(tree.noise().unwrap(), "other"));
        Ok(())
    }

    #[test]
    fn the_share_that_is_dropped_is_right() -> Result<()> {
        let noise = Noise::new((0..400).collect());
        let mask = noise.mask("l", 400, 101, 0.25)?.to_vec2::<f32>()?.concat();
        let dropped = mask.iter().filter(|&&x| x == 0.0).count() as f64 / mask.len() as f64;
        // Four standard deviations of 40,400 draws.
        assert!((dropped - 0.25).abs() < 0.009, "{dropped}");
        assert!(mask.iter().all(|&x| x == 0.0 || x == 4.0 / 3.0));
        assert!(noise.mask("l", 399, 2, 0.5).is_err());
        Ok(())
    }
}
