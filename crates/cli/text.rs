//! `savi text`: the methods that learn from words.

mod dno;
mod problems;
mod rain;
mod sar;
mod self_align;
mod table;

use savi_train::Plan;

use crate::Global;
use crate::exit::BadInput;
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
    /// Direct Nash Optimization: learn to be preferred to what the model was, from its samples and a teacher's answers.
    Dno(RunArgs),
    /// Search with self-evaluation and going back: a frozen model judges what it would say (RAIN).
    Rain(RunArgs),
    /// Self-aligned reward: a verifier, and how much likelier the query makes an answer (SA-GRPO, SA-PPO).
    Sar(RunArgs),
    /// SELF-ALIGN: principles, examples and the model's own answers make a base model an assistant.
    SelfAlign(RunArgs),
}

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    match args.command {
        Command::Dno(args) => dno::run(&args, global),
        Command::Rain(args) => rain::run(&args, global),
        Command::Sar(args) => sar::run(&args, global),
        Command::SelfAlign(args) => self_align::run(&args, global),
    }
}

/// What a run of a config will take: the method is the one whose keys the config has.
pub(crate) fn plan(
    args: &RunArgs,
    table: &toml::Table,
    memory: Option<u64>,
) -> anyhow::Result<Plan> {
    let has = |key: &str| table.contains_key(key);
    if has("grpo") || has("ppo") {
        sar::plan(args, memory)
    } else if has("dpo") && (has("prompts") || has("world")) {
        dno::plan(args, memory)
    } else if has("sft") {
        self_align::plan(args, memory)
    } else {
        let config = args.config.display();
        let message =
            anyhow::anyhow!("config {config}: nothing in it trains, or it is of another wing");
        Err(BadInput(message).into())
    }
}

#[cfg(test)]
mod tests;
