//! Prompts, continuations and figures against those of lm-evaluation-harness's own tasks on the same rows
//! (`tests/goldens/suites/prompts`). TruthfulQA's figures have names of their own here.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::tests::rows;
use crate::catalog::suite;
use crate::suite::{Ask, OptionScore};

#[derive(Deserialize)]
struct Case {
    examples: Vec<Value>,
    rows: Vec<Value>,
    /// Requests, or the prompt of a suite that asks for a reply.
    asked: Vec<Asked>,
    /// Contexts after two examples.
    shown: Vec<Option<Shown>>,
    logps: Vec<Vec<Vec<f64>>>,
    figures: Vec<Vec<BTreeMap<String, f64>>>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Asked {
    Prompt(String),
    Pairs(Vec<(String, String)>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Shown {
    One(String),
    Each(Vec<String>),
}

fn cases() -> BTreeMap<String, Case> {
    let golden = include_str!("../../../../../tests/goldens/suites/prompts/prompts.json");
    serde_json::from_str(golden).unwrap()
}

#[test]
fn prompts_and_continuations_are_the_harness_own() {
    let (mut alone, mut after_examples) = (0, 0);
    for (name, case) in cases() {
        let suite = suite(&name).unwrap();
        let items = rows(&name, "test", &case.rows).unwrap();
        let examples = rows(&name, "train", &case.examples).unwrap();
        for (at, item) in items.iter().enumerate() {
            let contexts = match (&suite.ask, &case.asked[at]) {
                (Ask::LogProbs { pairs, .. }, Asked::Pairs(asked)) => {
                    assert_eq!(pairs(item), *asked, "{name}");
                    asked.iter().map(|(context, _)| context.clone()).collect()
                }
                (Ask::Reply { .. }, Asked::Prompt(asked)) => {
                    assert_eq!((suite.words)(item), *asked, "{name}");
                    vec![asked.clone()]
                }
                _ => panic!("{name} is asked in another way"),
            };
            alone += 1;
            let shown = match (&case.shown[at], suite.shot) {
                (None, None) => continue,
                (Some(Shown::One(shown)), Some(_)) => vec![shown.clone(); contexts.len()],
                (Some(Shown::Each(shown)), Some(_)) => shown.clone(),
                _ => panic!("{name}: examples on one side alone"),
            };
            let put = |context: &String| suite.shot.unwrap().put(&examples, 2, item, context);
            assert_eq!(contexts.iter().map(put).collect::<Vec<_>>(), shown, "{name}");
            after_examples += 1;
        }
    }
    assert!(alone >= 17 && after_examples >= 13, "{alone} {after_examples}");
}

#[test]
fn figures_are_the_harness_own() {
    let mut seen = 0;
    for (name, case) in cases() {
        let suite = suite(&name).unwrap();
        let Ask::LogProbs { figures, .. } = suite.ask else { continue };
        let items = rows(&name, "test", &case.rows).unwrap();
        for ((item, logps), expected) in items.iter().zip(&case.logps).zip(&case.figures) {
            for (logps, expected) in logps.iter().zip(expected) {
                let score = |&logp| OptionScore { logp, tokens: 1, characters: 1 };
                let scores: Vec<OptionScore> = logps.iter().map(score).collect();
                let figures = figures(item, &scores);
                assert_eq!(figures.len(), expected.len(), "{name}");
                for (figure, value) in figures {
                    let theirs = match figure {
                        "mc1" | "mc2" => "acc",
                        same => same,
                    };
                    assert!((value - expected[theirs]).abs() < 1e-12, "{name} {figure} {logps:?}");
                    seen += 1;
                }
            }
        }
    }
    assert!(seen >= 150, "{seen}");
}
