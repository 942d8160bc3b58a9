//! `savi train ppo`: proximal policy optimisation of a model on its own completions.

use savi_engine::Engine;
use savi_judge::rewards::RewardFunction;
use savi_schema::PromptRecord;
use savi_train::{PpoConfig, Rewards, TrainError, TrainIo, TrainSummary};

use super::common::{Common, FileArgs, recipe};
use super::online::{self, Online, Own};
use crate::Global;

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

    fn check(&self) -> Result<(), TrainError> {
        self.ppo.validate()
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

pub(super) fn run(args: &FileArgs, global: &Global) -> anyhow::Result<()> {
    online::run::<Recipe>(args, global)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn the_config_of_the_tree_loads_and_mistakes_are_refused_by_key() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/train/ppo.toml");
        let loaded = savi_run::load::<Recipe>(&path, &[]).unwrap();
        loaded.value.validate().unwrap();
        // What is saved is what was loaded.
        let saved = toml::to_string(&loaded.resolved).unwrap();
        let again = savi_run::load_str::<Recipe>(&saved, &path, &[]).unwrap();
        assert_eq!(again.value, loaded.value);

        let start = "model = 'm'\ndata = 'p.jsonl'\n";
        for (text, expected) in [
            ("", "rewards: give at least one"),
            ("[[rewards]]\nfunc = 'judge'", "judge"),
            ("[[rewards]]\nfunc = 'format'\npattern = '('", "pattern"),
            ("[[rewards]]\nfunc = 'exact_match'\n[ppo]\ntemperature = 0.0", "temperature = 0"),
            ("[[rewards]]\nfunc = 'exact_match'\n[ppo]\nlora_rank = 3", "lora_r"),
        ] {
            let text = format!("{start}{text}");
            let loaded = savi_run::load_str::<Recipe>(&text, Path::new("x.toml"), &[]);
            let refused = match loaded {
                Ok(loaded) => loaded.value.validate().map_err(|error| format!("{error:#}")),
                Err(error) => Err(error.to_string()),
            };
            let message = refused.unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }
}
