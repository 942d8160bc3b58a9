//! Completions that a policy is trained on, with what they are worth.

use std::collections::BTreeMap;

use savi_engine::Engine;
use savi_schema::{Completed, Completion, FinishReason, Generate, PromptRecord, Request};
use serde::{Deserialize, Serialize};

use super::Session;
use super::pass::Pass;
use crate::TrainError;
use crate::pack::{Branch, Tree};
use crate::steps::in_parts;

/// The completions of one prompt.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Group {
    /// Index of the prompt.
    pub(super) prompt: usize,
    pub(super) completions: Vec<Completion>,
    /// Whether each completion is learnt from.
    pub(super) counts: Vec<bool>,
    /// Rewards of each completion, function by function; `None` where it gave none.
    pub(super) rewards: Vec<Vec<Option<f64>>>,
    /// What verdicts are made of, by reward and criterion: sum and number over the completions.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) criteria: BTreeMap<String, (f64, u64)>,
    /// What all rewards but the first are multiplied by.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub(super) factor: f64,
    /// Log-probs of all tokens, completion after completion, under the policy that drew them.
    pub(super) old_logps: Vec<f32>,
    /// Whether they are the sampler's own, and not computed again.
    pub(super) old_are_sampled: bool,
    /// One for each completion, where their tokens have none of their own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) advantages: Vec<f64>,
    /// Of all tokens, completion after completion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) estimates: Option<TokenEstimates>,
}

fn one() -> f64 {
    1.0
}

fn is_one(value: &f64) -> bool {
    *value == 1.0
}

/// What is known of tokens before they are learnt from; of REINFORCE++ the advantages alone.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct TokenEstimates {
    pub(super) values: Vec<f32>,
    pub(super) advantages: Vec<f32>,
    pub(super) returns: Vec<f32>,
    pub(super) reference_logps: Vec<f32>,
    /// What a token paid for its divergence.
    #[serde(default)]
    pub(super) kl_coef: f64,
}

/// One generation: what several steps may learn from.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Rollout {
    /// Its number, from 0.
    pub(super) generation: u64,
    pub(super) groups: Vec<Group>,
    /// What is logged of it at every step that learns from it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) figures: Vec<(String, f64)>,
}

impl Rollout {
    /// Samples and judges completions of these prompts with the weights as they are, each rank those of its share. Draws
    /// of another `generation` have other chances.
    pub(super) fn draw(
        engine: &Engine,
        session: &Session<'_>,
        chosen: &[usize],
        generation: u64,
    ) -> Result<Self, TrainError> {
        let ranks = session.backward.ranks();
        let own = ranks.agree(Self::draw_own(engine, session, chosen, generation))?;
        let groups = ranks.gather(own)?.into_iter().flatten().collect();
        Ok(Self { generation, groups, figures: Vec::new() })
    }

    fn draw_own(
        engine: &Engine,
        session: &Session<'_>,
        chosen: &[usize],
        generation: u64,
    ) -> Result<Vec<Group>, TrainError> {
        let own = session.backward.ranks().share(chosen.len());
        let settings = &session.settings;
        let seed = rand::Rng::random(&mut savi_nn::rng::stream(
            settings.optim.seed,
            &["rollout", &generation.to_string()],
        ));
        let requests: Vec<Request> = chosen
            .iter()
            .enumerate()
            .take(own.end)
            .skip(own.start)
            .map(|(at, &prompt)| Request {
                // A prompt may come twice where an epoch ends: its completions have streams of their own.
                id: format!("{}#{at}", session.prompts[prompt].id),
                messages: session.prompts[prompt].prompt.clone(),
                raw: None,
                samplings: vec![settings.sampling.clone(); settings.num_generations],
                seed,
            })
            .collect();
        let drawn = match settings.sampler {
            Some(sampler) => sampler.generate(&requests)?,
            None => engine.generate(&requests)?,
        };
        if drawn.iter().map(Vec::len).ne(requests.iter().map(|request| request.samplings.len())) {
            let reason = "the sampler did not give the completions that it was asked for";
            return Err(TrainError::Record { id: requests[0].id.clone(), reason: reason.into() });
        }
        let judged = judged(engine, session, &chosen[own.clone()], &drawn)?;
        let mut groups: Vec<Group> = Vec::with_capacity(own.len());
        for ((&prompt, completions), judged) in chosen[own].iter().zip(drawn).zip(judged) {
            let cut = |c: &Completion| c.finish_reason == FinishReason::Length;
            let counts = completions.iter().map(|c| !(settings.masks_truncated && cut(c)));
            let counts = counts.collect();
            groups.push(Group {
                prompt,
                completions,
                counts,
                rewards: judged.rewards,
                criteria: judged.criteria,
                factor: one(),
                old_logps: Vec::new(),
                old_are_sampled: true,
                advantages: Vec::new(),
                estimates: None,
            });
        }
        note_logps(&mut groups, engine, session)?;
        Ok(groups)
    }

    /// Rewards of all completions, row by row.
    pub(super) fn rewards<'a>(groups: &[&'a Group]) -> Vec<Option<f64>> {
        groups
            .iter()
            .flat_map(|group: &&'a Group| group.rewards.iter().flatten().copied())
            .collect()
    }
}

/// Log-probs of the drawn tokens at the temperature of sampling, over all tokens: cuts (`top_p` and its kin) are no
/// part of the policy. Most often the engine has them; with both a temperature and cuts, and of what another sampler
/// drew, they are computed again.
fn note_logps(all: &mut [Group], engine: &Engine, session: &Session<'_>) -> Result<(), TrainError> {
    let sampling = &session.settings.sampling;
    let at_one = sampling.temperature == 1.0;
    if session.settings.sampler.is_none() && (at_one || !cuts(sampling)) {
        for group in all {
            let of = |c: &Completion| {
                if at_one { c.logps.clone() } else { c.sampling_logps.clone() }
            };
            group.old_logps = group.completions.iter().flat_map(of).collect();
        }
        return Ok(());
    }
    let groups: Vec<&Group> = all.iter().collect();
    let size = session.settings.optim.per_device_train_batch_size;
    let size = (size / session.settings.num_generations).max(1);
    let parts = in_parts(engine.model().params(), &groups, size, |part| {
        let pass = Pass::pack(engine, session, part)?;
        Ok(pass.look(engine, session)?.to_vec1::<f32>()?)
    })?;
    let mut logps = parts.into_iter().flatten();
    for group in all {
        group.old_logps = logps.by_ref().take(group.tokens()).collect();
        group.old_are_sampled = false;
    }
    Ok(())
}

/// Whether tokens are left out before the draw.
fn cuts(sampling: &savi_schema::Sampling) -> bool {
    sampling.top_p < 1.0 || sampling.top_k > 0 || sampling.min_p > 0.0
}

/// What all rewards say of a group.
#[derive(Clone, Default)]
struct Judged {
    rewards: Vec<Vec<Option<f64>>>,
    criteria: BTreeMap<String, (f64, u64)>,
}

/// What every reward says of every completion of every group.
fn judged(
    engine: &Engine,
    session: &Session<'_>,
    chosen: &[usize],
    drawn: &[Vec<Completion>],
) -> Result<Vec<Judged>, TrainError> {
    let groups: Vec<Completed<'_>> = chosen
        .iter()
        .zip(drawn)
        .map(|(&prompt, completions)| Completed { prompt: &session.prompts[prompt], completions })
        .collect();
    let mut all = vec![Judged::default(); groups.len()];
    for (judged, group) in all.iter_mut().zip(&groups) {
        judged.rewards = vec![Vec::new(); group.completions.len()];
    }
    for (name, reward) in session.rewards {
        let verdicts = reward.judge(&groups, engine)?;
        if verdicts.iter().map(Vec::len).ne(drawn.iter().map(Vec::len)) {
            let reason = format!("the reward {name} did not give one verdict on each completion");
            let id = groups.first().map(|group| group.prompt.id.clone()).unwrap_or_default();
            return Err(TrainError::Record { id, reason });
        }
        for (judged, verdicts) in all.iter_mut().zip(verdicts) {
            for (row, verdict) in judged.rewards.iter_mut().zip(verdicts) {
                let criteria = verdict.iter().flat_map(|verdict| &verdict.criteria);
                for (criterion, value) in criteria.filter_map(|(k, v)| Some((k, v.as_f64()?))) {
                    let key = format!("{name}/{criterion}");
                    let (sum, count) = judged.criteria.entry(key).or_default();
                    (*sum, *count) = (*sum + value, *count + 1);
                }
                row.push(verdict.map(|verdict| verdict.score));
            }
        }
    }
    Ok(all)
}

impl Group {
    /// The prompt once, its completions as branches, with the very tokens that were drawn.
    pub(super) fn tree(&self, engine: &Engine, prompt: &PromptRecord) -> Result<Tree, TrainError> {
        let tokens = engine.prompt(&prompt.prompt)?;
        let Some(shared) = tokens.ids.len().checked_sub(1) else {
            let reason = "has an empty prompt".to_owned();
            return Err(TrainError::Record { id: prompt.id.clone(), reason });
        };
        let branch = |completion: &Completion| Branch {
            ids: [&tokens.ids[shared..], &completion.token_ids].concat(),
            targets: 1,
        };
        Ok(Tree {
            id: prompt.id.clone(),
            root: tokens.start(shared),
            branches: self.completions.iter().map(branch).collect(),
        })
    }

    /// Number of tokens of its completions.
    pub(super) fn tokens(&self) -> usize {
        self.completions.iter().map(|c| c.token_ids.len()).sum()
    }

    /// 1 for each token that counts and 0 for others.
    pub(super) fn weights(&self) -> impl Iterator<Item = f64> {
        let both = self.completions.iter().zip(&self.counts);
        both.flat_map(|(c, &counts)| vec![f64::from(counts); c.token_ids.len()])
    }
}
