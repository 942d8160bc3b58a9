//! What `savi train grpo` and `savi train ppo` share: prompts and rewards in, a run folder out.

use anyhow::{Context, anyhow, ensure};
use savi_data::{PromptFormat, read_prompts};
use savi_engine::Engine;
use savi_judge::rewards::{Ready, RewardFunction};
use savi_run::{Interrupt, Loaded};
use savi_schema::{PromptRecord, Reward};
use savi_train::{OptimConfig, Plan, Ranks, Rewards, TrainError, TrainIo, TrainSummary};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::common::{self, Common, Told};
use crate::Global;
use crate::exit::BadInput;
use crate::run_args::RunArgs;

/// What the two objectives differ in, for the rest of a run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Own<'a> {
    pub(super) rewards: &'a [RewardFunction],
    pub(super) reward_weights: &'a [f64],
    pub(super) optim: &'a OptimConfig,
    /// Whether an adapter is trained, and not the weights themselves.
    pub(super) adapter: bool,
}

/// A complete recipe of a training that draws its own completions.
pub(super) trait Online: DeserializeOwned + Serialize {
    /// The trainer's part of the config.
    const SECTION: &'static str;
    /// The command.
    const COMMAND: &'static str;

    fn keys(&self) -> Common<'_>;

    fn own(&self) -> Own<'_>;

    /// Refuses settings of the trainer that cannot be carried out with rewards of these names.
    fn check(&self, rewards: &[&str]) -> Result<(), TrainError>;

    fn train(
        &self,
        engine: &mut Engine,
        prompts: &[PromptRecord],
        rewards: &Rewards<'_>,
        io: &TrainIo<'_>,
    ) -> Result<TrainSummary, TrainError>;

    /// What the training will take.
    fn plan(&self, engine: &Engine, prompts: &[PromptRecord]) -> Result<Plan, TrainError>;

    /// Refuses what cannot be carried out, naming the key.
    fn validate(&self) -> anyhow::Result<()> {
        let (keys, own) = (self.keys(), self.own());
        keys.validate(Self::SECTION, own.optim)?;
        for source in keys.sources() {
            layout(&keys, source.layout.as_deref())?;
        }
        ensure!(!own.rewards.is_empty(), "rewards: give at least one");
        let rewards = built(own.rewards)?;
        let names: Vec<&str> = rewards.iter().map(|(name, _)| name.as_str()).collect();
        let (weights, count) = (own.reward_weights, own.rewards.len());
        ensure!(
            weights.is_empty() || weights.len() == count,
            "{}: reward_weights = {weights:?}: there has to be one for each of {count} rewards",
            Self::SECTION
        );
        self.check(&names).context(Self::SECTION)
    }
}

fn layout(keys: &Common<'_>, name: Option<&str>) -> anyhow::Result<Option<PromptFormat>> {
    keys.layout(name, &PromptFormat::ALL.map(|format| (format.name(), format)))
}

/// Rewards under their names; where one comes again, with its number.
fn built(functions: &[RewardFunction]) -> anyhow::Result<Vec<(String, Ready)>> {
    let mut all: Vec<(String, Ready)> = Vec::new();
    for function in functions {
        let name = function.name();
        let ready = function.build().with_context(|| format!("rewards: {name}"))?;
        let again = functions.iter().take(all.len()).filter(|other| other.name() == name).count();
        let name = if again > 0 { format!("{name}_{}", again + 1) } else { name.to_owned() };
        all.push((name, ready));
    }
    Ok(all)
}

/// The prompts of all files. Where a reward asks for a known answer, some prompt has to have one.
fn prompts(recipe: &impl Online) -> anyhow::Result<Vec<PromptRecord>> {
    let (keys, own) = (recipe.keys(), recipe.own());
    let (prompts, _) = keys.records("prompts", own.optim.seed, |source| {
        let layout = layout(&keys, source.layout.as_deref())?;
        let place = |record: &mut PromptRecord| keys.place(&mut record.prompt);
        Ok(read_prompts(&source.path, layout, keys.bad_rows, place)?)
    })?;
    for function in own.rewards {
        if !prompts.iter().any(|prompt| function.can_judge(prompt)) {
            let (name, columns) = (function.name(), function.columns().join(" or "));
            return Err(anyhow!("rewards: {name}: no prompt has an answer in a column {columns}"));
        }
    }
    Ok(prompts)
}

pub(super) fn run<R: Online>(args: &RunArgs, global: &Global, ranks: &Ranks) -> anyhow::Result<()> {
    let loaded: Loaded<R> = args.load()?;
    let recipe = &loaded.value;
    let whose = || format!("config {}", args.config.display());
    recipe.validate().with_context(whose).map_err(BadInput)?;
    // Prompts that cannot be read leave no folder behind.
    let prompts = prompts(recipe).map_err(BadInput)?;
    let (keys, own) = (recipe.keys(), recipe.own());
    let functions = built(own.rewards).map_err(BadInput)?;
    let rewards: Vec<(String, &(dyn Reward + Sync))> =
        functions.iter().map(|(name, ready)| (name.clone(), ready as _)).collect();
    let interrupt = Interrupt::on_signals().context("cannot watch for signals")?;
    let mut folder = keys.open_folder(R::COMMAND, args, &loaded, own.optim.seed, ranks)?;
    common::announce(&folder, prompts.len(), "prompts");
    let mut engine = keys.engine(&mut folder, &interrupt, ranks)?;
    let metrics = common::metrics(&folder)?;
    let io = common::io(&folder, &metrics, &interrupt, ranks);
    let summary = recipe
        .train(&mut engine, &prompts, &rewards, &io)
        .map_err(|error| keys.explain(error, R::SECTION))?;
    metrics.write_trainer_state()?;
    let told =
        Told { adapter: own.adapter, steps: summary.steps, count: prompts.len(), what: "prompts" };
    keys.finish(&engine, &folder, told, global)
}

/// What the training of a config will take.
pub(super) fn plan<R: Online>(args: &RunArgs, memory: Option<u64>) -> anyhow::Result<Plan> {
    let recipe = args.load::<R>()?.value;
    let whose = || format!("config {}", args.config.display());
    recipe.validate().with_context(whose).map_err(BadInput)?;
    let prompts = prompts(&recipe).map_err(BadInput)?;
    recipe.keys().plan(R::SECTION, memory, |engine| recipe.plan(engine, &prompts))
}

/// Holds the config of a command to what both have in common.
#[cfg(test)]
pub(super) fn refuses_mistakes<R: Online + PartialEq + std::fmt::Debug>() {
    let section = R::SECTION;
    common::testing::holds(&format!("{section}.toml"), R::validate);
    let judged = "[[rewards]]\nfunc = 'exact_match'";
    let mistakes = [
        (String::new(), "rewards: give at least one"),
        ("[[rewards]]\nfunc = 'judge'".to_owned(), "judge"),
        ("[[rewards]]\nfunc = 'format'\npattern = '('".to_owned(), "pattern"),
        (format!("{judged}\n[{section}]\ntemperature = 0.0"), "temperature = 0"),
        (format!("{judged}\n[{section}]\nlora_rank = 3"), "lora_r"),
    ];
    for (text, expected) in mistakes {
        let text = format!("model = 'm'\ndata = 'p.jsonl'\n{text}");
        common::testing::refuses(R::validate, &[(&text, expected)]);
    }
}
