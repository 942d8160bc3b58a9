//! Records that are longer than a training takes.

use crate::config::Overlong;
use crate::{TrainError, Tree};

/// Most tokens of a record, what happens to longer ones, and those that were left out.
pub(crate) struct Limit {
    most: Option<usize>,
    overlong: Overlong,
    dropped: Vec<String>,
}

/// What becomes of a record.
pub(crate) enum Fit {
    /// It is short enough.
    Whole,
    /// It goes on without one end, with so many tokens.
    Cut(usize),
    /// It is left out.
    Dropped,
}

impl Limit {
    pub(crate) fn new(most: Option<usize>, overlong: Overlong) -> Self {
        Self { most, overlong, dropped: Vec::new() }
    }

    /// Says what becomes of a record of so many tokens.
    pub(crate) fn fit(&mut self, id: &str, length: usize) -> Result<Fit, TrainError> {
        let Some(most) = self.most.filter(|most| length > *most) else { return Ok(Fit::Whole) };
        match self.overlong {
            Overlong::Error => {
                let reason = format!(
                    "{length} tokens, media included, are more than max_length = {most}; overlong = \"drop\" or \
                     \"truncate\" goes on without it or its end"
                );
                Err(TrainError::Record { id: id.to_owned(), reason })
            }
            Overlong::Drop => {
                self.dropped.push(id.to_owned());
                Ok(Fit::Dropped)
            }
            Overlong::Truncate => Ok(Fit::Cut(most)),
        }
    }

    /// Names what was left out; an error where nothing is left of a training's records.
    pub(crate) fn finish(self, kept: usize) -> Result<(), TrainError> {
        if !self.dropped.is_empty() {
            let names = self.dropped.iter().take(10).cloned().collect::<Vec<_>>().join(", ");
            let more = if self.dropped.len() > 10 { " and others" } else { "" };
            let count = self.dropped.len();
            tracing::warn!(
                "{count} records are longer than max_length and left out: {names}{more}"
            );
        }
        if kept == 0 && !self.dropped.is_empty() {
            return Err(TrainError::Nothing("record within max_length"));
        }
        Ok(())
    }
}

/// Tokens of the longest conversation of a tree.
pub(crate) fn longest(tree: &Tree) -> usize {
    let branch = tree.branches.iter().map(|branch| branch.ids.len()).max();
    tree.root.ids.len() + branch.unwrap_or(0)
}

/// Cuts the ends of branches: the start that they share stays.
pub(crate) fn cut_branches(tree: &mut Tree, most: usize) -> Result<(), String> {
    let room = most.saturating_sub(tree.root.ids.len());
    for branch in &mut tree.branches {
        if branch.targets >= room {
            return Err(format!("with max_length = {most} nothing of an answer would be left"));
        }
        branch.ids.truncate(room);
    }
    Ok(())
}
