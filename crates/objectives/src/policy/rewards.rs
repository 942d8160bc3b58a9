//! Rewards that follow from lengths, and the figures that are logged about rewards.

use std::collections::HashMap;

use super::bounds::{length, not_negative};
use super::groups::RewardTable;
use super::statistics::{deviation, mean};
use crate::{ObjectiveError, check};

/// Figures about a step's rewards by TRL's names: for each function its mean and deviation over the
/// completions that it gave a reward, `reward` and `reward_std` of the weighted sums, and
/// `frac_reward_zero_std`, the share of completions whose group does not vary in the sum (a
/// deviation of at most 1e-8), which GRPO learns nothing from. What there are too few rewards for
/// is left out.
pub fn reward_figures(
    table: &RewardTable<'_>,
    names: &[&str],
) -> Result<Vec<(String, f64)>, ObjectiveError> {
    length("names", names.len(), table.weights.len())?;
    let totals = table.totals()?;
    let mut rows = Vec::new();
    let mut put = |mean_name: String, std_name: String, values: &[Option<f64>]| {
        let there = || values.iter().flatten().copied();
        rows.extend(mean(there()).map(|mean| (mean_name, mean)));
        rows.extend(deviation(there()).map(|deviation| (std_name, deviation)));
    };
    for (function, name) in names.iter().enumerate() {
        let column: Vec<_> =
            table.values.iter().skip(function).step_by(names.len()).copied().collect();
        put(format!("rewards/{name}/mean"), format!("rewards/{name}/std"), &column);
    }
    put("reward".to_string(), "reward_std".to_string(), &totals);
    let mut of_group: HashMap<u32, (Vec<f64>, f64)> = HashMap::new();
    for (total, group) in totals.iter().zip(table.groups) {
        let members = of_group.entry(*group).or_default();
        members.0.extend(*total);
        members.1 += 1.0;
    }
    let still =
        of_group.values().filter(|(rewards, size)| match deviation(rewards.iter().copied()) {
            Some(deviation) => deviation <= 1e-8,
            // A group of one does not vary; one with too few rewards to tell does not count (TRL).
            None => *size == 1.0,
        });
    // From 0: the sum of nothing is minus zero.
    let still = still.fold(0.0, |sum: f64, (_, size)| sum + size);
    let completions = table.groups.len().max(1) as f64;
    rows.push(("frac_reward_zero_std".to_string(), still / completions));
    Ok(rows)
}

/// Settings of the soft overlong punishment (verl's `overlong_buffer`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Overlong {
    /// The most tokens that a completion may have.
    pub max_length: f64,
    /// Over how many of its last tokens the punishment grows.
    pub buffer: f64,
    /// The punishment at the end.
    pub penalty_factor: f64,
}

/// DAPO's soft overlong punishment (Yu et al., arXiv 2503.14476, equation 13): 0 up to `buffer`
/// tokens before `max_length`, then falling in a line to `-penalty_factor` at `max_length`, and flat
/// after it.
///
/// verl goes on along the line beyond `max_length`; the paper and we do not.
pub fn overlong_punishment(
    lengths: &[usize],
    settings: &Overlong,
) -> Result<Vec<f64>, ObjectiveError> {
    let Overlong { max_length, buffer, penalty_factor } = *settings;
    check::positive("max_length", max_length)?;
    check::positive("overlong_buffer.len", buffer)?;
    not_negative("overlong_buffer.penalty_factor", penalty_factor)?;
    if buffer > max_length {
        let (name, expected) = ("overlong_buffer.len", "at most the longest completion");
        return Err(ObjectiveError::Setting { name, value: buffer, expected });
    }
    let excess = |length: &usize| (*length as f64 - (max_length - buffer)) / buffer;
    Ok(lengths.iter().map(|length| -excess(length).clamp(0.0, 1.0) * penalty_factor).collect())
}
