//! `savi train`: the trainers on their own. Models from scratch are in `recipe`, preferences in `dpo`, what learns
//! from its own completions in `grpo` and `ppo`.

mod dpo;
mod grpo;
mod online;
mod ppo;
mod prompts;
mod recipe;

use crate::Global;

/// Train a model.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Preference training of an adapter on files of pairs.
    Dpo(dpo::Dpo),
    /// Group-relative policy optimisation: completions of a prompt are compared by rewards.
    Grpo(online::Args),
    /// Proximal policy optimisation: completions by rewards, with a value head.
    Ppo(online::Args),
    /// Supervised fine-tuning of a fresh model on a synthetic world.
    Sft(recipe::Sft),
}

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    match args.command {
        Command::Dpo(dpo) => dpo::run(&dpo, global),
        Command::Grpo(args) => grpo::run(&args, global),
        Command::Ppo(args) => ppo::run(&args, global),
        Command::Sft(sft) => recipe::run(&sft, global),
    }
}
