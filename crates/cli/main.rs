//! The `savi` binary: command line, logging, exit codes and printing. Wiring only; no tensor code.
//!
//! stdout carries results, stderr carries logs and progress. Exit status: 0 done, 1 failed,
//! 2 bad usage, config or input, 130 interrupted with state saved.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the binary is where printing happens"
)]

mod contact_sheet;
mod data;
mod eval;
mod eval_compare;
mod exit;
mod ingest;
mod lessons;
mod report;
mod train;
mod video;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Improves video-language models and text models with their own judgement.
#[derive(Debug, Parser)]
#[command(name = "savi", version, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options that every command takes.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Global {
    /// Print machine-readable results on stdout.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// How much to log: error, warn, info, debug, trace, or a `tracing` filter.
    #[arg(long, global = true, default_value = "info", env = "SAVI_LOG")]
    pub(crate) log: String,
}

// One line and one file per command.
#[derive(Debug, Subcommand)]
enum Command {
    Data(data::Args),
    Eval(eval::Args),
    Ingest(ingest::Args),
    Report(report::Args),
    Train(train::Args),
    Video(video::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    exit::init_logging(&cli.global.log);
    let result = match cli.command {
        Command::Data(args) => data::run(args, &cli.global),
        Command::Eval(args) => eval::run(args, &cli.global),
        Command::Ingest(args) => ingest::run(args, &cli.global),
        Command::Report(args) => report::run(args, &cli.global),
        Command::Train(args) => train::run(args, &cli.global),
        Command::Video(args) => video::run(args, &cli.global),
    };
    exit::code(result)
}
