//! Records that cross a border between crates, and the traits that keep the crates apart.
//!
//! This crate owns plain data: a conversation ([`Message`]), how a clip becomes frames
//! ([`MediaPolicy`]), the decoded clip ([`Clip`]), what a model wrote ([`Completion`]), what a judge
//! thought of it ([`Verdict`]) and what training learns from ([`Pair`], [`Example`], [`Rollout`]).
//! Every record that is written to disk carries [`SCHEMA_VERSION`].
//! It never decodes, never computes on tensors and knows no command line.

mod clip;
mod generate;
mod message;
mod policy;
mod record;
mod resample;
mod sampling;
mod serve;

pub use clip::{Clip, ClipMetadata, Frame, RgbImage};
pub use generate::{
    Alternative, Completed, Completion, Continuation, Embed, FinishReason, Generate, GenerateError,
    RawPrompt, Request, Reward, Score, ScoreRequest, TokenScore, Tokenize, judge_each,
};
pub use message::{Media, Message, Part, Role};
pub use policy::{CountRule, FrameSampling, MediaPolicy, PolicyError};
pub use record::{Demonstration, Example, Pair, PromptRecord, Rollout, Taught, Verdict};
pub use resample::{ResampleError, Resampling, resample, resample_pixels};
pub use sampling::{Constraint, Sampling};
pub use serve::{Event, Listener, Serve, Token};

/// Version of every record of this crate, written beside it as `schema`.
pub const SCHEMA_VERSION: u32 = 1;
