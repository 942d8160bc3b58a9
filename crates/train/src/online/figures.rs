//! What is logged of completions and rewards, under TRL's names.

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
    let table = RewardTable { values: &values, weights: &session.reward_weights, groups: &of };
    let names: Vec<&str> = session.rewards.iter().map(|(name, _)| name.as_str()).collect();
    let mut figures: Figures = reward_figures(&table, &names)?
        .into_iter()
        .map(|(name, value)| (name.into(), value))
        .collect();
    // Groups of one never vary: nothing follows from that.
    let compared = session.settings.num_generations > 1;
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
