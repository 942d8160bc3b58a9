//! `savi train dpo`: preference training on files of pairs.

use anyhow::Context;
use savi_data::{PairFormat, read_pairs_with};
use savi_run::Interrupt;
use savi_schema::Pair;
use savi_train::{DpoConfig, Plan, Ranks};

use super::common::{self, Told, recipe};
use crate::Global;
use crate::exit::BadInput;
use crate::run_args::RunArgs;

recipe! {
    /// One complete training.
    struct Recipe {
        /// The trainer.
        #[serde(default)]
        dpo: DpoConfig,
    }
}

impl Recipe {
    /// Refuses what cannot be carried out, naming the key.
    fn validate(&self) -> anyhow::Result<()> {
        self.common().validate("dpo", &self.dpo.optim)?;
        for source in self.common().sources() {
            self.layout(source.layout.as_deref())?;
        }
        self.dpo.validate().context("dpo")
    }

    fn layout(&self, name: Option<&str>) -> anyhow::Result<Option<PairFormat>> {
        self.common().layout(name, &PairFormat::ALL.map(|format| (format.name(), format)))
    }

    /// The pairs of all files, and those held out.
    fn pairs(&self) -> anyhow::Result<(Vec<Pair>, Vec<Pair>)> {
        let common = self.common();
        common.records("pairs", self.dpo.optim.seed, |source| {
            let layout = self.layout(source.layout.as_deref())?;
            let place = |pair: &mut Pair| common.place(&mut pair.prompt);
            Ok(read_pairs_with(&source.path, layout, common.bad_rows, place)?)
        })
    }
}

pub(super) fn run(args: &RunArgs, global: &Global, ranks: &Ranks) -> anyhow::Result<()> {
    let loaded = args.load::<Recipe>()?;
    let recipe = &loaded.value;
    let whose = || format!("config {}", args.config.display());
    recipe.validate().with_context(whose).map_err(BadInput)?;
    // Pairs that cannot be read leave no folder behind.
    let (pairs, held_out) = recipe.pairs().map_err(BadInput)?;
    let interrupt = Interrupt::on_signals().context("cannot watch for signals")?;
    let (common, seed) = (recipe.common(), recipe.dpo.optim.seed);
    let mut folder = common.open_folder("train dpo", args, &loaded, seed, ranks)?;
    common::announce(&folder, pairs.len(), "pairs");
    let mut engine = common.engine(&mut folder, &interrupt, ranks)?;
    let metrics = common::metrics(&folder)?;
    let io = common::io(&folder, &metrics, &interrupt, ranks);
    let summary = savi_train::dpo_evaluated(&mut engine, &pairs, &held_out, &recipe.dpo, &io)
        .map_err(|error| common.explain(error, "dpo"))?;
    metrics.write_trainer_state()?;
    let adapter = recipe.dpo.lora_r > 0;
    let told = Told { adapter, steps: summary.steps, count: pairs.len(), what: "pairs" };
    common.finish(&engine, &folder, told, global)
}

/// What the training of a config will take.
pub(super) fn plan(args: &RunArgs, memory: Option<u64>) -> anyhow::Result<Plan> {
    let recipe = args.load::<Recipe>()?.value;
    let whose = || format!("config {}", args.config.display());
    recipe.validate().with_context(whose).map_err(BadInput)?;
    let (pairs, _) = recipe.pairs().map_err(BadInput)?;
    recipe.common().plan("dpo", memory, |engine| savi_train::plan_dpo(engine, &pairs, &recipe.dpo))
}

#[cfg(test)]
mod tests {
    use super::super::common::testing;
    use super::*;

    #[test]
    fn the_config_of_the_tree_loads_and_mistakes_are_refused_by_key() {
        testing::holds("dpo.toml", Recipe::validate);
        let mistakes = [
            ("model = 'm'", "missing field `data`"),
            ("model = 'm'\ndata = 3", "a list of paths and tables"),
            ("model = 'm'\ndata = []", "data"),
            ("model = 'm'\ndata = 'p.jsonl'\nlayout = 'csv'", "llava-hound"),
            ("model = 'm'\ndata = 'p.jsonl'\nmodle = 'x'", "did you mean `model`?"),
            ("model = 'm'\ndata = 'p.jsonl'\ndpo.loss_type = 'inpo'", "loss_type = inpo"),
            ("model = 'm'\ndata = 'p.jsonl'\ndpo.loss_tipe = 'ipo'", "`loss_type`?"),
        ];
        testing::refuses(Recipe::validate, &mistakes);
    }
}
