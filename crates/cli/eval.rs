//! `savi eval`: asks a suite's questions, scores what was said, and compares what came of it.

mod args;
mod bench;
mod compare;
mod config;
mod finish;
mod judge;
mod look;
mod merge;
mod run;
mod table;
mod tested;
mod worlds;

use crate::Global;

/// Ask a suite's questions, and compare results.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Ask a model the questions of a suite; started again, it continues where it was.
    Run(Box<args::Args>),
    /// Read stored replies again, by other rules or another seed, and write the results anew.
    Score(finish::Args),
    /// Let a model judge stored replies that no rule can hold against an answer.
    Judge(Box<judge::Args>),
    /// Put the shards of a run together; the files are those of a run without shards.
    Merge(merge::Args),
    /// Paired differences between results, with intervals clustered by clip and seed.
    Compare(compare::Args),
    /// The suites: what they ask, where they come from, how they are scored.
    List(look::List),
    /// Read a suite's files without asking anybody: how many items, of what, and are they the published ones.
    Check(look::Check),
}

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    match args.command {
        Command::Run(args) => run::run(&args, global),
        Command::Score(args) => finish::run(&args, global),
        Command::Judge(args) => judge::run(&args, global),
        Command::Merge(args) => merge::run(&args, global),
        Command::Compare(args) => compare::run(&args, global),
        Command::List(args) => look::list(&args, global),
        Command::Check(args) => look::check(&args, global),
    }
}
