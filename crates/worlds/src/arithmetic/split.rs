//! The parts of the data.

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use serde::{Deserialize, Serialize};

/// A part of the data. No two parts share a problem or a dialogue's opening.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// For supervised training.
    Train,
    /// For choosing settings.
    Dev,
    /// For the final measurement only.
    Test,
}

impl Split {
    /// All parts.
    pub const ALL: [Self; 3] = [Self::Train, Self::Dev, Self::Test];

    /// Its name in ids.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Dev => "dev",
            Self::Test => "test",
        }
    }

    /// The part with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|split| split.name() == name)
    }

    /// The part that owns something with this canonical text: a tenth each is dev and test.
    pub(super) fn owner(text: &str) -> Self {
        match blake3::hash(text.as_bytes()).as_bytes()[0] % 10 {
            0 => Self::Dev,
            1 => Self::Test,
            _ => Self::Train,
        }
    }
}

/// The random numbers of one thing of the world.
pub(super) fn stream(seed: u64, split: Split, kind: &str, index: u64) -> ChaCha8Rng {
    let mut hasher = blake3::Hasher::new();
    for part in [super::NAME, split.name(), kind] {
        hasher.update(part.as_bytes());
        hasher.update(&[0]);
    }
    hasher.update(&seed.to_le_bytes());
    hasher.update(&index.to_le_bytes());
    ChaCha8Rng::from_seed(*hasher.finalize().as_bytes())
}
