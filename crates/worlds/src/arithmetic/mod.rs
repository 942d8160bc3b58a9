//! arithmetic: short word problems with exact answers, worked solutions and small talk.
//!
//! Words used here. A [`Problem`] is a quantity that somebody has at first, what happens to it, and a
//! question about it. Its *level* is the number of sums that the answer takes; where there are many
//! ([`LONG`]), only a reply that writes them down can be right. A [`Style`] is how much a worked
//! solution says: the same sums tersely, in sentences, with a check of each, or twice over. A
//! [`Dialogue`] is a templated conversation about little things that this world knows, or does not.
//!
//! Everything follows from (seed, split, index). No two parts share a problem: which part one
//! belongs to is a hash of its sums and its question, whatever the story around them.

mod dialogue;
mod lessons;
mod problem;
mod solution;
mod split;
mod verify;
mod wording;

pub use dialogue::{Dialogue, DialogueKind, dialogue};
pub use lessons::{Lesson, LessonKind, LessonPlan, lesson};
pub use problem::{Event, LEVELS, LONG, Operation, Problem, Query, Sum, problem, problem_of_level};
pub use solution::{Style, solution};
pub use split::Split;
pub use verify::{is_correct, stated_answer, wrong_sums};

/// Name of the world in commands.
pub const NAME: &str = "arithmetic";
/// Raised whenever the same seed gives other problems or dialogues.
pub const VERSION: u32 = 2;
