//! Release mode against the public reference implementation, node by node.

use std::path::Path;

use savi_run::Interrupt;
use savi_schema::{Message, Role};
use serde::Deserialize;

use super::script::{Script, Table};
use crate::models::{Asking, Question};
use crate::trace::{Answer, Begin, Iteration, Journal, Line};
use crate::{
    Config, Mode, Models, PromptFiles, PromptForm, Prompts, Search, Searching, Tree, judge,
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
    nodes: Option<Vec<Visited>>,
}

/// Place, n, fn, v and p.
type Visited = (String, f64, u64, f64, f64);

/// A key and another value for it.
type Change = (&'static str, fn(&mut Search));

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

fn file() -> File {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/goldens/rain/searches.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Searches as a table says; gives the answer and the trace.
fn searched(
    table: &Table,
    search: &Search,
    watch: &mut dyn FnMut(&Tree, &Line),
) -> (Answer, String) {
    let config = Config::default();
    let prompts = Prompts::load(&PromptFiles::default(), PromptForm::Chat, &config.judge).unwrap();
    let (interrupt, messages) = (Interrupt::new(), [Message::text(Role::User, "q")]);
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
    let mut asking = Asking::new(models, search, question, false);
    let mut journal = Journal::in_memory("q");
    let searching = Searching::new(search, &mut asking, &mut journal, &interrupt);
    let begin = Begin {
        schema: 1,
        id: "q".to_owned(),
        key: String::new(),
        prompt_tokens: 1,
        search: search.clone(),
    };
    let answer = searching.run(&begin, watch).unwrap();
    (answer, journal.lines().join("\n"))
}

fn places(iteration: &Iteration) -> String {
    let places: Vec<String> = iteration.path.iter().map(|visit| visit.child.to_string()).collect();
    format!("{}:{}", places.join("."), iteration.score)
}

#[test]
fn searches_are_those_of_the_reference() {
    let searches = file().searches;
    assert!(searches.len() >= 50);
    for Recorded { table, steps, answer, added, similar } in &searches {
        let (mut at, mut iterations, mut before) = (0, Vec::new(), Tree::default());
        let (mut adds, mut shared) = (0, 0);
        let mut watch = |tree: &Tree, line: &Line| match line {
            Line::Iteration(iteration) => {
                iterations.push(places(iteration));
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
        let (found, trace) = searched(table, &search_of(table), &mut watch);
        assert_eq!(at, steps.len(), "table {}: steps", table.seed);
        assert_eq!(found.text, *answer, "table {}", table.seed);
        assert_eq!((adds, shared), (*added, *similar), "table {}", table.seed);
        assert_eq!(crate::replay(&trace).unwrap(), found, "table {}", table.seed);
    }
}

/// Every constant shows in some table: with another value searches go other ways.
#[test]
fn tables_tell_constants_apart() {
    let searches = file().searches;
    let changes: [Change; 10] = [
        ("mode", |search| search.mode = Mode::Paper),
        ("exploration", |search| search.exploration = 1.8),
        ("root_mix", |search| search.root_mix = 0.15),
        ("extra_iterations", |search| search.extra_iterations = 14),
        ("gamma", |search| search.gamma = 0.25),
        ("similarity_threshold", |search| search.similarity_threshold = 0.97),
        ("addition", |search| search.addition = false),
        ("variance_threshold", |search| search.variance_threshold = 0.001),
        ("min_visits", |search| search.min_visits += 1),
        ("temperature", |search| search.temperature *= 1.1),
    ];
    for (key, change) in changes {
        let goes_elsewhere = searches.iter().any(|Recorded { table, steps, .. }| {
            let mut search = search_of(table);
            change(&mut search);
            let mut iterations = Vec::new();
            searched(table, &search, &mut |_, line| {
                if let Line::Iteration(iteration) = line {
                    iterations.push(places(iteration));
                }
            });
            let recorded: Vec<&str> = steps.iter().map(|step| step.iterations.as_str()).collect();
            iterations.join(" ") != recorded.join(" ")
        });
        assert!(goes_elsewhere, "{key} makes no difference");
    }
}
