//! Every benchmark by name.

mod nextqa;
mod text;

use crate::suite::{Scorer, Suite};

/// Scorers of choice questions.
const CHOICE: &[Scorer] = &[];

/// Suites about clips.
const CLIPS: &[&Suite] = &[&nextqa::MULTIPLE_CHOICE];

/// All suites, in the order of listings: about clips first.
pub const SUITES: &[&Suite] = &chained::<{ CLIPS.len() + text::SUITES.len() }>(CLIPS, text::SUITES);

const fn chained<const COUNT: usize>(
    first: &[&'static Suite],
    second: &[&'static Suite],
) -> [&'static Suite; COUNT] {
    let mut all = [first[0]; COUNT];
    let mut at = 0;
    while at < COUNT {
        all[at] = if at < first.len() { first[at] } else { second[at - first.len()] };
        at += 1;
    }
    all
}

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
