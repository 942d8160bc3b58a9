//! Masks and positions: the one type that decoding and training share.
//!
//! A forward pass takes a flat run of tokens `[tokens, width]`, without batch and without padding.
//! A [`Forest`] says how they hang together: segments of consecutive tokens, each after a parent.
//! A token sees all tokens of the segments above its own and, in its own segment, those up to
//! itself (causal) or all of them (full, for vision towers). A batch is several roots; a packed
//! training row is a root (the prompt) with its branches; a decoding step is one segment of one
//! token for each row, after a parent that lives in the key-value cache.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use candle_core::{Device, Result, Tensor, bail};

use crate::noise::{self, Noise};

/// What a segment comes after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parent {
    /// Nothing: its positions start at zero.
    Root,
    /// An earlier segment of the same pass.
    Segment(usize),
    /// Tokens that are already in the cache: how many they are, and the position after them.
    Cached {
        /// Tokens before it.
        tokens: usize,
        /// Position of its first token.
        position: u32,
    },
}

/// A run of consecutive tokens of a pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// What it comes after.
    pub parent: Parent,
    /// Its tokens in the pass.
    pub range: Range<usize>,
    /// Logical tokens before it.
    pub offset: usize,
    /// The position after its last token, where what follows goes on.
    pub next: u32,
    /// Whether a token sees only itself and what is before it in the segment.
    pub causal: bool,
    /// The root segment of its tree.
    pub root: usize,
}

/// Masks by window.
type Masks = Vec<(Option<usize>, Tensor)>;

/// The shape of a forward pass.
#[derive(Debug, Clone, Default)]
pub struct Forest {
    segments: Vec<Segment>,
    coordinates: Vec<[u32; 3]>,
    /// What [`Forest::mask`] made, by window, for the layers that ask again.
    masks: Arc<Mutex<Masks>>,
    /// Keys of the tokens, where a pass drops out at random.
    noise: Option<Noise>,
}

impl PartialEq for Forest {
    fn eq(&self, other: &Self) -> bool {
        self.segments == other.segments && self.coordinates == other.coordinates
    }
}

impl Eq for Forest {}

impl Forest {
    /// No tokens yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// One causal sequence.
    pub fn sequence(len: usize) -> Self {
        let mut forest = Self::new();
        forest.push(Parent::Root, len);
        forest
    }

    /// `count` sequences of `len` tokens that see all of themselves and nothing else.
    pub fn full(count: usize, len: usize) -> Self {
        Self::full_of(std::iter::repeat_n(len, count))
    }

    /// Sequences of these lengths that see all of themselves and nothing else.
    pub fn full_of(lengths: impl IntoIterator<Item = usize>) -> Self {
        let mut forest = Self::new();
        for len in lengths {
            forest.add(Parent::Root, len, false);
        }
        forest
    }

    /// Appends a causal segment and gives its number.
    ///
    /// # Panics
    /// When the parent segment does not exist yet.
    pub fn push(&mut self, parent: Parent, len: usize) -> usize {
        self.add(parent, len, true)
    }

    /// The tokens of each sequence, where all are roots that see all of themselves.
    pub(crate) fn apart(&self) -> Option<Vec<Range<usize>>> {
        let apart = |segment: &Segment| segment.parent == Parent::Root && !segment.causal;
        let ranges =
            self.segments.iter().map(|segment| apart(segment).then(|| segment.range.clone()));
        ranges.collect::<Option<Vec<_>>>().filter(|ranges| !ranges.is_empty())
    }

    /// What every token sees, as a matrix to add to scores: `[tokens, tokens]`, zero or minus infinity.
    /// With a window, a token sees so many tokens of its branch at most. Made once.
    pub(crate) fn mask(&self, device: &Device, window: Option<usize>) -> Result<Tensor> {
        let mut masks = self.masks.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let kept = |(of, mask): &&(_, Tensor)| *of == window && mask.device().same_device(device);
        if let Some((_, mask)) = masks.iter().find(kept) {
            return Ok(mask.clone());
        }
        let tokens = self.len();
        let mut mask = vec![f32::NEG_INFINITY; tokens * tokens];
        for (index, segment) in self.segments.iter().enumerate() {
            let ancestors = self.ancestors(index);
            for token in segment.range.clone() {
                let row = &mut mask[token * tokens..(token + 1) * tokens];
                for range in &ancestors {
                    row[range.clone()].fill(0.0);
                }
                let end = if segment.causal { token + 1 } else { segment.range.end };
                row[segment.range.start..end].fill(0.0);
                let seen = ancestors.iter().map(ExactSizeIterator::len).sum::<usize>()
                    + (end - segment.range.start);
                let hidden = window.map_or(0, |window| seen.saturating_sub(window));
                row.iter_mut()
                    .filter(|cell| **cell == 0.0)
                    .take(hidden)
                    .for_each(|cell| *cell = f32::NEG_INFINITY);
            }
        }
        let mask = Tensor::from_vec(mask, (tokens, tokens), device)?;
        masks.push((window, mask.clone()));
        Ok(mask)
    }

    /// Appends a causal segment whose tokens have positions on three axes of their own (time, row,
    /// column: tokens of pictures); what follows it goes on at `next` on all of them. Gives its number.
    ///
    /// # Panics
    /// When the parent segment does not exist yet.
    pub fn push_at(&mut self, parent: Parent, coordinates: &[[u32; 3]], next: u32) -> usize {
        let index = self.add(parent, coordinates.len(), true);
        let segment = &mut self.segments[index];
        segment.next = next;
        self.coordinates[segment.range.clone()].copy_from_slice(coordinates);
        index
    }

    fn add(&mut self, parent: Parent, len: usize, causal: bool) -> usize {
        let index = self.segments.len();
        let (offset, first, root) = match parent {
            Parent::Root => (0, 0, index),
            Parent::Cached { tokens, position } => (tokens, position, index),
            Parent::Segment(above) => {
                let above = &self.segments[above];
                (above.offset + above.range.len(), above.next, above.root)
            }
        };
        self.masks = Arc::default();
        self.noise = None;
        let start = self.coordinates.len();
        let next = first + len as u32;
        self.coordinates.extend((first..next).map(|p| [p; 3]));
        let range = start..start + len;
        self.segments.push(Segment { parent, range, offset, next, causal, root });
        index
    }

    /// Gives every token a key for random masks, made of its tree's key and the tokens from the root
    /// down to it, itself included: a record's token has the same key however its branches are
    /// packed. `ids` are the pass's tokens, `keys` those of the roots, in order.
    pub fn with_noise(mut self, ids: &[u32], keys: &[u64]) -> Result<Self> {
        if ids.len() != self.len() {
            bail!("a pass of {} tokens was given {}", self.len(), ids.len());
        }
        let (mut roots, mut named) = (keys.iter(), Vec::with_capacity(ids.len()));
        let mut ends: Vec<u64> = Vec::with_capacity(self.segments.len());
        for segment in &self.segments {
            let mut key = match segment.parent {
                Parent::Segment(above) => ends[above],
                Parent::Root => match roots.next() {
                    Some(&key) => key,
                    None => bail!("there are more trees than the {} keys", keys.len()),
                },
                Parent::Cached { .. } => {
                    bail!("tokens after a cache have no keys: they do not train")
                }
            };
            for &id in &ids[segment.range.clone()] {
                key = noise::next(key, id);
                named.push(key);
            }
            ends.push(key);
        }
        self.noise = Some(Noise::new(named));
        Ok(self)
    }

    /// The tokens' keys, where the pass has any.
    pub fn noise(&self) -> Option<&Noise> {
        self.noise.as_ref()
    }

    /// The segments in order.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Position of each token on three axes: all the same for words; time, row and column for tokens
    /// of pictures in models that tell them apart (M-RoPE).
    pub fn coordinates(&self) -> &[[u32; 3]] {
        &self.coordinates
    }

    /// Number of tokens.
    pub fn len(&self) -> usize {
        self.coordinates.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.coordinates.is_empty()
    }

    /// Token ranges of this pass that every token of `segment` sees before its own segment, from
    /// the root down.
    pub fn ancestors(&self, segment: usize) -> Vec<Range<usize>> {
        let mut ranges = Vec::new();
        let mut at = segment;
        while let Parent::Segment(above) = self.segments[at].parent {
            ranges.push(self.segments[above].range.clone());
            at = above;
        }
        ranges.reverse();
        ranges
    }

    /// Whether token `query` sees token `key`, both of this pass.
    pub fn sees(&self, query: usize, key: usize) -> bool {
        let Some(segment) = self.segments.iter().position(|s| s.range.contains(&query)) else {
            return false;
        };
        let own = &self.segments[segment];
        if own.range.contains(&key) {
            return !own.causal || key <= query;
        }
        self.ancestors(segment).iter().any(|range| range.contains(&key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn branches_see_the_prompt_and_themselves() {
        let mut forest = Forest::new();
        let prompt = forest.push(Parent::Root, 3);
        let a = forest.push(Parent::Segment(prompt), 2);
        forest.push(Parent::Segment(prompt), 2);
        let deep = forest.push(Parent::Segment(a), 1);
        let first: Vec<u32> = forest.coordinates().iter().map(|at| at[0]).collect();
        assert_eq!(first, [0, 1, 2, 3, 4, 3, 4, 5]);
        assert_eq!(forest.ancestors(deep), [0..3, 3..5]);
        assert!(forest.sees(5, 2) && forest.sees(6, 5) && forest.sees(7, 4));
        assert!(
            !forest.sees(5, 4) && !forest.sees(5, 6) && !forest.sees(2, 3) && !forest.sees(7, 5)
        );
        assert_eq!(forest.segments()[deep].root, prompt);
    }
    #[test]
    fn words_go_on_after_the_positions_of_a_picture() {
        let mut forest = Forest::new();
        let after = Parent::Cached { tokens: 9, position: 4 };
        let picture = forest.push_at(after, &[[4, 4, 4], [4, 4, 5], [4, 5, 4], [4, 5, 5]], 6);
        forest.push(Parent::Segment(picture), 2);
        assert_eq!(forest.coordinates()[4..], [[6; 3], [7; 3]]);
        assert_eq!((forest.segments()[1].offset, forest.segments()[1].next), (13, 8));
    }
}
