//! The parts of the data and what may occur in each.

use serde::{Deserialize, Serialize};

use super::vocab::{Colour, Direction, Shape};

/// A part of the data. No two parts share a scene.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// For supervised training.
    Train,
    /// Clips without questions, for methods that write their own.
    Unlabelled,
    /// For choosing settings.
    Dev,
    /// For the final measurement only.
    Test,
}

impl Split {
    /// All parts, in the order in which they are made.
    pub const ALL: [Self; 4] = [Self::Train, Self::Unlabelled, Self::Dev, Self::Test];

    /// Its name in paths and ids.
    pub fn name(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Unlabelled => "unlabelled",
            Self::Dev => "dev",
            Self::Test => "test",
        }
    }

    /// The part with this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|split| split.name() == name)
    }

    /// Whether its scenes may hold the combinations that [`is_novel_look`] and
    /// [`is_novel_motion`] name.
    pub fn has_novel(self) -> bool {
        matches!(self, Self::Dev | Self::Test)
    }
}

/// Colour and shape that never meet in train or unlabelled scenes. Each colour and each shape is
/// left out at most once, so that both are still seen in other company.
pub fn is_novel_look(colour: Colour, shape: Shape) -> bool {
    matches!(
        (colour, shape),
        (Colour::Red, Shape::Ring)
            | (Colour::Green, Shape::Triangle)
            | (Colour::Blue, Shape::Cross)
            | (Colour::Yellow, Shape::Circle)
            | (Colour::Cyan, Shape::Square)
    )
}

/// Colour and direction of motion that never meet in train or unlabelled scenes. They are few and
/// opposite, so that a colour says little about a direction.
pub fn is_novel_motion(colour: Colour, direction: Direction) -> bool {
    matches!((colour, direction), (Colour::Red, Direction::Up) | (Colour::Blue, Direction::Down))
}
