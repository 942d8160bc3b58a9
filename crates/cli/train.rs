//! `savi train`: the trainers on their own. Examples in files are learnt in `files`, models from scratch in `recipe`,
//! preferences in `dpo`; what trainings on files have in common is in `common`. What learns from its own completions
//! is in `grpo` and `ppo`.

mod common;
mod dpo;
mod files;
mod grpo;
mod online;
mod ppo;
mod recipe;

pub(crate) use self::dpo::plan as plan_dpo;
use crate::Global;

/// Train a model.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Preference training on files of pairs.
    Dpo(common::FileArgs),
    /// Group-relative policy optimisation: completions of a prompt are compared by rewards.
    Grpo(common::FileArgs),
    /// Proximal policy optimisation: completions by rewards, with a value head.
    Ppo(common::FileArgs),
    /// Supervised fine-tuning on files of examples, or of a fresh model on a synthetic world.
    Sft(common::FileArgs),
}

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    match args.command {
        Command::Dpo(dpo) => dpo::run(&dpo, global),
        Command::Grpo(args) => grpo::run(&args, global),
        Command::Ppo(args) => ppo::run(&args, global),
        Command::Sft(sft) if files::is_meant(&sft) => files::run(&sft, global),
        Command::Sft(sft) => recipe::run(&sft, global),
    }
}
