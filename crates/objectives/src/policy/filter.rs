//! DAPO's dynamic sampling: groups that teach nothing are drawn again.

use std::collections::HashMap;

use super::bounds::{finite, length};
use crate::ObjectiveError;

/// Names under which totals of all rewards go.
const TOTALS: [&str; 5] = ["reward", "rewards", "score", "seq_reward", "seq_final_reward"];

/// Which completions belong to a group that is kept (Yu et al., arXiv 2503.14476, equation 11): one
/// whose `metric` is not the same for all, or that has one completion only (as in verl).
///
/// The metric is one of `named`, such as `acc`, and never the total reward: once a continuous
/// reward is part of the total, every group varies in it and nothing would be dropped. Note that a
/// filter on correctness drops the groups that are all right, where a second reward is all there is
/// to learn.
pub fn dynamic_sampling(
    metric: &str,
    named: &[(&str, &[f64])],
    groups: &[u32],
) -> Result<Vec<bool>, ObjectiveError> {
    let own = || named.iter().filter(|(name, _)| !TOTALS.contains(name));
    let Some((_, values)) = own().find(|(name, _)| *name == metric) else {
        let known = own().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
        let (what, value) = ("filter_groups.metric", metric.to_string());
        return Err(ObjectiveError::Unknown { what, value, known });
    };
    length("filter_groups.metric", values.len(), groups.len())?;
    values.iter().try_for_each(|v| finite("filter_groups.metric", *v))?;
    // (first value, whether another one differs, members)
    let mut seen: HashMap<u32, (f64, bool, usize)> = HashMap::new();
    for (value, group) in values.iter().zip(groups) {
        let entry = seen.entry(*group).or_insert((*value, false, 0));
        entry.1 |= *value != entry.0;
        entry.2 += 1;
    }
    let kept = |group: &u32| seen.get(group).is_some_and(|(_, varies, n)| *varies || *n == 1);
    Ok(groups.iter().map(kept).collect())
}
