//! `savi report`: the page of a run.

use std::path::PathBuf;

use anyhow::Context;
use savi_report::{Options, ReportError};
use serde_json::json;

use crate::Global;
use crate::exit::BadInput;

/// Write the report of a run: one HTML file that needs nothing else.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The run folder.
    run_dir: PathBuf,
    /// Show the records of this clip, question, answer or decision instead of a sample.
    #[arg(long, value_name = "ID")]
    record: Option<String>,
}

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    let path = match savi_report::write_with(&args.run_dir, &Options { record: args.record }) {
        Ok(path) => path,
        Err(error @ (ReportError::NotARun(_) | ReportError::NoSuchRecord(_))) => {
            return Err(BadInput(error.into()).into());
        }
        Err(error) => return Err(error).context("the report could not be written"),
    };
    if global.json {
        println!("{}", json!({ "report": path }));
    } else {
        println!("{}", path.display());
    }
    Ok(())
}
