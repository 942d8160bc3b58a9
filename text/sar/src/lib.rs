//! Self-aligned reward (Han et al., arXiv 2509.05489): a policy learns from a verifier, and from how much likelier the
//! query makes each of its answers, `R = R_VR + alpha R_SA`.
//!
//! [`run()`] measures the model on held-out problems, trains it by GRPO or PPO ([`Algorithm`]) on its own answers, and
//! measures it again. The reward itself is [`savi_judge::self_aligned`]; what stands beside the verifier in its place
//! ([`Beside`]) are the baselines of the paper. This crate knows no tensors and no world: problems come in with their
//! known answers.

mod beside;
mod config;
mod run;

pub use beside::{EfficientReasoning, EntropyMinimisation, O1Pruner};
pub use config::{Algorithm, Beside, Config, ConfigProblem};
pub use run::{Error, Inputs, Trainer, accuracy_efficiency_score, run};
