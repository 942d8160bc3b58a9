//! The trace of a search: one JSON line for everything that a model said and everything that the search did
//! with it, in order.
//!
//! It is written as the search goes, so it is also what a killed search continues from: lines that are there
//! already are read in place of asking the model, and what the search does with them has to be what they say.
//! The whole trace can so be replayed without any model ([`crate::replay`]).

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use savi_run::RunError;
use serde::{Deserialize, Serialize};

use crate::tree::Similar;
use crate::{Error, Judgement, Offer, Search};

/// Version of the lines.
pub const TRACE_SCHEMA: u32 = 1;

/// What a trace begins with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Begin {
    /// Version of the lines.
    pub schema: u32,
    /// The question.
    pub id: String,
    /// Hash of everything that the answer depends on.
    pub key: String,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// How is searched.
    pub search: Search,
}

/// How an unfinished answer goes on, so that it can be judged.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Simulation {
    /// The tokens drawn; none where the answer has ended.
    pub tokens: Vec<u32>,
    /// Whether the answer had ended before.
    pub ended: bool,
    /// Hash of the text that is judged.
    pub hash: String,
}

/// A node on the path of an iteration, after the backup.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Visit {
    /// Its place among its siblings.
    pub child: usize,
    /// Prior.
    pub p: f64,
    /// Visits, those by similarity included.
    pub n: f64,
    /// Real visits.
    #[serde(rename = "fn")]
    pub real: u64,
    /// Value.
    pub v: f64,
    /// Its similar siblings and their cosines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub similar: Similar,
}

/// One turn of the inner loop.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Iteration {
    /// The nodes after the root, from the top.
    pub path: Vec<Visit>,
    /// The score that went up the path.
    pub score: f64,
}

/// A token set that was committed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Commit {
    /// Its place among the root's children.
    pub child: usize,
    /// Its tokens.
    pub tokens: Vec<u32>,
    /// Its visits.
    pub n: f64,
    /// Its real visits.
    #[serde(rename = "fn")]
    pub real: u64,
    /// Its value.
    pub v: f64,
}

/// What a search cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Costs {
    /// Turns of the inner loop.
    pub iterations: u64,
    /// Committed sets.
    pub commits: u64,
    /// Leaves that got candidates, and nodes that got one more set.
    pub offers: u64,
    /// Tokens drawn for candidates.
    pub candidate_tokens: u64,
    /// Simulations that drew something.
    pub simulations: u64,
    /// Tokens drawn in simulations.
    pub simulated_tokens: u64,
    /// Prompts that the judge was asked: one for each order of a text.
    pub judge_prompts: u64,
    /// Texts whose score was known from before.
    pub known_texts: u64,
}

/// A whole answer as text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// The text, without what ended it.
    pub text: String,
    /// Whether it ended by itself; otherwise it was cut by its length.
    pub ended: bool,
    /// Hash of what is judged of it.
    pub hash: String,
}

/// The answer in the end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Its text, without what ended it.
    pub text: String,
    /// Its tokens, the ending one included where there is one.
    pub token_ids: Vec<u32>,
    /// Whether it ended by itself; otherwise it was cut by its length.
    pub ended: bool,
    /// The judge's score of it.
    pub score: f64,
    /// What it cost.
    pub costs: Costs,
}

/// A line of a trace.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// The first line.
    Begin(Begin),
    /// The node at this depth below the root gets one more child.
    Adds {
        /// 0 is the root.
        level: usize,
    },
    /// What the model offered to put after a node.
    Offered(Offer),
    /// How the model went on from a leaf.
    Simulated(Simulation),
    /// What the judge said; texts that were judged before are not judged again.
    Judged(Judgement),
    /// What the iteration did.
    Iteration(Iteration),
    /// What was committed.
    Commit(Commit),
    /// All that was committed, as text.
    Read(Reading),
    /// The last line.
    Answer(Answer),
}

/// Lines that are known, and where new ones go.
#[derive(Debug)]
pub struct Journal {
    id: String,
    ahead: VecDeque<String>,
    taken: usize,
    file: Option<(File, PathBuf)>,
    /// New lines are kept here where there is no file.
    kept: Option<Vec<String>>,
}

impl Journal {
    /// A journal in memory.
    pub fn in_memory(id: &str) -> Self {
        let id = id.to_owned();
        Self { id, ahead: VecDeque::new(), taken: 0, file: None, kept: Some(Vec::new()) }
    }

    /// A journal of known lines that takes no new ones.
    pub fn recorded(id: &str, text: &str) -> Self {
        let ahead = text.lines().map(str::to_owned).collect();
        Self { id: id.to_owned(), ahead, taken: 0, file: None, kept: None }
    }

    /// The journal of a question in a file, continued behind its last whole line. One that begins otherwise is
    /// begun again.
    pub fn open(path: &Path, begin: &Begin) -> Result<Self, Error> {
        let io = |source| Error::Run(RunError::Io { path: path.to_owned(), source });
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            Err(error) => return Err(io(error)),
        };
        let whole = bytes.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let mut whole = std::str::from_utf8(&bytes[..whole]).unwrap_or_default();
        let first = whole.lines().next().map(serde_json::from_str::<Line>);
        let is_same = matches!(&first, Some(Ok(Line::Begin(found))) if found == begin);
        if !whole.is_empty() && !is_same {
            tracing::warn!("{}: begun again, what it depends on has changed", path.display());
            whole = "";
        }
        let mut file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(path)
            .map_err(io)?;
        file.set_len(whole.len() as u64).map_err(io)?;
        file.seek(SeekFrom::End(0)).map_err(io)?;
        let ahead = whole.lines().map(str::to_owned).collect();
        let file = Some((file, path.to_owned()));
        Ok(Self { id: begin.id.clone(), ahead, taken: 0, file, kept: None })
    }

    /// Whether the answer is among the known lines.
    pub(crate) fn is_whole(&self) -> bool {
        let last = self.ahead.back().map(|line| serde_json::from_str::<Line>(line));
        matches!(last, Some(Ok(Line::Answer(_))))
    }

    /// New lines, where they are kept.
    pub fn lines(&self) -> &[String] {
        self.kept.as_deref().unwrap_or_default()
    }

    /// The next known line, left in its place.
    pub(crate) fn peek(&self) -> Result<Option<Line>, Error> {
        let Some(line) = self.ahead.front() else { return Ok(None) };
        serde_json::from_str(line).map(Some).map_err(|error| self.fault(error.to_string()))
    }

    /// What the next known line says, if there is one; it has to say something of the kind that `pick` wants.
    pub(crate) fn known<T>(
        &mut self,
        kind: &str,
        pick: impl FnOnce(Line) -> Option<T>,
    ) -> Result<Option<T>, Error> {
        let Some(line) = self.peek()? else { return Ok(None) };
        let Some(found) = pick(line) else {
            return Err(
                self.fault(format!("not a line \"{kind}\", which the search comes to here"))
            );
        };
        self.ahead.pop_front();
        self.taken += 1;
        Ok(Some(found))
    }

    /// What the search has to say: the next known line if there is one, otherwise a new line.
    pub(crate) fn put(&mut self, line: &Line) -> Result<(), Error> {
        let encode = |error: serde_json::Error| {
            let what = "a line of a trace".to_owned();
            Error::Run(RunError::Encode { what, reason: error.to_string() })
        };
        let text = serde_json::to_string(line).map_err(encode)?;
        if let Some(known) = self.ahead.front() {
            if *known != text {
                return Err(self.fault(format!("the search comes to {text} instead")));
            }
            self.ahead.pop_front();
        } else if let Some((file, path)) = &mut self.file {
            let io = |source| Error::Run(RunError::Io { path: path.clone(), source });
            file.write_all(format!("{text}\n").as_bytes()).map_err(io)?;
        } else if let Some(kept) = &mut self.kept {
            kept.push(text);
        } else {
            return Err(self.missing());
        }
        self.taken += 1;
        Ok(())
    }

    /// An error if lines are left.
    pub(crate) fn finish(&self) -> Result<(), Error> {
        if self.ahead.is_empty() {
            return Ok(());
        }
        Err(self.fault("the search has ended before it".to_owned()))
    }

    /// The error of a trace that ends too early, or does not begin as one.
    pub(crate) fn missing(&self) -> Error {
        self.fault("the trace ends before the search does".to_owned())
    }

    fn fault(&self, reason: String) -> Error {
        Error::Trace { id: self.id.clone(), line: self.taken + 1, reason }
    }
}
