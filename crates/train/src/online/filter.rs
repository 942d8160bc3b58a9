//! Dynamic sampling (Yu et al., "DAPO", arXiv 2503.14476, section 3.2): groups that do not vary in a reward teach
//! nothing; they are dropped, and the next prompts are asked in their place.
//!
//! As in verl, whole generations are drawn until enough groups vary; what there is too much of is dropped. Unlike
//! verl, which gives up after `max_num_gen_batches`, groups that do not vary fill the places that are left then: the
//! size of a step stays what it is, and the metrics count them.

use savi_engine::Engine;
use savi_objectives::policy::dynamic_sampling;
use serde::{Deserialize, Serialize};

use super::Session;
use super::rollout::{Group, Rollout};
use crate::TrainError;
use crate::sft::Order;

/// Which groups are drawn again, under verl's names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilterGroups {
    /// The name of the reward that has to vary in a group.
    pub metric: String,
    /// How often completions are drawn for one generation at most.
    #[serde(default = "ten")]
    pub max_num_gen_batches: u64,
}

const fn ten() -> u64 {
    10
}

impl FilterGroups {
    /// Refuses what cannot be carried out.
    pub(super) fn validate(&self) -> Result<(), TrainError> {
        if self.max_num_gen_batches == 0 {
            let (key, value) = ("filter_groups.max_num_gen_batches", "0".to_owned());
            return Err(TrainError::Setting { key, value, reason: "at least 1" });
        }
        Ok(())
    }

    /// Refuses a metric that is none of the rewards.
    pub(super) fn check(
        &self,
        mut rewards: impl Iterator<Item: AsRef<str>>,
    ) -> Result<(), TrainError> {
        if rewards.any(|name| name.as_ref() == self.metric) {
            return Ok(());
        }
        let (key, reason) = ("filter_groups.metric", "has to be the name of one of the rewards");
        Err(TrainError::Setting { key, value: self.metric.clone(), reason })
    }

    /// Draws until all groups vary; `batches` counts the draws of the training.
    pub(super) fn draw(
        &self,
        engine: &Engine,
        session: &Session<'_>,
        order: &mut Order,
        batches: &mut u64,
    ) -> Result<Rollout, TrainError> {
        let (mut kept, mut still, mut drawn) = (Vec::new(), Vec::new(), 0);
        let (mut wanted, mut surplus) = (usize::MAX, 0usize);
        while kept.len() < wanted && drawn < self.max_num_gen_batches {
            let chosen = order.of_step(*batches);
            wanted = chosen.len();
            let rollout = Rollout::draw(engine, session, &chosen, *batches)?;
            let varies = self.varying(session, &rollout)?;
            (*batches, drawn) = (*batches + 1, drawn + 1);
            for (group, varies) in rollout.groups.into_iter().zip(varies) {
                match varies {
                    true if kept.len() < wanted => kept.push(group),
                    true => surplus += 1,
                    false => still.push(group),
                }
            }
        }
        let dropped = still.len();
        let lacking = wanted - kept.len();
        if lacking > 0 {
            tracing::warn!(
                "after {drawn} draws {lacking} of {wanted} groups do not vary in {}: they are kept",
                self.metric
            );
        }
        kept.extend(still.into_iter().take(lacking));
        let figures = [
            ("filter_groups/num_gen_batches", drawn as f64),
            ("filter_groups/dropped", (dropped - lacking) as f64),
            ("filter_groups/surplus", surplus as f64),
            ("filter_groups/unvaried", lacking as f64),
        ];
        let figures = figures.map(|(name, value)| (name.to_owned(), value)).to_vec();
        Ok(Rollout { generation: 0, groups: kept, figures })
    }

    /// Whether each group varies. Completions without the reward have no say.
    fn varying(&self, session: &Session<'_>, rollout: &Rollout) -> Result<Vec<bool>, TrainError> {
        let place = session.rewards.iter().position(|(name, _)| *name == self.metric).unwrap_or(0);
        let of = |group: &Group| -> Vec<f64> {
            group.rewards.iter().filter_map(|row| row.get(place).copied().flatten()).collect()
        };
        let vary = |group: &Group| {
            let values = of(group);
            let groups = vec![0; values.len()];
            let named = [(self.metric.as_str(), values.as_slice())];
            let kept = dynamic_sampling(&self.metric, &named, &groups)?;
            // One alone is compared with nothing.
            Ok::<_, TrainError>(values.len() > 1 && kept.contains(&true))
        };
        rollout.groups.iter().map(vary).collect()
    }
}
