//! moving-shapes: a few coloured shapes that appear, move, grow, turn, flash and hit each other.
//!
//! Words used here. A [`Scene`] is the whole truth about one clip. Its time runs from 0 to 1 over
//! the clip; events fall on eighths of it ([`SEGMENTS`]), so that eight frames taken from the
//! middles of eight equal parts see everything that is asked. A [`Query`] is a question as a
//! value; a [`Qa`] is a question in words with its answer. A [`Lesson`] is one thing to learn from
//! a clip. Families of questions are listed in [`Family`].
//!
//! What keeps the world honest: things that are asked about motion or change are visible for a
//! part of the clip only, at a random time, so that no single frame says what came before or
//! after it; see [`floors`] for how that is measured.

mod cells;
mod clip;
mod events;
mod evidence;
pub mod floors;
mod generate;
mod lessons;
mod make;
mod open;
mod query;
mod questions;
mod render;
mod scene;
mod split;
mod times;
mod vocab;
mod wording;

pub use cells::{CELLS, cell_answers, cell_labels, random_moment};
pub use clip::write_clip;
pub use evidence::{Observed, conclusion};
pub use generate::scene;
pub use lessons::{Lesson, LessonPlan, UNCRITICISED, lessons};
pub use make::{
    DatasetConfig, DatasetManifest, NAME, SplitSummary, VERSION, make, question_records,
    read_manifest,
};
pub use open::{OPENED_LOG, OpenSplit, open_audit, open_split, sealed};
pub use query::{Family, ObjectRef, Query};
pub use questions::{Qa, QuestionKind, is_correct, oracle, questions};
pub use render::sample_frames;
pub use scene::{
    Background, Change, Event, EventKind, Object, ObjectState, Role, Scene, Track, Window,
};
pub use split::{Split, is_novel_look, is_novel_motion};
pub use times::sample_times;
pub use vocab::{ChangeKind, Colour, Direction, Moment, Place, Shape, Side, Size, Texture};

/// Parts of a clip on whose borders events fall.
pub const SEGMENTS: u32 = 8;
