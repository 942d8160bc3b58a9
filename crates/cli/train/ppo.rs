//! `savi train ppo`: proximal policy optimisation of a model on its own completions.

use savi_engine::Engine;
use savi_judge::rewards::RewardFunction;
use savi_train::{PolicyPrompt, PpoConfig, Rewards, TrainError, TrainIo, TrainSummary};
use serde::{Deserialize, Serialize};

use super::online::{self, Common, Files, auto, f32};
use crate::Global;

/// One complete training.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Recipe {
    /// A Hugging Face directory, a name on the hub, or `builtin:tiny`.
    model: String,
    /// Files of prompts, JSONL or JSON.
    data: Files,
    /// What judges completions.
    #[serde(default)]
    rewards: Vec<RewardFunction>,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    #[serde(default = "auto")]
    device: String,
    /// `f32` or `bf16`.
    #[serde(default = "f32")]
    dtype: String,
    /// Writes the model with the adapter merged as well, to `model` in the run folder. Without an adapter it is always
    /// written.
    #[serde(default)]
    save_merged: bool,
    /// The trainer.
    #[serde(default)]
    ppo: PpoConfig,
}

impl online::Recipe for Recipe {
    const NAME: &'static str = "ppo";

    fn common(&self) -> Common<'_> {
        Common {
            model: &self.model,
            data: &self.data,
            rewards: &self.rewards,
            reward_weights: &self.ppo.reward_weights,
            device: &self.device,
            dtype: &self.dtype,
            save_merged: self.save_merged,
            seed: self.ppo.optim.seed,
            adapter: self.ppo.lora_r > 0,
        }
    }

    fn validate(&self) -> Result<(), TrainError> {
        self.ppo.validate()
    }

    fn train(
        &self,
        engine: &mut Engine,
        prompts: &[PolicyPrompt],
        rewards: &Rewards<'_>,
        io: &TrainIo<'_>,
    ) -> Result<TrainSummary, TrainError> {
        savi_train::ppo(engine, prompts, rewards, &self.ppo, io)
    }
}

pub(super) fn run(args: &online::Args, global: &Global) -> anyhow::Result<()> {
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
        online::validate(&loaded.value).unwrap();
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
                Ok(loaded) => online::validate(&loaded.value).map_err(|e| format!("{e:#}")),
                Err(error) => Err(error.to_string()),
            };
            let message = refused.unwrap_err();
            assert!(message.contains(expected), "{message}");
        }
    }
}
