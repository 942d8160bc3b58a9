//! The plan of a supervised training: every demonstration as tokens, with the places that its clips take, before any clip
//! is decoded whose policy says how many frames it has. What is too long is named here and not in the middle of an epoch.

use savi_engine::{Engine, Prompt};
use savi_schema::{Demonstration, Message, Role, Taught};

use crate::config::Truncation;
use crate::length::{Fit, Limit, cut_branches, longest};
use crate::{Branch, SftConfig, TrainError, Tree};

/// A demonstration as a tree.
#[derive(Debug, Clone)]
pub(super) struct Planned {
    pub(super) tree: Tree,
    /// Where a tree has one branch: which of its tokens, from the root's first on, are learnt. Without it those are that
    /// the branches say.
    pub(super) learnt: Option<Vec<bool>>,
    pub(super) weight: f64,
}

impl Planned {
    /// A tree whose branches say what is learnt.
    pub(super) fn plain(tree: Tree) -> Self {
        Self { tree, learnt: None, weight: 1.0 }
    }

    /// Number of tokens that are learnt in each branch.
    pub(super) fn lengths(&self) -> Vec<usize> {
        match &self.learnt {
            Some(learnt) => vec![learnt.iter().filter(|learnt| **learnt).count()],
            None => self.tree.branches.iter().map(|b| b.ids.len() - b.targets).collect(),
        }
    }
}

/// All demonstrations as trees; those that are too long are treated as `config` says.
pub(super) fn plan(
    engine: &Engine,
    demonstrations: &[Demonstration],
    config: &SftConfig,
) -> Result<Vec<Planned>, TrainError> {
    let mut planned = Vec::with_capacity(demonstrations.len());
    let mut limit = Limit::new(config.max_length, config.overlong);
    for demonstration in demonstrations {
        let id = &demonstration.id;
        let mut one = tree(engine, demonstration, config)?;
        match limit.fit(id, longest(&one.tree))? {
            Fit::Whole => {}
            Fit::Dropped => continue,
            Fit::Cut(most) => cut(&mut one, most, config.truncation_mode)
                .map_err(|reason| TrainError::Record { id: id.clone(), reason })?,
        }
        planned.push(one);
    }
    limit.finish(planned.len())?;
    Ok(planned)
}

fn tree(
    engine: &Engine,
    demonstration: &Demonstration,
    config: &SftConfig,
) -> Result<Planned, TrainError> {
    let (id, weight) = (&demonstration.id, demonstration.weight);
    let record = |reason: String| TrainError::Record { id: id.clone(), reason };
    let told = |error: savi_engine::EngineError| record(error.to_string());
    let (root, ids, learnt) = match &demonstration.taught {
        Taught::Branches(conversations) => {
            let tree = branches(engine, id, conversations)?;
            return Ok(Planned { weight, ..Planned::plain(tree) });
        }
        Taught::Text(text) => {
            let mut ids = engine.raw_prompt(text, Vec::new()).map_err(told)?.ids;
            ids.extend(engine.text().completion("").map_err(told)?);
            let learnt = vec![true; ids.len()];
            (first_token(&ids), ids, learnt)
        }
        Taught::Continuation { prompt, completion, open } => {
            let whole = format!("{prompt}{completion}");
            let mut ids = engine.raw_prompt(&whole, Vec::new()).map_err(told)?.ids;
            if !open {
                ids.extend(engine.text().completion("").map_err(told)?);
            }
            // A token that reaches over the border is learnt: it is not the prompt's.
            let before = engine.raw_prompt(prompt, Vec::new()).map_err(told)?.ids;
            let same = before.iter().zip(&ids).take_while(|(a, b)| a == b).count();
            let first = if config.completion_only_loss == Some(false) { 0 } else { same };
            let learnt = (0..ids.len()).map(|at| at >= first).collect();
            (first_token(&ids), ids, learnt)
        }
        Taught::Turns { turns, completion } => conversation(engine, turns, *completion, config)
            .map_err(|error| match error {
                TrainError::Engine(error) => told(error),
                TrainError::Record { reason, .. } => record(reason),
                other => other,
            })?,
    };
    planned(id, root, ids, learnt, weight).map_err(record)
}

/// The start of a sequence of words alone.
fn first_token(ids: &[u32]) -> Prompt {
    Prompt { ids: ids.iter().take(1).copied().collect(), ..Prompt::default() }
}

/// A sequence as a tree of one branch, after `root`, which is its start.
fn planned(
    id: &str,
    root: Prompt,
    ids: Vec<u32>,
    mut learnt: Vec<bool>,
    weight: f64,
) -> Result<Planned, String> {
    // Nothing comes before the first token that it could follow from.
    if let Some(first) = learnt.first_mut() {
        *first = false;
    }
    let Some(first) = learnt.iter().position(|learnt| *learnt) else {
        return Err("nothing of it is left to learn".to_owned());
    };
    let start = root.ids.len();
    let branch = Branch { ids: ids[start..].to_vec(), targets: first.saturating_sub(start).max(1) };
    let tree = Tree { id: id.to_owned(), root, branches: vec![branch] };
    Ok(Planned { tree, learnt: Some(learnt), weight })
}

/// Conversations that share their start, of which the last turns are learnt.
pub(crate) fn branches(
    engine: &Engine,
    id: &str,
    conversations: &[Vec<Message>],
) -> Result<Tree, TrainError> {
    let turns = conversations
        .iter()
        .map(|conversation| match conversation.split_last() {
            Some((last, prompt)) if last.role == Role::Assistant => Ok((prompt, last.words())),
            _ => Err(TrainError::Record {
                id: id.to_owned(),
                reason: "a conversation must end with the assistant's turn".to_owned(),
            }),
        })
        .collect::<Result<Vec<(&[Message], String)>, _>>()?;
    let turns: Vec<(&[Message], &str)> = turns.iter().map(|(p, t)| (*p, t.as_str())).collect();
    Tree::new(engine, id, &turns)
}

/// A conversation as one sequence: its start with all media, all of it, and what is learnt.
fn conversation(
    engine: &Engine,
    turns: &[Message],
    completion: Option<usize>,
    config: &SftConfig,
) -> Result<(Prompt, Vec<u32>, Vec<bool>), TrainError> {
    let record = |reason: String| TrainError::Record { id: String::new(), reason };
    let last = turns.len().saturating_sub(1);
    let Some(answer) = turns.last().filter(|turn| turn.role == Role::Assistant) else {
        return Err(record("a conversation must end with the assistant's turn".to_owned()));
    };
    let prompt = engine.prompt(&turns[..last])?;
    if prompt.ids.is_empty() {
        return Err(record("has an empty prompt".to_owned()));
    }
    let said = engine.text().completion(&answer.words())?;
    let ids = [prompt.ids.as_slice(), &said].concat();
    // Where the completion begins.
    let begins = match (config.completion_only_loss, completion) {
        (Some(false), _) | (None, None) => 0,
        (_, Some(first)) => first,
        (Some(true), None) => last,
    };
    // The prompt's last token stays in the branch: it predicts the first target.
    let root = prompt.start(prompt.ids.len().saturating_sub(1).max(1));
    if root.visuals.len() != prompt.visuals.len() {
        return Err(record("nothing stands between a clip and the answer".to_owned()));
    }
    let mut learnt = vec![false; ids.len()];
    learnt[prompt.ids.len()..].fill(true);
    if !config.assistant_only_loss {
        let start =
            if begins == 0 { 0 } else { start_of(engine, turns, begins, &ids).map_err(record)? };
        learnt[start..].fill(true);
        return Ok((root, ids, learnt));
    }
    for (number, turn) in turns.iter().enumerate().take(last).skip(begins) {
        if turn.role != Role::Assistant {
            continue;
        }
        let start = start_of(engine, turns, number, &ids).map_err(record)?;
        let said = engine.text().completion(&turn.words())?;
        if !ids[start..].starts_with(&said) {
            return Err(record(rewritten(number)));
        }
        learnt[start..start + said.len()].fill(true);
    }
    Ok((root, ids, learnt))
}

/// Where what follows the first `number` turns begins in the whole conversation's tokens.
fn start_of(
    engine: &Engine,
    turns: &[Message],
    number: usize,
    ids: &[u32],
) -> Result<usize, String> {
    let before = engine.prompt(&turns[..number]).map_err(|error| error.to_string())?.ids;
    if ids.starts_with(&before) { Ok(before.len()) } else { Err(rewritten(number)) }
}

fn rewritten(number: usize) -> String {
    format!(
        "the chat template writes turn {} in another way when more turns follow: give the model's turns one by \
         one, or completion_only_loss = true, which learns the last one",
        number + 1
    )
}

/// Cuts what is longer than `most` tokens; never a clip, and never all that is learnt.
fn cut(planned: &mut Planned, most: usize, mode: Truncation) -> Result<(), String> {
    let root = &planned.tree.root;
    let seen = root.visuals.last().map_or(0, |visual| visual.range.end);
    let Some(learnt) = &mut planned.learnt else {
        return match mode {
            Truncation::KeepStart => cut_branches(&mut planned.tree, most),
            Truncation::KeepEnd => {
                Err("keep_end is for records of one conversation: this one has branches".to_owned())
            }
        };
    };
    let Some(branch) = planned.tree.branches.first() else { return Ok(()) };
    let mut ids = [root.ids.as_slice(), &branch.ids].concat();
    let root = match mode {
        Truncation::KeepStart => {
            if seen >= most {
                return Err(format!(
                    "max_length = {most} would cut a clip or a picture, which reaches to token {seen}"
                ));
            }
            ids.truncate(most);
            learnt.truncate(most);
            root.start(root.ids.len().min(most - 1))
        }
        Truncation::KeepEnd => {
            if seen > 0 || root.coordinates.is_some() {
                return Err(
                    "keep_end would cut before a clip, a picture or its positions".to_owned()
                );
            }
            let first = ids.len() - most;
            ids.drain(..first);
            learnt.drain(..first);
            first_token(&ids)
        }
    };
    let id = std::mem::take(&mut planned.tree.id);
    *planned = self::planned(&id, root, ids, std::mem::take(learnt), planned.weight)
        .map_err(|reason| format!("with max_length = {most}: {reason}"))?;
    Ok(())
}
