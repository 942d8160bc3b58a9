//! Every benchmark by name.

mod egoschema;
mod intentqa;
mod longvideobench;
mod mvbench;
mod nextqa;
mod nextqa_oe;
mod open_ended;
mod perceptiontest;
mod shapes;
mod star;
mod tempcompass;
#[cfg(test)]
mod tests;
mod text;
mod tvbench;
mod videohallucer;
mod videomme;

use crate::suite::Suite;

/// Suites about clips.
const CLIPS: &[&Suite] = &[
    &mvbench::SUITE,
    &tvbench::SUITE,
    &tempcompass::CHOICE,
    &tempcompass::YES_NO,
    &tempcompass::CAPTION_MATCHING,
    &tempcompass::CAPTIONING,
    &perceptiontest::SUITE,
    &nextqa::MULTIPLE_CHOICE,
    &nextqa_oe::SUITE,
    &egoschema::SUITE,
    &longvideobench::SUITE,
    &videomme::SUITE,
    &intentqa::SUITE,
    &star::SUITE,
    &open_ended::MSVD,
    &open_ended::MSRVTT,
    &open_ended::TGIF,
    &open_ended::ACTIVITYNET,
    &videohallucer::SUITE,
];

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
