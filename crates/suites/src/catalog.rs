//! Every benchmark by name.

mod nextqa;

use crate::suite::{Scorer, Suite};

/// Scorers of choice questions.
const CHOICE: &[Scorer] = &[];

/// All suites, in the order of listings: about clips first.
pub const SUITES: &[&Suite] = &[&nextqa::MULTIPLE_CHOICE];

/// The suite of this name.
pub fn suite(name: &str) -> Option<&'static Suite> {
    SUITES.iter().copied().find(|suite| suite.name == name)
}
