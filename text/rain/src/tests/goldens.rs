//! Release mode against the public reference implementation, node by node.

use std::path::Path;

use savi_run::Interrupt;
use savi_schema::{Message, Role};
use serde::Deserialize;

use super::script::{Script, Table};
use crate::models::{Asking, Question};
use crate::trace::{Begin, Journal, Line};
use crate::{
    Config, JudgeConfig, Models, PromptFiles, PromptForm, Prompts, Search, Searching, Tree, judge,
};

#[derive(Deserialize)]
struct File {
    searches: Vec<Recorded>,
}

#[derive(Deserialize)]
struct Recorded {
    table: Table,
    steps: Vec<Step>,
    answer: String,
    added: u64,
    similar: u64,
}

#[derive(Deserialize)]
struct Step {
    /// Places among siblings from the root down, and the score.
    iterations: String,
    child: usize,
    tokens: Vec<u32>,
    /// Place, n, fn, v and p.
    nodes: Option<Vec<(String, f64, u64, f64, f64)>>,
}

pub(super) fn search_of(table: &Table) -> Search {
    let own = if table.form == "adv" { Search::adv_bench() } else { Search::hh() };
    Search {
        iterations: table.iterations,
        min_visits: table.min_visits,
        value_threshold: table.threshold,
        stop: vec!["Human:".to_owned()],
        ..own
    }
}

fn close(got: f64, expected: f64, relative: f64) -> bool {
    (got - expected).abs() <= 2e-6 + relative * expected.abs()
}

/// All children of the root and all visited nodes, as the golden file has them.
fn check_nodes(tree: &Tree, step: &Step, whose: &str) {
    let mut found = Vec::new();
    let mut open: Vec<(usize, String)> = vec![(0, String::new())];
    while let Some((id, place)) = open.pop() {
        for (at, &child) in tree.node(id).children.iter().enumerate().rev() {
            let place = if place.is_empty() { at.to_string() } else { format!("{place}.{at}") };
            if id == 0 || tree.node(child).visits > 0.0 {
                found.push((place.clone(), child));
            }
            open.push((child, place));
        }
    }
    let Some(nodes) = &step.nodes else { return };
    assert_eq!(found.len(), nodes.len(), "{whose}: nodes");
    for (place, n, real, v, p) in nodes {
        let id = found.iter().find(|(at, _)| at == place);
        let node = tree.node(id.unwrap_or_else(|| panic!("{whose}: no node {place}")).1);
        assert_eq!(node.real_visits, *real, "{whose}, {place}: fn");
        for (name, got, expected, relative) in
            [("n", node.visits, *n, 0.0), ("v", node.value, *v, 0.0), ("p", node.prior, *p, 2e-5)]
        {
            let is_close = close(got, expected, relative);
            assert!(is_close, "{whose}, {place}: {name} is {got}, not {expected}");
        }
    }
}

#[test]
fn searches_are_those_of_the_reference() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/rain/searches.json");
    let file: File = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    assert!(file.searches.len() >= 50);
    let config = Config::default();
    let prompts = Prompts::load(&PromptFiles::default(), PromptForm::Chat, &JudgeConfig::default());
    let prompts = prompts.unwrap();
    let interrupt = Interrupt::new();
    let messages = [Message::text(Role::User, "q")];
    for Recorded { table, steps, answer, added, similar } in &file.searches {
        let search = search_of(table);
        let script = Script::new(table.clone());
        let judge = judge::SelfJudge { scorer: &script, prompts: &prompts, config: &config.judge };
        let models = Models {
            generator: &script,
            tokens: &script,
            scorer: &script,
            judge: &judge,
            embedder: Some(&script),
        };
        let question = Question { id: "q", seed: 0, messages: &messages, prompt: &[0] };
        let mut asking = Asking::new(models, &search, question, false);
        let mut journal = Journal::in_memory("q");
        let searching = Searching::new(&search, &mut asking, &mut journal, &interrupt);
        let begin = Begin {
            schema: 1,
            id: "q".to_owned(),
            key: String::new(),
            prompt_tokens: 1,
            search: search.clone(),
        };
        let (mut at, mut iterations, mut before) = (0, Vec::new(), Tree::default());
        let (mut adds, mut shared) = (0, 0);
        let mut watch = |tree: &Tree, line: &Line| match line {
            Line::Iteration(iteration) => {
                let places: Vec<String> =
                    iteration.path.iter().map(|visit| visit.child.to_string()).collect();
                iterations.push(format!("{}:{}", places.join("."), iteration.score));
                shared +=
                    iteration.path.iter().map(|visit| visit.similar.len() as u64).sum::<u64>();
                before = tree.clone();
            }
            Line::Adds { .. } => adds += 1,
            Line::Commit(commit) => {
                let whose = format!("table {}, step {at}", table.seed);
                let step = steps.get(at).unwrap_or_else(|| panic!("{whose}: one too many"));
                assert_eq!(iterations.join(" "), step.iterations, "{whose}");
                check_nodes(&before, step, &whose);
                assert_eq!(commit.child, step.child, "{whose}");
                let end = step.tokens.iter().position(|&token| token == super::script::END);
                let tokens = &step.tokens[..end.map_or(step.tokens.len(), |end| end + 1)];
                assert_eq!(commit.tokens, tokens, "{whose}");
                iterations.clear();
                at += 1;
            }
            _ => {}
        };
        let found = searching.run(&begin, &mut watch).unwrap();
        assert_eq!(at, steps.len(), "table {}: steps", table.seed);
        assert_eq!(found.text, *answer, "table {}", table.seed);
        assert_eq!((adds, shared), (*added, *similar), "table {}", table.seed);
        let text = journal.lines().join("\n");
        assert_eq!(crate::replay(&text).unwrap(), found, "table {}", table.seed);
    }
}
