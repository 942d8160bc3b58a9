//! Stage 0, which the paper does not have and which is off unless it is named: a base that is too small to keep the
//! forms of stages 1 and 2 by what a prompt shows learns them first, from what people wrote: lists of seed tasks, of
//! topics and of questions, and dialogues with their thoughts. What it learns serves stages 1 and 2 alone: the
//! engraved model and the student are trained from the base as it came.

use rand::seq::SliceRandom;
use savi_judge::order::seeded_rng;
use savi_schema::{Demonstration, Taught};

use crate::config::{Config, Forms};
use crate::data::Exemplar;
use crate::prompts::hint;
use crate::topics::types;
use crate::{Data, Error, Prompts, SeedTask, SeedTopic};

/// Texts in all four forms, `copies` of each list and dialogue, in other orders.
pub(crate) fn demonstrations(
    config: &Config,
    data: &Data,
    dialogues: &[Exemplar],
    prompts: &Prompts,
    seed: u64,
) -> Result<Vec<Demonstration>, Error> {
    let Forms { copies, listed, .. } = config.forms;
    let mut shown = Vec::new();
    let mut add = |id: String, prompt: String, completion: String| {
        let taught = Taught::Continuation { prompt, completion, open: true };
        shown.push(Demonstration { id, taught, weight: 1.0 });
    };
    for copy in 0..copies {
        let name = copy.to_string();
        let rng = |what: &str| seeded_rng(seed, &["forms", what, &name]);

        let in_context = config.self_instruct.in_context;
        let mut seeds: Vec<&SeedTask> = data.seeds.iter().collect();
        seeds.shuffle(&mut rng("tasks"));
        for (number, list) in seeds.chunks(in_context + listed).enumerate() {
            let (tasks, rest) = list.split_at(in_context.min(list.len()));
            if !rest.is_empty() {
                let prompt = prompts.instructions(tasks, config.self_instruct.tasks)?;
                add(format!("tasks-{copy}-{number:03}"), prompt, task_list(rest, tasks.len() + 1));
            }
        }

        for (number, of) in types(data).into_iter().enumerate() {
            let own = data.red_team.iter().filter(|seed| seed.question_type == of);
            let mut topics: Vec<&str> = own.map(|seed| seed.topic.as_str()).collect();
            topics.shuffle(&mut rng(&format!("topics/{of}")));
            if let [first, rest @ ..] = topics.as_slice()
                && !rest.is_empty()
            {
                let lines = rest.iter().enumerate().map(|(at, topic)| match at {
                    0 => format!(" {topic}\n"),
                    at => format!("{}. {topic}\n", at + 2),
                });
                let prompt = prompts.topics(of, &[first], config.topics.topics)?;
                add(format!("topics-{copy}-{number:03}"), prompt, lines.collect());
            }
        }

        let mut topics: Vec<&SeedTopic> = data.red_team.iter().collect();
        topics.shuffle(&mut rng("questions"));
        let (in_context, packed) = (config.questions.in_context, config.questions.packed);
        for (number, list) in topics.chunks(in_context + packed).enumerate() {
            let (solved, open) = list.split_at(in_context.min(list.len()));
            if open.is_empty() {
                continue;
            }
            let label =
                |at: usize, topic: &SeedTopic| hint(at + 1, &topic.question_type, &topic.topic);
            let hints: Vec<String> =
                list.iter().enumerate().map(|(at, topic)| label(at, topic)).collect();
            let solved: Vec<(String, &SeedTopic)> =
                solved.iter().enumerate().map(|(at, topic)| (label(at, topic), *topic)).collect();
            let lines = open.iter().enumerate().map(|(at, topic)| match at {
                0 => format!(" {}\n", topic.question),
                at => format!("{}, instruction: {}\n", hints[solved.len() + at], topic.question),
            });
            let prompt = prompts.questions(&hints, &solved, &hints[solved.len()])?;
            add(format!("questions-{copy}-{number:03}"), prompt, lines.collect());
        }
    }
    for (number, dialogue) in dialogues.iter().enumerate() {
        let Some(turn) = dialogue.turns.first() else { continue };
        let (prompt, completion) = prompts.worked(turn, data)?;
        for copy in 0..copies {
            add(format!("thoughts-{copy}-{number:03}"), prompt.clone(), completion.clone());
        }
    }
    Ok(shown)
}

/// Tasks as they follow the open instruction number `first`.
fn task_list(tasks: &[&SeedTask], first: usize) -> String {
    let tasks = tasks.iter().enumerate().map(|(at, task)| {
        let number = first + at;
        let head = if at == 0 { String::new() } else { format!("{number}. Instruction:") };
        let input = if task.input.is_empty() { "<noinput>" } else { &task.input };
        format!("{head} {}\n{number}. Input:\n{input}\n###\n", task.instruction)
    });
    tasks.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DataFiles, Persona, PromptFiles};

    /// What is taught is what the stages read without a fault.
    #[test]
    fn forms_are_those_that_the_stages_read() {
        let data = Data::load(&DataFiles::default()).unwrap();
        let prompts = Prompts::load(&PromptFiles::default(), &Persona::default(), &data).unwrap();
        let mut config = Config::default();
        config.forms.copies = 1;
        let shown = demonstrations(&config, &data, &data.exemplars, &prompts, 3).unwrap();
        let of = |kind: &str| -> Vec<(String, String)> {
            let own = shown.iter().filter(|shown| shown.id.starts_with(kind));
            let texts = own.map(|shown| match &shown.taught {
                Taught::Continuation { prompt, completion, open: true } => {
                    (prompt.clone(), completion.clone())
                }
                other => panic!("{other:?}"),
            });
            texts.collect()
        };
        let lists = of("tasks");
        let read: usize = lists
            .iter()
            .map(|(_, text)| {
                let read = crate::tasks::parse(text, 6, false);
                assert!(read.iter().all(|task| task.dropped.is_none()), "{text}");
                read.len()
            })
            .sum();
        assert_eq!((lists.len(), read), (19, 4 * 19));
        assert!(of("topics").is_empty(), "each type has one seed");
        assert_eq!(of("questions").len(), 2);
        let thoughts = of("thoughts");
        assert_eq!(thoughts.len(), 5);
        for (prompt, text) in thoughts {
            let (thoughts, answer) = crate::thoughts::read(&text, prompts.persona(), 16).unwrap();
            assert!(!thoughts.rules.is_empty() && answer.ends_with("\n\n### User"), "{text}");
            let first: String = answer.chars().take(40).collect();
            assert!(prompt.contains("General rules") && !prompt.contains(&first), "{first}");
        }
    }
}
