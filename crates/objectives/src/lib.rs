//! Training objectives as pure functions on tensors.
//!
//! This crate owns the losses and the figures that are logged beside them: supervised negative
//! log-likelihood ([`nll()`]), losses on pairs of answers ([`preference()`]: direct preference
//! optimisation and its relatives) and on single answers ([`kto()`]). A function takes
//! log-probabilities and returns a loss that can be differentiated; it never sees a model, a file, a
//! tokenizer or an optimiser, and it draws no random numbers.
//!
//! Words: *token log-probs* are one natural log-probability for each predicted token; *sequence
//! log-probs* are their sums over one continuation ([`sequence_logps`]); the *reference* is the
//! model that a policy is kept near, for example the policy with its adapter switched off; the
//! *log-ratio* of a continuation is its log-probability under the policy less that under the
//! reference, and beta times it is its *reward*.
//!
//! Losses are additive over micro-batches: what a mean is taken over (pairs, tokens of the whole
//! step) comes in as an argument, so that one step over eight rows and eight accumulated rows are
//! the same number. Log-probs and losses are `f32`; `f64` is accepted for tests.
//!
//! What learns from rewards instead of preferences, with the advantages that come before its losses,
//! is a module of its own: [`policy`].

pub mod policy;

mod check;
mod kto;
mod logps;
mod nll;
mod preference;
mod stable;
mod weights;

pub use check::ObjectiveError;
pub use kto::{AnswerLogps, Kto, KtoLoss, KtoMetrics, KtoOutput, kto, kto_kl};
pub use logps::sequence_logps;
pub use nll::nll;
pub use preference::{
    ChosenTokens, Divergence, PairLogps, Preference, PreferenceLoss, PreferenceMetrics,
    PreferenceOutput, RewardBaseline, SideLogps, StepLogps, Totals, preference,
};
pub use weights::{ld_weights, wpo_weights};
