//! The method's settings.

use savi_judge::rewards::RewardFunction;
use savi_judge::self_aligned::Standalone;
use savi_suites::SolveOptions;
use savi_train::{AlphaScheduler, GrpoConfig, PpoConfig, Scale};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// How the policy learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    /// SA-GRPO: answers of a problem are compared with each other.
    #[default]
    Grpo,
    /// SA-PPO: answers are compared with what a value head expected.
    Ppo,
}

/// What stands beside the verifier, weighted by `alpha`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Beside {
    /// The self-aligned reward.
    #[default]
    SelfAligned,
    /// Nothing: plain GRPO or PPO.
    Nothing,
    /// How much longer an answer is than its group's mean, in the manner of O1-Pruner.
    O1Pruner,
    /// How long a right answer is among the right ones of its group, in the manner of Efficient Reasoning.
    EfficientReasoning,
    /// The mean log-probability of an answer's tokens: minimised entropy.
    EntropyMinimisation,
}

/// The method's settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// How the policy learns.
    pub algorithm: Algorithm,
    /// Who says whether an answer is right, from 0 to 1.
    pub verifier: RewardFunction,
    /// Whether the verifier counts in training; measuring always asks it.
    pub verify: bool,
    /// What stands beside it.
    pub beside: Beside,
    /// The weight of that.
    pub alpha: f64,
    /// How the weight changes over the training.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alpha_scheduler: Option<AlphaScheduler>,
    /// What answers stand after without their query.
    pub standalone: Standalone,
    /// How held-out problems are asked.
    pub exam: SolveOptions,
    /// Resamples of the intervals.
    pub resamples: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::Grpo,
            verifier: RewardFunction::MathMatch { column: None, find: Default::default() },
            verify: true,
            beside: Beside::SelfAligned,
            alpha: 0.2,
            alpha_scheduler: None,
            standalone: Standalone::EmptyQuery,
            exam: SolveOptions::default(),
            resamples: 10_000,
        }
    }
}

/// A setting that cannot be carried out.
#[derive(Debug, Clone, PartialEq, Error)]
#[error("{key}: {reason}")]
pub struct ConfigProblem {
    /// Its key.
    pub key: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

impl Config {
    /// Refuses what cannot be carried out, naming the key.
    pub fn validate(&self) -> Result<(), ConfigProblem> {
        let refuse = |key, reason: &str| Err(ConfigProblem { key, reason: reason.to_owned() });
        if !(self.alpha.is_finite() && self.alpha >= 0.0) {
            return refuse("alpha", "a number from 0 up");
        }
        if !self.verify && self.beside == Beside::Nothing {
            return refuse("verify", "without it and with nothing beside it, nothing is rewarded");
        }
        if self.algorithm == Algorithm::Ppo
            && matches!(self.beside, Beside::O1Pruner | Beside::EfficientReasoning)
        {
            return refuse(
                "beside",
                "lengths are compared within a group, of which PPO draws one answer",
            );
        }
        if self.exam.max_tokens == 0 || self.exam.chunk == 0 {
            return refuse("exam", "max_tokens and chunk: at least 1");
        }
        if self.resamples == 0 {
            return refuse("resamples", "at least 1");
        }
        if let Err(error) = self.verifier.build() {
            return refuse("verifier", &error.to_string());
        }
        let schedule = self.alpha_scheduler.map_or(Ok(()), |alpha| alpha.validate());
        schedule
            .map_err(|error| ConfigProblem { key: "alpha_scheduler", reason: error.to_string() })
    }

    /// GRPO's settings with those of the method.
    pub fn grpo(&self, config: &GrpoConfig) -> Result<GrpoConfig, ConfigProblem> {
        own("grpo", &config.reward_weights, config.alpha_scheduler.as_ref())?;
        let (reward_weights, alpha_scheduler) = (self.weights(), self.scheduler());
        Ok(GrpoConfig { reward_weights, alpha_scheduler, ..config.clone() })
    }

    /// PPO's settings with those of the method.
    pub fn ppo(&self, config: &PpoConfig) -> Result<PpoConfig, ConfigProblem> {
        own("ppo", &config.reward_weights, config.alpha_scheduler.as_ref())?;
        let (reward_weights, alpha_scheduler) = (self.weights(), self.scheduler());
        Ok(PpoConfig { reward_weights, alpha_scheduler, ..config.clone() })
    }

    /// What a user should know of this combination of settings (the derivation is in the paper's sections on
    /// normalisation: with one verdict in a whole group, dividing by the deviation cancels `alpha`).
    pub fn warnings(&self, grpo: &GrpoConfig) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.algorithm == Algorithm::Grpo && self.beside != Beside::Nothing {
            if grpo.scale_rewards == Scale::Group && self.verify {
                warnings.push(
                    "grpo.scale_rewards = \"group\": where all answers of a problem are right, or all wrong, the \
                     advantage does not depend on alpha; \"none\" keeps its scale (frac_zero_std of the verifier \
                     says how many groups that concerns)"
                        .to_owned(),
                );
            }
            if let Some(filter) = &grpo.filter_groups {
                let starved = format!(
                    "grpo.filter_groups.metric = {:?}: groups whose answers are all right are drawn again, and in \
                     them the reward beside the verifier is all there is to learn from",
                    filter.metric
                );
                let idle = format!(
                    "grpo.filter_groups.metric = {:?}: it varies in every group, so nothing is filtered; name the \
                     verifier to filter by accuracy",
                    filter.metric
                );
                let by_verifier = filter.metric == self.verifier.name();
                warnings.push(if by_verifier { starved } else { idle });
            }
        }
        if !self.verify {
            warnings.push(
                "verify = false: without a verifier answers shrink until they say nothing (the paper's ablation: 84 \
                 tokens, accuracy 21 %)"
                    .to_owned(),
            );
        }
        warnings
    }

    fn weights(&self) -> Vec<f64> {
        match (self.verify, self.beside) {
            (true, Beside::Nothing) => vec![1.0],
            (true, _) => vec![1.0, self.alpha],
            (false, _) => vec![self.alpha],
        }
    }

    fn scheduler(&self) -> Option<AlphaScheduler> {
        self.alpha_scheduler.filter(|_| self.beside != Beside::Nothing)
    }
}

/// The method sets these itself.
fn own(
    section: &'static str,
    weights: &[f64],
    scheduler: Option<&AlphaScheduler>,
) -> Result<(), ConfigProblem> {
    if weights.is_empty() && scheduler.is_none() {
        return Ok(());
    }
    let reason = "reward_weights and alpha_scheduler are the method's: say method.alpha".to_owned();
    Err(ConfigProblem { key: section, reason })
}

#[cfg(test)]
mod tests {
    use savi_train::FilterGroups;

    use super::*;

    #[test]
    fn settings_that_make_no_sense_are_named() {
        let refused = |text: &str| {
            let config: Config = toml::from_str(text).unwrap();
            config.validate().unwrap_err().to_string()
        };
        for (text, key) in [
            ("alpha = -1.0", "alpha"),
            ("verify = false\nbeside = 'nothing'", "verify"),
            ("algorithm = 'ppo'\nbeside = 'o1_pruner'", "beside"),
            ("verifier = { func = 'format', pattern = '(' }", "verifier"),
            ("exam = { max_tokens = 0 }", "exam"),
            ("alpha_scheduler = { peak_pos = 2.0 }", "alpha_scheduler"),
        ] {
            assert!(refused(text).starts_with(key), "{}", refused(text));
        }
        assert!(toml::from_str::<Config>("alhpa = 1").is_err());
        let set = GrpoConfig { reward_weights: vec![1.0], ..GrpoConfig::default() };
        assert!(Config::default().grpo(&set).unwrap_err().to_string().contains("grpo"));
    }

    #[test]
    fn combinations_that_surprise_are_told() {
        let config = Config::default();
        let plain = GrpoConfig { scale_rewards: Scale::None, ..GrpoConfig::default() };
        assert!(config.warnings(&plain).is_empty());
        assert!(config.warnings(&GrpoConfig::default())[0].contains("does not depend on alpha"));
        let filter = |metric: &str| GrpoConfig {
            filter_groups: Some(FilterGroups { metric: metric.to_owned(), max_num_gen_batches: 2 }),
            ..plain.clone()
        };
        assert!(config.warnings(&filter("math_match"))[0].contains("all there is to learn from"));
        assert!(config.warnings(&filter("self_aligned"))[0].contains("nothing is filtered"));
        let control = Config { beside: Beside::Nothing, ..Config::default() };
        assert!(control.warnings(&GrpoConfig::default()).is_empty());
        let alone = Config { verify: false, ..Config::default() };
        assert!(alone.warnings(&plain)[0].contains("verify = false"));
    }
}
