//! What every run needs whatever it computes: a typed config, a folder that remembers, stages that
//! continue where they were killed, metrics, progress and interruption.
//!
//! Words: a *run folder* belongs to one resolved config; a *stage* turns inputs into records, *unit*
//! by unit (a clip, a shard), and is finished once its records lie ordered under their final name
//! with a done mark holding the stage's key. This crate never looks into a record beyond its id and
//! knows no tensors, no models and no command line.

mod atomic;
mod config;
mod error;
mod evaluations;
mod events;
mod folder;
mod interrupt;
mod key;
mod machine;
mod metrics;
mod progress;
mod provenance;
mod stage;
mod trainer_state;

pub use atomic::{write_atomic, write_json_atomic};
pub use config::{ConfigError, Loaded, load, load_str};
pub use error::RunError;
pub use evaluations::{Evaluation, Slice, read_evaluations, write_evaluations};
pub use folder::{FolderOptions, RunFolder};
pub use interrupt::{Interrupt, Interrupted};
pub use key::Key;
pub use machine::{disk_space, machine_memory, peak_memory, resident_memory};
pub use metrics::Metrics;
pub use progress::{Progress, with_bars_hidden};
pub use provenance::{Manifest, file_hash, working_tree_commit};
pub use stage::{Done, Record, Stage, read_records, stage_name};
pub use trainer_state::TrainerState;
