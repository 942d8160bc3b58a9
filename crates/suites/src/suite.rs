//! What a benchmark is: where its questions come from, how they are put, how replies are read.

use std::path::PathBuf;

use savi_data::{DataError, Row, Rows};
use savi_schema::Sampling;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::readers::{self, Asked, Reading, Rule};
use crate::{Item, Shots};

/// An item and the row that it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Found {
    /// The item.
    pub item: Item,
    /// The file.
    pub path: PathBuf,
    /// The row, from 1.
    pub row: u64,
}

impl Found {
    /// An item with its place.
    pub fn new(item: Item, row: &Row) -> Self {
        Self { item, path: row.path.clone(), row: row.number }
    }
}

/// The log-probability of a continuation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OptionScore {
    /// Natural logarithm of its probability.
    pub logp: f64,
    /// Its length in tokens.
    pub tokens: usize,
    /// Its length in characters, the blank before it left out.
    pub characters: usize,
}

/// A figure of one item, by name: `acc`, `acc_norm`, `mc2`.
pub type Figure = (&'static str, f64);

/// How a suite's items are put to a model.
#[derive(Clone, Copy)]
pub enum Ask {
    /// The model writes a reply, one a turn.
    Reply {
        /// How replies are drawn and where they end.
        sampling: fn(&Item) -> Sampling,
    },
    /// Texts are continued by given words, whose log-probabilities are compared (no chat template).
    LogProbs {
        /// What stands before and what is scored after it, as often as the figures need.
        pairs: fn(&Item) -> Vec<(String, String)>,
        /// What the scores of the pairs say.
        figures: fn(&Item, &[OptionScore]) -> Vec<Figure>,
    },
}

/// A greedy reply of at most `TOKENS` tokens.
pub fn greedy<const TOKENS: usize>(_: &Item) -> Sampling {
    Sampling { max_tokens: TOKENS, ..Sampling::default() }
}

/// A way of reading replies that is the suite's own, by the name that tables have for it.
#[derive(Clone, Copy)]
pub struct Scorer {
    /// `strict` and so on.
    pub name: &'static str,
    /// Reads the reply to an item; `seed` is for rules that guess.
    pub read: fn(&Item, &str, u64) -> Reading,
}

/// How replies are read.
#[derive(Clone, Copy)]
pub enum Reader {
    /// By a harness's rule.
    Rule(Rule),
    /// By the suite's own.
    Own(fn(&Item, &str, u64) -> Reading),
}

impl Reader {
    /// Reads the reply to an item.
    pub fn read(self, item: &Item, reply: &str, seed: u64) -> Reading {
        match self {
            Self::Own(read) => read(item, reply, seed),
            Self::Rule(rule) => with_asked(item, |asked| rule.read(asked, reply, seed, &item.id)),
        }
    }
}

/// An item as rules need it. Captions that are to be told apart stand behind their names.
pub(crate) fn with_asked<T>(item: &Item, then: impl FnOnce(&Asked<'_>) -> T) -> T {
    let labels = item.more.get("labels").and_then(Value::as_array);
    let named: Option<Vec<String>> = labels.map(|labels| {
        let named = labels.iter().zip(&item.options);
        named.map(|(label, text)| format!("{}: {text}", label.as_str().unwrap_or(""))).collect()
    });
    let options = named.as_deref().unwrap_or(&item.options);
    then(&Asked { question: &item.question, options, gold: &item.target() })
}

/// A benchmark.
pub struct Suite {
    /// Its name on the command line.
    pub name: &'static str,
    /// `datasets/<name>/manifest.toml`.
    pub manifest: &'static str,
    /// Marks of published rows by split (see `marks`), where they were within reach.
    pub marks: &'static [(&'static str, &'static str)],
    /// Reads the annotation files of a split, in the order in which the manifest names them.
    pub load: fn(files: &[PathBuf], split: &str) -> Result<Vec<Found>, DataError>,
    /// The words that put an item.
    pub words: fn(&Item) -> String,
    /// How it is put.
    pub ask: Ask,
    /// Worked examples, for suites that can show some first.
    pub shot: Option<Shots>,
    /// Ways of its own to read replies; without any, those of harnesses that know the suite.
    pub scorers: &'static [Scorer],
    /// The kinds of categories that tables show, in order.
    pub categories: &'static [&'static str],
}

impl Suite {
    /// What suites of questions with options have in common: a letter is wanted, in at most 32 tokens.
    pub(crate) const CHOICE: Self = Self {
        name: "",
        manifest: "",
        marks: &[],
        load: |_, _| Ok(Vec::new()),
        words: choice_words,
        ask: Ask::Reply { sampling: greedy::<32> },
        shot: None,
        scorers: &[],
        categories: &[],
    };

    /// How replies are read, by name; the first one's accuracy is the suite's. None where a judge is needed.
    pub fn readers(&self) -> Vec<(&'static str, Reader)> {
        if !self.scorers.is_empty() {
            return self.scorers.iter().map(|own| (own.name, Reader::Own(own.read))).collect();
        }
        let of_harness = |scorer: readers::Scorer| {
            Some((scorer.name(), Reader::Rule(Rule::of(self.name, scorer)?)))
        };
        readers::Scorer::ALL.into_iter().filter_map(of_harness).collect()
    }
}

/// Reads one file row by row.
pub(crate) fn each_row(
    files: &[PathBuf],
    mut read: impl FnMut(&Row) -> Result<Option<Item>, DataError>,
) -> Result<Vec<Found>, DataError> {
    let mut found = Vec::new();
    for path in files {
        for row in Rows::open(path)? {
            let row = row?;
            found.extend(read(&row)?.map(|item| Found::new(item, &row)));
        }
    }
    Ok(found)
}

/// The question, its options under letters, and the wish for a letter.
pub fn choice_words(item: &Item) -> String {
    let mut words = item.question.clone();
    for (option, letter) in item.options.iter().zip('A'..='Z') {
        words.push_str(&format!("\n{letter}. {option}"));
    }
    words.push_str("\nReply with the letter of the right option and nothing else.");
    words
}

/// The question and the wish for a short reply.
pub fn short_words(item: &Item) -> String {
    format!("{}\nReply with one word or a short phrase.", item.question)
}

/// The question and the wish for a yes or a no.
pub fn yes_no_words(item: &Item) -> String {
    format!("{}\nReply with yes or no and nothing else.", item.question)
}

/// The question as it is.
pub fn plain_words(item: &Item) -> String {
    item.question.clone()
}
