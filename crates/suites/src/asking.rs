//! Puts items to a model: all items of a cluster in one call, so that a clip is decoded and read once.

use std::path::PathBuf;

use savi_schema::{
    Completion, Continuation, FinishReason, Generate, GenerateError, MediaPolicy, Message, Part,
    RawPrompt, Request, Role, Sampling, Score, ScoreRequest, Tokenize,
};
use savi_video_ingest::IngestOptions;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::suite::{Ask, OptionScore, Suite};
use crate::{Clips, Item, Sample, View, ViewError};

/// Where an item's words go in a template.
pub const PLACE: &str = "{question}";

/// How a suite's items are put.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AskOptions {
    /// How a clip becomes frames; an item's bounds are put into it.
    pub policy: MediaPolicy,
    /// Seed of sampling and of shuffled views.
    pub seed: u64,
    /// Longest reply, in tokens, in place of the suite's.
    pub max_tokens: Option<usize>,
    /// Draw so many replies, which vote.
    pub votes: Option<usize>,
    /// Temperature of replies that vote.
    pub vote_temperature: f64,
    /// Choice items are answered by the likeliest letter, not by a written reply.
    pub letters: bool,
    /// Prompts are plain texts without the chat template, and replies end with these.
    pub plain: Option<Vec<String>>,
    /// The system turn of chats.
    pub system: Option<String>,
    /// Stands before the words of every item: instructions, principles.
    pub before: String,
    /// Worked examples between that and the words of an item.
    pub shots: usize,
    /// A text around the words of every item, which stand in place of [`PLACE`]; where words are scored it is the
    /// question alone, and the options follow the text.
    pub template: Option<String>,
    /// The lines that are spoken in a clip stand before the words of an item, where the suite has them and there are any.
    pub subtitles: bool,
    /// How clips are read.
    pub ingest: IngestOptions,
}

impl AskOptions {
    /// The suite's own wording and sampling about the clip as `policy` shows it.
    pub fn new(policy: MediaPolicy) -> Self {
        Self {
            policy,
            seed: 0,
            max_tokens: None,
            votes: None,
            vote_temperature: 0.7,
            letters: false,
            plain: None,
            system: None,
            before: String::new(),
            shots: 0,
            template: None,
            subtitles: false,
            ingest: IngestOptions::default(),
        }
    }
}

/// Who is asked, and how.
pub struct Asking<'a> {
    /// The suite.
    pub suite: &'a Suite,
    /// Who writes replies.
    pub model: &'a dyn Generate,
    /// The same, asked how likely it finds words; a server cannot say.
    pub scorer: Option<(&'a dyn Score, &'a dyn Tokenize)>,
    /// Where clips are.
    pub clips: Option<&'a Clips>,
    /// Items that worked examples are made of.
    pub examples: &'a [Item],
    /// How.
    pub options: &'a AskOptions,
}

/// Why items could not be put.
#[derive(Debug, Error)]
pub enum AskError {
    /// The clip of an item is not there.
    #[error("item {id}: no clip {clip:?} below the folder of clips")]
    NoClip {
        /// Which item.
        id: String,
        /// Its clip.
        clip: String,
    },
    /// A file of subtitles cannot be read.
    #[error("item {id}: subtitles {path}: {reason}", path = path.display())]
    Subtitles {
        /// Which item.
        id: String,
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The suite compares log-probabilities, or letters are compared, and nobody tells them.
    #[error(
        "{suite}: its answers are compared by log-probabilities, which a server does not tell; ask a model here"
    )]
    NoScores {
        /// Which suite.
        suite: &'static str,
    },
    /// The view of a clip cannot be had.
    #[error(transparent)]
    View(#[from] ViewError),
    /// The model failed.
    #[error(transparent)]
    Generate(#[from] GenerateError),
    /// The model returned another number of replies than it was asked for.
    #[error("item {id}: {got} replies where {asked} were asked for")]
    WrongCount {
        /// The first item of the call.
        id: String,
        /// How many were asked for.
        asked: usize,
        /// How many came.
        got: usize,
    },
}

/// The conversation of an item, up to where the model speaks.
struct Put<'a> {
    item: &'a Item,
    messages: Vec<Message>,
    words: String,
}

impl Asking<'_> {
    /// Puts the items of some clusters as `view` shows their clips; one list of samples for each cluster.
    pub fn ask(&self, clusters: &[Vec<&Item>], view: View) -> Result<Vec<Vec<Sample>>, AskError> {
        let puts = clusters.iter().flatten().map(|item| self.put(item, view));
        let puts = puts.collect::<Result<Vec<_>, _>>()?;
        let samples = match self.suite.ask {
            Ask::LogProbs { pairs, .. } => self.compare(&puts, pairs)?,
            Ask::Reply { .. } if self.options.letters => self.letters(&puts)?,
            Ask::Reply { sampling } => self.replies(puts, sampling, view)?,
        };
        let mut samples = samples.into_iter();
        Ok(clusters.iter().map(|items| samples.by_ref().take(items.len()).collect()).collect())
    }

    fn put<'i>(&self, item: &'i Item, view: View) -> Result<Put<'i>, AskError> {
        let hidden = view == View::Blind && item.clip.is_none();
        let blind = item.more.get("blind").and_then(|blind| blind.as_str()).filter(|_| hidden);
        let words = blind.map_or_else(|| (self.suite.words)(item), str::to_owned);
        let words = match &self.options.template {
            Some(template) => template.replace(PLACE, &words),
            None => words,
        };
        let words = self.after_examples(item, self.subtitles(item)? + &words);
        let mut content = Vec::new();
        if let (Some(clip), Some(clips)) = (&item.clip, self.clips)
            && view != View::Blind
        {
            let no_clip = || AskError::NoClip { id: item.id.clone(), clip: clip.name.clone() };
            let path: PathBuf = clips.find(clip).ok_or_else(no_clip)?;
            let AskOptions { policy, seed, ingest, .. } = self.options;
            let policy = MediaPolicy {
                start: clip.start.or(policy.start),
                end: clip.end.or(policy.end),
                ..policy.clone()
            };
            let media = view.media(&path, &policy, *seed, &clip.name, ingest)?;
            content.extend(media.map(Part::Video));
        }
        content.push(Part::Text { text: words.clone() });
        let system = self.options.system.as_deref().map(|text| Message::text(Role::System, text));
        let user = Message { role: Role::User, content };
        Ok(Put { item, messages: system.into_iter().chain([user]).collect(), words })
    }

    /// What is said in an item's clip, where that is wanted and known.
    fn subtitles(&self, item: &Item) -> Result<String, AskError> {
        let name = item.more.get("subtitles").and_then(|name| name.as_str());
        let (Some(name), Some(clips)) = (name.filter(|_| self.options.subtitles), self.clips)
        else {
            return Ok(String::new());
        };
        let path = clips.root().join(name);
        // Not every clip has some.
        if !path.exists() {
            return Ok(String::new());
        }
        let bad = |reason: String| AskError::Subtitles {
            id: item.id.clone(),
            path: path.clone(),
            reason,
        };
        let text = std::fs::read_to_string(&path).map_err(|error| bad(error.to_string()))?;
        let lines = crate::subtitles::lines(&path, &text)
            .ok_or_else(|| bad("neither .srt nor a JSON list of lines".to_owned()))?;
        Ok(format!("What is said in the clip:\n{}\n\n", lines.join("\n")))
    }

    /// The words of an item after what stands before all of them and after worked examples.
    fn after_examples(&self, item: &Item, words: String) -> String {
        let words = match self.suite.shot {
            Some(shots) if self.options.shots > 0 => {
                shots.put(self.examples, self.options.shots, item, &words)
            }
            _ => words,
        };
        format!("{}{words}", self.options.before)
    }

    fn replies(
        &self,
        puts: Vec<Put<'_>>,
        sampling: fn(&Item) -> Sampling,
        view: View,
    ) -> Result<Vec<Sample>, AskError> {
        let options = self.options;
        let samplings = |item: &Item| {
            let mut sampling = sampling(item);
            sampling.max_tokens = options.max_tokens.unwrap_or(sampling.max_tokens);
            sampling.stop.extend(options.plain.iter().flatten().cloned());
            match options.votes {
                None => vec![sampling],
                Some(votes) => {
                    sampling.temperature = options.vote_temperature;
                    vec![sampling; votes.max(1)]
                }
            }
        };
        let mut samples: Vec<Sample> =
            puts.iter().map(|put| Sample::new(put.item, &put.words)).collect();
        let mut dialogues: Vec<Vec<Message>> =
            puts.iter().map(|put| put.messages.clone()).collect();
        let longest = puts.iter().map(|put| put.item.turns.len()).max().unwrap_or(0);
        for turn in 0..=longest {
            // Those that have as many turns; in the first turn all.
            let speaking: Vec<usize> =
                (0..puts.len()).filter(|&at| turn <= puts[at].item.turns.len()).collect();
            let mut requests = Vec::with_capacity(speaking.len());
            for &at in &speaking {
                let Put { item, words, .. } = &puts[at];
                if turn > 0 {
                    dialogues[at].push(Message::text(Role::User, &item.turns[turn - 1]));
                }
                let plain = options.plain.is_some() && turn == 0;
                requests.push(Request {
                    id: if turn == 0 {
                        format!("{}/{}", item.id, view.name())
                    } else {
                        format!("{}/{}/{turn}", item.id, view.name())
                    },
                    messages: if plain { Vec::new() } else { dialogues[at].clone() },
                    raw: plain.then(|| RawPrompt::Text(words.clone())),
                    samplings: samplings(item),
                    seed: options.seed,
                });
            }
            let completions = self.model.generate(&requests)?;
            let counts = requests.iter().map(|request| request.samplings.len());
            check_counts(&puts, counts, &completions)?;
            for (&at, completions) in speaking.iter().zip(completions) {
                let said = completions.first().map(|said| said.text.clone()).unwrap_or_default();
                dialogues[at].push(Message::text(Role::Assistant, said));
                for Completion { text, token_ids, finish_reason, .. } in completions {
                    samples[at].tokens += token_ids.len();
                    samples[at].cut_off |= finish_reason == FinishReason::Length;
                    samples[at].replies.push(text);
                }
            }
        }
        Ok(samples)
    }

    /// The likeliest letter as the reply.
    fn letters(&self, puts: &[Put<'_>]) -> Result<Vec<Sample>, AskError> {
        let (scorer, _) = self.scorer.ok_or(AskError::NoScores { suite: self.suite.name })?;
        let letters = |item: &Item| -> Vec<Continuation> {
            item.options.iter().zip('A'..='Z').map(|(_, c)| c.to_string().into()).collect()
        };
        let requests: Vec<ScoreRequest> = puts
            .iter()
            .map(|put| ScoreRequest {
                messages: put.messages.clone(),
                raw: None,
                continuations: letters(put.item),
            })
            .collect();
        let scored = scorer.score(&requests)?;
        check_counts(puts, requests.iter().map(|request| request.continuations.len()), &scored)?;
        let sample = |(put, scored): (&Put<'_>, Vec<savi_schema::TokenScore>)| {
            let scores = scored.iter().map(|score| OptionScore {
                logp: score.sum(),
                tokens: score.token_ids.len(),
                characters: 1,
            });
            let scores: Vec<OptionScore> = scores.collect();
            let best = argmax(scores.iter().map(|score| score.logp));
            let reply = best.map(|at| char::from(b'A' + at as u8).to_string());
            let replies = reply.into_iter().collect();
            Sample { scores, replies, ..Sample::new(put.item, &put.words) }
        };
        Ok(puts.iter().zip(scored).map(sample).collect())
    }

    /// Log-probabilities of continuations after plain texts, whose tokens are those of the whole text: the blank
    /// between them belongs to the continuation, as in lm-evaluation-harness.
    fn compare(
        &self,
        puts: &[Put<'_>],
        pairs: fn(&Item) -> Vec<(String, String)>,
    ) -> Result<Vec<Sample>, AskError> {
        let no_scores = || AskError::NoScores { suite: self.suite.name };
        let (scorer, tokenizer) = self.scorer.ok_or_else(no_scores)?;
        let tokens = |text: String| tokenizer.prompt_tokens(&[], Some(&RawPrompt::Text(text)));
        let mut requests: Vec<ScoreRequest> = Vec::new();
        let mut samples = Vec::with_capacity(puts.len());
        // For every pair the request and its place there; pairs with one context share a request.
        let mut places: Vec<Vec<(usize, usize)>> = Vec::with_capacity(puts.len());
        for put in puts {
            let mut of_item = Vec::new();
            let mut sample = None;
            for (context, continuation) in pairs(put.item) {
                let (context, continuation) = match &self.options.template {
                    Some(template) => {
                        let context = template.replace(PLACE, &put.item.question);
                        // What ends with a blank has one already.
                        match context.ends_with(char::is_whitespace) {
                            true => (context, continuation.trim_start().to_owned()),
                            false => (context, continuation),
                        }
                    }
                    None => (context, continuation),
                };
                let context = self.after_examples(put.item, context);
                sample.get_or_insert_with(|| Sample::new(put.item, &context));
                let end = context.trim_end().len();
                let (before, blank) = context.split_at(end);
                let prompt = tokens(before.to_owned())?;
                let whole = tokens(format!("{before}{blank}{continuation}"))?;
                let after = Continuation::Tokens(whole[prompt.len().min(whole.len())..].to_vec());
                let raw = Some(RawPrompt::Tokens(prompt));
                match requests.last_mut().filter(|last| !of_item.is_empty() && last.raw == raw) {
                    Some(last) => last.continuations.push(after),
                    None => requests.push(ScoreRequest {
                        messages: Vec::new(),
                        raw,
                        continuations: vec![after],
                    }),
                }
                let last = requests.len() - 1;
                of_item.push((last, requests[last].continuations.len() - 1));
            }
            samples.push(sample.unwrap_or_else(|| Sample::new(put.item, &put.words)));
            places.push(of_item);
        }
        let scored = scorer.score(&requests)?;
        check_counts(puts, requests.iter().map(|request| request.continuations.len()), &scored)?;
        for ((sample, put), places) in samples.iter_mut().zip(puts).zip(places) {
            let texts = pairs(put.item).into_iter().map(|(_, continuation)| continuation);
            sample.scores = places
                .into_iter()
                .zip(texts)
                .map(|((request, place), text)| {
                    let score = &scored[request][place];
                    OptionScore {
                        logp: score.sum(),
                        tokens: score.token_ids.len(),
                        characters: text.trim_start().chars().count(),
                    }
                })
                .collect();
        }
        Ok(samples)
    }
}

/// The place of the largest value, the first of equals.
pub fn argmax(values: impl IntoIterator<Item = f64>) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (at, value) in values.into_iter().enumerate() {
        if best.is_none_or(|(_, most)| value > most) {
            best = Some((at, value));
        }
    }
    best.map(|(at, _)| at)
}

fn check_counts<T>(
    puts: &[Put<'_>],
    asked: impl ExactSizeIterator<Item = usize>,
    got: &[Vec<T>],
) -> Result<(), AskError> {
    let id = puts.first().map_or("", |put| &put.item.id).to_owned();
    if asked.len() != got.len() {
        return Err(AskError::WrongCount { id, asked: asked.len(), got: got.len() });
    }
    match asked.zip(got).find(|(asked, got)| *asked != got.len()) {
        Some((asked, got)) => Err(AskError::WrongCount { id, asked, got: got.len() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
