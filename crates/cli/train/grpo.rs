//! `savi train grpo`: group-relative policy optimisation of a model on its own completions.

use savi_engine::Engine;
use savi_judge::rewards::RewardFunction;
use savi_schema::PromptRecord;
use savi_train::{GrpoConfig, Plan, Ranks, Rewards, TrainError, TrainIo, TrainSummary};

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
        grpo: GrpoConfig,
    }
}

impl Online for Recipe {
    const SECTION: &'static str = "grpo";
    const COMMAND: &'static str = "train grpo";

    fn keys(&self) -> Common<'_> {
        self.common()
    }

    fn own(&self) -> Own<'_> {
        Own {
            rewards: &self.rewards,
            reward_weights: &self.grpo.reward_weights,
            optim: &self.grpo.optim,
            adapter: self.grpo.lora_r > 0,
        }
    }

    fn check(&self, rewards: &[&str]) -> Result<(), TrainError> {
        self.grpo.validate()?;
        self.grpo.check_rewards(rewards.iter())
    }

    fn plan(&self, engine: &Engine, prompts: &[PromptRecord]) -> Result<Plan, TrainError> {
        savi_train::plan_grpo(engine, prompts, &self.grpo)
    }

    fn train(
        &self,
        engine: &mut Engine,
        prompts: &[PromptRecord],
        rewards: &Rewards<'_>,
        io: &TrainIo<'_>,
    ) -> Result<TrainSummary, TrainError> {
        savi_train::grpo(engine, prompts, rewards, &self.grpo, io)
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
