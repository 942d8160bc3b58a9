//! What a prompt is made of, token by token, so that equal starts are equal and others are not.

use crate::{ClipKey, Prompt};

/// A token of a text: a word by its number, a visual token by what is shown and its place there.
pub(crate) type Unit = u64;

/// Marks the units of visual tokens.
const VISUAL: u64 = 1 << 63;

/// The units of words.
pub(crate) fn words(ids: &[u32]) -> impl Iterator<Item = Unit> {
    ids.iter().map(|&id| u64::from(id))
}

/// The units of a prompt; `keys` say what its pictures and clips are.
pub(crate) fn units(prompt: &Prompt, keys: &[ClipKey], placeholders: &[u32]) -> Vec<Unit> {
    let mut units: Vec<Unit> = words(&prompt.ids).collect();
    for (visual, key) in prompt.visuals.iter().zip(keys) {
        let mut start = [0; 8];
        start.copy_from_slice(&blake3::hash(key.0.as_bytes()).as_bytes()[..8]);
        let start = u64::from_le_bytes(start);
        let places = visual.range.clone().filter(|&at| placeholders.contains(&prompt.ids[at]));
        for (index, at) in places.enumerate() {
            units[at] = start.wrapping_add(index as u64) | VISUAL;
        }
    }
    units
}
