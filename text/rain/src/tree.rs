//! The tree of one search: token sets with priors, visits, values and embeddings. It asks no model; what models
//! say comes in as offers, scores and vectors.

use serde::{Deserialize, Serialize};

use crate::formulae::{
    self, Draw, add_to_mean, cosine, normalise, paper_score, release_score, similarity_update,
    softmax, variance_norm,
};
use crate::{Mode, Search};

/// What a model offers to put after a node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Offer {
    /// The likeliest next tokens with their natural log-probabilities, likeliest first.
    Tokens(Vec<(u32, f64)>),
    /// The greedy set and drawn ones, in the order of drawing, twins included.
    Sets {
        /// The greedy set.
        greedy: Draw,
        /// The others.
        drawn: Vec<Draw>,
    },
}

/// What is left to offer once a node has its children.
#[derive(Debug, Clone, PartialEq)]
enum Stock {
    Nothing,
    Tokens(Vec<(u32, f64)>),
    Sets(Vec<(Vec<u32>, f64)>),
}

/// A token set in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// Its parent; none for the root.
    pub parent: Option<usize>,
    /// Its children, in the order in which they came.
    pub children: Vec<usize>,
    /// Its tokens; none for the first root.
    pub tokens: Vec<u32>,
    /// Sets before it in the answer.
    pub depth: usize,
    /// Its probability among its siblings when it came (p).
    pub prior: f64,
    /// Visits, those by similarity included (n).
    pub visits: f64,
    /// Evaluations that went through it.
    pub real_visits: u64,
    /// Mean score (v), from -1 to 1.
    pub value: f64,
    /// Whether the answer ends in it.
    pub ended: bool,
    /// Mean embedding of what was said from it on.
    pub embedding: Option<Vec<f32>>,
    stock: Stock,
}

impl Node {
    fn new(parent: Option<usize>, depth: usize, tokens: Vec<u32>, prior: f64) -> Self {
        Self {
            parent,
            children: Vec::new(),
            tokens,
            depth,
            prior,
            visits: 0.0,
            real_visits: 0,
            value: 0.0,
            ended: false,
            embedding: None,
            stock: Stock::Nothing,
        }
    }
}

/// Siblings, by their place among the children, and their cosines.
pub type Similar = Vec<(usize, f64)>;

/// The tree. Node 0 is its root.
#[derive(Debug, Clone, PartialEq)]
pub struct Tree {
    nodes: Vec<Node>,
    /// The lowest and the highest value of nodes on paths so far.
    extremes: (f64, f64),
}

impl Default for Tree {
    fn default() -> Self {
        Self { nodes: vec![Node::new(None, 0, Vec::new(), 0.0)], extremes: (-1.0, 1.0) }
    }
}

impl Tree {
    /// A node; the root where there is none of this number.
    pub fn node(&self, id: usize) -> &Node {
        self.nodes.get(id).unwrap_or(&self.nodes[0])
    }

    /// The number of nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Never: there is a root.
    pub fn is_empty(&self) -> bool {
        false
    }

    pub(crate) fn set_ended(&mut self, id: usize) {
        self.nodes[id].ended = true;
    }

    fn children(&self, id: usize) -> impl Iterator<Item = &Node> {
        self.node(id).children.iter().map(|&child| self.node(child))
    }

    /// The child that is visited next: the first of those with the highest score, in paper mode the likeliest of
    /// them. None for a leaf.
    pub fn select(&self, id: usize, config: &Search) -> Option<usize> {
        let parent = self.node(id);
        let siblings: f64 = self.children(id).map(|child| child.visits).sum();
        let score = |child: &Node| match config.mode {
            Mode::Paper => {
                let c = config.exploration;
                (paper_score(child.value, child.prior, siblings, child.visits, c), child.prior)
            }
            Mode::Release => {
                let Node { value, prior, visits, .. } = *child;
                let (from, c) = (parent.visits, config.exploration);
                (release_score(value, self.extremes, prior, from, visits, c), 0.0)
            }
        };
        let scored = parent.children.iter().map(|&child| (child, score(self.node(child))));
        scored.reduce(|best, next| if next.1 > best.1 { next } else { best }).map(|(id, _)| id)
    }

    /// Gives a leaf its children.
    pub fn expand(&mut self, id: usize, offer: &Offer, config: &Search) {
        let (sets, priors, stock) = match offer {
            Offer::Tokens(tokens) => {
                let kept = &tokens[..config.candidates.min(tokens.len())];
                let logps: Vec<f64> = kept.iter().map(|token| token.1).collect();
                let priors = softmax(&logps, config.temperature);
                let mut sets: Vec<(Vec<u32>, f64)> =
                    kept.iter().zip(priors).map(|(token, prior)| (vec![token.0], prior)).collect();
                // The order decides between equals; the released code has it by token.
                sets.sort_by(|a, b| a.0.cmp(&b.0));
                let (sets, priors) = sets.into_iter().unzip();
                (sets, priors, Stock::Tokens(tokens.clone()))
            }
            Offer::Sets { greedy, drawn } => {
                let most = config.candidates.saturating_sub(1);
                let weighted = formulae::candidates(greedy, drawn, most);
                let (sets, mut priors): (Vec<_>, Vec<f64>) = weighted.iter().cloned().unzip();
                normalise(&mut priors);
                (sets, priors, Stock::Sets(weighted))
            }
        };
        self.nodes[id].stock = stock;
        self.add_children(id, sets, priors, config);
    }

    /// Gives an inner node more children: of single tokens the next likeliest, of longer sets those of `more`.
    /// Their priors are those among the children that the node would have had with them; the others keep theirs.
    pub fn add(&mut self, id: usize, more: Option<&Offer>, config: &Search) {
        let room = self.node(id).children.len() + 1;
        if let (Stock::Sets(stock), Some(Offer::Sets { greedy, drawn })) =
            (&mut self.nodes[id].stock, more)
        {
            stock.splice(0..0, formulae::candidates(greedy, drawn, 1));
        }
        let (sets, priors): (Vec<Vec<u32>>, Vec<f64>) = match &self.node(id).stock {
            Stock::Nothing => return,
            Stock::Tokens(tokens) => {
                let kept = &tokens[..room.min(tokens.len())];
                let logps: Vec<f64> = kept.iter().map(|token| token.1).collect();
                let priors = softmax(&logps, 1.0);
                kept.iter().zip(priors).map(|(token, prior)| (vec![token.0], prior)).unzip()
            }
            Stock::Sets(sets) => {
                let (sets, mut priors): (Vec<_>, Vec<f64>) =
                    sets.iter().take(room).cloned().unzip();
                normalise(&mut priors);
                (sets, priors)
            }
        };
        self.add_children(id, sets, priors, config);
    }

    /// Adds those of the sets that are no children yet.
    fn add_children(
        &mut self,
        id: usize,
        sets: Vec<Vec<u32>>,
        mut priors: Vec<f64>,
        config: &Search,
    ) {
        if id == 0 && config.mode == Mode::Release {
            formulae::mix(&mut priors, config.root_mix);
        }
        let depth = self.node(id).depth + 1;
        for (tokens, prior) in sets.into_iter().zip(priors) {
            if self.children(id).all(|child| child.tokens != tokens) {
                let child = self.nodes.len();
                self.nodes.push(Node::new(Some(id), depth, tokens, prior));
                self.nodes[id].children.push(child);
            }
        }
    }

    /// Whether a node is to get more children: those that it has are alike and bad (the paper's dynamic node
    /// addition).
    pub fn wants_children(&self, id: usize, config: &Search) -> bool {
        let node = self.node(id);
        let embeddings: Option<Vec<&[f32]>> =
            self.children(id).map(|child| child.embedding.as_deref()).collect();
        let Some(embeddings) = embeddings.filter(|embeddings| !embeddings.is_empty()) else {
            return false;
        };
        let best = self.children(id).map(|child| child.value).fold(f64::NEG_INFINITY, f64::max);
        let limit = config.variance_threshold * config.set_length(node.depth) as f64;
        node.children.len() < config.max_children
            && best < config.low_value
            && variance_norm(&embeddings) < limit
    }

    /// Takes an embedding of what was said from a node on into its mean, before the evaluation is counted.
    pub fn remember(&mut self, id: usize, embedding: Vec<f32>) {
        let node = &mut self.nodes[id];
        match &mut node.embedding {
            Some(mean) => add_to_mean(mean, &embedding, node.real_visits + 1),
            none => *none = Some(embedding),
        }
    }

    /// The siblings of a node whose mean embeddings are similar to its own.
    pub fn similar(&self, id: usize, config: &Search) -> Similar {
        let node = self.node(id);
        let (Some(parent), Some(own)) = (node.parent, &node.embedding) else { return Vec::new() };
        let others =
            self.node(parent).children.iter().enumerate().filter(|(_, other)| **other != id);
        others
            .filter_map(|(place, &other)| {
                let cosine = cosine(own, self.node(other).embedding.as_deref()?);
                (cosine >= config.similarity_threshold).then_some((place, cosine))
            })
            .collect()
    }

    /// Counts an evaluation of the last node of a path from the root; `similar` has the similar siblings of each
    /// node after the root.
    pub fn backup(&mut self, path: &[usize], score: f64, similar: &[Similar], config: &Search) {
        for (step, &id) in path.iter().enumerate() {
            let node = &mut self.nodes[id];
            node.visits += 1.0;
            node.real_visits += 1;
            node.value += (score - node.value) / node.visits;
            let Some(parent) = node.parent else { continue };
            let value = node.value;
            let (low, high) = self.extremes;
            self.extremes = (low.min(value), high.max(value));
            for &(place, cosine) in similar.get(step.wrapping_sub(1)).into_iter().flatten() {
                let Some(&other) = self.nodes[parent].children.get(place) else { continue };
                let other = &mut self.nodes[other];
                (other.value, other.visits) =
                    similarity_update((other.value, other.visits), score, cosine, config.gamma);
            }
        }
    }

    /// The root's child with the most visits, of equals the one of the highest value, of these the first.
    pub fn best(&self) -> Option<usize> {
        let counted = self.node(0).children.iter().map(|&id| {
            let child = self.node(id);
            (id, (child.visits, child.value))
        });
        counted.reduce(|best, next| if next.1 > best.1 { next } else { best }).map(|(id, _)| id)
    }

    /// Makes a child the root and forgets everything that does not lie below it.
    pub fn commit(&mut self, child: usize, config: &Search) {
        let mut kept = vec![child];
        let mut at = 0;
        while let Some(&id) = kept.get(at) {
            kept.extend(&self.node(id).children);
            at += 1;
        }
        let mut places = vec![None; self.nodes.len()];
        kept.iter().enumerate().for_each(|(place, &id)| places[id] = Some(place));
        let mut old: Vec<Option<Node>> =
            std::mem::take(&mut self.nodes).into_iter().map(Some).collect();
        let of = |id: usize| places.get(id).copied().flatten();
        self.nodes = kept
            .iter()
            .filter_map(|&id| old[id].take())
            .map(|node| Node {
                parent: node.parent.and_then(of),
                children: node.children.iter().filter_map(|&child| of(child)).collect(),
                ..node
            })
            .collect();
        let children = self.node(0).children.clone();
        if config.mode == Mode::Release && !children.is_empty() {
            let mut priors: Vec<f64> = children.iter().map(|&id| self.node(id).prior).collect();
            formulae::mix(&mut priors, config.root_mix);
            children.iter().zip(priors).for_each(|(&id, prior)| self.nodes[id].prior = prior);
        }
    }
}
