//! `savi video`: the methods that learn from video.

mod audit;
mod config;
mod inputs;
mod table;

use anyhow::Context;
use savi_engine::{ClipEmbedder, Engine, EngineOptions};
use savi_run::{Interrupt, Loaded, Metrics};
use savi_schema::Generate;
use savi_train::{EngineLearner, Learner};
use savi_videosavi::{ClipRecord, ClipSpace, Inputs, Outputs, Served};

use crate::Global;
use crate::exit::{BadInput, Interrupted};
use crate::run_args::RunArgs;
use config::RunConfig;

/// Methods that learn from video.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Run the VideoSAVi loop of a config, or what of it is not done yet.
    Run(RunArgs),
}

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    match args.command {
        Command::Run(run) => run_loop(&run, global),
    }
}

fn run_loop(args: &RunArgs, global: &Global) -> anyhow::Result<()> {
    let loaded = load(args)?;
    let config = &loaded.value;
    let interrupt = Interrupt::on_signals().context("cannot watch for signals")?;
    let place = (config.device.as_str(), config.dtype.as_str());
    let mut folder = args.open_folder("video run", &loaded, config.seed, place)?;
    tracing::info!(
        "{} in {}",
        if folder.resumed() { "continuing" } else { "running" },
        folder.dir().display()
    );
    let options = EngineOptions {
        device: config.device.clone(),
        dtype: config.dtype.clone(),
        ingest: config.ingest.clone(),
        feature_folder: config.feature_cache.clone(),
        interrupt: Some(interrupt.flag()),
        ..EngineOptions::default()
    };
    crate::hub::fetch(&config.model)?;
    let name = config.model.clone();
    let load = move || Engine::load(&name, &options);
    let mut learner = EngineLearner::new(load, &config.dpo, &config.sft, config.seed)
        .map_err(|error| BadInput(error.into()))?;
    let policy = &learner.engine().processor().policy;
    let policy = config.frames.clone().unwrap_or_else(|| policy.clone());
    folder.record_model(&config.model, &learner.generator().fingerprint())?;

    let inputs::Sources { clips, exam, labelled, world } =
        inputs::gather(config, &policy, &mut folder, &interrupt)?;
    let clip_model = match &config.method.clip_check.model {
        Some(dir) => Some(ClipEmbedder::load(dir).map_err(|error| BadInput(error.into()))?),
        None => None,
    };
    let endpoint = match &config.generation {
        Some(generation) => {
            let mut options = generation.endpoint.clone();
            options.ingest = config.ingest.clone();
            options.frames = policy.clone();
            options.cache.get_or_insert_with(|| folder.path("answers-of-endpoint.jsonl"));
            let endpoint = crate::endpoint::open(options, &interrupt)?;
            let name = format!("{} (endpoint)", endpoint.model());
            folder.record_model(&name, &endpoint.fingerprint())?;
            if generation.draws.iter().any(|draws| draws.is_learnt_from()) {
                tracing::warn!(
                    "pairs are made of what {name} writes: it has to serve the weights of {}, which \
                     cannot be seen from here",
                    config.model
                );
            }
            Some(endpoint)
        }
        None => None,
    };
    let fingerprint = endpoint.as_ref().map(Generate::fingerprint).unwrap_or_default();
    let served = endpoint.as_ref().zip(config.generation.as_ref()).map(|(model, generation)| {
        Served { model, fingerprint: &fingerprint, draws: &generation.draws }
    });
    let served = served.as_ref();
    let frames = |clip: &ClipRecord| inputs::frames(clip, &config.ingest);
    let space = clip_model.as_ref().map(|embed| ClipSpace {
        embed,
        fingerprint: embed.fingerprint(),
        frames: &frames,
    });
    let space = space.as_ref();
    let metrics = Metrics::open(folder.dir())?;
    let evaluations = savi_videosavi::run(
        &config.method,
        &Inputs {
            seed: config.seed,
            clips: &clips,
            labelled: &labelled,
            exam: &exam,
            served,
            space,
        },
        &mut learner,
        &Outputs { folder: &folder, metrics: &metrics, interrupt: &interrupt },
    );
    if let Some(endpoint) = &endpoint {
        crate::endpoint::log_usage(endpoint);
    }
    let evaluations = evaluations.map_err(explain)?;

    // What a world knows about its unlabelled clips is looked at only now that all is learnt.
    if let Some(world) = &world {
        audit::audit(&folder, &config.method, world, &policy, &exam.bootstrap)?;
    }
    inputs::store_thumbnails(folder.dir(), &clips, &config.method, &config.ingest)?;
    let report = savi_report::write(folder.dir()).context("report")?;
    if global.json {
        println!("{}", serde_json::to_string_pretty(&evaluations)?);
    } else {
        print!("{}", table::render(&evaluations));
    }
    tracing::info!("report: {}", report.display());
    Ok(())
}

fn load(args: &RunArgs) -> anyhow::Result<Loaded<RunConfig>> {
    let loaded: Loaded<RunConfig> = args.load()?;
    loaded
        .value
        .validate()
        .with_context(|| format!("config {}", args.config.display()))
        .map_err(BadInput)?;
    Ok(loaded)
}

/// Gives an error of the method its exit status.
fn explain(error: savi_videosavi::Error) -> anyhow::Error {
    match error {
        savi_videosavi::Error::Interrupted => Interrupted.into(),
        error @ (savi_videosavi::Error::Prompt(_) | savi_videosavi::Error::Inputs(_)) => {
            BadInput(error.into()).into()
        }
        error => error.into(),
    }
}
