//! The end of stage 1: what all groups have made becomes one list, shuffled. Across groups only exact matches are
//! dropped, by the letters and digits of the instruction; questions are one for each topic of a type.

use std::collections::HashSet;

use rand::seq::SliceRandom;
use savi_judge::order::seeded_rng;
use savi_run::Stage;
use savi_schema::SCHEMA_VERSION;

use crate::ask::{Asker, finish};
use crate::records::{AskedQuestions, AskedTasks, Counters, Dropped, Query, Source, count, told};
use crate::{Error, SeedTask};

/// The one unit of this stage.
pub(crate) const UNIT: &str = "queries";

/// What the queries are made of.
pub(crate) struct Made<'a> {
    pub(crate) tasks: &'a [AskedTasks],
    pub(crate) questions: &'a [AskedQuestions],
    pub(crate) given: &'a [SeedTask],
}

/// The queries of the run: those that are used, in the order in which they are asked.
pub(crate) fn queries(asker: &Asker<'_>, made: &Made<'_>) -> Result<(Vec<Query>, Counters), Error> {
    let key = asker.key(UNIT).with("tasks", made.tasks).with("questions", made.questions);
    let mut stage: Stage<Query> = asker.stage("04-queries", &key.with("given", made.given))?;
    stage.run(&[UNIT], |_| Ok::<_, Error>(vec![merge(asker.seed, made)]))?;
    let (queries, counters) = finish(stage, UNIT, |queries| {
        let mut counters = count(queries.iter().map(|query| query.dropped));
        for query in queries.iter().filter(|query| query.dropped.is_none()) {
            *counters.entry(format!("from-{}", query.source.name())).or_default() += 1;
        }
        counters
    })?;
    let queries: Vec<Query> = queries.into_iter().filter(|query| query.dropped.is_none()).collect();
    if queries.is_empty() {
        let counts = told(&counters);
        return Err(Error::Nothing {
            stage: "stage 1 (tasks and questions)",
            counts,
            folder: "01-self-instruct",
        });
    }
    Ok((queries, counters))
}

fn merge(seed: u64, made: &Made<'_>) -> Vec<Query> {
    let tasks = made.tasks.iter().flat_map(|asked| &asked.tasks);
    let tasks = tasks.filter(|task| task.dropped.is_none());
    let tasks =
        tasks.map(|task| (Source::SelfInstruct, task.instruction.as_str(), task.input.as_str()));
    let questions = made.questions.iter().flat_map(|asked| &asked.questions);
    let questions = questions.filter(|question| question.dropped.is_none());
    let given = made
        .given
        .iter()
        .map(|task| (Source::Given, task.instruction.as_str(), task.input.as_str()));
    let mut seen = HashSet::new();
    let mut queries: Vec<Query> = Vec::new();
    let mut add = |(source, instruction, input): (Source, &str, &str), is_new: bool| {
        queries.push(Query {
            schema: SCHEMA_VERSION,
            id: String::new(),
            source,
            instruction: instruction.to_owned(),
            input: input.to_owned(),
            dropped: (!is_new).then_some(Dropped::Duplicate),
        });
    };
    // Given ones first: they stay where the model wrote the same.
    for task in given.chain(tasks) {
        let is_new = seen.insert(letters(task.1));
        add(task, is_new);
    }
    let mut about = HashSet::new();
    for question in questions {
        let is_new = about.insert((&question.question_type, &question.topic));
        add((Source::RedTeam, &question.question, ""), is_new);
    }
    queries.shuffle(&mut seeded_rng(seed, &[UNIT, "shuffle"]));
    // Records are ordered by their ids: what is dropped comes last.
    queries.sort_by_key(|query| query.dropped.is_some());
    for (number, query) in queries.iter_mut().enumerate() {
        query.id = format!("{number:07}");
    }
    queries
}

/// What of an instruction counts when two are compared.
fn letters(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_alphanumeric() { c } else { ' ' })
        .collect::<String>()
        .to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::{Task, TopicQuestion};

    #[test]
    fn exact_matches_across_groups_are_dropped() {
        let task = |instruction: &str| Task {
            instruction: instruction.to_owned(),
            input: String::new(),
            similarity: None,
            dropped: None,
        };
        let asked = |id: &str, tasks: Vec<Task>| AskedTasks {
            schema: 1,
            id: id.to_owned(),
            shown: Vec::new(),
            raw: String::new(),
            cut: true,
            tasks,
        };
        let mut bad = task("Name three trees.");
        bad.dropped = Some(Dropped::Similar);
        let tasks = [
            asked("000/000000", vec![task("Sort the words!"), bad]),
            asked("001/000000", vec![task("SORT the words?"), task("Sort these words.")]),
        ];
        let question = |topic: &str| TopicQuestion {
            question_type: "t".to_owned(),
            topic: topic.to_owned(),
            question: format!("What is {topic}?"),
            dropped: None,
        };
        let questions = [AskedQuestions {
            schema: 1,
            id: "000/000000".to_owned(),
            raw: String::new(),
            cut: false,
            questions: vec![question("a"), question("b"), question("a")],
        }];
        let given =
            [SeedTask { instruction: "sort these  words.".to_owned(), input: "b a".to_owned() }];
        let queries = merge(1, &Made { tasks: &tasks, questions: &questions, given: &given });
        let used: Vec<&Query> = queries.iter().filter(|query| query.dropped.is_none()).collect();
        let mut said: Vec<&str> = used.iter().map(|query| query.instruction.as_str()).collect();
        said.sort_unstable();
        let expected = [
            "Sort the words!",
            "Sort these words.",
            "What is a?",
            "What is b?",
            "sort these  words.",
        ];
        assert_eq!(said, expected);
        assert_eq!(queries.len(), 7);
        assert!(queries[..5].iter().all(|query| query.dropped.is_none()));
        assert_eq!(queries[6].id, "0000006");
    }
}
