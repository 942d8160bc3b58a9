//! One question of a benchmark, whatever file it came from.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// What a reply is held against.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gold {
    /// The place of the right option, from 0.
    Option(usize),
    /// The places of all options that are true (TruthfulQA's MC2).
    Options(Vec<usize>),
    /// A text: a number, a word, a worked solution, whatever the suite's readers expect.
    Text(String),
    /// Nothing exact; a judge says, with these references (one for each turn) where there are any.
    Judged(Vec<String>),
    /// The answers are not published; replies go into a submission.
    Hidden,
}

/// The clip that an item is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ItemClip {
    /// Its file: a path below the folder of clips, with or without its ending, or its stem alone.
    pub name: String,
    /// Where the part that is asked about begins, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<f64>,
    /// Where it ends, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<f64>,
}

/// One item of a suite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// Unique within the suite.
    pub id: String,
    /// Items that hang together share it: the clip's name, or the item's own id.
    pub cluster: String,
    /// What figures are given apart for: `{"type": "CW"}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub categories: BTreeMap<String, String>,
    /// The clip, for suites about clips.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clip: Option<ItemClip>,
    /// What is asked; the further turns of a dialogue are in `turns`.
    pub question: String,
    /// What is asked after the first reply, turn by turn.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub turns: Vec<String>,
    /// The options' texts, without letters; empty for open questions.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub options: Vec<String>,
    /// What a reply is held against.
    pub gold: Gold,
    /// What else the row says and the suite's wording or readers use.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub more: Map<String, Value>,
}

impl Item {
    /// An open item without categories that hangs together with nothing.
    pub fn new(id: impl Into<String>, question: impl Into<String>, gold: Gold) -> Self {
        let id = id.into();
        Self {
            cluster: id.clone(),
            id,
            categories: BTreeMap::new(),
            clip: None,
            question: question.into(),
            turns: Vec::new(),
            options: Vec::new(),
            gold,
            more: Map::new(),
        }
    }

    /// The same about a clip, which is its cluster.
    #[must_use]
    pub fn about(self, clip: impl Into<String>) -> Self {
        let name = clip.into();
        let clip = ItemClip { name: name.clone(), start: None, end: None };
        Self { cluster: name, clip: Some(clip), ..self }
    }

    /// The same with options.
    #[must_use]
    pub fn with_options(self, options: Vec<String>) -> Self {
        Self { options, ..self }
    }

    /// The same in a category.
    #[must_use]
    pub fn within(mut self, kind: &str, category: impl Into<String>) -> Self {
        self.categories.insert(kind.to_owned(), category.into());
        self
    }

    /// The text of the answer: an option's letter for choice items, the text of open ones, empty where there is
    /// none.
    pub fn target(&self) -> String {
        let letter = |at: usize| char::from(b'A' + u8::try_from(at % 26).unwrap_or(0)).to_string();
        match &self.gold {
            Gold::Option(at) => letter(*at),
            Gold::Options(places) => places.iter().map(|&at| letter(at)).collect(),
            Gold::Text(text) => text.clone(),
            Gold::Judged(references) => references.join("\n"),
            Gold::Hidden => String::new(),
        }
    }

    /// Names what is asked and what is right, and nothing else: the same question out of another carrier has the
    /// same hash.
    pub fn hash(&self) -> String {
        savi_run::Key::new("item").with("item", self).finish()
    }

    /// What cannot be, told for an error.
    pub(crate) fn problem(&self) -> Option<String> {
        let count = self.options.len();
        if self.id.is_empty() {
            return Some("the id is empty".to_owned());
        }
        if self.question.trim().is_empty() {
            return Some("the question is empty".to_owned());
        }
        if count == 1 || count > 26 {
            return Some(format!("{count} options where 2 to 26 are needed"));
        }
        if let Some(empty) = self.options.iter().position(|option| option.trim().is_empty()) {
            return Some(format!("option {} is empty", empty + 1));
        }
        let outside = |at: &usize| *at >= count;
        match &self.gold {
            Gold::Option(at) if outside(at) => {
                Some(format!("the answer is option {} of {count}", at + 1))
            }
            Gold::Options(places) if places.is_empty() || places.iter().any(outside) => {
                Some(format!("the true options {places:?} are not some of {count}"))
            }
            Gold::Text(text) if text.trim().is_empty() => Some("the answer is empty".to_owned()),
            _ => None,
        }
    }
}

/// Items by cluster, clusters in the order of their first items.
pub fn clusters(items: &[Item]) -> Vec<Vec<&Item>> {
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut clusters: Vec<Vec<&Item>> = Vec::new();
    for item in items {
        let place = *places.entry(&item.cluster).or_insert(clusters.len());
        match clusters.get_mut(place) {
            Some(cluster) => cluster.push(item),
            None => clusters.push(vec![item]),
        }
    }
    clusters
}
