//! The report of a run: one HTML file that needs nothing but a browser.
//!
//! It is made from the files of the run folder alone: `evaluations.json`, `metrics.jsonl`, the
//! stages with their records and counters, and the thumbnails that were stored beside them. Styles,
//! curves and pictures are inside the file; there is no script and nothing is loaded from anywhere.
//! Everything that a model or a file said is escaped. What a folder does not have is said on the
//! page and is no error. This crate decodes no video and computes on no tensors.

mod answers;
mod cards;
mod chart;
mod completions;
mod error;
mod iterations;
mod load;
mod page;
mod results;
mod stages;
mod thumbnails;
mod words;

use std::path::{Path, PathBuf};

pub use error::ReportError;
pub use thumbnails::store_thumbnails;

/// What was made on the way, for reading.
pub(crate) struct Samples {
    cards: Vec<cards::Card>,
    completions: Vec<completions::CompletionRow>,
    answers: Vec<answers::Answer>,
    /// Parts that single methods add, as HTML.
    parts: Vec<String>,
}

/// What the report shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// Show the records of this decision, question, answer or clip instead of a sample.
    pub record: Option<String>,
}

/// Writes `report.html` into a run folder and gives its path.
pub fn write(run_dir: &Path) -> Result<PathBuf, ReportError> {
    write_with(run_dir, &Options::default())
}

/// The same with options.
pub fn write_with(run_dir: &Path, options: &Options) -> Result<PathBuf, ReportError> {
    let html = render(run_dir, options)?;
    let path = run_dir.join("report.html");
    savi_run::write_atomic(&path, html.as_bytes())?;
    Ok(path)
}

/// The page as text.
pub fn render(run_dir: &Path, options: &Options) -> Result<String, ReportError> {
    let mut run = load::load(run_dir)?;
    let cards = cards::cards(&run, options.record.as_deref())?;
    let results = results::results(&mut run);
    let parts: Vec<String> = iterations::part(&mut run)?.into_iter().collect();
    let charts = chart::training_charts(&run.metrics);
    let stages = stages::stage_tables(&run.stages);
    let completions = completions::completions(&run);
    let answers = answers::answers(&run);
    let samples = Samples { cards, completions, answers, parts };
    page::page(&run, &results, &charts, &stages, &samples)
}
