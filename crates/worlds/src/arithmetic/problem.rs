//! Problems: what happens to a quantity, and what is asked about it.

use rand::Rng;
use rand::seq::IndexedRandom;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::split::{Split, stream};
use super::wording::{self, Story};

/// Levels go from 1 to this: the number of sums that an answer takes.
pub const LEVELS: usize = 8;
/// From this level on only an answer that writes its sums down can be expected to be right.
pub const LONG: usize = 5;

/// What a sum does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// a + b
    Plus,
    /// a - b
    Minus,
    /// a * b
    Times,
    /// a / b, without a rest
    Over,
}

impl Operation {
    /// How it is written.
    pub fn sign(self) -> char {
        match self {
            Self::Plus => '+',
            Self::Minus => '-',
            Self::Times => '*',
            Self::Over => '/',
        }
    }

    /// The operation with this sign.
    pub fn parse(sign: &str) -> Option<Self> {
        let all = [Self::Plus, Self::Minus, Self::Times, Self::Over];
        all.into_iter().find(|operation| sign.chars().eq([operation.sign()]))
    }

    /// Its result, where there is one among the whole numbers.
    pub fn of(self, a: i64, b: i64) -> Option<i64> {
        match self {
            Self::Plus => a.checked_add(b),
            Self::Minus => a.checked_sub(b),
            Self::Times => a.checked_mul(b),
            Self::Over => (b != 0 && a.checked_rem(b)? == 0).then(|| a / b),
        }
    }
}

/// One sum of a solution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Sum {
    /// Its left side.
    pub a: i64,
    /// What is done.
    pub operation: Operation,
    /// With what.
    pub b: i64,
    /// What comes out.
    pub result: i64,
    /// Whether the result is how many there are now, and not how many come or go.
    pub total: bool,
}

impl std::fmt::Display for Sum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {} {} = {}", self.a, self.operation.sign(), self.b, self.result)
    }
}

/// Something that happens to the quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// So many come.
    Gain(i64),
    /// So many go.
    Lose(i64),
    /// There are so many times as many.
    Grow(i64),
    /// Equal parts, of which one stays.
    Share(i64),
    /// So many packs come with so many each.
    GainPacks(i64, i64),
    /// So many people get so many each.
    LosePacks(i64, i64),
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Query {
    /// How many there are in the end.
    End,
    /// How many have come.
    Gained,
    /// How many have gone.
    Lost,
}

/// A word problem with its truth.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Names split and index.
    pub id: String,
    /// Which part it belongs to.
    pub split: Split,
    /// How many there are at first.
    pub start: i64,
    /// What happens, in order.
    pub events: Vec<Event>,
    /// What is asked.
    pub query: Query,
    /// What happens in words, without the question.
    pub story: String,
    /// The question in words.
    pub question: String,
    /// What is counted, in the plural.
    pub thing: String,
    /// Who has it.
    pub person: String,
    /// The sums that lead to the answer, in order.
    pub sums: Vec<Sum>,
    /// The answer.
    pub answer: i64,
}

impl Problem {
    /// The number of sums that the answer takes.
    pub fn level(&self) -> usize {
        self.sums.len()
    }

    /// Story and question.
    pub fn text(&self) -> String {
        format!("{} {}", self.story, self.question)
    }

    /// What the split is a hash of: numbers and question, whatever the story.
    pub fn canonical(&self) -> String {
        canonical(self.start, &self.events, self.query)
    }
}

pub(super) fn canonical(start: i64, events: &[Event], query: Query) -> String {
    format!("{start} {events:?} {query:?}")
}

/// The problem with this number; its level is drawn too.
pub fn problem(split: Split, seed: u64, index: u64) -> Problem {
    let mut rng = stream(seed, split, "problem", index);
    let level = rng.random_range(1..=LEVELS);
    draw(split, index, level, &mut rng)
}

/// The problem with this number among those of a level.
pub fn problem_of_level(split: Split, seed: u64, index: u64, level: usize) -> Problem {
    let level = level.clamp(1, LEVELS);
    let mut rng = stream(seed, split, &format!("level {level}"), index);
    draw(split, index, level, &mut rng)
}

fn draw(split: Split, index: u64, level: usize, rng: &mut ChaCha8Rng) -> Problem {
    loop {
        // Numbers of one, of mostly two, and of up to three digits.
        let &(operand, most) = [(9, 30), (20, 99), (60, 300)].choose(rng).unwrap_or(&(9, 30));
        let query = match rng.random_range(0..10) {
            0 => Query::Gained,
            1 => Query::Lost,
            _ => Query::End,
        };
        let start = rng.random_range(2..=most.min(operand * 2));
        let Some(events) = events(start, level, query, (operand, most), rng) else { continue };
        let Some(sums) = sums(start, &events, query) else { continue };
        let Some(last) = sums.last().filter(|_| sums.len() == level) else { continue };
        if Split::owner(&canonical(start, &events, query)) != split {
            continue;
        }
        let Story { story, question, person, thing } = wording::tell(start, &events, query, rng);
        let id = format!("{}-{level}-{index}", split.name());
        let answer = last.result;
        return Problem {
            id,
            split,
            start,
            events,
            query,
            story,
            question,
            thing,
            person,
            sums,
            answer,
        };
    }
}

/// Events whose sums are `level` in number; `None` where chance leads nowhere.
fn events(
    start: i64,
    level: usize,
    query: Query,
    (operand, most): (i64, i64),
    rng: &mut ChaCha8Rng,
) -> Option<Vec<Event>> {
    let (mut events, mut now) = (Vec::new(), start);
    for _ in 0..40 {
        let done = sums(start, &events, query).map_or(0, |sums| sums.len());
        if done == level {
            return Some(events);
        }
        let kinds = if query == Query::End { 8 } else { 6 };
        let event = match rng.random_range(0..kinds) {
            0 | 1 => Event::Gain(rng.random_range(2..=operand)),
            2 | 3 => Event::Lose(rng.random_range(2..=operand.min(now.max(2)))),
            4 => Event::GainPacks(rng.random_range(2..=6), rng.random_range(2..=operand.min(12))),
            5 => Event::LosePacks(rng.random_range(2..=5), rng.random_range(2..=operand.min(9))),
            6 => Event::Grow(rng.random_range(2..=4)),
            _ => Event::Share(rng.random_range(2..=5)),
        };
        let next = match event {
            Event::Gain(n) => Some(now + n),
            Event::Lose(n) => Some(now - n),
            Event::Grow(k) => Some(now * k),
            Event::Share(k) => Operation::Over.of(now, k),
            Event::GainPacks(k, n) => Some(now + k * n),
            Event::LosePacks(k, n) => Some(now - k * n),
        };
        let Some(next) = next.filter(|next| (2..=most).contains(next)) else { continue };
        events.push(event);
        if sums(start, &events, query).map_or(0, |sums| sums.len()) > level || events.len() > 10 {
            events.pop();
        } else {
            now = next;
        }
    }
    None
}

/// The sums that answer a question, in order; `None` where one has no result.
fn sums(start: i64, events: &[Event], query: Query) -> Option<Vec<Sum>> {
    let mut sums = Vec::new();
    let mut total = if query == Query::End { Some(start) } else { None };
    let sum = |a, operation: Operation, b, total| {
        Some(Sum { a, operation, b, result: operation.of(a, b)?, total })
    };
    for &event in events {
        let (operation, n) = match event {
            Event::Gain(n) => (Operation::Plus, n),
            Event::Lose(n) => (Operation::Minus, n),
            Event::Grow(k) => (Operation::Times, k),
            Event::Share(k) => (Operation::Over, k),
            Event::GainPacks(k, n) => (Operation::Plus, k * n),
            Event::LosePacks(k, n) => (Operation::Minus, k * n),
        };
        let counts = match query {
            Query::End => true,
            Query::Gained => operation == Operation::Plus,
            Query::Lost => operation == Operation::Minus,
        };
        if !counts {
            continue;
        }
        if let Event::GainPacks(k, n) | Event::LosePacks(k, n) = event {
            sums.push(sum(k, Operation::Times, n, false)?);
        }
        // What has come or gone is added up, whatever its direction.
        let operation = if query == Query::End { operation } else { Operation::Plus };
        total = match total {
            None => Some(n),
            Some(before) => {
                let next = sum(before, operation, n, true)?;
                sums.push(next);
                Some(next.result)
            }
        };
    }
    // An answer that is not the last result would have a sum too many, or none.
    (sums.last().map(|sum| sum.result) == total).then_some(sums)
}
