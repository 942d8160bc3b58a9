//! Verdicts: what a judge writes, read strictly, and how far a judge can be trusted.
//!
//! A *listwise* judgement scores several candidates of one question ([`listwise`]); a *critique*
//! calls one answer right or wrong ([`critique`]). Both state their evidence first. A [`rubric`] gives points with reasons in one
//! dictionary; [`wins`] are chances of candidates against each other, [`repetition`] sees texts that run in circles. [`clip`] holds
//! the check of a pair against the frames in the space of CLIP, [`order`] the seeded order in
//! which candidates are shown, and [`audit`] the figures that say whether verdicts mean anything.
//! [`rewards`] has verdicts that need no judge: answers held against known ones, forms, lengths.
//! [`labels`] has verdicts that are probabilities of labels, through [`savi_schema::Score`], [`self_aligned`] the reward
//! of what a query adds to the likelihood of its answer. [`rouge`] says how like texts are.
//! This crate knows no model and never trains one; it works on texts, vectors, counts and scores.

pub mod audit;
pub mod clip;
pub mod critique;
pub mod labels;
pub mod listwise;
pub mod order;
pub mod repetition;
pub mod rewards;
pub mod rouge;
pub mod rubric;
pub mod self_aligned;
mod text;
pub mod wins;

/// Goes up when a verdict would be read otherwise than before, so that stored readings are made
/// again.
pub const RULES: u32 = 1;

pub use clip::{ClipCheckError, Similarities, clip_check};
