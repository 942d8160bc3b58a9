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

use savi_train::Plan;

pub(crate) use self::common::{announce, look, mixture};

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

/// What the training of a config will take.
pub(crate) fn plan(
    args: &RunArgs,
    table: &toml::Table,
    memory: Option<u64>,
) -> anyhow::Result<Plan> {
    if table.contains_key("lessons") {
        let message = anyhow::anyhow!(
            "config {}: a model from scratch is not planned, only trainings on files are",
            args.config.display()
        );
        return Err(BadInput(message).into());
    }
    let has = |key| table.contains_key(key);
    match () {
        () if has("grpo") => grpo::plan(args, memory),
        () if has("ppo") => ppo::plan(args, memory),
        () if has("sft") => files::plan(args, memory),
        () => dpo::plan(args, memory),
    }
}
