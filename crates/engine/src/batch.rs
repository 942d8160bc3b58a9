//! Continuous batching: requests join and leave at every step. A step is one pass: every row draws its
//! next token, and prompts that wait are computed chunk by chunk beside them, so that a long prompt holds
//! nobody up for longer than a chunk takes. Where the cache outgrows its budget the youngest rows give
//! theirs up, and have it computed again when there is room.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use candle_core::Tensor;
use rayon::prelude::*;
use savi_nn::attention::KvPrefix;
use savi_schema::{Event, Request};

use crate::row::{Row, Start};
use crate::tree::{Filling, Place, words};
use crate::whole::Whole;
use crate::{Engine, EngineError, Prompt};

/// A request whose prompt is known.
#[derive(Debug)]
pub(crate) struct Job {
    /// What events name it by.
    pub(crate) number: usize,
    pub(crate) request: Request,
    pub(crate) prompt: Arc<Prompt>,
    /// Whether somebody wants its completions as they grow.
    pub(crate) streams: bool,
}

/// What happens once a prompt is in the tree.
#[derive(Debug)]
enum Then {
    /// These of its samplings begin.
    Start(Arc<Job>, Range<usize>),
    Resume(Box<Row>),
}

impl Then {
    fn number(&self) -> usize {
        match self {
            Self::Start(job, _) => job.number,
            Self::Resume(row) => row.owner().0,
        }
    }

    fn request_id(&self) -> &str {
        match self {
            Self::Start(job, _) => &job.request.id,
            Self::Resume(row) => row.request_id(),
        }
    }

    fn rows(&self) -> usize {
        match self {
            Self::Start(_, samplings) => samplings.len(),
            Self::Resume(_) => 1,
        }
    }
}

/// Requests that are being served.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    filling: VecDeque<(Filling, Then)>,
    /// Oldest first.
    rows: Vec<Row>,
    /// Rows that gave their cache up, oldest last.
    paused: Vec<Row>,
}

/// What a step tells, by the jobs' numbers.
pub(crate) type Told = Vec<(usize, Event)>;

impl Batch {
    /// Whether nothing is left to do.
    pub(crate) fn is_idle(&self) -> bool {
        self.filling.is_empty() && self.rows.is_empty() && self.paused.is_empty()
    }

    /// Whether there is room for a request of so many rows.
    pub(crate) fn has_room(&self, engine: &Engine, rows: usize) -> bool {
        let taken =
            self.rows.len() + self.filling.iter().map(|(_, then)| then.rows()).sum::<usize>();
        taken == 0 || (self.paused.is_empty() && taken + rows <= engine.max_rows())
    }

    /// Takes a request up.
    pub(crate) fn push(&mut self, engine: &Engine, job: Job) {
        let units = engine.units(&job.prompt);
        let count = job.request.samplings.len();
        // Without sharing every completion has a prompt of its own.
        let width = if engine.tree().shares() { count } else { 1 };
        let job = Arc::new(job);
        for first in (0..count).step_by(width.max(1)) {
            let filling = Filling::new(engine.tree(), job.prompt.clone(), units.clone());
            engine.count(|counts| {
                counts.prompt_tokens += job.prompt.ids.len() as u64;
                counts.cached_tokens += filling.cached as u64;
            });
            self.filling.push_back((filling, Then::Start(job.clone(), first..first + width)));
        }
    }

    /// Whether a request's prompt is still being computed.
    pub(crate) fn is_filling(&self, number: usize) -> bool {
        self.filling.iter().any(|(_, then)| then.number() == number)
    }

    /// Drops a request.
    pub(crate) fn cancel(&mut self, number: usize) {
        self.filling.retain(|(_, then)| then.number() != number);
        self.rows.retain(|row| row.owner().0 != number);
        self.paused.retain(|row| row.owner().0 != number);
    }

    /// Lets the youngest rows give up their caches until the budget holds, and takes rows up again that
    /// did where it does.
    fn keep_budget(&mut self, engine: &Engine) {
        // What is computed whole shares nothing and could not be found again in the tree.
        if engine.depends_on_length() {
            return;
        }
        let bytes = |rows: &[Row]| rows.iter().map(|row| row.node.bytes()).sum::<usize>();
        while !engine.tree().make_room(bytes(&self.rows)) && self.rows.len() > 1 {
            let Some(mut row) = self.rows.pop() else { break };
            row.give_up(engine.model());
            engine.count(|counts| counts.paused_rows += 1);
            self.paused.push(row);
        }
        while let Some(row) = self.paused.last() {
            let prompt = row.so_far();
            let need = prompt.ids.len() * engine.token_bytes();
            let alone = self.rows.is_empty() && self.filling.is_empty();
            if !alone && !engine.tree().make_room(bytes(&self.rows) + 2 * need) {
                break;
            }
            let units = engine.units(&prompt);
            let filling = Filling::new(engine.tree(), Arc::new(prompt), units);
            let Some(row) = self.paused.pop() else { break };
            self.filling.push_front((filling, Then::Resume(Box::new(row))));
        }
    }

    /// One pass, and a token for every row.
    pub(crate) fn step(&mut self, engine: &Engine) -> Result<Told, EngineError> {
        let mut told = Told::new();
        self.keep_budget(engine);
        let mut drawing: Vec<(Row, Vec<f32>)> = Vec::new();
        let mut rows = Vec::with_capacity(self.rows.len());
        for mut row in std::mem::take(&mut self.rows) {
            match row.renew(engine.model())? {
                Some(logits) => drawing.push((row, logits)),
                None => rows.push(row),
            }
        }
        self.rows = rows;
        if engine.depends_on_length() {
            for (filling, then) in std::mem::take(&mut self.filling) {
                match then {
                    Then::Start(job, samplings) => {
                        match start_whole(engine, &job, samplings, &mut told) {
                            Ok(rows) => drawing.extend(rows),
                            Err(error @ EngineError::Media { .. }) => {
                                let error = error.for_request(&job.request.id);
                                told.push((job.number, Event::Failed(error)));
                            }
                            Err(error) => return Err(error),
                        }
                    }
                    resumed @ Then::Resume(_) => self.filling.push_back((filling, resumed)),
                }
            }
        }
        let mut states: Vec<Tensor> = self.pass(engine, &mut told)?.into_iter().collect();
        let (mut starting, mut resumed) = (Vec::new(), Vec::new());
        for (filling, then) in std::mem::take(&mut self.filling) {
            match then {
                then if !filling.is_full() => self.filling.push_back((filling, then)),
                Then::Start(job, samplings) => {
                    states.extend(filling.place.hidden.clone());
                    starting.push((filling, job, samplings));
                }
                Then::Resume(mut row) => {
                    row.resume(engine.model(), filling.place);
                    resumed.push(*row);
                }
            }
        }
        let mut logits = engine.logits_of(&states)?.into_iter();
        drawing.extend(std::mem::take(&mut self.rows).into_iter().zip(logits.by_ref()));
        for ((filling, job, samplings), logits) in starting.into_iter().zip(logits) {
            if samplings.start == 0 {
                told.push((job.number, started(&job, filling.cached)));
            }
            let rows = starts(&job, samplings, None);
            let rows = rows.map(|start| fresh(engine, &filling.place, start));
            drawing.extend(rows.map(|row| (row, logits.clone())));
        }
        let text = engine.text();
        let taken: Vec<Result<(), EngineError>> = drawing
            .par_iter_mut()
            .map(|(row, logits)| match row.is_finished() {
                true => Ok(()),
                false => row.take(std::mem::take(logits), text),
            })
            .collect();
        self.rows = resumed;
        let failed = refused(&drawing, taken, &mut told);
        failed.iter().for_each(|&number| self.cancel(number));
        for (mut row, _) in drawing {
            if failed.contains(&row.owner().0) {
                continue;
            }
            told.extend(row.news().map(|event| (row.owner().0, event)));
            if row.is_finished() {
                told.push(finish(engine, row));
            } else {
                self.rows.push(row);
            }
        }
        Ok(told)
    }

    /// The pass of a step; prompts whose pictures or clips cannot be read fail and are left out.
    fn pass(&mut self, engine: &Engine, told: &mut Told) -> Result<Option<Tensor>, EngineError> {
        // Prompts wait until there is room for more of them, lest they drive rows out that drive them out.
        let bytes = self.rows.iter().map(|row| row.node.bytes()).sum::<usize>();
        let next = self.filling.front().map_or(0, |(filling, _)| filling.missing());
        let more = next.min(engine.chunk()) * engine.token_bytes();
        let open = self.rows.is_empty() || engine.tree().make_room(bytes + more);
        loop {
            let mut rows: Vec<&mut Row> = self.rows.iter_mut().collect();
            let filling = self.filling.iter_mut().filter(|_| open);
            let mut fillings: Vec<&mut Filling> = filling.map(|(filling, _)| filling).collect();
            let broken = match engine.pass(&mut rows, &mut fillings)? {
                Ok(hidden) => return Ok(hidden),
                Err(broken) => broken,
            };
            let failed = broken.members.iter().map(|&at| &self.filling[at].1);
            let failed: Vec<(usize, String)> =
                failed.map(|then| (then.number(), then.request_id().to_owned())).collect();
            for (number, id) in failed {
                told.push((number, Event::Failed(broken.error.for_request(&id))));
                self.cancel(number);
            }
        }
    }
}

/// Rows of a request whose prompt is computed whole, with their first logits.
fn start_whole(
    engine: &Engine,
    job: &Job,
    samplings: Range<usize>,
    told: &mut Told,
) -> Result<Vec<(Row, Vec<f32>)>, EngineError> {
    let whole = Arc::new(engine.whole(&job.prompt)?);
    let (node, logits) = whole.fill(engine.model(), &[])?;
    let place = Place::outside(KvPrefix::whole(node));
    if samplings.start == 0 {
        told.push((job.number, started(job, 0)));
    }
    let rows = starts(job, samplings, Some(whole))
        .map(|start| (fresh(engine, &place, start), logits.clone()));
    Ok(rows.collect())
}

/// Requests whose texts cannot go on, as where a form and bans leave nothing to draw: a row's failure is its
/// request's alone.
fn refused(
    drawing: &[(Row, Vec<f32>)],
    taken: Vec<Result<(), EngineError>>,
    told: &mut Told,
) -> Vec<usize> {
    let mut failed = Vec::new();
    for ((row, _), taken) in drawing.iter().zip(taken) {
        let number = row.owner().0;
        if let Err(error) = taken
            && !failed.contains(&number)
        {
            told.push((number, Event::Failed(error.for_request(row.request_id()))));
            failed.push(number);
        }
    }
    failed
}

fn started(job: &Job, cached_tokens: usize) -> Event {
    Event::Started { prompt_tokens: job.prompt.ids.len(), cached_tokens }
}

/// How each of a request's completions starts. Random numbers depend on seed, id and index, on nothing
/// else.
fn starts<'a>(
    job: &'a Job,
    samplings: Range<usize>,
    whole: Option<Arc<Whole>>,
) -> impl Iterator<Item = Start> + 'a {
    let request_id: Arc<str> = job.request.id.as_str().into();
    let all = job.request.samplings.iter().enumerate();
    all.skip(samplings.start).take(samplings.len()).map(move |(index, sampling)| Start {
        owner: (job.number, index),
        request_id: request_id.clone(),
        prompt: job.prompt.clone(),
        sampling: sampling.clone(),
        rng: savi_nn::rng::stream(
            job.request.seed,
            &["sample", &job.request.id, &index.to_string()],
        ),
        whole: whole.clone(),
        streams: job.streams,
    })
}

/// A row's end; what was computed for it stays in the tree as long as there is room.
fn finish(engine: &Engine, row: Row) -> (usize, Event) {
    let (number, index) = row.owner();
    let units: Vec<_> = words(row.own_tokens()).collect();
    let (completion, place, node) = row.finished();
    if units.len() == node.len() {
        engine.tree().insert(&place, &units, Arc::new(node), None);
    }
    (number, Event::Done { index, completion })
}

fn fresh(engine: &Engine, place: &Place, start: Start) -> Row {
    Row::new(engine.model(), engine.text(), place.clone(), start)
}
