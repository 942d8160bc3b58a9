//! The search itself: the inner loop looks for the next token set, the outer loop commits it.

use std::collections::HashMap;

use savi_run::Interrupt;
use serde::{Deserialize, Serialize};

use crate::trace::{
    Answer, Begin, Commit, Costs, Iteration, Journal, Line, Reading, Simulation, Visit,
};
use crate::tree::Similar;
use crate::{Error, Offer, Search, Tree};

/// What a judge makes of a text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// From -1 (bad) to 1 (good).
    pub score: f64,
    /// The probabilities of the good and the bad label, for each prompt that was asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asked: Vec<[f64; 2]>,
}

/// What a search asks for. Answers are tokens from the start of the answer on.
pub trait Oracle {
    /// What may follow `answer` in a set of `length` tokens. `more` is given where a node that has so many
    /// children is to get one more.
    fn offer(&mut self, answer: &[u32], length: usize, more: Option<usize>)
    -> Result<Offer, Error>;

    /// Goes on from `answer` until there is something to judge.
    fn simulate(&mut self, answer: &[u32]) -> Result<Simulation, Error>;

    /// Judges `answer` with its simulation.
    fn judge(&mut self, answer: &[u32], simulation: &Simulation) -> Result<Judgement, Error>;

    /// Embeddings of pieces of an answer; none where nothing embeds.
    fn embed(&mut self, pieces: &[&[u32]]) -> Result<Option<Vec<Vec<f32>>>, Error>;

    /// A whole answer as text.
    fn read(&mut self, answer: &[u32]) -> Result<Reading, Error>;
}

/// One search.
pub struct Searching<'a> {
    config: &'a Search,
    /// None where a trace is replayed.
    oracle: Option<&'a mut dyn Oracle>,
    journal: &'a mut Journal,
    interrupt: &'a Interrupt,
    tree: Tree,
    /// Committed tokens.
    answer: Vec<u32>,
    scores: HashMap<String, f64>,
    costs: Costs,
}

impl std::fmt::Debug for Searching<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Searching").field("tree", &self.tree).field("costs", &self.costs).finish()
    }
}

impl<'a> Searching<'a> {
    /// A search that asks `oracle` for what the journal does not know yet.
    pub fn new(
        config: &'a Search,
        oracle: &'a mut dyn Oracle,
        journal: &'a mut Journal,
        interrupt: &'a Interrupt,
    ) -> Self {
        Self::over(config, Some(oracle), journal, interrupt)
    }

    pub(crate) fn over(
        config: &'a Search,
        oracle: Option<&'a mut dyn Oracle>,
        journal: &'a mut Journal,
        interrupt: &'a Interrupt,
    ) -> Self {
        Self {
            config,
            oracle,
            journal,
            interrupt,
            tree: Tree::default(),
            answer: Vec::new(),
            scores: HashMap::new(),
            costs: Costs::default(),
        }
    }

    /// Searches the whole answer. `watch` sees the tree after every line of the trace.
    pub fn run(
        mut self,
        begin: &Begin,
        watch: &mut dyn FnMut(&Tree, &Line),
    ) -> Result<Answer, Error> {
        self.say(Line::Begin(begin.clone()), watch)?;
        loop {
            self.find_set(watch)?;
            let Some(child) = self.tree.best().filter(|_| !self.tree.node(0).ended) else { break };
            let node = self.tree.node(child);
            let place = self.tree.node(0).children.iter().position(|&id| id == child);
            let commit = Commit {
                child: place.unwrap_or_default(),
                tokens: node.tokens.clone(),
                n: node.visits,
                real: node.real_visits,
                v: node.value,
            };
            self.answer.extend(&node.tokens);
            self.costs.commits += 1;
            self.tree.commit(child, self.config);
            self.say(Line::Commit(commit), watch)?;
            if self.tree.node(0).ended {
                break;
            }
        }
        let token_ids = self.answer.clone();
        let pick = |line| if let Line::Read(reading) = line { Some(reading) } else { None };
        let Reading { text, ended, hash } =
            self.ask("read", pick, Line::Read, |oracle| oracle.read(&token_ids))?;
        // The last evaluation was often of this very text.
        let whole = Simulation { tokens: Vec::new(), ended: true, hash };
        let score = self.judge(&token_ids, &whole)?;
        let answer = Answer { text, token_ids, ended, score, costs: self.costs };
        self.say(Line::Answer(answer.clone()), watch)?;
        self.journal.finish()?;
        Ok(answer)
    }

    /// The inner loop: iterates until the best child has been visited often enough and is good enough, or the
    /// budget is used up.
    fn find_set(&mut self, watch: &mut dyn FnMut(&Tree, &Line)) -> Result<(), Error> {
        let inherited = self.tree.node(0).real_visits;
        let budget = self.config.iterations.max(inherited + self.config.extra_iterations);
        for _ in inherited..budget {
            self.interrupt.check()?;
            self.iterate(watch)?;
            if self.tree.node(0).ended {
                break;
            }
            if let Some(best) = self.tree.best().map(|best| self.tree.node(best))
                && best.real_visits > self.config.min_visits
                && best.value > self.config.value_threshold
            {
                break;
            }
        }
        Ok(())
    }

    fn iterate(&mut self, watch: &mut dyn FnMut(&Tree, &Line)) -> Result<(), Error> {
        let (mut path, mut tokens) = (vec![0], self.answer.clone());
        let mut leaf = 0;
        loop {
            if !self.tree.node(leaf).children.is_empty() {
                self.add_child(leaf, path.len() - 1, &tokens, watch)?;
            }
            let Some(child) = self.tree.select(leaf, self.config) else { break };
            leaf = child;
            path.push(leaf);
            tokens.extend(&self.tree.node(leaf).tokens);
        }
        let simulation = self.simulate(&tokens)?;
        let score = self.judge(&tokens, &simulation)?;
        if simulation.ended {
            self.tree.set_ended(leaf);
        } else {
            let length = self.config.set_length(self.tree.node(leaf).depth);
            let offer = self.offer(&tokens, length, None)?;
            self.tree.expand(leaf, &offer, self.config);
        }
        tokens.extend(&simulation.tokens);
        let similar = self.similar(&path, &tokens)?;
        self.tree.backup(&path, score, &similar, self.config);
        self.costs.iterations += 1;
        let visit = |(&id, similar): (&usize, Similar)| {
            let node = self.tree.node(id);
            let siblings = node.parent.map(|parent| &self.tree.node(parent).children);
            let child = siblings.and_then(|siblings| siblings.iter().position(|&s| s == id));
            Visit {
                child: child.unwrap_or_default(),
                p: node.prior,
                n: node.visits,
                real: node.real_visits,
                v: node.value,
                similar,
            }
        };
        let path = path.iter().skip(1).zip(similar).map(visit).collect();
        self.say(Line::Iteration(Iteration { path, score }), watch)
    }

    /// Dynamic node addition at an inner node.
    fn add_child(
        &mut self,
        id: usize,
        level: usize,
        answer: &[u32],
        watch: &mut dyn FnMut(&Tree, &Line),
    ) -> Result<(), Error> {
        let adds = match &self.oracle {
            Some(_) => self.config.addition && self.tree.wants_children(id, self.config),
            None => matches!(self.journal.peek()?, Some(Line::Adds { level: at }) if at == level),
        };
        if !adds {
            return Ok(());
        }
        let (depth, children) = (self.tree.node(id).depth, self.tree.node(id).children.len());
        let length = self.config.set_length(depth);
        self.journal.put(&Line::Adds { level })?;
        // The next likeliest tokens are known.
        let more = match length {
            1 => None,
            _ => Some(self.offer(answer, length, Some(children))?),
        };
        self.tree.add(id, more.as_ref(), self.config);
        watch(&self.tree, &Line::Adds { level });
        Ok(())
    }

    /// The similar siblings of every node of a path after the root; `said` are all tokens of the answer, the
    /// simulation included.
    fn similar(&mut self, path: &[usize], said: &[u32]) -> Result<Vec<Similar>, Error> {
        let nothing = || vec![Similar::new(); path.len() - 1];
        let Some(oracle) = &mut self.oracle else {
            return Ok(match self.journal.peek()? {
                Some(Line::Iteration(recorded)) => {
                    recorded.path.into_iter().map(|visit| visit.similar).collect()
                }
                _ => nothing(),
            });
        };
        if !self.config.embeds() || path.len() == 1 {
            return Ok(nothing());
        }
        let mut from = self.answer.len();
        let mut pieces = Vec::new();
        for &id in &path[1..] {
            pieces.push(&said[from..]);
            from += self.tree.node(id).tokens.len();
        }
        let Some(embeddings) = oracle.embed(&pieces)? else { return Ok(nothing()) };
        for (&id, embedding) in path[1..].iter().zip(embeddings) {
            self.tree.remember(id, embedding);
        }
        if !self.config.similarity {
            return Ok(nothing());
        }
        Ok(path[1..].iter().map(|&id| self.tree.similar(id, self.config)).collect())
    }

    fn say(&mut self, line: Line, watch: &mut dyn FnMut(&Tree, &Line)) -> Result<(), Error> {
        self.journal.put(&line)?;
        watch(&self.tree, &line);
        Ok(())
    }

    fn offer(
        &mut self,
        answer: &[u32],
        length: usize,
        more: Option<usize>,
    ) -> Result<Offer, Error> {
        let pick = |line| if let Line::Offered(offer) = line { Some(offer) } else { None };
        let offer =
            self.ask("offered", pick, Line::Offered, |oracle| oracle.offer(answer, length, more))?;
        self.costs.offers += 1;
        self.costs.candidate_tokens += match &offer {
            Offer::Tokens(_) => 1,
            Offer::Sets { greedy, drawn } => {
                drawn.iter().chain([greedy]).map(|draw| draw.tokens.len() as u64).sum()
            }
        };
        Ok(offer)
    }

    fn simulate(&mut self, answer: &[u32]) -> Result<Simulation, Error> {
        let pick = |line| if let Line::Simulated(said) = line { Some(said) } else { None };
        let simulation =
            self.ask("simulated", pick, Line::Simulated, |oracle| oracle.simulate(answer))?;
        self.costs.simulations += u64::from(!simulation.tokens.is_empty());
        self.costs.simulated_tokens += simulation.tokens.len() as u64;
        Ok(simulation)
    }

    fn judge(&mut self, answer: &[u32], simulation: &Simulation) -> Result<f64, Error> {
        if let Some(&score) = self.scores.get(&simulation.hash) {
            self.costs.known_texts += 1;
            return Ok(score);
        }
        let pick = |line| if let Line::Judged(judged) = line { Some(judged) } else { None };
        let judged =
            self.ask("judged", pick, Line::Judged, |oracle| oracle.judge(answer, simulation))?;
        self.costs.judge_prompts += judged.asked.len() as u64;
        self.scores.insert(simulation.hash.clone(), judged.score);
        Ok(judged.score)
    }

    /// What the journal knows, or else what the oracle says, which the journal then knows.
    fn ask<T: Clone>(
        &mut self,
        kind: &str,
        pick: impl FnOnce(Line) -> Option<T>,
        line: impl FnOnce(T) -> Line,
        asks: impl FnOnce(&mut dyn Oracle) -> Result<T, Error>,
    ) -> Result<T, Error> {
        if let Some(known) = self.journal.known(kind, pick)? {
            return Ok(known);
        }
        let Some(oracle) = &mut self.oracle else {
            // A line is missing, and none may be added.
            return Err(self.journal.missing());
        };
        let said = asks(&mut **oracle)?;
        self.journal.put(&line(said.clone()))?;
        Ok(said)
    }
}

/// Goes through a whole trace again without a model: computes every prior, visit and value from what the models
/// said, and compares it with what the trace says. Similar siblings are taken from the trace, as it holds no
/// embeddings. The trace has to come from a machine that computes exponentials alike.
pub fn replay(trace: &str) -> Result<Answer, Error> {
    let mut journal = Journal::recorded("a trace", trace);
    let begin = match journal.peek()? {
        Some(Line::Begin(begin)) => begin,
        _ => return Err(journal.missing()),
    };
    replayed(&begin, &mut journal)
}

pub(crate) fn replayed(begin: &Begin, journal: &mut Journal) -> Result<Answer, Error> {
    let interrupt = Interrupt::new();
    let searching = Searching::over(&begin.search, None, journal, &interrupt);
    searching.run(begin, &mut |_, _| {})
}
