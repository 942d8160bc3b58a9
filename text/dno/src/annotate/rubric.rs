//! All candidates of a prompt in one call, points by the rubric. What cannot be read is asked for again in another
//! order.

use savi_judge::order::Order;
use savi_judge::rubric::parse;
use savi_schema::{Message, Request, Role};

use super::{Judge, Opinion, Task};
use crate::candidates::ask;
use crate::config::MOST_POINTS;
use crate::{Error, Reading};

/// What the reply is made to begin with, where it is (paper, appendix).
const BEGINNING: &str = "{\"1\": {\"justification\": \"";

pub(super) fn opinions(judge: &Judge, tasks: &[Task]) -> Result<Vec<Opinion>, Error> {
    let mut opinions: Vec<Opinion> = tasks.iter().map(|_| Opinion::default()).collect();
    // Nothing to judge is judged at once.
    let mut pending = Vec::new();
    for (place, task) in tasks.iter().enumerate() {
        match task.texts.is_empty() {
            true => opinions[place].scores = Some(Vec::new()),
            false => pending.push(place),
        }
    }
    for attempt in 0..=judge.config.retries {
        if pending.is_empty() {
            break;
        }
        let asked: Vec<&Task> = pending.iter().map(|&place| &tasks[place]).collect();
        let readings = read(judge, &asked, attempt)?;
        let mut unread = Vec::new();
        for (&place, reading) in pending.iter().zip(readings) {
            match &reading.parsed {
                Some(parsed) => {
                    let mut scores = vec![0.0; reading.order.len()];
                    for (&text, scored) in reading.order.iter().zip(&parsed.scored) {
                        scores[text] = f64::from(scored.score);
                    }
                    opinions[place].scores = Some(scores);
                }
                None => unread.push(place),
            }
            opinions[place].readings.push(reading);
        }
        pending = unread;
    }
    Ok(opinions)
}

fn read(judge: &Judge, tasks: &[&Task], attempt: usize) -> Result<Vec<Reading>, Error> {
    let iteration = judge.iteration.to_string();
    let mut requests = Vec::with_capacity(tasks.len());
    let mut orders = Vec::with_capacity(tasks.len());
    for task in tasks {
        let names = [judge.stage, &iteration, &task.record.id, &attempt.to_string()];
        let order = Order::shuffled(task.texts.len(), judge.seed, &names);
        let shown: Vec<&str> = order.candidates().iter().map(|&at| task.texts[at]).collect();
        let mut messages = judge.prompts.rubric(&task.record.prompt, &shown)?;
        if judge.config.begin_reply {
            messages.push(Message::text(Role::Assistant, BEGINNING));
        }
        requests.push(Request {
            id: format!("iteration-{iteration}/{}/{}/{attempt}", judge.stage, task.record.id),
            messages,
            samplings: vec![judge.config.sampling.clone()],
            seed: judge.seed,
            ..Request::default()
        });
        orders.push(order);
    }
    let completions = ask(judge.generate, (judge.iteration, judge.stage), &requests)?;
    let all = requests.into_iter().zip(orders).zip(completions.into_iter().flatten());
    Ok(all
        .map(|((request, order), completion)| {
            let written = completion.text;
            // Some servers repeat what was begun for them.
            let raw = match judge.config.begin_reply && !written.trim_start().starts_with('{') {
                true => format!("{BEGINNING}{written}"),
                false => written,
            };
            let ids: Vec<String> =
                (1..=order.candidates().len()).map(|id| id.to_string()).collect();
            let parsed = parse(&raw, &ids, MOST_POINTS);
            Reading {
                order: order.candidates().to_vec(),
                request: request.id,
                raw,
                problem: parsed.as_ref().err().map(ToString::to_string),
                parsed: parsed.ok(),
            }
        })
        .collect())
}
