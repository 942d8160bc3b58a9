//! `savi video`: the methods that learn from video.

mod audit;
mod config;
mod inputs;
mod table;

use std::path::{Path, PathBuf};

use anyhow::Context;
use savi_engine::{ClipEmbedder, Engine, EngineOptions};
use savi_run::{FolderOptions, Interrupt, Loaded, Metrics, RunFolder};
use savi_schema::Generate;
use savi_train::{EngineLearner, Learner};
use savi_videosavi::{ClipRecord, ClipSpace, Inputs, Outputs, Served};

use crate::Global;
use crate::exit::{BadInput, Interrupted};
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
    Run(Run),
}

#[derive(Debug, clap::Args)]
struct Run {
    /// The config: one TOML file is one complete run.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Override a key of the config, for example method.rounds=1.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// The run folder [default: runs/NAME, NAME being the config's].
    #[arg(long, value_name = "DIR")]
    run_dir: Option<PathBuf>,
    /// Discard what an earlier run left in the run folder.
    #[arg(long)]
    fresh: bool,
    /// Where to compute: auto, cpu, cuda or cuda:N. Short for --set device=...
    #[arg(long, value_name = "DEVICE")]
    device: Option<String>,
    /// What to compute in: f32 or bf16. Short for --set dtype=...
    #[arg(long, value_name = "DTYPE")]
    dtype: Option<String>,
}

pub(crate) fn run(args: Args, global: &Global) -> anyhow::Result<()> {
    match args.command {
        Command::Run(run) => run_loop(&run, global),
    }
}

fn run_loop(args: &Run, global: &Global) -> anyhow::Result<()> {
    let loaded = load(args)?;
    let config = &loaded.value;
    let interrupt = Interrupt::on_signals().context("cannot watch for signals")?;
    let dir = args.run_dir.clone().unwrap_or_else(|| Path::new("runs").join(&loaded.name));
    let mut folder = open_folder(&dir, args, &loaded)?;
    tracing::info!(
        "{} in {}",
        if folder.resumed() { "continuing" } else { "running" },
        dir.display()
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

fn load(args: &Run) -> anyhow::Result<Loaded<RunConfig>> {
    let mut overrides = args.set.clone();
    for (key, value) in [("device", &args.device), ("dtype", &args.dtype)] {
        overrides.extend(value.iter().map(|value| format!("{key}={value}")));
    }
    let loaded: Loaded<RunConfig> =
        savi_run::load(&args.config, &overrides).map_err(|error| BadInput(error.into()))?;
    loaded
        .value
        .validate()
        .with_context(|| format!("config {}", args.config.display()))
        .map_err(BadInput)?;
    Ok(loaded)
}

fn open_folder(dir: &Path, args: &Run, loaded: &Loaded<RunConfig>) -> anyhow::Result<RunFolder> {
    let options = FolderOptions {
        command: "video run".to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        fresh: args.fresh,
        seed: loaded.value.seed,
        device: loaded.value.device.clone(),
        dtype: loaded.value.dtype.clone(),
    };
    RunFolder::open(dir, &loaded.resolved, &options).map_err(|error| match error.is_bad_input() {
        true => BadInput(error.into()).into(),
        false => error.into(),
    })
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
