//! Completions that a policy is trained on, with what they are worth.

use savi_engine::Engine;
use savi_objectives::policy::{RewardTable, grpo};
use savi_schema::{Completion, FinishReason, Generate, Message, Request, Reward};
use serde::{Deserialize, Serialize};

use super::{GrpoConfig, PolicyPrompt};
use crate::TrainError;
use crate::pack::{Branch, Tree};

/// The completions of one prompt.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Group {
    /// Index of the prompt.
    pub(super) prompt: usize,
    pub(super) completions: Vec<Completion>,
    /// One for each completion.
    pub(super) advantages: Vec<f64>,
    /// Whether each completion is learnt from.
    pub(super) counts: Vec<bool>,
    /// Rewards of each completion, function by function; `None` where it gave none.
    pub(super) rewards: Vec<Vec<Option<f64>>>,
}

/// One generation: what several steps may learn from.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Rollout {
    /// Its number, from 0.
    pub(super) generation: u64,
    pub(super) groups: Vec<Group>,
}

impl Rollout {
    /// Samples and judges completions of these prompts with the weights as they are.
    pub(super) fn draw(
        engine: &Engine,
        prompts: &[PolicyPrompt],
        chosen: &[usize],
        generation: u64,
        rewards: &[(String, &dyn Reward)],
        config: &GrpoConfig,
    ) -> Result<Self, TrainError> {
        let count = config.num_generations;
        let seed = rand::Rng::random(&mut savi_nn::rng::stream(
            config.optim.seed,
            &["rollout", &generation.to_string()],
        ));
        let requests: Vec<Request> = chosen
            .iter()
            .enumerate()
            .map(|(at, &prompt)| Request {
                // A prompt may come twice where an epoch ends: its completions have streams of their own.
                id: format!("{}#{at}", prompts[prompt].id),
                messages: prompts[prompt].messages.clone(),
                raw: None,
                samplings: vec![config.sampling(); count],
                seed,
            })
            .collect();
        let drawn = engine.generate(&requests)?;
        let mut groups: Vec<Group> = Vec::with_capacity(chosen.len());
        for (&prompt, completions) in chosen.iter().zip(drawn) {
            let mut by_completion = vec![Vec::with_capacity(rewards.len()); completions.len()];
            for (name, reward) in rewards {
                let verdicts = reward.judge(&prompts[prompt].messages, &completions)?;
                if verdicts.len() != completions.len() {
                    return Err(TrainError::Record {
                        id: prompts[prompt].id.clone(),
                        reason: format!(
                            "the reward {name} gave {} verdicts on {} completions",
                            verdicts.len(),
                            completions.len()
                        ),
                    });
                }
                for (row, verdict) in by_completion.iter_mut().zip(verdicts) {
                    row.push(verdict.map(|verdict| verdict.score));
                }
            }
            let cut: Vec<bool> =
                completions.iter().map(|c| c.finish_reason == FinishReason::Length).collect();
            let counts = match config.mask_truncated_completions {
                true => cut.iter().map(|cut| !cut).collect(),
                false => vec![true; cut.len()],
            };
            groups.push(Group {
                prompt,
                completions,
                advantages: Vec::new(),
                counts,
                rewards: by_completion,
            });
        }
        let values: Vec<Option<f64>> =
            groups.iter().flat_map(|group| group.rewards.iter().flatten().copied()).collect();
        let of: Vec<u32> = (0..groups.len() as u32).flat_map(|g| vec![g; count]).collect();
        let equal = vec![1.0; rewards.len()];
        let weights =
            if config.reward_weights.is_empty() { &equal } else { &config.reward_weights };
        let table = RewardTable { values: &values, weights, groups: &of };
        let advantages = grpo(&table, &config.advantages())?;
        for (group, advantages) in groups.iter_mut().zip(advantages.chunks(count)) {
            group.advantages = advantages.to_vec();
        }
        Ok(Self { generation, groups })
    }
}

impl Group {
    /// The prompt once, its completions as branches, with the very tokens that were drawn.
    pub(super) fn tree(
        &self,
        engine: &Engine,
        id: &str,
        messages: &[Message],
    ) -> Result<Tree, TrainError> {
        let prompt = engine.prompt(messages)?;
        let Some(shared) = prompt.ids.len().checked_sub(1) else {
            let reason = "has an empty prompt".to_owned();
            return Err(TrainError::Record { id: id.to_owned(), reason });
        };
        let branch = |completion: &Completion| Branch {
            ids: [&prompt.ids[shared..], &completion.token_ids].concat(),
            targets: 1,
        };
        Ok(Tree {
            id: id.to_owned(),
            root: prompt.start(shared),
            branches: self.completions.iter().map(branch).collect(),
        })
    }
}
