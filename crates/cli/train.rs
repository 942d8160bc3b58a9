//! `savi train`: the trainers on their own. Examples in files are learnt in `files`, models from scratch in `recipe`,
//! preferences in `dpo`; what trainings on files have in common is in `common`. What learns from its own completions
//! is in `grpo` and `ppo`, and several processes that train together in `ranks`.

mod common;
mod dpo;
mod files;
mod grpo;
mod online;
mod ppo;
mod ranks;
mod recipe;

use std::path::Path;

use savi_train::Plan;

pub(crate) use self::common::{announce, mixture};

use crate::Global;
use crate::exit::BadInput;
use crate::run_args::RunArgs;

/// Train a model.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Preference training on files of pairs.
    Dpo(RunArgs),
    /// Group-relative policy optimisation: completions of a prompt are compared by rewards.
    Grpo(RunArgs),
    /// Proximal policy optimisation: completions by rewards, with a value head.
    Ppo(RunArgs),
    /// Supervised fine-tuning on files of examples, or of a fresh model on a synthetic world.
    Sft(RunArgs),
}

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    ranks::together(|ranks| match args.command {
        Command::Dpo(dpo) => dpo::run(&dpo, global, ranks),
        Command::Grpo(args) => grpo::run(&args, global, ranks),
        Command::Ppo(args) => ppo::run(&args, global, ranks),
        Command::Sft(sft) if files::is_meant(&sft) => files::run(&sft, global, ranks),
        Command::Sft(sft) => recipe::run(&sft, global, ranks),
    })
}

/// What the training of a config will take: of pairs, or of examples in files.
pub(crate) fn plan(config: &Path, set: &[String], memory: Option<u64>) -> anyhow::Result<Plan> {
    let args = RunArgs { config: config.to_owned(), set: set.to_owned(), ..Default::default() };
    let text = std::fs::read_to_string(config).unwrap_or_default();
    let table = toml::from_str::<toml::Table>(&text).unwrap_or_default();
    let other = ["grpo", "ppo"].into_iter().find(|key| table.contains_key(*key));
    let other = other.or_else(|| table.contains_key("lessons").then_some("a model from scratch"));
    if let Some(other) = other {
        let message = anyhow::anyhow!(
            "config {}: {other}: only trainings of dpo and sft on files are planned",
            config.display()
        );
        return Err(BadInput(message).into());
    }
    if table.contains_key("sft") { files::plan(&args, memory) } else { dpo::plan(&args, memory) }
}
