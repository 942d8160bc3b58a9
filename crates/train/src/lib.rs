//! One training loop for supervised fine-tuning and preferences.
//!
//! A row of training is a [`Packed`] tree: the prompt once, its continuations as branches; a batch
//! is several such trees in one pass, without padding. The loop owns steps, accumulation, clipping,
//! checkpoints and exact resume; what is learnt comes in as examples or pairs. The weights that
//! train are the engine's own. This crate knows no prompts' wording and no files of clips beyond
//! the engine's media.

mod adapter;
mod backward;
mod checkpoint;
mod config;
mod dpo;
mod error;
mod learner;
mod length;
mod online;
mod pack;
mod perception;
mod plan;
mod ranks;
mod sft;
mod steps;

pub use config::{
    DpoConfig, EvalStrategy, OptimConfig, Overlong, SamplingStrategy, SchedulerKwargs, SftConfig,
    Truncation,
};
pub use dpo::{dpo, dpo_against, dpo_evaluated};
pub use error::TrainError;
pub use learner::{EngineLearner, LearnError, Learner, Learnt, Material, Rounds, Training, teach};
pub use online::{
    AdvEstimator, AlphaScheduler, AlphaType, FilterGroups, GrpoConfig, KlCtrl, KlCtrlType,
    KlInReward, MultiObjective, PpoConfig, RatioLevel, Rewards, Scale, grpo, grpo_sampled_by, ppo,
};
pub use pack::{Branch, Packed, Tree};
pub use perception::{Head, LabelledFrames, perceive};
pub use plan::{Plan, PlannedMemory, plan_dpo, plan_grpo, plan_ppo, plan_sft};
pub use ranks::Ranks;
pub use sft::{Sample, sft, sft_demonstrations, sft_evaluated, sft_stream};
pub use steps::{TrainIo, TrainSummary};
