//! `savi text`: the methods that learn from words.

mod problems;
mod rain;
mod sar;
mod table;

use crate::Global;
use crate::run_args::RunArgs;

/// Methods that learn from words.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

// One line and one file per method.
#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Search with self-evaluation and going back: a frozen model judges what it would say (RAIN).
    Rain(RunArgs),
    /// Self-aligned reward: a verifier, and how much likelier the query makes an answer (SA-GRPO, SA-PPO).
    Sar(RunArgs),
}

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    match args.command {
        Command::Rain(args) => rain::run(&args, global),
        Command::Sar(args) => sar::run(&args, global),
    }
}

#[cfg(test)]
mod tests;
