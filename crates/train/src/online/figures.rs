//! What is logged of completions and rewards, under TRL's names.

use std::collections::BTreeMap;

use savi_objectives::policy::{RewardTable, reward_figures};
use savi_schema::FinishReason;

use super::Session;
use super::rollout::{Group, Rollout};
use crate::TrainError;
use crate::steps::Figures;

/// Figures of these groups. A completion that was cut off counts as clipped; lengths of the others are apart.
pub(super) fn figures(session: &Session<'_>, groups: &[&Group]) -> Result<Figures, TrainError> {
    let values = Rollout::rewards(groups);
    let of: Vec<u32> = (0..groups.len() as u32)
        .zip(groups)
        .flat_map(|(at, group)| vec![at; group.completions.len()])
        .collect();
    let weights = session.weights(groups);
    let table = RewardTable { values: &values, weights: &weights, groups: &of };
    let names: Vec<&str> = session.rewards.iter().map(|(name, _)| name.as_str()).collect();
    let mut figures: Figures = reward_figures(&table, &names)?
        .into_iter()
        .map(|(name, value)| (name.into(), value))
        .collect();
    let mut criteria: BTreeMap<&str, (f64, u64)> = BTreeMap::new();
    for (name, &(sum, count)) in groups.iter().flat_map(|group| &group.criteria) {
        let (sums, counts) = criteria.entry(name).or_default();
        (*sums, *counts) = (*sums + sum, *counts + count);
    }
    for (name, (sum, count)) in criteria {
        figures.push((format!("rewards/{name}/mean").into(), sum / count as f64));
    }
    if session.settings.alpha_scheduler.is_some() && !groups.is_empty() {
        figures.push(("rewards/alpha_factor".into(), groups[0].factor));
    }
    // Of several rewards: in how many groups each has nothing to compare.
    let compared = session.settings.num_generations > 1;
    if compared && names.len() > 1 && !groups.is_empty() {
        for (place, name) in names.iter().enumerate() {
            let uniform = groups.iter().filter(|group| {
                let mut values = group.rewards.iter().filter_map(|row| row[place]);
                let first = values.next();
                values.all(|value| Some(value) == first)
            });
            let share = uniform.count() as f64 / groups.len() as f64;
            figures.push((format!("rewards/{name}/frac_zero_std").into(), share));
        }
    }
    // Groups of one never vary: nothing follows from that.
    figures.retain(|(name, _)| compared || &**name != "frac_reward_zero_std");
    let completions: Vec<_> = groups.iter().flat_map(|group| &group.completions).collect();
    let cut = completions.iter().filter(|c| c.finish_reason == FinishReason::Length).count();
    figures
        .push(("completions/clipped_ratio".into(), cut as f64 / completions.len().max(1) as f64));
    let lengths = |ended_only: bool| -> Vec<f64> {
        let counted =
            |c: &&&savi_schema::Completion| !ended_only || c.finish_reason == FinishReason::Stop;
        completions.iter().filter(counted).map(|c| c.token_ids.len() as f64).collect()
    };
    let all = lengths(false);
    let ended = lengths(true);
    // TRL logs 0 where nothing has ended.
    let ended = if ended.is_empty() { vec![0.0] } else { ended };
    for (names, lengths) in [
        (["completions/mean_length", "completions/min_length", "completions/max_length"], all),
        (
            [
                "completions/mean_terminated_length",
                "completions/min_terminated_length",
                "completions/max_terminated_length",
            ],
            ended,
        ),
    ] {
        let mean = lengths.iter().sum::<f64>() / lengths.len().max(1) as f64;
        let least = lengths.iter().copied().fold(f64::INFINITY, f64::min);
        let most = lengths.iter().copied().fold(0.0, f64::max);
        figures.extend(names.map(Into::into).into_iter().zip([mean, least, most]));
    }
    Ok(figures)
}
