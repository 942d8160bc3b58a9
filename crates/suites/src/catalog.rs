//! Every benchmark by name.

mod nextqa;

use crate::suite::{Scorer, Suite};

/// Scorers of choice questions.
const CHOICE: &[Scorer] = &[];

/// All suites, in the order of listings: about clips first.
pub const SUITES: &[&Suite] = &[&nextqa::MULTIPLE_CHOICE];

/// All suites.
pub fn suites() -> impl Iterator<Item = &'static Suite> {
    SUITES.iter().copied()
}

/// Their names.
pub fn names() -> impl Iterator<Item = &'static str> {
    suites().map(|suite| suite.name)
}

/// The suite of this name.
pub fn suite(name: &str) -> Option<&'static Suite> {
    suites().find(|suite| suite.name == name)
}
