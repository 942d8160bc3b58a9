//! Rewards by name in place of a judge, on the rubric's scale. A prompt for which a reward has no verdict has none.

use savi_judge::rewards::Ready;
use savi_schema::{Completed, Completion, FinishReason, Reward};

use super::{Judge, Opinion, Task};
use crate::Error;
use crate::config::MOST_POINTS;

pub(super) fn opinions(judge: &Judge, tasks: &[Task]) -> Result<Vec<Opinion>, Error> {
    let config = judge.config;
    let rewards: Vec<Ready> = config
        .rewards
        .iter()
        .map(|reward| reward.build().map_err(|error| Error::Inputs(error.to_string())))
        .collect::<Result<_, _>>()?;
    let completions: Vec<Vec<Completion>> =
        tasks.iter().map(|task| task.texts.iter().map(|text| completion(text)).collect()).collect();
    let groups: Vec<Completed> = tasks
        .iter()
        .zip(&completions)
        .map(|(task, completions)| Completed { prompt: task.record, completions })
        .collect();
    let mut sums: Vec<Option<Vec<f64>>> =
        tasks.iter().map(|task| Some(vec![0.0; task.texts.len()])).collect();
    for (place, reward) in rewards.iter().enumerate() {
        let weight = config.reward_weights.get(place).copied().unwrap_or(1.0);
        let verdicts = reward
            .judge(&groups, judge.policy)
            .map_err(|source| Error::of_model(judge.iteration, judge.stage, source))?;
        for (sum, verdicts) in sums.iter_mut().zip(verdicts) {
            let given: Option<Vec<f64>> = verdicts
                .into_iter()
                .map(|verdict| verdict.map(|verdict| weight * verdict.score))
                .collect();
            *sum = sum.take().zip(given).map(|(sum, given)| {
                sum.iter().zip(given).map(|(sum, given)| sum + given).collect()
            });
        }
    }
    let (worst, best) = (config.worst_reward, config.best_reward);
    let points =
        |sum: f64| f64::from(MOST_POINTS) * ((sum - worst) / (best - worst)).clamp(0.0, 1.0);
    let opinion = |sums: Option<Vec<f64>>| Opinion {
        scores: sums.map(|sums| sums.into_iter().map(points).collect()),
        ..Opinion::default()
    };
    Ok(sums.into_iter().map(opinion).collect())
}

fn completion(text: &str) -> Completion {
    Completion {
        text: text.to_owned(),
        token_ids: Vec::new(),
        logps: Vec::new(),
        sampling_logps: Vec::new(),
        top_logps: Vec::new(),
        finish_reason: FinishReason::Stop,
    }
}
