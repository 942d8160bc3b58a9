//! Searches that were worked by hand.

use savi_run::Interrupt;

use crate::formulae::Draw;
use crate::trace::{Answer, Begin, Journal, Line, Reading, Simulation};
use crate::{Error, Judgement, Mode, Offer, Oracle, Search, Searching, Tree, replay};

/// Every node has the sets [10 d + 1, 0] and [10 d + 2, 0] with probabilities 0.6 and 0.4, d being its depth; scores and
/// vectors come one after the other. An answer ends with its second set.
struct Hand {
    scores: Vec<f64>,
    vectors: Vec<Vec<f32>>,
    judged: usize,
}

impl Oracle for Hand {
    fn offer(
        &mut self,
        answer: &[u32],
        length: usize,
        more: Option<usize>,
    ) -> Result<Offer, Error> {
        let depth = (answer.len() / length) as u32;
        let first = 10 * depth + 2 * more.map_or(0, |children| children as u32);
        let draw = |token: u32, p: f64| Draw { tokens: vec![token, 0], logp: p.ln() };
        Ok(Offer::Sets { greedy: draw(first + 1, 0.6), drawn: vec![draw(first + 2, 0.4)] })
    }

    fn simulate(&mut self, answer: &[u32]) -> Result<Simulation, Error> {
        let hash = self.judged.to_string();
        Ok(Simulation { tokens: vec![7], ended: answer.len() == 4, hash })
    }

    fn judge(&mut self, _: &[u32], _: &Simulation) -> Result<Judgement, Error> {
        self.judged += 1;
        let score = self.scores.get(self.judged - 1).copied().unwrap_or(1.0);
        Ok(Judgement { score, asked: vec![[0.5, 0.5]; 2] })
    }

    fn embed(&mut self, pieces: &[&[u32]]) -> Result<Option<Vec<Vec<f32>>>, Error> {
        Ok((!self.vectors.is_empty())
            .then(|| pieces.iter().map(|_| self.vectors.remove(0)).collect()))
    }

    fn read(&mut self, answer: &[u32]) -> Result<Reading, Error> {
        let (text, hash) = (format!("{answer:?}"), "whole".to_owned());
        Ok(Reading { text, ended: true, hash })
    }
}

fn config(mode: Mode) -> Search {
    Search {
        mode,
        set_lengths: vec![2],
        candidates: 2,
        iterations: 6,
        extra_iterations: 2,
        min_visits: 1,
        ..Search::default()
    }
}

fn searched(config: &Search, hand: &mut Hand) -> (Answer, Vec<String>, Vec<Tree>) {
    let (interrupt, mut journal) = (Interrupt::new(), Journal::in_memory("q"));
    let begin = Begin {
        schema: 1,
        id: "q".to_owned(),
        key: String::new(),
        prompt_tokens: 1,
        search: config.clone(),
    };
    let mut trees = Vec::new();
    let mut watch = |tree: &Tree, line: &Line| {
        if matches!(line, Line::Iteration(_)) {
            trees.push(tree.clone());
        }
    };
    let searching = Searching::new(config, hand, &mut journal, &interrupt);
    let answer = searching.run(&begin, &mut watch).unwrap();
    assert_eq!(replay(&journal.lines().join("\n")).unwrap(), answer);
    (answer, journal.lines().to_vec(), trees)
}

/// Value, visits and real visits of the root's children.
fn children(tree: &Tree) -> Vec<(f64, f64, u64)> {
    let child = |&id: &usize| {
        let node = tree.node(id);
        (node.value, node.visits, node.real_visits)
    };
    tree.node(0).children.iter().map(child).collect()
}

fn near(got: &[(f64, f64, u64)], expected: &[(f64, f64, u64)]) {
    let is_near = |(a, b): (&(f64, f64, u64), &(f64, f64, u64))| {
        (a.0 - b.0).abs() < 1e-9 && (a.1 - b.1).abs() < 1e-9 && a.2 == b.2
    };
    let all = got.len() == expected.len() && got.iter().zip(expected).all(is_near);
    assert!(all, "{got:?} is not {expected:?}");
}

#[test]
fn paper_mode_by_hand() {
    // Weights 0.6 and 0.4; that of the greedy set becomes 0.4 + 0.4 (its bounds), so priors are 2/3 and 1/3.
    let mut hand = Hand { scores: vec![0.0, -1.0, 1.0, 1.0], vectors: Vec::new(), judged: 0 };
    let (answer, lines, trees) = searched(&config(Mode::Paper), &mut hand);
    let priors: Vec<f64> =
        trees[0].node(0).children.iter().map(|&id| trees[0].node(id).prior).collect();
    assert!((priors[0] - 2.0 / 3.0).abs() < 1e-12 && (priors[1] - 1.0 / 3.0).abs() < 1e-12);
    // 1: the root. 2: no visits, the prior decides: child 0 gets -1.
    near(&children(&trees[1]), &[(-1.0, 1.0, 1), (0.0, 0.0, 0)]);
    // 3: -1 + 2 * 2/3 * 1 / 2 = -1/3 against 0 + 2 * 1/3 * 1 = 2/3: child 1 gets 1.
    near(&children(&trees[2]), &[(-1.0, 1.0, 1), (1.0, 1.0, 1)]);
    // 4: -1 + 2 * 2/3 * 1.414 / 2 = -0.06 against 1 + 2 * 1/3 * 1.414 / 2 = 1.47: child 1, and its child 0.
    near(&children(&trees[3]), &[(-1.0, 1.0, 1), (1.0, 2.0, 2)]);
    // Two real visits are more than one, 1 is more than 0.8: child 1 is committed after 4 iterations.
    let commit = lines.iter().position(|line| line.contains("\"commit\"")).unwrap();
    let before = lines[..commit].iter().filter(|line| line.contains("\"iteration\"")).count();
    assert_eq!(before, 4);
    assert!(lines[commit].contains("\"tokens\":[2,0]"), "{}", lines[commit]);
    // Its child 0 has ended and was visited once; the second visit is one too few for the rest of the rule,
    // the third stops the loop.
    assert_eq!(answer.token_ids, [2, 0, 11, 0]);
    assert_eq!(answer.text, "[2, 0, 11, 0]");
    assert_eq!((answer.costs.commits, answer.costs.judge_prompts % 2), (2, 0));
}

#[test]
fn release_mode_mixes_the_root_and_looks_at_the_parent() {
    let mut hand = Hand { scores: vec![0.0, -1.0, 1.0, 1.0], vectors: Vec::new(), judged: 0 };
    let (_, _, trees) = searched(&config(Mode::Release), &mut hand);
    // 0.75 * 2/3 + 0.125 and 0.75 * 1/3 + 0.125.
    let root = trees[0].node(0);
    let priors: Vec<f64> = root.children.iter().map(|&id| trees[0].node(id).prior).collect();
    assert!((priors[0] - 0.625).abs() < 1e-12 && (priors[1] - 0.375).abs() < 1e-12);
    // 2: 2 * 0.625 * 1 against 2 * 0.375 * 1: child 0 gets -1.
    near(&children(&trees[1]), &[(-1.0, 1.0, 1), (0.0, 0.0, 0)]);
    // 3: 0 + 2 * 0.625 * 1.414 / 2 = 0.88 against 0 + 2 * 0.375 * 1.414 = 1.06: child 1 gets 1.
    near(&children(&trees[2]), &[(-1.0, 1.0, 1), (1.0, 1.0, 1)]);
    // 4: 0.625 * 1.732 = 1.08 against 0.999995 + 0.375 * 1.732: child 1.
    near(&children(&trees[3]), &[(-1.0, 1.0, 1), (1.0, 2.0, 2)]);
}

#[test]
fn similar_siblings_share_by_hand() {
    // The second child's vector has the cosine 0.96 to the first one's: it passes 0.2 * 0.96 of its 1 on.
    let vectors = vec![vec![1.0, 0.0], vec![0.96, 0.28]];
    let mut hand = Hand { scores: vec![0.0, -1.0, 1.0], vectors, judged: 0 };
    let config =
        Search { iterations: 3, extra_iterations: 1, addition: false, ..config(Mode::Paper) };
    let (interrupt, mut journal) = (Interrupt::new(), Journal::in_memory("q"));
    let mut begin_search = config.clone();
    begin_search.max_new_tokens = 4;
    let begin = Begin {
        schema: 1,
        id: "q".to_owned(),
        key: String::new(),
        prompt_tokens: 1,
        search: begin_search,
    };
    let mut found = Vec::new();
    let mut watch = |tree: &Tree, line: &Line| {
        if matches!(line, Line::Iteration(_)) && found.len() < 3 {
            found.push(children(tree));
        }
    };
    let searching = Searching::new(&config, &mut hand, &mut journal, &interrupt);
    searching.run(&begin, &mut watch).unwrap();
    let weight = 0.2 * 0.96;
    let value = (-1.0 + weight) / (1.0 + weight);
    let is_near = |a: f64, b: f64| (a - b).abs() < 1e-7;
    let [first, second] = found[2][..] else { panic!("{found:?}") };
    assert!(is_near(first.0, value) && is_near(first.1, 1.0 + weight), "{first:?}");
    assert_eq!((first.2, second), (1, (1.0, 1.0, 1)));
}

#[test]
fn bad_children_that_are_alike_get_another_one() {
    let vectors = vec![vec![1.0, 0.0]; 40];
    let mut hand = Hand { scores: vec![-1.0; 5], vectors, judged: 0 };
    let (_, lines, trees) = searched(&config(Mode::Release), &mut hand);
    let adds = lines.iter().position(|line| line.contains("\"adds\"")).unwrap();
    let before = lines[..adds].iter().filter(|line| line.contains("\"iteration\"")).count();
    // All children are judged, all are bad, and their embeddings do not vary.
    assert_eq!(before, 3);
    let tokens: Vec<u32> =
        trees[3].node(0).children.iter().map(|&id| trees[3].node(id).tokens[0]).collect();
    // Of the new greedy and the new drawn set and the two old ones the first three are offered; two are new.
    assert_eq!(tokens, [1, 2, 5, 6]);
}

#[test]
fn a_trace_that_was_changed_is_found_out() {
    let mut hand = Hand { scores: vec![0.0, -1.0, 1.0, 1.0], vectors: Vec::new(), judged: 0 };
    let (_, lines, _) = searched(&config(Mode::Release), &mut hand);
    let whole = lines.join("\n");
    for (from, to) in [
        ("\"score\":-1.0", "\"score\":1.0"),
        ("\"v\":-1.0", "\"v\":-0.5"),
        ("\"child\":1", "\"child\":0"),
        ("\"tokens\":[2,0]", "\"tokens\":[3,0]"),
    ] {
        assert!(whole.contains(from), "{from}");
        let error = replay(&whole.replacen(from, to, 1)).unwrap_err();
        assert!(matches!(error, Error::Trace { .. }), "{from}: {error}");
    }
    let short = lines[..lines.len() - 1].join("\n");
    assert!(replay(&short).unwrap_err().to_string().contains("ends before"));
    let long = format!("{whole}\n{}", lines[1]);
    assert!(replay(&long).unwrap_err().to_string().contains("has ended"));
    assert!(replay("{}").is_err() && replay("").is_err());
}
