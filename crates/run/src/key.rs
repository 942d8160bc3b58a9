//! Keys of stages: equal keys mean equal results.

use serde::Serialize;

/// Gathers everything a stage's result depends on.
///
/// Each part is hashed with its name and its length, so that no two different lists of parts run
/// together into one text.
#[derive(Debug, Clone, Default)]
pub struct Key(blake3::Hasher);

impl Key {
    /// The key of a stage of this name.
    pub fn new(stage: &str) -> Self {
        Self::default().with("stage", stage)
    }

    /// Adds a part as its JSON form. A part that has none (a map with keys that are not text, a
    /// failing `Serialize`) counts as the text of its error.
    #[must_use]
    pub fn with<T: Serialize + ?Sized>(mut self, name: &str, part: &T) -> Self {
        let text = serde_json::to_string(part).unwrap_or_else(|error| format!("error: {error}"));
        for piece in [name, &text] {
            self.0.update(&(piece.len() as u64).to_le_bytes());
            self.0.update(piece.as_bytes());
        }
        self
    }

    /// The key as 32 hexadecimal digits.
    pub fn finish(&self) -> String {
        self.0.finalize().to_hex()[..32].to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_and_its_border_counts() {
        let key = |parts: &[(&str, &str)]| {
            parts.iter().fold(Key::new("s"), |key, (name, part)| key.with(name, part)).finish()
        };
        assert_eq!(key(&[("a", "b")]), key(&[("a", "b")]));
        let all = [
            key(&[("a", "b")]),
            key(&[("a", "c")]),
            key(&[("ab", "")]),
            key(&[("a", ""), ("b", "")]),
            key(&[]),
        ];
        let distinct: std::collections::HashSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }
}
