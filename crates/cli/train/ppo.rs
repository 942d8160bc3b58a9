//! `savi train ppo`: proximal policy optimisation of a model on its own completions.

use savi_engine::Engine;
use savi_judge::rewards::RewardFunction;
use savi_schema::PromptRecord;
use savi_train::{Plan, PpoConfig, Ranks, Rewards, TrainError, TrainIo, TrainSummary};

use super::common::{Common, recipe};
use super::online::{self, Online, Own};
use crate::Global;
use crate::run_args::RunArgs;

recipe! {
    /// One complete training.
    struct Recipe {
        /// What judges completions.
        #[serde(default)]
        rewards: Vec<RewardFunction>,
        /// The trainer.
        #[serde(default)]
        ppo: PpoConfig,
    }
}

impl Online for Recipe {
    const SECTION: &'static str = "ppo";
    const COMMAND: &'static str = "train ppo";

    fn keys(&self) -> Common<'_> {
        self.common()
    }

    fn own(&self) -> Own<'_> {
        Own {
            rewards: &self.rewards,
            reward_weights: &self.ppo.reward_weights,
            optim: &self.ppo.optim,
            adapter: self.ppo.lora_r > 0,
        }
    }

    fn check(&self, _: &[&str]) -> Result<(), TrainError> {
        self.ppo.validate()
    }

    fn plan(&self, engine: &Engine, prompts: &[PromptRecord]) -> Result<Plan, TrainError> {
        savi_train::plan_ppo(engine, prompts, &self.ppo)
    }

    fn train(
        &self,
        engine: &mut Engine,
        prompts: &[PromptRecord],
        rewards: &Rewards<'_>,
        io: &TrainIo<'_>,
    ) -> Result<TrainSummary, TrainError> {
        savi_train::ppo(engine, prompts, rewards, &self.ppo, io)
    }
}

pub(super) fn run(args: &RunArgs, global: &Global, ranks: &Ranks) -> anyhow::Result<()> {
    online::run::<Recipe>(args, global, ranks)
}

pub(super) fn plan(args: &RunArgs, memory: Option<u64>) -> anyhow::Result<Plan> {
    online::plan::<Recipe>(args, memory)
}

#[cfg(test)]
mod tests {
    use super::super::online::refuses_mistakes;
    use super::*;

    #[test]
    fn the_config_of_the_tree_loads_and_mistakes_are_refused_by_key() {
        refuses_mistakes::<Recipe>();
    }
}
