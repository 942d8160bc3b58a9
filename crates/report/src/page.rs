//! From the parts to the page.

use minijinja::{Environment, context};
use savi_run::Manifest;

use crate::chart::Chart;
use crate::load::Run;
use crate::results::SuiteTable;
use crate::stages::RoundStages;
use crate::{ReportError, Samples};

/// Fills the template. Its name ends in `.html`, so minijinja escapes every value. The only values
/// marked safe are what this crate makes itself: the style, the curves, the base64 of pictures, parts of methods.
pub(crate) fn page(
    run: &Run,
    suites: &[SuiteTable],
    charts: &[Chart],
    stages: &[RoundStages],
    samples: &Samples,
) -> Result<String, ReportError> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_undefined_behavior(minijinja::UndefinedBehavior::Strict);
    environment.add_template("report.html", include_str!("report.html"))?;
    let page = environment.get_template("report.html")?.render(context! {
        style => include_str!("report.css"),
        name => run.name(),
        facts => run.manifest.as_ref().map(facts).unwrap_or_default(),
        models => run.manifest.as_ref().map(|manifest| &manifest.models),
        config => run.config,
        notes => run.notes,
        suites,
        charts,
        stages,
        cards => samples.cards,
        completions => samples.completions,
        answers => samples.answers,
        parts => samples.parts,
    })?;
    Ok(page)
}

/// What the run was made with, as pairs of words.
fn facts(manifest: &Manifest) -> Vec<(&'static str, String)> {
    let commit = manifest.working_tree_commit.as_deref().unwrap_or_default();
    [
        ("command", format!("savi {}", manifest.command)),
        ("version", manifest.version.clone()),
        ("commit", commit.chars().take(12).collect()),
        ("seed", manifest.seed.to_string()),
        ("device", manifest.device.clone()),
        ("dtype", manifest.dtype.clone()),
        ("platform", manifest.platform.clone()),
    ]
    .into_iter()
    .filter(|(_, value)| !value.is_empty())
    .collect()
}
