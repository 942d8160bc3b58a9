//! Benchmarks of words alone: questions whose options are scored, problems with exact answers, requests that a judge or
//! a list of words reads.
//!
//! Prompts that are compared by log-probability, and those of GSM8K, are the ones of lm-evaluation-harness (0.4.13),
//! so that items can be held against its samples one by one; its TruthfulQA tasks have six questions of their own
//! before each, which are not here.

mod alpaca_eval;
mod arc;
mod gsm8k;
#[cfg(test)]
mod harness_tests;
mod hellaswag;
mod hhh;
mod lm_eval;
mod math;
mod mmlu;
mod mt_bench;
mod options;
mod refusal;
#[cfg(test)]
mod tests;
mod truthfulqa;
mod winogrande;

use crate::suite::Suite;

/// All of them, in the order of listings.
pub(super) const SUITES: &[&Suite] = &[
    &arc::EASY,
    &arc::CHALLENGE,
    &hellaswag::HELLASWAG,
    &mmlu::MMLU,
    &winogrande::WINOGRANDE,
    &gsm8k::GSM8K,
    &gsm8k::SYMBOLIC,
    &math::MATH_500,
    &math::AIME,
    &truthfulqa::MC1,
    &truthfulqa::MC2,
    &truthfulqa::BINARY,
    &truthfulqa::GENERATION,
    &hhh::HHH,
    &refusal::ADVBENCH,
    &refusal::RED_TEAM,
    &mt_bench::VICUNA,
    &mt_bench::MT_BENCH,
    &alpaca_eval::ALPACA_EVAL,
];

/// `datasets/<suite>/<file>`, compiled in.
macro_rules! published {
    ($path:literal) => {
        include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../datasets/", $path))
    };
}
use published;
