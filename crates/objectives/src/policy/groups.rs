//! Advantages from rewards of whole completions, against the others of their group.
//!
//! GRPO (Shao et al., "DeepSeekMath", arXiv 2402.03300, section 4.1.2) takes `(r - mean) / (std +
//! epsilon)` over the group; Dr.GRPO (Liu et al., arXiv 2503.20783) leaves the division out; the
//! deviation of the whole batch is the third way (Hu et al., arXiv 2508.08221). RLOO (Ahmadian et
//! al., arXiv 2402.14740) subtracts the mean of the *other* completions. REINFORCE++'s
//! baseline variant (Hu et al., arXiv 2501.03262) subtracts the group's mean and whitens over all
//! tokens. With several rewards, GDPO (arXiv 2601.05242) normalises each of them on its own.
//!
//! Deviations are unbiased. A reward that a function did not give is `None` and takes no part; a
//! completion without any reward has advantage 0.

use std::collections::HashMap;

use super::bounds::{finite, length, not_negative, numbers};
use super::statistics::{deviation, mean, whiten_counted};
use crate::ObjectiveError;

/// What advantages are divided by (TRL's `scale_rewards`; verl's `norm_adv_by_std_in_grpo` is
/// `Group` or `None`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ScaleRewards {
    /// The deviation of the group.
    Group,
    /// The deviation of all rewards of the step.
    Batch,
    /// Nothing: Dr.GRPO.
    None,
}

/// How several rewards come together (TRL's `multi_objective_aggregation`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MultiObjective {
    /// The weighted sum is a reward, which is then normalised.
    SumThenNormalize,
    /// GDPO: each reward is normalised over its group, and the weighted sum over the batch.
    /// `scale_rewards` has no say here.
    NormalizeThenSum,
    /// Each reward is made an advantage as `scale_rewards` says, and the weighted sum is left as it
    /// is (the Self-Aligned Reward release's `advantage_weighting_in_grpo`).
    AdvantageWeighting,
}

/// What becomes of a group of one completion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Singleton {
    /// Advantage 0, as in TRL: there is nothing to compare with.
    Zero,
    /// The reward itself, as in verl, which takes 0 for the mean and 1 for the deviation.
    Reward,
}

/// Settings of GRPO's advantages.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grpo {
    /// What is divided by.
    pub scale_rewards: ScaleRewards,
    /// How several rewards come together.
    pub multi_objective_aggregation: MultiObjective,
    /// Added to deviations: 1e-4 in TRL, 1e-6 in verl.
    pub epsilon: f64,
    /// What becomes of a group of one.
    pub singleton: Singleton,
}

impl Default for Grpo {
    fn default() -> Self {
        Self {
            scale_rewards: ScaleRewards::Group,
            multi_objective_aggregation: MultiObjective::SumThenNormalize,
            epsilon: 1e-4,
            singleton: Singleton::Zero,
        }
    }
}

/// Rewards of completions, one row of `weights.len()` for each.
#[derive(Debug, Clone, Copy)]
pub struct RewardTable<'a> {
    /// `[completions * functions]`, completion by completion.
    pub values: &'a [Option<f64>],
    /// How much each function counts (TRL's `reward_weights`).
    pub weights: &'a [f64],
    /// The group of each completion.
    pub groups: &'a [u32],
}

impl RewardTable<'_> {
    fn check(&self) -> Result<(), ObjectiveError> {
        length("rewards", self.values.len(), self.groups.len() * self.weights.len())?;
        self.values.iter().flatten().try_for_each(|v| finite("rewards", *v))?;
        self.weights.iter().try_for_each(|w| finite("reward_weights", *w))
    }

    /// The rewards that one function gave.
    fn column(&self, function: usize) -> Vec<Option<f64>> {
        self.values.iter().skip(function).step_by(self.weights.len()).copied().collect()
    }

    /// Weighted sums, given what each function says of each completion; `None` where the
    /// completion has no reward at all.
    fn weighted(&self, columns: &[Vec<Option<f64>>]) -> Vec<Option<f64>> {
        let rows = self.values.chunks(self.weights.len().max(1)).enumerate();
        rows.map(|(i, row)| {
            row.iter().any(Option::is_some).then(|| {
                let parts = columns.iter().zip(self.weights);
                parts.filter_map(|(column, w)| column[i].map(|v| v * w)).sum()
            })
        })
        .collect()
    }

    /// The weighted sum of each completion's rewards.
    pub fn totals(&self) -> Result<Vec<Option<f64>>, ObjectiveError> {
        self.check()?;
        let columns: Vec<_> = (0..self.weights.len()).map(|f| self.column(f)).collect();
        Ok(self.weighted(&columns))
    }
}

/// GRPO's advantages, one for each completion; see the head of this file.
pub fn grpo(table: &RewardTable<'_>, settings: &Grpo) -> Result<Vec<f64>, ObjectiveError> {
    not_negative("epsilon", settings.epsilon)?;
    let totals = table.totals()?;
    let (groups, epsilon, singleton) = (table.groups, settings.epsilon, settings.singleton);
    let columns = |scale| -> Vec<Vec<Option<f64>>> {
        let functions = 0..table.weights.len();
        functions.map(|f| normalized(&table.column(f), groups, scale, epsilon, singleton)).collect()
    };
    let advantages = match settings.multi_objective_aggregation {
        MultiObjective::SumThenNormalize => {
            normalized(&totals, groups, settings.scale_rewards, epsilon, singleton)
        }
        MultiObjective::AdvantageWeighting => table.weighted(&columns(settings.scale_rewards)),
        MultiObjective::NormalizeThenSum => {
            let sums = table.weighted(&columns(ScaleRewards::Group));
            let all = || sums.iter().flatten().copied();
            let (mean, deviation) = (mean(all()), deviation(all()));
            let over = |sum: &Option<f64>| Some(((*sum)? - mean?) / (deviation? + epsilon));
            sums.iter().map(over).collect()
        }
    };
    Ok(advantages.into_iter().map(|a| a.unwrap_or(0.0)).collect())
}

/// One reward against its group.
fn normalized(
    rewards: &[Option<f64>],
    groups: &[u32],
    scale: ScaleRewards,
    epsilon: f64,
    singleton: Singleton,
) -> Vec<Option<f64>> {
    let members = members(groups);
    let batch = deviation(rewards.iter().flatten().copied());
    let of_group: HashMap<u32, (Option<f64>, Option<f64>)> = members
        .iter()
        .map(|(group, at)| {
            let there = || at.iter().filter_map(|i| rewards[*i]);
            let deviation = match scale {
                ScaleRewards::Group => deviation(there()).map(|d| d + epsilon),
                ScaleRewards::Batch => batch.map(|d| d + epsilon),
                ScaleRewards::None => Some(1.0),
            };
            if at.len() > 1 {
                return (*group, (mean(there()), deviation));
            }
            let alone = match singleton {
                Singleton::Zero => (mean(there()), Some(1.0)),
                Singleton::Reward if scale == ScaleRewards::Group => {
                    (Some(0.0), Some(1.0 + epsilon))
                }
                Singleton::Reward => (Some(0.0), deviation),
            };
            (*group, alone)
        })
        .collect();
    let one = |(reward, group): (&Option<f64>, &u32)| {
        let (mean, deviation) = of_group.get(group)?;
        Some(((*reward)? - (*mean)?) / (*deviation)?)
    };
    rewards.iter().zip(groups).map(one).collect()
}

/// Where the completions of each group stand.
fn members(groups: &[u32]) -> HashMap<u32, Vec<usize>> {
    let mut members: HashMap<u32, Vec<usize>> = HashMap::new();
    for (i, group) in groups.iter().enumerate() {
        members.entry(*group).or_default().push(i);
    }
    members
}

/// Settings of RLOO's advantages.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rloo {
    /// Whether advantages are normalised over the step, with 1e-4 added to the deviation.
    pub normalize_advantages: bool,
    /// What becomes of a group of one.
    pub singleton: Singleton,
}

/// RLOO's advantages: each reward less the mean of the others of its group. Without `std` it is
/// GRPO's times `k / (k - 1)`. A completion that is alone with a reward among `None`s has 0.
pub fn rloo(
    rewards: &[Option<f64>],
    groups: &[u32],
    settings: &Rloo,
) -> Result<Vec<f64>, ObjectiveError> {
    length("rewards", rewards.len(), groups.len())?;
    rewards.iter().flatten().try_for_each(|v| finite("rewards", *v))?;
    let mut advantages = vec![None; rewards.len()];
    for at in members(groups).values() {
        for i in at {
            let others = || at.iter().filter(|j| *j != i).filter_map(|j| rewards[*j]);
            let baseline = match settings.singleton {
                Singleton::Reward if at.len() == 1 => Some(0.0),
                Singleton::Zero if at.len() == 1 => rewards[*i],
                _ => mean(others()),
            };
            advantages[*i] = rewards[*i].zip(baseline).map(|(r, b)| r - b);
        }
    }
    if settings.normalize_advantages {
        let all = || advantages.iter().flatten().copied();
        let (mean, deviation) = (mean(all()), deviation(all()));
        for advantage in &mut advantages {
            *advantage = (|| Some(((*advantage)? - mean?) / (deviation? + 1e-4)))();
        }
    }
    Ok(advantages.into_iter().map(|a| a.unwrap_or(0.0)).collect())
}

/// REINFORCE++ with a baseline: each reward less the mean of its group, then whitened over all
/// tokens of the step, a completion counting as often as it has tokens (`token_counts`). A group of
/// one keeps its reward, as in verl.
pub fn reinforce_plus_plus_baseline(
    rewards: &[f64],
    groups: &[u32],
    token_counts: &[f64],
) -> Result<Vec<f64>, ObjectiveError> {
    numbers("rewards", rewards, groups.len())?;
    numbers("token_counts", token_counts, groups.len())?;
    token_counts.iter().try_for_each(|n| not_negative("token_counts", *n))?;
    let rewards: Vec<_> = rewards.iter().map(|r| Some(*r)).collect();
    let centred = normalized(&rewards, groups, ScaleRewards::None, 0.0, Singleton::Reward);
    let centred: Vec<f64> = centred.into_iter().map(|a| a.unwrap_or(0.0)).collect();
    whiten_counted(&centred, token_counts, true)
}
