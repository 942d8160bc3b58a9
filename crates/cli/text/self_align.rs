//! `savi text self-align`: principles, examples and the model's own answers.

use std::fmt::Write;

use anyhow::Context;
use savi_engine::{Engine, EngineOptions};
use savi_run::{Interrupt, Metrics};
use savi_schema::{Demonstration, GenerateError, Taught};
use savi_self_align::{Config, Error, Inputs, Outputs, Summary};
use savi_train::{DpoConfig, EngineLearner, Learner, Plan, SftConfig};
use serde::{Deserialize, Serialize};

use crate::Global;
use crate::exit::{BadInput, Interrupted};
use crate::run_args::RunArgs;

/// One complete run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunConfig {
    /// Seed of everything that is random.
    #[serde(default)]
    pub(crate) seed: u64,
    /// The base: a Hugging Face directory, a name on the hub, a GGUF file, or a built-in model.
    pub(crate) model: String,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    #[serde(default = "crate::run_args::auto")]
    pub(crate) device: String,
    /// `f32` or `bf16`.
    #[serde(default = "crate::run_args::f32")]
    pub(crate) dtype: String,
    /// The method.
    #[serde(default)]
    pub(crate) method: Config,
    /// How the engraved model and the student are trained.
    #[serde(default)]
    pub(crate) sft: SftConfig,
}

impl RunConfig {
    /// Refuses what cannot be carried out, naming the key.
    pub(crate) fn validate(&self) -> anyhow::Result<()> {
        self.method.validate().map_err(|problem| anyhow::anyhow!("method.{problem}"))?;
        self.sft.validate().context("sft")
    }
}

pub(crate) fn run(args: &RunArgs, global: &Global) -> anyhow::Result<()> {
    let loaded = args.load::<RunConfig>()?;
    let config = &loaded.value;
    let whose = || format!("config {}", args.config.display());
    config.validate().with_context(whose).map_err(BadInput)?;
    // Files that cannot be read leave no folder behind.
    savi_self_align::check(&config.method).with_context(whose).map_err(BadInput)?;
    let interrupt = Interrupt::on_signals().context("cannot watch for signals")?;
    let place = (config.device.as_str(), config.dtype.as_str());
    let mut folder = args.open_folder("text self-align", &loaded, config.seed, place)?;
    let verb = if folder.resumed() { "continuing" } else { "running" };
    tracing::info!("{verb} in {}", folder.dir().display());
    crate::hub::fetch(&config.model)?;
    let options = EngineOptions {
        device: config.device.clone(),
        dtype: config.dtype.clone(),
        interrupt: Some(interrupt.flag()),
        ..EngineOptions::default()
    };
    let name = config.model.clone();
    let load = move || Engine::load(&name, &options);
    let mut learner = EngineLearner::new(load, &DpoConfig::default(), &config.sft, config.seed)
        .map_err(|error| BadInput(error.into()))?;
    folder.record_model(&config.model, &learner.generator().fingerprint())?;
    let metrics = Metrics::open(folder.dir())?;
    let bans = first_tokens(learner.engine(), &config.method.align.banned_starts)?;
    let first_token = |word: &str| -> Result<Option<u32>, GenerateError> {
        Ok(bans.iter().find(|(known, _)| known == word).and_then(|(_, token)| *token))
    };
    let inputs = Inputs { seed: config.seed, first_token: &first_token };
    let outputs = Outputs { folder: &folder, metrics: &metrics, interrupt: &interrupt };
    let summary =
        savi_self_align::run(&config.method, &inputs, &mut learner, &outputs).map_err(explain)?;
    let report = savi_report::write(folder.dir()).context("report")?;
    match global.json {
        true => println!("{}", serde_json::to_string_pretty(&summary)?),
        false => print!("{}", table(&summary)),
    }
    tracing::info!("report: {}", report.display());
    Ok(())
}

/// The most rows that a plan is made from; where more may come, their figures are scaled.
const PLANNED_ROWS: usize = 1000;

/// What engraving will take where as many tasks are kept as are wanted and every answer is as long as it may be.
pub(crate) fn plan(args: &RunArgs, memory: Option<u64>) -> anyhow::Result<Plan> {
    let config = args.load::<RunConfig>()?.value;
    let whose = || format!("config {}", args.config.display());
    config.validate().with_context(whose).map_err(BadInput)?;
    savi_self_align::check(&config.method).with_context(whose).map_err(BadInput)?;
    let (device, dtype) = (config.device.clone(), config.dtype.clone());
    let options = EngineOptions { device, dtype, ..EngineOptions::default() };
    let (engine, _) = crate::train::look(&config.model, &options, memory)?;
    let method = &config.method;
    let rows = (method.self_instruct.groups * method.self_instruct.target).max(1);
    let longest = method.align.sampling.max_tokens;
    let completion = engine.text().decode(&super::dno::filler(&engine, longest)?)?;
    // A prompt of engraving is the standard one with a query of two lines.
    let prompt = engine.text().decode(&super::dno::filler(&engine, 128)?)?;
    let row = |number: usize| Demonstration {
        id: format!("{number:07}"),
        taught: Taught::Continuation {
            prompt: prompt.clone(),
            completion: completion.clone(),
            open: true,
        },
        weight: 1.0,
    };
    let shown: Vec<Demonstration> = (0..rows.min(PLANNED_ROWS)).map(row).collect();
    tracing::info!("planned is engraving: at most {rows} rows, prompts of 128 tokens");
    let plan = savi_train::plan_sft(&engine, &shown, &config.sft);
    let plan = plan.map_err(|error| BadInput(error.into()))?;
    let scale = rows as f64 / shown.len() as f64;
    let scaled = |count: u64| (count as f64 * scale).round() as u64;
    let steps = config.sft.optim.total_steps(rows);
    let longer = steps as f64 / plan.steps.max(1) as f64;
    Ok(Plan {
        records: rows,
        steps,
        epochs: plan.epochs * longer / scale,
        tokens_per_epoch: scaled(plan.tokens_per_epoch),
        tokens: (plan.tokens as f64 * longer).round() as u64,
        seconds: plan.seconds * longer,
        ..plan
    })
}

/// The first token of each word as it begins a text.
fn first_tokens(engine: &Engine, words: &[String]) -> anyhow::Result<Vec<(String, Option<u32>)>> {
    words
        .iter()
        .map(|word| Ok((word.clone(), engine.text().encode(word)?.first().copied())))
        .collect()
}

/// What every stage made and used, and why the rest was left out.
fn table(summary: &Summary) -> String {
    let mut text = format!("{:<15} {:>8} {:>8}  left out\n", "stage", "made", "used");
    for (stage, counters) in &summary.stages {
        let figure = |name: &str| counters.get(name).copied().unwrap_or_default();
        let mut dropped: Vec<(&str, u64)> = counters
            .iter()
            .filter_map(|(name, count)| Some((name.strip_prefix("dropped/")?, *count)))
            .collect();
        dropped.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        let dropped: Vec<String> =
            dropped.into_iter().map(|(name, count)| format!("{name} {count}")).collect();
        // Writing to a string does not fail.
        let _ = writeln!(
            text,
            "{stage:<15} {:>8} {:>8}  {}",
            figure("made"),
            figure("used"),
            if dropped.is_empty() { "-".to_owned() } else { dropped.join(", ") }
        );
    }
    for (lesson, steps) in &summary.steps {
        let _ = writeln!(text, "{lesson}: learnt in {steps} steps");
    }
    text
}

/// Gives an error of the method its exit status.
fn explain(error: Error) -> anyhow::Error {
    match error {
        Error::Interrupted => Interrupted.into(),
        error if error.is_bad_input() => BadInput(error.into()).into(),
        error => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_every_stage_and_reason() {
        let counters = |pairs: &[(&str, u64)]| {
            pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
        };
        let tasks =
            counters(&[("made", 9), ("used", 4), ("dropped/short", 2), ("dropped/similar", 3)]);
        let stages =
            vec![("self-instruct", tasks), ("align", counters(&[("made", 4), ("used", 4)]))];
        let text = table(&Summary { stages, steps: vec![("engrave", 7)] });
        let expected = "stage               made     used  left out\n\
                        self-instruct          9        4  similar 3, short 2\n\
                        align                  4        4  -\n\
                        engrave: learnt in 7 steps\n";
        assert_eq!(text, expected);
    }
}
