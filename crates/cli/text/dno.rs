//! `savi text dno`: Direct Nash Optimization.

mod config;
mod inputs;

use anyhow::Context;
use savi_dno::{Inputs, Other, Outcome, Outputs, Reference, Teacher};
use savi_engine::{Engine, EngineOptions};
use savi_run::{Interrupt, Loaded, Metrics};
use savi_schema::{Pair, PromptRecord, SCHEMA_VERSION};
use savi_train::{EngineLearner, Learner, Plan};

use crate::Global;
use crate::exit::{BadInput, Interrupted};
use crate::run_args::RunArgs;
use crate::text::table;
pub(crate) use config::RunConfig;

pub(crate) fn run(args: &RunArgs, global: &Global) -> anyhow::Result<()> {
    let loaded: Loaded<RunConfig> = args.load()?;
    let config = &loaded.value;
    let whose = || format!("config {}", args.config.display());
    config.validate().with_context(whose).map_err(BadInput)?;
    let interrupt = Interrupt::on_signals().context("cannot watch for signals")?;
    let place = (config.device.as_str(), config.dtype.as_str());
    let mut folder = args.open_folder("text dno", &loaded, config.seed, place)?;
    let doing = if folder.resumed() { "continuing" } else { "running" };
    tracing::info!("{doing} in {}", folder.dir().display());
    let sources = inputs::gather(config, &mut folder).map_err(BadInput)?;

    let options = EngineOptions {
        device: config.device.clone(),
        dtype: config.dtype.clone(),
        interrupt: Some(interrupt.flag()),
        ..EngineOptions::default()
    };
    crate::hub::fetch(&config.model)?;
    let (name, engine) = (config.model.clone(), options.clone());
    let load = move || Engine::load(&name, &engine);
    let learner = EngineLearner::new(load, &config.dpo, &config.sft, config.seed)
        .map_err(|error| BadInput(error.into()))?
        .with_rates(&config.method.learning_rates);
    let mut learner = match config.method.reference {
        Reference::Current => learner,
        Reference::Initial => learner.against_base(),
    };
    folder.record_model(&config.model, &learner.generator().fingerprint())?;
    let mut others =
        inputs::Others { folder: &mut folder, interrupt: &interrupt, options: &options };
    let asked = config.teacher.as_ref().and_then(|teacher| teacher.model());
    let teacher = others.open("teacher", asked.as_ref())?;
    let annotator = others.open("annotator", config.annotator.as_ref())?;

    let metrics = Metrics::open(folder.dir())?;
    let outcome = savi_dno::run(
        &config.method,
        &Inputs {
            seed: config.seed,
            prompts: &sources.prompts,
            pairs: &sources.pairs,
            exam: &sources.exam,
            teacher: match (&teacher, &sources.answers) {
                (Some(model), _) => Teacher::Model(model.generate()),
                (None, Some(answers)) => Teacher::Answers(answers),
                (None, None) => Teacher::Nobody,
            },
            annotator: annotator
                .as_ref()
                .map(|model| Other { generate: model.generate(), score: model.score() }),
        },
        &mut learner,
        &Outputs { folder: &folder, metrics: &metrics, interrupt: &interrupt },
    );
    for model in [&teacher, &annotator].into_iter().flatten() {
        model.log_usage();
    }
    let outcome = outcome.map_err(explain)?;
    let report = savi_report::write(folder.dir()).context("report")?;
    tell(&outcome, config, global)?;
    tracing::info!("report: {}", report.display());
    Ok(())
}

/// What the training of the first iteration will take where every prompt makes a pair of answers as long as they may be.
pub(crate) fn plan(args: &RunArgs, memory: Option<u64>) -> anyhow::Result<Plan> {
    let config = args.load::<RunConfig>()?.value;
    let whose = || format!("config {}", args.config.display());
    config.validate().with_context(whose).map_err(BadInput)?;
    let prompts = inputs::prompts(&config).with_context(whose).map_err(BadInput)?;
    let (device, dtype) = (config.device.clone(), config.dtype.clone());
    let options = EngineOptions { device, dtype, ..EngineOptions::default() };
    let (engine, _) = crate::train::look(&config.model, &options, memory)?;
    let method = &config.method;
    let share = prompts.len() / method.iterations.max(1) as usize;
    let each = method.prompts_per_iteration.unwrap_or(share);
    let longest = method.sampling.max_tokens;
    let answer = engine.text().decode(&filler(&engine, longest)?)?;
    let pair = |record: &PromptRecord| Pair {
        schema: SCHEMA_VERSION,
        id: record.id.clone(),
        prompt: record.prompt.clone(),
        chosen: answer.clone(),
        rejected: answer.clone(),
        chosen_score: Some(1.0),
        rejected_score: Some(0.0),
        margin: 0.0,
        provenance: serde_json::Map::new(),
    };
    let pairs: Vec<Pair> = prompts.iter().take(each).map(pair).collect();
    tracing::info!(
        "planned is iteration 1 of {}: {} prompts, at most {} drawn tokens, a pair a prompt",
        method.iterations,
        pairs.len(),
        pairs.len() * method.samples * longest
    );
    savi_train::plan_dpo(&engine, &pairs, &config.dpo)
        .map_err(|error| BadInput(error.into()).into())
}

/// So many tokens of any text.
pub(super) fn filler(engine: &Engine, count: usize) -> anyhow::Result<Vec<u32>> {
    Ok(engine.text().encode(" and")?.into_iter().cycle().take(count).collect())
}

fn tell(outcome: &Outcome, config: &RunConfig, global: &Global) -> anyhow::Result<()> {
    if global.json {
        println!("{}", serde_json::to_string_pretty(outcome)?);
        return Ok(());
    }
    if !outcome.dynamics.is_empty() {
        print!("{}", savi_dno::table(&outcome.dynamics));
    }
    if !outcome.evaluations.is_empty() {
        println!("\nwin_rate: wins against the {}", config.opponent());
        print!("{}", table::render(&outcome.evaluations));
    }
    if let Some(best) = &outcome.best {
        let (iteration, value) = (best.iteration, 100.0 * best.value);
        print!("\nbest iterate: {iteration} ({} {value:.1} %)", best.metric);
        match best.adapters.is_empty() {
            true => println!(", the model as it came"),
            false => {
                println!(", {} merged in this order: {}", config.model, best.adapters.join(", "))
            }
        }
    }
    Ok(())
}

/// Gives an error of the method its exit status.
fn explain(error: savi_dno::Error) -> anyhow::Error {
    match error {
        savi_dno::Error::Interrupted => Interrupted.into(),
        error @ (savi_dno::Error::Prompt(_) | savi_dno::Error::Inputs(_)) => {
            BadInput(error.into()).into()
        }
        error => error.into(),
    }
}
