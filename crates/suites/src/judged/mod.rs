//! Judges of open answers: replies that no rule can hold against a text are read by a model.
//!
//! A [`Judged`] is one question to the judge about an item's replies: [`Judged::request`] puts it,
//! [`Judged::read`] reads what the judge wrote, strictly, and [`judge`] does both for many items and gives
//! records to store. Protocols (which figures, which order, what a failure counts) are those of the public
//! benchmarks, each in its file; the wording is our own, so figures compare between runs under one judge and
//! never with published ones. A judge's version alone moves accuracies by 10 points and more, so every
//! record names the judge by its fingerprint and hashes the prompt.
//!
//! What a judge says is a measurement with an error of its own: intervals of the figures hold for other items,
//! not for another judge.

mod alpaca_eval;
mod figures;
mod mt_bench;
mod protocol;
mod refusal;
mod temp_compass;
#[cfg(test)]
mod tests;
mod vicuna;
mod video_qa;

pub use alpaca_eval::alpaca_eval;
pub use figures::{Figure, Figures};
pub use mt_bench::{mt_bench, mt_bench_pairs};
pub use protocol::Protocol;
pub use refusal::refusal;
pub use temp_compass::temp_compass;
pub use vicuna::vicuna_pairs;
pub use video_qa::video_qa;

use std::collections::BTreeMap;

use savi_schema::{
    Completion, Generate, GenerateError, Message, Request, Role, SCHEMA_VERSION, Sampling,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{Item, sha256};

/// Goes up when a judge would be asked or read otherwise than before, so that stored records are made again.
pub const RULES: u32 = 1;

/// Which turn of a dialogue is judged, all before it in sight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Turn {
    /// The reply to the question.
    First,
    /// The reply to the first turn after it.
    Second,
}

/// Which of two replies a judge sees first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Shown {
    /// The model's own.
    ModelFirst,
    /// The one that it is compared with.
    OtherFirst,
}

/// One question to a judge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Judged {
    /// Is a short answer about a clip right (Video-ChatGPT)? Label `yes` or `no`, score 0 to 5.
    VideoQa,
    /// How good is a reply of a dialogue (MT-Bench, single grading)? Score 1 to 10.
    MtBench(Turn),
    /// Which of two replies of a dialogue is better (MT-Bench, pairwise)? Label `win`, `tie` or `loss`, score 1,
    /// 0.5 or 0.
    MtBenchPair(Turn, Shown),
    /// Points for two answers in one prompt (the Vicuna questions). Score and `against`, 1 to 10 each.
    VicunaPair,
    /// Which of two outputs is better, by probabilities (AlpacaEval 2). Score 1 to 2; 2 is the model's win.
    AlpacaEval,
    /// Does a reply that no rule matched say what is right (TempCompass)? Score 1 or 0.
    TempCompassReply,
    /// Does a caption tell what a question asks (TempCompass, captioning)? Score 1 or 0.
    TempCompassCaption,
    /// Does a reply refuse? Score 1 where it does.
    Refusal,
}

/// The replies that are judged, one a turn.
#[derive(Debug, Clone, Copy, Default)]
pub struct Replies<'a> {
    /// The model's.
    pub model: &'a [String],
    /// Those that it is compared with, for pairs; AlpacaEval's baseline is the item's own where there is none here.
    pub other: &'a [String],
}

/// What a judge's words say.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Opinion {
    /// The figure; `None` where the words hold none and the protocol leaves such items out.
    pub score: Option<f64>,
    /// The same figure of the reply that is compared with, where there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub against: Option<f64>,
    /// The verdict by name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// The words could not be read.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unparsed: bool,
}

impl Opinion {
    fn of(score: f64, label: &str) -> Self {
        Self { score: Some(score), label: Some(label.to_owned()), ..Self::default() }
    }

    /// Unreadable, counted with `score` where the protocol says so.
    fn unparsed(score: Option<f64>) -> Self {
        Self { score, unparsed: true, ..Self::default() }
    }
}

/// What a judge said of one item, as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Judgement {
    /// Record version.
    pub schema: u32,
    /// The item's id and the question's name: `81/mt-bench/turn-1`.
    pub id: String,
    /// The item.
    pub item: String,
    /// The item's cluster.
    pub cluster: String,
    /// The item's categories.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub categories: BTreeMap<String, String>,
    /// What was asked.
    pub judged: Judged,
    /// [`RULES`] at the time.
    pub rules: u32,
    /// The judge's fingerprint; `None` where no judge was needed.
    pub judge: Option<String>,
    /// SHA-256 of the words that the judge saw.
    pub prompt_hash: String,
    /// Length in characters of the model's reply.
    pub characters: usize,
    /// What was read.
    #[serde(flatten)]
    pub opinion: Opinion,
    /// What the judge wrote, untouched.
    pub raw: String,
}

impl savi_run::Record for Judgement {
    fn id(&self) -> &str {
        &self.id
    }

    fn unit(&self) -> &str {
        &self.cluster
    }
}

/// Why items could not be judged.
#[derive(Debug, Error)]
pub enum JudgedError {
    /// A part of the item or of its replies is not there.
    #[error("item {item} has no {what}, which {judged} needs")]
    Missing {
        /// The item.
        item: String,
        /// What.
        what: &'static str,
        /// The name of the question to the judge.
        judged: String,
    },
    /// The judge failed.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// The judge returned another number of completions than it was asked for.
    #[error("the judge gave {got} completions where {asked} were asked for")]
    WrongCount {
        /// How many were asked for.
        asked: usize,
        /// How many came.
        got: usize,
    },
}

impl Judged {
    /// Both turns of MT-Bench.
    pub const MT_BENCH: [Self; 2] = [Self::MtBench(Turn::First), Self::MtBench(Turn::Second)];
    /// Both turns of MT-Bench against another model, each in both orders.
    pub const MT_BENCH_PAIRS: [Self; 4] = [
        Self::MtBenchPair(Turn::First, Shown::ModelFirst),
        Self::MtBenchPair(Turn::First, Shown::OtherFirst),
        Self::MtBenchPair(Turn::Second, Shown::ModelFirst),
        Self::MtBenchPair(Turn::Second, Shown::OtherFirst),
    ];

    /// Its name in ids.
    pub fn name(self) -> &'static str {
        match self {
            Self::VideoQa => "video-qa",
            Self::MtBench(Turn::First) => "mt-bench/turn-1",
            Self::MtBench(Turn::Second) => "mt-bench/turn-2",
            Self::MtBenchPair(Turn::First, Shown::ModelFirst) => "mt-bench-pair/turn-1/model-first",
            Self::MtBenchPair(Turn::First, Shown::OtherFirst) => "mt-bench-pair/turn-1/other-first",
            Self::MtBenchPair(Turn::Second, Shown::ModelFirst) => {
                "mt-bench-pair/turn-2/model-first"
            }
            Self::MtBenchPair(Turn::Second, Shown::OtherFirst) => {
                "mt-bench-pair/turn-2/other-first"
            }
            Self::VicunaPair => "vicuna-pair",
            Self::AlpacaEval => "alpaca-eval",
            Self::TempCompassReply => "temp-compass",
            Self::TempCompassCaption => "temp-compass-caption",
            Self::Refusal => "refusal",
        }
    }

    /// What is clear without a judge: two equal outputs of AlpacaEval draw.
    pub fn settled(self, item: &Item, replies: Replies<'_>) -> Option<Opinion> {
        let model = replies.model.first().map(String::as_str);
        let equal = self == Self::AlpacaEval
            && model.is_some()
            && model == alpaca_eval::baseline(item, replies);
        equal.then(|| Opinion::of(1.5, "draw"))
    }

    /// What the judge is asked: greedy, with `seed` for judges whose sampling needs one.
    pub fn request(
        self,
        item: &Item,
        replies: Replies<'_>,
        seed: u64,
    ) -> Result<Request, JudgedError> {
        let seen = Seen { judged: self, item, replies };
        let (system, words) = match self {
            Self::VideoQa => video_qa::prompt(&seen)?,
            Self::MtBench(turn) => mt_bench::prompt(&seen, turn)?,
            Self::MtBenchPair(turn, shown) => mt_bench::pair_prompt(&seen, turn, shown)?,
            Self::VicunaPair => vicuna::prompt(&seen)?,
            Self::AlpacaEval => alpaca_eval::prompt(&seen)?,
            Self::TempCompassReply => temp_compass::reply_prompt(&seen)?,
            Self::TempCompassCaption => temp_compass::caption_prompt(&seen)?,
            Self::Refusal => refusal::prompt(&seen)?,
        };
        Ok(Request {
            id: format!("{}/{}", item.id, self.name()),
            messages: vec![Message::text(Role::System, system), Message::text(Role::User, words)],
            raw: None,
            samplings: vec![self.sampling()],
            seed,
        })
    }

    /// Reads what the judge wrote of `item`.
    pub fn read(self, item: &Item, completion: &Completion) -> Opinion {
        let words = completion.text.as_str();
        match self {
            Self::VideoQa => video_qa::read(words),
            Self::MtBench(_) => mt_bench::read(words),
            Self::MtBenchPair(_, shown) => mt_bench::read_pair(words, shown),
            Self::VicunaPair => vicuna::read(words),
            Self::AlpacaEval => alpaca_eval::read(item, completion),
            Self::TempCompassReply => temp_compass::read_reply(words),
            Self::TempCompassCaption => temp_compass::read_caption(item, words),
            Self::Refusal => refusal::read(words),
        }
    }

    fn sampling(self) -> Sampling {
        let (max_tokens, top_logprobs) = match self {
            Self::VideoQa => (64, 0),
            Self::MtBench(_) | Self::MtBenchPair(..) => (2048, 0),
            Self::VicunaPair => (1024, 0),
            Self::AlpacaEval => (1, 5),
            Self::TempCompassReply | Self::TempCompassCaption => (128, 0),
            Self::Refusal => (8, 0),
        };
        Sampling { max_tokens, top_logprobs, ..Sampling::default() }
    }
}

/// Asks `judge` every question of `judged` about every item, in one call, and reads its words. The records come item
/// by item, in the order of the questions.
pub fn judge(
    judge: &dyn Generate,
    judged: &[Judged],
    items: &[(&Item, Replies<'_>)],
    seed: u64,
) -> Result<Vec<Judgement>, JudgedError> {
    let mut requests = Vec::new();
    let mut records = Vec::new();
    for &(item, replies) in items {
        for &judged in judged {
            let request = judged.request(item, replies, seed)?;
            let words: Vec<String> = request.messages.iter().map(Message::words).collect();
            let settled = judged.settled(item, replies);
            let mut record = Judgement {
                schema: SCHEMA_VERSION,
                id: request.id.clone(),
                item: item.id.clone(),
                cluster: item.cluster.clone(),
                categories: item.categories.clone(),
                judged,
                rules: RULES,
                judge: None,
                prompt_hash: sha256(&words.join("\n")),
                characters: replies.model.iter().map(|reply| reply.chars().count()).sum(),
                opinion: Opinion::default(),
                raw: String::new(),
            };
            match settled {
                Some(opinion) => record.opinion = opinion,
                None => {
                    record.judge = Some(judge.fingerprint());
                    requests.push(request);
                }
            }
            records.push((item, record));
        }
    }
    let wrong_count = |got| JudgedError::WrongCount { asked: requests.len(), got };
    let completions = if requests.is_empty() { Vec::new() } else { judge.generate(&requests)? };
    if completions.len() != requests.len() {
        return Err(wrong_count(completions.len()));
    }
    let mut completions = completions.into_iter().flatten();
    for (item, record) in records.iter_mut().filter(|(_, record)| record.judge.is_some()) {
        let completion = completions.next().ok_or_else(|| wrong_count(0))?;
        record.opinion = record.judged.read(item, &completion);
        record.raw = completion.text;
    }
    Ok(records.into_iter().map(|(_, record)| record).collect())
}

/// What a prompt is made of.
struct Seen<'a> {
    judged: Judged,
    item: &'a Item,
    replies: Replies<'a>,
}

impl<'a> Seen<'a> {
    fn missing(&self, what: &'static str) -> JudgedError {
        let judged = self.judged.name().to_owned();
        JudgedError::Missing { item: self.item.id.clone(), what, judged }
    }

    /// The model's reply of a turn.
    fn reply(&self, turn: usize) -> Result<&'a str, JudgedError> {
        let reply = self.replies.model.get(turn);
        reply.map(String::as_str).ok_or_else(|| self.missing("reply of the model"))
    }

    /// The reply of a turn that it is compared with.
    fn other(&self, turn: usize) -> Result<&'a str, JudgedError> {
        let reply = self.replies.other.get(turn);
        reply.map(String::as_str).ok_or_else(|| self.missing("reply to compare with"))
    }

    /// The right answer in words: an option with its letter, or a text.
    fn answer(&self) -> Result<String, JudgedError> {
        use crate::Gold;
        match &self.item.gold {
            Gold::Option(at) => self.option(*at).ok_or_else(|| self.missing("right option")),
            Gold::Text(text) => Ok(text.clone()),
            Gold::Judged(references) if !references.is_empty() => Ok(references[0].clone()),
            _ => Err(self.missing("right answer")),
        }
    }

    /// The question with its options.
    fn question(&self) -> String {
        let mut words = self.item.question.clone();
        for option in (0..self.item.options.len()).filter_map(|at| self.option(at)) {
            words.push_str(&format!("\n{option}"));
        }
        words
    }

    /// An option after its letter, or after the name that the suite has for it (`more.labels`).
    fn option(&self, at: usize) -> Option<String> {
        let option = self.item.options.get(at)?;
        let label = self.item.more.get("labels").and_then(|labels| labels.get(at)?.as_str());
        match label {
            Some(label) => Some(format!("{label}: {option}")),
            None => Some(format!("{}. {option}", ('A'..='Z').nth(at)?)),
        }
    }
}
