//! Training objectives as pure functions on tensors.
//!
//! This crate owns the losses and the figures that are logged beside them: supervised negative
//! log-likelihood ([`nll()`]) and direct preference optimisation ([`dpo()`]). A function takes
//! log-probabilities and returns a loss that can be differentiated; it never sees a model, a file, a
//! tokenizer or an optimiser, and it draws no random numbers.
//!
//! Words: *token log-probs* are one natural log-probability for each predicted token; *sequence
//! log-probs* are their sums over one continuation ([`sequence_logps`]); the *reference* is the
//! model that a policy is kept near, here the policy with its adapter switched off.
//!
//! Losses are additive over micro-batches: what a mean is taken over (pairs, tokens of the whole
//! step) comes in as an argument, so that one step over eight rows and eight accumulated rows are
//! the same number. Log-probs and losses are `f32`; `f64` is accepted for tests.
//!
//! What learns from rewards instead of preferences, with the advantages that come before its losses,
//! is a module of its own: [`policy`].

pub mod policy;

mod check;
mod dpo;
mod logps;
mod nll;

pub use check::ObjectiveError;
pub use dpo::{ChosenTokens, Dpo, DpoOutput, PairLogps, PreferenceMetrics, Totals, dpo};
pub use logps::sequence_logps;
pub use nll::nll;
