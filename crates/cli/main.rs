//! The `savi` binary: command line, logging, exit codes and printing. Wiring only; no tensor code.
//!
//! stdout carries results, stderr carries logs and progress. Exit status: 0 done, 1 failed,
//! 2 bad usage, config or input, 130 interrupted with state saved.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "the binary is where printing happens"
)]

mod asked;
mod contact_sheet;
mod convert;
mod data;
mod doctor;
mod endpoint;
mod eval;
mod exit;
mod generate;
mod hub;
mod ingest;
mod lessons;
mod model;
mod plan;
mod report;
mod run_args;
mod score;
mod serve;
mod text;
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
#[allow(clippy::large_enum_variant, reason = "there is one command, and it is read once")]
#[derive(Debug, Subcommand)]
enum Command {
    Data(data::Args),
    Doctor(doctor::Args),
    Eval(eval::Args),
    Generate(generate::Args),
    Ingest(ingest::Args),
    Model(model::Args),
    Plan(plan::Args),
    Report(report::Args),
    Score(score::Args),
    Serve(serve::Args),
    Text(text::Args),
    Train(train::Args),
    Video(video::Args),
}

/// Settings of libraries that must stand before they are first used. What the environment says
/// goes before them.
fn set_up_libraries() {
    // Our kernels keep every core busy. Candle's own pool for small operations would spin for
    // work between them: measured on two cores, a tenth of all time.
    if std::env::var_os("CANDLE_NUM_THREADS").is_none() {
        // SAFETY: the program has no other thread yet.
        unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    }
}

/// Keeps freed memory. A step of training frees and takes the same large blocks again and again; giving them
/// back to the system in between made it clear their pages each time, a sixth of all time. Other commands gain
/// nothing by it. What the environment says goes before it.
fn keep_memory() {
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    if std::env::var_os("MIMALLOC_PURGE_DELAY").is_none() {
        // SAFETY: stores one number of the allocator's; -1 stands for never.
        unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, -1) };
    }
}

fn main() -> ExitCode {
    set_up_libraries();
    let cli = Cli::parse();
    if let Err(error) = exit::init_logging(&cli.global.log) {
        return exit::code(Err(error));
    }
    let result = match cli.command {
        Command::Data(args) => data::run(args, &cli.global),
        Command::Doctor(args) => doctor::run(&args, &cli.global),
        Command::Eval(args) => eval::run(args, &cli.global),
        Command::Generate(args) => generate::run(args, &cli.global),
        Command::Ingest(args) => ingest::run(args, &cli.global),
        Command::Model(args) => model::run(args, &cli.global),
        Command::Plan(args) => plan::run(&args, &cli.global),
        Command::Report(args) => report::run(args, &cli.global),
        Command::Score(args) => score::run(args, &cli.global),
        Command::Serve(args) => serve::run(args, &cli.global),
        Command::Text(args) => {
            keep_memory();
            text::run(args, &cli.global)
        }
        Command::Train(args) => {
            keep_memory();
            train::run(args, &cli.global)
        }
        Command::Video(args) => video::run(args, &cli.global),
    };
    exit::code(result)
}
