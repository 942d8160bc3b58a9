//! `savi text sar`: the self-aligned reward.

use anyhow::{Context, anyhow, ensure};
use savi_engine::{Engine, EngineOptions, StoredDType};
use savi_run::{Interrupt, Metrics};
use savi_sar::{Algorithm, Config, Error, Inputs, Trainer};
use savi_schema::{Generate, PromptRecord};
use savi_train::{GrpoConfig, Plan, PpoConfig, Ranks, TrainError, TrainIo};
use serde::{Deserialize, Serialize};

use super::problems::{Files, Wording, World};
use super::table;
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
    /// A Hugging Face directory, a name on the hub, a GGUF file, or a built-in model.
    pub(crate) model: String,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    #[serde(default = "crate::run_args::auto")]
    pub(crate) device: String,
    /// `f32` or `bf16`.
    #[serde(default = "crate::run_args::f32")]
    pub(crate) dtype: String,
    /// Problems to learn from, in files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) prompts: Option<Files>,
    /// Problems to measure by, in files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) held_out: Option<Files>,
    /// A synthetic world in place of files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) world: Option<World>,
    /// What is said with every prompt.
    #[serde(default)]
    pub(crate) wording: Wording,
    /// The method.
    #[serde(default)]
    pub(crate) method: Config,
    /// The trainer of `method.algorithm = "grpo"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) grpo: Option<GrpoConfig>,
    /// The trainer of `method.algorithm = "ppo"`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ppo: Option<PpoConfig>,
}

impl RunConfig {
    /// Refuses what cannot be carried out, naming the key.
    pub(crate) fn validate(&self) -> anyhow::Result<()> {
        match (&self.world, &self.prompts) {
            (Some(world), None) => {
                ensure!(self.held_out.is_none(), "held_out and world exclude each other");
                world.validate()?;
                ensure!(world.train > 0, "world.train: at least 1");
            }
            (None, Some(prompts)) => {
                prompts.validate("prompts")?;
                self.held_out.as_ref().map_or(Ok(()), |files| files.validate("held_out"))?;
            }
            _ => {
                return Err(anyhow!("give problems to learn from: [prompts] or [world], not both"));
            }
        }
        self.method.validate().map_err(|problem| anyhow!("method.{problem}"))?;
        let verifier = self.method.verifier.name().to_owned();
        match self.method.algorithm {
            Algorithm::Grpo => {
                ensure!(self.ppo.is_none(), "ppo is not read with method.algorithm = \"grpo\"");
                let grpo = self.grpo.clone().unwrap_or_default();
                self.method.grpo(&grpo)?.validate().context("grpo")?;
                let names = [verifier, "self_aligned".to_owned()];
                grpo.check_rewards(names.iter()).context("grpo")
            }
            Algorithm::Ppo => {
                ensure!(self.grpo.is_none(), "grpo is not read with method.algorithm = \"ppo\"");
                let ppo = self.ppo.clone().unwrap_or_default();
                Ok(self.method.ppo(&ppo)?.validate().context("ppo")?)
            }
        }
    }

    /// Problems to learn from, those to measure by, and what these are called.
    fn problems(&self) -> anyhow::Result<(Vec<PromptRecord>, Vec<PromptRecord>, String)> {
        let (mut prompts, mut held_out, suite) = match (&self.world, &self.prompts) {
            (Some(world), _) => {
                let (prompts, held_out) = world.problems();
                (prompts, held_out, world.name.clone())
            }
            (None, Some(files)) => {
                let held_out = self.held_out.as_ref().map(|files| files.read(self.seed));
                (
                    files.read(self.seed)?,
                    held_out.transpose()?.unwrap_or_default(),
                    "held-out".to_owned(),
                )
            }
            (None, None) => return Err(anyhow!("there are no problems")),
        };
        for prompt in prompts.iter().chain(&held_out) {
            ensure!(
                self.method.verifier.can_judge(prompt),
                "problem {}: no answer in a column {}",
                prompt.id,
                self.method.verifier.columns().join(" or ")
            );
        }
        self.wording.apply(&mut prompts);
        self.wording.apply(&mut held_out);
        Ok((prompts, held_out, suite))
    }

    /// Whether an adapter is trained, and not the weights themselves.
    fn adapter(&self) -> bool {
        match self.method.algorithm {
            Algorithm::Grpo => self.grpo.as_ref().is_none_or(|grpo| grpo.lora_r > 0),
            Algorithm::Ppo => self.ppo.as_ref().is_none_or(|ppo| ppo.lora_r > 0),
        }
    }
}

pub(crate) fn run(args: &RunArgs, global: &Global) -> anyhow::Result<()> {
    let loaded = args.load::<RunConfig>()?;
    let config = &loaded.value;
    let whose = || format!("config {}", args.config.display());
    config.validate().with_context(whose).map_err(BadInput)?;
    // Problems that cannot be read leave no folder behind.
    let (prompts, held_out, suite) = config.problems().with_context(whose).map_err(BadInput)?;
    let interrupt = Interrupt::on_signals().context("cannot watch for signals")?;
    let place = (config.device.as_str(), config.dtype.as_str());
    let mut folder = args.open_folder("text sar", &loaded, config.seed, place)?;
    crate::train::announce(&folder, prompts.len(), "problems");
    crate::hub::fetch(&config.model)?;
    let options = EngineOptions {
        device: config.device.clone(),
        dtype: config.dtype.clone(),
        interrupt: Some(interrupt.flag()),
        ..EngineOptions::default()
    };
    let mut engine = Engine::load(&config.model, &options).map_err(|e| BadInput(e.into()))?;
    folder.record_model(&config.model, &engine.fingerprint())?;
    for files in config.prompts.iter().chain(&config.held_out) {
        for (name, hash) in files.hashes()? {
            folder.record_input(&name, &hash)?;
        }
    }
    let metrics = Metrics::open(folder.dir())?;
    let ranks = Ranks::alone();
    let io = TrainIo { dir: folder.dir(), metrics: &metrics, interrupt: &interrupt, ranks };
    let (mut grpo, mut ppo) =
        (config.grpo.clone().unwrap_or_default(), config.ppo.clone().unwrap_or_default());
    for seed in [&mut grpo.optim.seed, &mut ppo.optim.seed] {
        *seed = seed.wrapping_add(config.seed);
    }
    let trainer = match config.method.algorithm {
        Algorithm::Grpo => Trainer::Grpo(&grpo),
        Algorithm::Ppo => Trainer::Ppo(&ppo),
    };
    let inputs =
        Inputs { seed: config.seed, prompts: &prompts, held_out: &held_out, suite: &suite };
    let evaluations = savi_sar::run(&config.method, trainer, &inputs, &mut engine, &folder, &io)
        .map_err(explain)?;
    let model = folder.path("model");
    if !config.adapter() && !model.exists() {
        let dtype = if config.dtype == "bf16" { StoredDType::BF16 } else { StoredDType::F32 };
        engine.save(&model, dtype)?;
    }
    let report = savi_report::write(folder.dir()).context("report")?;
    match global.json {
        true => println!("{}", serde_json::to_string_pretty(&evaluations)?),
        false => print!("{}", table::render(&evaluations)),
    }
    tracing::info!("report: {}", report.display());
    Ok(())
}

/// What the training of a config will take.
pub(crate) fn plan(args: &RunArgs, memory: Option<u64>) -> anyhow::Result<Plan> {
    let config = args.load::<RunConfig>()?.value;
    let whose = || format!("config {}", args.config.display());
    config.validate().with_context(whose).map_err(BadInput)?;
    let (prompts, ..) = config.problems().with_context(whose).map_err(BadInput)?;
    let (device, dtype) = (config.device.clone(), config.dtype.clone());
    let options = EngineOptions { device, dtype, ..EngineOptions::default() };
    let (engine, _) = crate::train::look(&config.model, &options, memory)?;
    let plan = match config.method.algorithm {
        Algorithm::Grpo => {
            let grpo = config.grpo.clone().unwrap_or_default();
            savi_train::plan_grpo(&engine, &prompts, &config.method.grpo(&grpo)?)
        }
        Algorithm::Ppo => {
            let ppo = config.ppo.clone().unwrap_or_default();
            savi_train::plan_ppo(&engine, &prompts, &config.method.ppo(&ppo)?)
        }
    };
    plan.map_err(|error| explain(Error::Train(error)))
}

/// Gives an error of the method its exit status.
fn explain(error: Error) -> anyhow::Error {
    match error {
        Error::Interrupted => Interrupted.into(),
        error @ (Error::Config(_)
        | Error::Train(TrainError::Setting { .. } | TrainError::Record { .. })) => {
            BadInput(error.into()).into()
        }
        error => error.into(),
    }
}
