//! What a search can be told. Each constant of the released code is a key here; the defaults are those of its
//! harmlessness experiment (HH).

use savi_schema::Sampling;
use serde::{Deserialize, Serialize};

/// How children are compared while the search goes down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// As the paper's formula (section 3.2): the plain value, exploration by the visits of all siblings. Where
    /// nobody was visited the prior decides.
    Paper,
    /// As the released code: the value between the extremes seen so far, exploration by the visits of the
    /// parent, priors of the root's children mixed with uniform ones.
    #[default]
    Release,
}

/// A value that cannot be carried out, with its key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigProblem(pub(crate) String);

/// The search's part of a config (RAIN, arXiv 2309.07124, and its released code).
///
/// | key | HH | AdvBench | TruthfulQA |
/// |---|---|---|---|
/// | `min_visits` | 6 | 5 | 16 |
/// | `temperature` | 1 | 2 | 1 |
/// | `draws`, `addition_draws` | 9, 1 | 19, 3 | 9, 1 |
/// | `simulation_end` | `,` `.` `?` `:` `;` newline | the same | none: to the end |
///
/// All other keys are the same in the three experiments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Search {
    /// How children are compared.
    pub mode: Mode,
    /// Weight of exploration (c of the paper).
    pub exploration: f64,
    /// Share of the uniform distribution in the priors of the root's children, in release mode.
    pub root_mix: f64,
    /// Iterations before a token set is committed whatever the values are, those inherited from the former
    /// root included.
    pub iterations: u64,
    /// Iterations that a new root gets at least, beyond the visits that it inherits.
    pub extra_iterations: u64,
    /// The search for a token set may stop once its best child has more real visits than this...
    pub min_visits: u64,
    /// ...and a value above this.
    pub value_threshold: f64,
    /// Longest prompt and answer together, in tokens.
    pub max_length: usize,
    /// Longest answer, in tokens.
    pub max_new_tokens: usize,
    /// Tokens of a token set by its depth in the answer; the last length holds for all that are deeper.
    pub set_lengths: Vec<usize>,
    /// Candidates of a leaf. Where sets are single tokens these are the likeliest ones.
    pub candidates: usize,
    /// Longer sets are drawn from this many of the likeliest tokens, renormalised.
    pub top_k: usize,
    /// Temperature of candidates.
    pub temperature: f64,
    /// Sets that are drawn beside the greedy one, at most, to find `candidates` different ones.
    pub draws: usize,
    /// The same where one child is added.
    pub addition_draws: usize,
    /// Sampling temperature of simulations; they draw from the whole vocabulary.
    pub simulation_temperature: f64,
    /// A simulation ends where the answer ends with one of these; without any it goes to the answer's end.
    pub simulation_end: Vec<String>,
    /// Longest simulation, in tokens.
    pub simulation_tokens: usize,
    /// Strings that end the answer; they are no part of it.
    pub stop: Vec<String>,
    /// Whether evaluations also count for siblings with a similar embedding (Eq. 2). Needs an embedder.
    pub similarity: bool,
    /// Siblings with at least this cosine count as similar.
    pub similarity_threshold: f64,
    /// How much an evaluation counts for a sibling of cosine 1.
    pub gamma: f64,
    /// Whether nodes whose children are alike and bad get more children. Needs an embedder.
    pub addition: bool,
    /// A node with so many children gets no more.
    pub max_children: usize,
    /// Children are alike where the norm of their embeddings' variance is below this times the set length.
    pub variance_threshold: f64,
    /// Children are bad where the best of their values is below this.
    pub low_value: f64,
}

impl Default for Search {
    fn default() -> Self {
        Self {
            mode: Mode::Release,
            exploration: 2.0,
            root_mix: 0.25,
            iterations: 50,
            extra_iterations: 15,
            min_visits: 6,
            value_threshold: 0.8,
            max_length: 2048,
            max_new_tokens: 2048,
            set_lengths: vec![1, 2, 4, 10],
            candidates: 10,
            top_k: 15,
            temperature: 1.0,
            draws: 9,
            addition_draws: 1,
            simulation_temperature: 1.0,
            simulation_end: [",", ".", "?", ":", ";", "\n"].map(str::to_owned).to_vec(),
            simulation_tokens: 2048,
            stop: Vec::new(),
            similarity: true,
            similarity_threshold: 0.95,
            gamma: 0.2,
            addition: true,
            max_children: 20,
            variance_threshold: 0.03,
            low_value: 0.0,
        }
    }
}

impl Search {
    /// The constants of the harmlessness experiment: the defaults.
    pub fn hh() -> Self {
        Self::default()
    }

    /// The constants of the experiment against adversarial suffixes.
    pub fn adv_bench() -> Self {
        Self { min_visits: 5, temperature: 2.0, draws: 19, addition_draws: 3, ..Self::default() }
    }

    /// The constants of the truthfulness experiment: simulations are whole answers.
    pub fn truthful_qa() -> Self {
        Self { min_visits: 16, simulation_end: Vec::new(), ..Self::default() }
    }

    /// Tokens of a set at this depth of the answer.
    pub fn set_length(&self, depth: usize) -> usize {
        self.set_lengths.get(depth).or(self.set_lengths.last()).copied().unwrap_or(1)
    }

    /// Whether embeddings are of use.
    pub fn embeds(&self) -> bool {
        self.similarity || self.addition
    }

    /// Refuses what cannot be carried out, naming the key.
    pub fn validate(&self) -> Result<(), ConfigProblem> {
        let bad = |words: String| Err(ConfigProblem(words));
        let counts = [
            ("iterations", self.iterations as usize),
            ("extra_iterations", self.extra_iterations as usize),
            ("max_length", self.max_length),
            ("max_new_tokens", self.max_new_tokens),
            ("candidates", self.candidates),
            ("top_k", self.top_k),
            ("addition_draws", self.addition_draws),
            ("simulation_tokens", self.simulation_tokens),
            ("max_children", self.max_children),
        ];
        for (key, value) in counts {
            if value == 0 {
                return bad(format!("{key} = 0: must be at least 1"));
            }
        }
        if self.set_lengths.is_empty() || self.set_lengths.contains(&0) {
            return bad(format!(
                "set_lengths = {:?}: give lengths of at least 1",
                self.set_lengths
            ));
        }
        if self.draws + 1 < self.candidates {
            let (draws, candidates) = (self.draws, self.candidates);
            return bad(format!("draws = {draws}: too few for candidates = {candidates}"));
        }
        let finite = [
            ("exploration", self.exploration),
            ("temperature", self.temperature),
            ("simulation_temperature", self.simulation_temperature),
            ("variance_threshold", self.variance_threshold),
        ];
        for (key, value) in finite {
            if !(value.is_finite() && value >= 0.0) {
                return bad(format!("{key} = {value}: must be 0 or more"));
            }
        }
        if self.temperature == 0.0 {
            return bad("temperature = 0: all candidates would be the greedy one".to_owned());
        }
        for (key, value) in [("root_mix", self.root_mix), ("gamma", self.gamma)] {
            if !(0.0..=1.0).contains(&value) {
                return bad(format!("{key} = {value}: must be from 0 to 1"));
            }
        }
        if !(self.similarity_threshold > 0.0 && self.similarity_threshold <= 1.0) {
            let value = self.similarity_threshold;
            return bad(format!("similarity_threshold = {value}: must be above 0, at most 1"));
        }
        for (key, value) in
            [("value_threshold", self.value_threshold), ("low_value", self.low_value)]
        {
            if !(-1.0..=1.0).contains(&value) {
                return bad(format!("{key} = {value}: values lie from -1 to 1"));
            }
        }
        for (key, texts) in [("stop", &self.stop), ("simulation_end", &self.simulation_end)] {
            if texts.iter().any(String::is_empty) {
                return bad(format!("{key} has an empty string"));
            }
        }
        Ok(())
    }

    /// How the greedy set of a leaf is drawn.
    pub(crate) fn greedy(&self, length: usize) -> Sampling {
        Sampling { max_tokens: length, top_logprobs: self.top_k, ..Sampling::default() }
    }

    /// How the other sets are drawn.
    pub(crate) fn sampled(&self, length: usize) -> Sampling {
        let (temperature, top_k) = (self.temperature, self.top_k);
        Sampling { max_tokens: length, temperature, top_k, ..Sampling::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_go_by_depth() {
        let lengths: Vec<usize> = (0..6).map(|depth| Search::default().set_length(depth)).collect();
        assert_eq!(lengths, [1, 2, 4, 10, 10, 10]);
    }

    #[test]
    fn mistakes_are_refused_by_key() {
        let check = |text: &str, key: &str| {
            let config: Search = toml::from_str(text).unwrap();
            let said = config.validate().unwrap_err().to_string();
            assert!(said.starts_with(key), "{text}: {said}");
        };
        for text in [
            "iterations = 0",
            "set_lengths = [1, 0]",
            "draws = 3",
            "temperature = 0.0",
            "root_mix = 1.5",
            "gamma = -0.1",
            "similarity_threshold = 0.0",
            "value_threshold = 2.0",
            "stop = ['']",
            "exploration = -1.0",
            "max_children = 0",
        ] {
            check(text, text.split(' ').next().unwrap());
        }
        assert!(toml::from_str::<Search>("iteration = 3").is_err());
        for preset in [Search::hh(), Search::adv_bench(), Search::truthful_qa()] {
            preset.validate().unwrap();
            let text = toml::to_string(&preset).unwrap();
            assert_eq!(toml::from_str::<Search>(&text).unwrap(), preset);
        }
    }
}
