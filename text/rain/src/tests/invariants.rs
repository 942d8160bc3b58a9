//! What holds in every search.

use proptest::prelude::*;
use savi_run::Interrupt;
use savi_schema::{Message, Role};

use super::script::{Script, Table};
use crate::models::{Asking, Question};
use crate::trace::{Begin, Journal, Line};
use crate::{
    Config, JudgeConfig, Mode, Models, PromptFiles, PromptForm, Prompts, Search, Searching, Tree,
    judge,
};

fn check(tree: &Tree, config: &Search, has_added: bool) {
    for id in 0..tree.len() {
        let node = tree.node(id);
        assert!((-1.0..=1.0).contains(&node.value), "{node:?}");
        assert!(node.visits >= node.real_visits as f64 - 1e-9, "{node:?}");
        if !config.similarity {
            assert!((node.visits - node.real_visits as f64).abs() < 1e-9, "{node:?}");
        }
        let children: Vec<_> = node.children.iter().map(|&child| tree.node(child)).collect();
        for &child in &node.children {
            assert_eq!(
                (tree.node(child).parent, tree.node(child).depth),
                (Some(id), node.depth + 1)
            );
        }
        if children.is_empty() {
            continue;
        }
        // A node is judged once before it has children.
        let below: u64 = children.iter().map(|child| child.real_visits).sum();
        assert_eq!(node.real_visits, below + 1, "{node:?}");
        let sum: f64 = children.iter().map(|child| child.prior).sum();
        assert!(has_added || (sum - 1.0).abs() < 1e-9, "priors add up to {sum}");
        let different: std::collections::HashSet<_> =
            children.iter().map(|child| &child.tokens).collect();
        assert_eq!(different.len(), children.len(), "twins below {node:?}");
        assert!(children.len() <= config.max_children + 1);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn visits_values_and_priors_are_sound(
        seed in any::<u64>(),
        good in 0.05f64..0.95,
        noise in 0.05f64..2.0,
        paper in any::<bool>(),
        adv in any::<bool>(),
        similarity in any::<bool>(),
        addition in any::<bool>(),
        (iterations, min_visits) in (4u64..14, 1u64..5),
    ) {
        let table = Table {
            seed,
            form: String::new(),
            iterations,
            min_visits,
            threshold: 0.5,
            sharp: 5.0,
            end: 0.8,
            turn: 0.0,
            good,
            noise,
        };
        let own = if adv { Search::adv_bench() } else { Search::hh() };
        let search = Search {
            mode: if paper { Mode::Paper } else { Mode::Release },
            iterations,
            extra_iterations: 3,
            min_visits,
            max_new_tokens: 40,
            stop: vec!["Human:".to_owned()],
            similarity,
            addition,
            ..own
        };
        let config = Config::default();
        let prompts =
            Prompts::load(&PromptFiles::default(), PromptForm::Chat, &JudgeConfig::default());
        let prompts = prompts.unwrap();
        let script = Script::new(table);
        let judge =
            judge::SelfJudge { scorer: &script, prompts: &prompts, config: &config.judge };
        let models = Models {
            generator: &script,
            tokens: &script,
            scorer: &script,
            judge: &judge,
            embedder: Some(&script),
        };
        let (messages, interrupt) = ([Message::text(Role::User, "q")], Interrupt::new());
        let question = Question { id: "q", seed: 0, messages: &messages, prompt: &[0] };
        let mut asking = Asking::new(models, &search, question, false);
        let mut journal = Journal::in_memory("q");
        let begin = Begin {
            schema: 1,
            id: "q".to_owned(),
            key: String::new(),
            prompt_tokens: 1,
            search: search.clone(),
        };
        let (mut has_added, mut committed) = (false, Vec::new());
        let searching = Searching::new(&search, &mut asking, &mut journal, &interrupt);
        let mut watch = |tree: &Tree, line: &Line| {
            match line {
                Line::Adds { .. } => has_added = true,
                Line::Iteration(_) => check(tree, &search, has_added),
                Line::Commit(commit) => {
                    committed.extend(commit.tokens.clone());
                    prop_assert_commit(tree);
                }
                _ => {}
            }
        };
        let answer = searching.run(&begin, &mut watch).unwrap();
        prop_assert_eq!(&answer.token_ids, &committed);
        prop_assert!(answer.token_ids.len() <= 40);
        prop_assert!(!answer.text.contains("Human:"));
        let ends = answer.token_ids.iter().position(|&token| token == super::script::END);
        prop_assert!(ends.is_none_or(|at| at + 1 == answer.token_ids.len()), "nothing follows the end");
        prop_assert_eq!(&crate::replay(&journal.lines().join("\n")).unwrap(), &answer);
    }
}

/// What was committed is gone from the tree, and nothing else hangs on it.
fn prop_assert_commit(tree: &Tree) {
    assert_eq!(tree.node(0).parent, None);
    let below: usize = (0..tree.len()).map(|id| tree.node(id).children.len()).sum();
    assert_eq!(below + 1, tree.len(), "every node but the root is somebody's child");
}
