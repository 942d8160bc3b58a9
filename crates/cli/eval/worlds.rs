//! The suites of our own worlds: moving-shapes (clips that `savi data make` wrote) and arithmetic (word problems, drawn
//! as they are asked). Their floors are counted from their train splits.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context, ensure};
use rayon::prelude::*;
use savi_run::Key;
use savi_suites::readers::Reading;
use savi_suites::{
    Ask, Format, Gold, Item, QuestionPrompt, QuestionRecord, Scorer, Suite, SuiteFacts, extract,
    greedy, plain_words,
};
use savi_worlds::arithmetic::{self, LEVELS, Problem, VERSION, problem_of_level, stated_answer};
use savi_worlds::moving_shapes::{self, open_split};
use serde_json::json;

use super::bench::{Bench, clips_below};
use super::config::Config;
use crate::exit::BadInput;

/// Their names.
pub(crate) const NAMES: [&str; 2] = [MOVING_SHAPES.name, ARITHMETIC.name];
/// Both.
pub(crate) const SUITES: [&Suite; 2] = [&MOVING_SHAPES, &ARITHMETIC];

/// Questions about clips of moving shapes.
pub(crate) static MOVING_SHAPES: Suite = Suite {
    name: "moving-shapes",
    manifest: "",
    marks: &[],
    load: |_, _| Ok(Vec::new()),
    words: |item| QuestionPrompt::default().words_of(format(item), &item.question, &item.options),
    ask: Ask::Reply { sampling: greedy::<32> },
    shot: None,
    scorers: &[Scorer { name: "strict", read: read_words }],
    categories: &["family", "temporal", "novel"],
};

/// Word problems of every level.
pub(crate) static ARITHMETIC: Suite = Suite {
    name: arithmetic::NAME,
    manifest: "",
    marks: &[],
    load: |_, _| Ok(Vec::new()),
    words: plain_words,
    ask: Ask::Reply { sampling: greedy::<512> },
    shot: None,
    scorers: &[Scorer { name: "strict", read: read_number }],
    categories: &["level"],
};

/// What a listing says of one.
pub(crate) fn about(name: &str) -> String {
    let about = if name == MOVING_SHAPES.name {
        "Clips of a synthetic world with known truth (savi data make moving-shapes)."
    } else {
        "Word problems of a synthetic world with known truth, drawn as they are asked."
    };
    about.to_owned()
}

fn format(item: &Item) -> Format {
    if item.options.is_empty() { Format::Open } else { Format::Choice }
}

fn read_words(item: &Item, reply: &str, _: u64) -> Reading {
    let answer = match &item.gold {
        Gold::Option(at) => item.options.get(*at).map_or("", String::as_str),
        Gold::Text(answer) => answer,
        _ => "",
    };
    let grade = extract::grade(format(item), &item.options, answer, reply);
    let right = grade.as_ref().is_ok_and(|(_, right)| *right);
    Reading::graded(grade.ok().map(|(answer, _)| answer), right)
}

fn read_number(item: &Item, reply: &str, _: u64) -> Reading {
    let stated = stated_answer(reply).map(|answer| answer.to_string());
    let right = stated.as_deref() == Some(&item.target());
    Reading::graded(stated, right)
}

/// The suite of a config, if it is a world's.
pub(crate) fn open(config: &Config, opened_for: &str) -> anyhow::Result<Option<Bench>> {
    if config.suite == MOVING_SHAPES.name {
        return Ok(Some(moving_shapes(config, opened_for).map_err(BadInput)?));
    }
    let is_arithmetic = config.suite == ARITHMETIC.name;
    Ok(is_arithmetic.then(|| word_problems(config)).transpose().map_err(BadInput)?)
}

fn moving_shapes(config: &Config, opened_for: &str) -> anyhow::Result<Bench> {
    let parse = |name: &str| moving_shapes::Split::parse(name);
    let split = parse(&config.split).filter(|split| *split != moving_shapes::Split::Unlabelled);
    let split = split.context("--split: expected train, dev or test")?;
    let items = |split| -> anyhow::Result<Vec<Item>> {
        let questions = open_split(&config.data, split, opened_for)?.questions;
        Ok(questions.into_iter().map(item).collect())
    };
    let asked = items(split)?;
    ensure!(!asked.is_empty(), "{} has no questions", config.data.display());
    let train = match config.model == super::run::MAJORITY_CLASS {
        true => items(moving_shapes::Split::Train)?,
        false => Vec::new(),
    };
    let mut bench = bench(&MOVING_SHAPES, asked, train, &config.split);
    bench.clips = Some(clips_below(config)?);
    Ok(bench)
}

fn item(question: QuestionRecord) -> Item {
    let yes_no = |yes: bool| if yes { "yes" } else { "no" };
    let options = question.options.unwrap_or_default();
    let gold = match options.iter().position(|option| *option == question.answer) {
        Some(at) => Gold::Option(at),
        None => Gold::Text(question.answer),
    };
    let mut item = Item::new(question.id, question.question, gold)
        .about(question.clip)
        .with_options(options)
        .within("family", question.family)
        .within("temporal", yes_no(question.temporal))
        .within("novel", yes_no(question.novel));
    item.cluster = question.clip_id;
    item
}

/// The config's limit is a number of problems of each level; its seed draws them.
fn word_problems(config: &Config) -> anyhow::Result<Bench> {
    let each = config.limit.unwrap_or(100);
    ensure!(
        config.data == Path::new("") && each > 0,
        "--suite arithmetic draws its problems itself: it takes no --data, and a --limit of at least 1"
    );
    let split =
        arithmetic::Split::parse(&config.split).context("--split: expected train, dev or test")?;
    let train = match config.model == super::run::MAJORITY_CLASS {
        true => drawn(arithmetic::Split::Train, config.seed, each.max(1000)),
        false => Vec::new(),
    };
    Ok(bench(&ARITHMETIC, drawn(split, config.seed, each), train, &config.split))
}

fn drawn(split: arithmetic::Split, seed: u64, each: usize) -> Vec<Item> {
    let places = (1..=LEVELS).flat_map(|level| (0..each as u64).map(move |index| (level, index)));
    let drawn = places
        .collect::<Vec<_>>()
        .into_par_iter()
        .map(|(level, index)| problem(&problem_of_level(split, seed, index, level)));
    drawn.collect()
}

fn problem(problem: &Problem) -> Item {
    let gold = Gold::Text(problem.answer.to_string());
    let mut item = Item::new(problem.id.clone(), problem.text(), gold)
        .within("level", format!("level-{}", problem.level()));
    // What is left of it without its story.
    item.more.insert("blind".to_owned(), json!(problem.question));
    item.more.insert("version".to_owned(), json!(VERSION));
    item
}

fn bench(suite: &'static Suite, items: Vec<Item>, train: Vec<Item>, split: &str) -> Bench {
    let hashes: Vec<String> = items.iter().map(Item::hash).collect();
    let facts = SuiteFacts {
        split: split.to_owned(),
        hash: Key::new("suite").with("items", &hashes).finish(),
        published: None,
        original: items.len(),
        shots: 0,
    };
    Bench { suite, items, train, facts, clips: None }
}

/// The train split's commonest answer of each item's first category (of choice items: that option which is the
/// commonest), the first in the alphabet or among the options where several are as common.
pub(crate) fn majority(bench: &Bench) -> Vec<String> {
    let kind = bench.suite.categories[0];
    let category = |item: &Item| item.categories.get(kind).cloned().unwrap_or_default();
    let right = |item: &Item| match &item.gold {
        Gold::Option(at) => item.options[*at].clone(),
        _ => item.target(),
    };
    let mut counts: HashMap<String, BTreeMap<String, usize>> = HashMap::new();
    for item in &bench.train {
        let answer = extract::normalise(&right(item));
        *counts.entry(category(item)).or_default().entry(answer).or_default() += 1;
    }
    let reply = |item: &Item| {
        let Some(counts) = counts.get(&category(item)) else { return String::new() };
        let count = |answer: &str| counts.get(&extract::normalise(answer)).copied().unwrap_or(0);
        let commonest = |answers: Vec<&String>| {
            let best = answers.iter().map(|answer| count(answer)).max();
            let first = answers.into_iter().find(|answer| Some(count(answer)) == best);
            first.cloned().unwrap_or_default()
        };
        match item.options.is_empty() {
            true => commonest(counts.keys().collect()),
            false => commonest(item.options.iter().collect()),
        }
    };
    bench.items.iter().map(reply).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commonest_answer_of_the_family() {
        let open = |id: &str, family: &str, answer: &str| {
            Item::new(id, "?", Gold::Text(answer.to_owned())).within("family", family)
        };
        let choice = |id: &str, options: &[&str], at| {
            let options = options.iter().map(|&option| option.to_owned()).collect();
            Item::new(id, "?", Gold::Option(at)).with_options(options).within("family", "where")
        };
        let train = ["left", "Left", "up", "down", "down", "up"]
            .map(|answer| open("t", "where", answer))
            .into_iter()
            .chain([open("t", "count", "3")])
            .collect();
        let asked = vec![
            open("1", "where", "down"),
            open("2", "count", "three"),
            open("3", "unseen", "x"),
            choice("4", &["right", "up", "left"], 1),
            choice("5", &["right", "left"], 1),
        ];
        let bench = bench(&MOVING_SHAPES, asked, train, "dev");
        // down, left and up come twice each: the first in the alphabet, or the first option.
        assert_eq!(majority(&bench), ["down", "3", "", "up", "left"]);
    }
}
