//! The scene graph: everything that is true of one clip.

use serde::{Deserialize, Serialize};

use super::split::{Split, is_novel_look, is_novel_motion};
use super::vocab::{ChangeKind, Colour, Direction, Shape, Size, Texture};

/// Everything that is true of one clip. Positions are fractions of width and height, lengths
/// fractions of the shorter side, times fractions of the clip.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Scene {
    /// Record version.
    pub schema: u32,
    /// `<split>-<index>`, unique within a data set.
    pub id: String,
    /// The part of the data that it belongs to.
    pub split: Split,
    /// Seed of the data set.
    pub seed: u64,
    /// Number within the split.
    pub index: u64,
    /// Pixels per row.
    pub width: u32,
    /// Rows.
    pub height: u32,
    /// Frames per second.
    pub fps: u32,
    /// Number of frames.
    pub frame_count: u32,
    /// What is behind the objects.
    pub background: Background,
    /// Standard deviation of the noise on every pixel of every frame, in steps of 8 bits.
    pub pixel_noise: f64,
    /// Selects the noise.
    pub noise_seed: u64,
    /// The objects, those further back first.
    pub objects: Vec<Object>,
    /// What happens, in the order of time.
    pub events: Vec<Event>,
}

/// What is behind the objects. Tones are close to grey.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Background {
    /// One tone.
    Flat {
        /// Red, green, blue.
        tone: [u8; 3],
    },
    /// From one tone at the top to another at the bottom, or from left to right.
    Gradient {
        /// Where it starts.
        from: [u8; 3],
        /// Where it ends.
        to: [u8; 3],
        /// Left to right.
        across: bool,
    },
    /// A checkerboard of two tones.
    Checker {
        /// One tone.
        one: [u8; 3],
        /// The other.
        other: [u8; 3],
        /// Fields along the shorter side.
        fields: u32,
    },
    /// Soft clouds between two tones.
    Clouds {
        /// One tone.
        one: [u8; 3],
        /// The other.
        other: [u8; 3],
    },
}

/// A span of time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Window {
    /// Its start, included.
    pub from: f64,
    /// Its end, not included.
    pub to: f64,
}

impl Window {
    /// The whole clip.
    pub const ALWAYS: Self = Self { from: 0.0, to: 1.0 };

    /// Whether it holds this moment; a window that reaches the end of the clip holds the end too.
    pub fn contains(self, time: f64) -> bool {
        time >= self.from && (time < self.to || self.to >= 1.0)
    }
}

/// A straight motion at constant speed; before and after it the object rests.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Track {
    /// Where it is until `start`.
    pub from: (f64, f64),
    /// Where it is from `end` on.
    pub to: (f64, f64),
    /// When it starts to move. May lie before the clip.
    pub start: f64,
    /// When it comes to rest. May lie after the clip.
    pub end: f64,
}

impl Track {
    /// An object that stays where it is.
    pub fn still(x: f64, y: f64) -> Self {
        Self { from: (x, y), to: (x, y), start: 0.0, end: 1.0 }
    }

    /// Where the object is.
    pub fn at(&self, time: f64) -> (f64, f64) {
        let part = ((time - self.start) / (self.end - self.start)).clamp(0.0, 1.0);
        let mix = |a: f64, b: f64| a + (b - a) * part;
        (mix(self.from.0, self.to.0), mix(self.from.1, self.to.1))
    }

    /// Which way it moves; `None` for one that stays.
    pub fn direction(&self) -> Option<Direction> {
        Direction::of(self.to.0 - self.from.0, self.to.1 - self.from.1)
    }

    /// Distance covered per unit of time.
    pub fn speed(&self) -> f64 {
        let (dx, dy) = (self.to.0 - self.from.0, self.to.1 - self.from.1);
        dx.hypot(dy) / (self.end - self.start)
    }
}

/// How an object changes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// What becomes of it.
    pub kind: ChangeKind,
    /// When, as the middle of a short transition.
    pub at: f64,
    /// Diameter afterwards.
    pub diameter: f64,
    /// Colour afterwards.
    pub colour: Colour,
    /// Whether it is turned by half of its symmetry afterwards.
    pub turned: bool,
}

/// What an object is in the scene for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Stays, and is there all the time; it may flash.
    Still,
    /// Appears, crosses a part of the picture and disappears, alone.
    Mover,
    /// One of two movers of different speed.
    Racer,
    /// Appears, changes and disappears, at one place.
    Changer,
    /// Moves to or away from a target and disappears.
    Hitter,
    /// Is there all the time and starts to move at some time.
    Target,
}

/// One object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Object {
    /// What it is in the scene for.
    pub role: Role,
    /// Its colour at first.
    pub colour: Colour,
    /// Its shape.
    pub shape: Shape,
    /// Its surface.
    pub texture: Texture,
    /// Its diameter at first.
    pub diameter: f64,
    /// Whether it is turned by half of its symmetry at first.
    pub turned: bool,
    /// How it moves.
    pub track: Track,
    /// When it can be seen.
    pub visible: Window,
    /// How it changes.
    pub change: Option<Change>,
    /// When it flashes: a white disc lights up behind it.
    pub flash: Option<Window>,
}

/// How an object looks at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ObjectState {
    /// Centre, fraction of the width.
    pub x: f64,
    /// Centre, fraction of the height.
    pub y: f64,
    /// Diameter, fraction of the shorter side.
    pub diameter: f64,
    /// Its colour.
    pub colour: Colour,
    /// How far it is turned, in halves of its symmetry: 0 upright, 1 turned.
    pub turn: f64,
    /// Whether it flashes.
    pub flashing: bool,
}

/// Half of the time that a change takes.
const TRANSITION: f64 = 0.012;

impl Object {
    /// How it looks at `time`; `None` while it is not there.
    pub fn state(&self, time: f64) -> Option<ObjectState> {
        if !self.visible.contains(time) {
            return None;
        }
        let (x, y) = self.track.at(time);
        let (mut diameter, mut colour, mut turn) =
            (self.diameter, self.colour, f64::from(u8::from(self.turned)));
        if let Some(change) = &self.change {
            let part = ((time - change.at) / (2.0 * TRANSITION) + 0.5).clamp(0.0, 1.0);
            diameter += (change.diameter - diameter) * part;
            turn += (f64::from(u8::from(change.turned)) - turn) * part;
            if part >= 0.5 {
                colour = change.colour;
            }
        }
        let flashing = self.flash.is_some_and(|flash| flash.contains(time));
        Some(ObjectState { x, y, diameter, colour, turn, flashing })
    }

    /// Whether it has this colour at some time.
    pub fn ever(&self, colour: Colour) -> bool {
        self.colour == colour || self.change.is_some_and(|change| change.colour == colour)
    }

    /// Whether its colour and shape, or colour and motion, never occur in training.
    pub fn is_novel(&self) -> bool {
        let colours = [Some(self.colour), self.change.map(|change| change.colour)];
        colours.into_iter().flatten().any(|colour| is_novel_look(colour, self.shape))
            || self.track.direction().is_some_and(|way| is_novel_motion(self.colour, way))
    }

    /// Diameter in words.
    pub fn size(&self) -> Size {
        Size::of(self.diameter)
    }
}

/// Something that happens at a moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// When, in seconds from the start of the clip.
    pub time: f64,
    /// What.
    pub kind: EventKind,
    /// Index of the object that it happens to.
    pub object: usize,
    /// Index of the other object that takes part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other: Option<usize>,
}

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// It becomes visible after the start of the clip.
    Appears,
    /// It becomes invisible before the end of the clip.
    Disappears,
    /// It starts to move.
    StartsToMove,
    /// It comes to rest.
    Stops,
    /// It is hit by the other object.
    IsHit,
    /// It passes in front of the other object or behind it.
    Crosses,
    /// It flashes.
    Flashes,
    /// It grows.
    Grows,
    /// It shrinks.
    Shrinks,
    /// It changes colour.
    ChangesColour,
    /// It turns.
    Turns,
}

impl Scene {
    /// Length of the clip in seconds.
    pub fn duration(&self) -> f64 {
        f64::from(self.frame_count) / f64::from(self.fps)
    }

    /// The shorter side, in pixels.
    pub fn shorter_side(&self) -> u32 {
        self.width.min(self.height)
    }

    /// Distance between two points, as a fraction of the shorter side.
    pub(super) fn distance(&self, a: (f64, f64), b: (f64, f64)) -> f64 {
        let short = f64::from(self.shorter_side());
        let dx = (a.0 - b.0) * f64::from(self.width) / short;
        let dy = (a.1 - b.1) * f64::from(self.height) / short;
        dx.hypot(dy)
    }
}
