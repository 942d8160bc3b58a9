//! Every two candidates of a prompt in both orders: how likely the judge names the one, the mean of both orders. Points
//! are win rates on the rubric's scale, so that one threshold serves both.

use savi_judge::labels::{BothOrders, prefer};
use savi_judge::wins::{Wins, duels};

use super::{Judge, Opinion, Task};
use crate::Error;
use crate::config::MOST_POINTS;

const LABELS: [&str; 2] = ["A", "B"];

pub(super) fn opinions(judge: &Judge, tasks: &[Task]) -> Result<Vec<Opinion>, Error> {
    let mut questions = Vec::new();
    for task in tasks {
        for (i, j) in duels(task.texts.len()) {
            let ask = |first: usize, second: usize| {
                judge.prompts.compare(&task.record.prompt, task.texts[first], task.texts[second])
            };
            questions.push(BothOrders { as_first: ask(i, j)?, as_second: ask(j, i)? });
        }
    }
    let (iteration, stage) = (judge.iteration, judge.stage);
    let preferences = prefer(judge.score, &questions, &LABELS.map(str::to_owned))
        .map_err(|source| Error::of_model(iteration, stage, source))?;
    if preferences.len() != questions.len() {
        let (asked, got) = (questions.len(), preferences.len());
        return Err(Error::WrongCount { iteration, stage, asked, got });
    }
    let mut preferences = preferences.into_iter();
    let opinion = |task: &Task| {
        let mut wins = Wins::even(task.texts.len());
        for ((i, j), preference) in duels(task.texts.len()).zip(preferences.by_ref()) {
            wins.set(i, j, preference.mean());
        }
        let scores = wins.rates().iter().map(|rate| rate * f64::from(MOST_POINTS)).collect();
        Opinion { scores: Some(scores), wins: Some(wins), readings: Vec::new() }
    };
    Ok(tasks.iter().map(opinion).collect())
}
