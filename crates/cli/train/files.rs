//! `savi train sft` on files of demonstrations, with an adapter or all weights.

use anyhow::Context;
use savi_data::{DemonstrationFormat, read_demonstrations};
use savi_run::Interrupt;
use savi_schema::{Demonstration, Taught};
use savi_train::{Plan, Ranks, SftConfig};

use super::common::{self, Told, recipe};
use crate::Global;
use crate::exit::BadInput;
use crate::run_args::RunArgs;

recipe! {
    /// One complete training.
    struct Recipe {
        /// The trainer.
        #[serde(default)]
        sft: SftConfig,
    }
}

impl Recipe {
    /// Refuses what cannot be carried out, naming the key.
    fn validate(&self) -> anyhow::Result<()> {
        self.common().validate("sft", &self.sft.optim)?;
        for source in self.common().sources() {
            self.layout(source.layout.as_deref())?;
        }
        self.sft.validate().context("sft")
    }

    fn layout(&self, name: Option<&str>) -> anyhow::Result<Option<DemonstrationFormat>> {
        let known = DemonstrationFormat::ALL.map(|format| (format.name(), format));
        self.common().layout(name, &known)
    }

    /// The demonstrations of all files, and those held out.
    fn demonstrations(&self) -> anyhow::Result<(Vec<Demonstration>, Vec<Demonstration>)> {
        let common = self.common();
        let place = |read: &mut Demonstration| match &mut read.taught {
            Taught::Turns { turns, .. } => common.place(turns),
            Taught::Branches(all) => all.iter_mut().try_for_each(|turns| common.place(turns)),
            Taught::Text(_) | Taught::Continuation { .. } => Ok(()),
        };
        common.records("examples", self.sft.optim.seed, |source| {
            let layout = self.layout(source.layout.as_deref())?;
            Ok(read_demonstrations(&source.path, layout, common.bad_rows, place)?)
        })
    }
}

/// Whether a config is for files: those of a model from scratch have no data of their own.
pub(super) fn is_meant(args: &RunArgs) -> bool {
    let text = std::fs::read_to_string(&args.config).unwrap_or_default();
    let named = |key: &str| args.set.iter().any(|set| set.starts_with(key));
    let table = toml::from_str::<toml::Table>(&text).unwrap_or_default();
    table.contains_key("data") || named("data=") || table.get("model").is_some_and(|m| m.is_str())
}

pub(super) fn run(args: &RunArgs, global: &Global, ranks: &Ranks) -> anyhow::Result<()> {
    let loaded = args.load::<Recipe>()?;
    let recipe = &loaded.value;
    let whose = || format!("config {}", args.config.display());
    recipe.validate().with_context(whose).map_err(BadInput)?;
    // Records that cannot be read leave no folder behind.
    let (records, held_out) = recipe.demonstrations().map_err(BadInput)?;
    let interrupt = Interrupt::on_signals().context("cannot watch for signals")?;
    let (common, seed) = (recipe.common(), recipe.sft.optim.seed);
    let mut folder = common.open_folder("train sft", args, &loaded, seed, ranks)?;
    common::announce(&folder, records.len(), "examples");
    let mut engine = common.engine(&mut folder, &interrupt, ranks)?;
    let metrics = common::metrics(&folder)?;
    let io = common::io(&folder, &metrics, &interrupt, ranks);
    let summary =
        savi_train::sft_demonstrations(&mut engine, &records, &held_out, &recipe.sft, &io)
            .map_err(|error| common.explain(error, "sft"))?;
    metrics.write_trainer_state()?;
    let adapter = recipe.sft.lora_r > 0;
    let told = Told { adapter, steps: summary.steps, count: records.len(), what: "examples" };
    common.finish(&engine, &folder, told, global)
}

/// What the training of a config will take.
pub(super) fn plan(args: &RunArgs, memory: Option<u64>) -> anyhow::Result<Plan> {
    let recipe = args.load::<Recipe>()?.value;
    let whose = || format!("config {}", args.config.display());
    recipe.validate().with_context(whose).map_err(BadInput)?;
    let (records, _) = recipe.demonstrations().map_err(BadInput)?;
    recipe
        .common()
        .plan("sft", memory, |engine| savi_train::plan_sft(engine, &records, &recipe.sft))
}

#[cfg(test)]
mod tests {
    use super::super::common::testing;
    use super::*;

    #[test]
    fn the_config_of_the_tree_loads() {
        testing::holds("sft.toml", Recipe::validate);
    }
}
