//! `savi train`: the trainers on their own. Models from scratch are in `recipe`, preferences in `dpo`.

mod dpo;
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
    /// Preference training of an adapter on files of pairs.
    Dpo(dpo::Dpo),
    /// Supervised fine-tuning of a fresh model on a synthetic world.
    Sft(recipe::Sft),
}

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    match args.command {
        Command::Dpo(dpo) => dpo::run(&dpo, global),
        Command::Sft(sft) => recipe::run(&sft, global),
    }
}
