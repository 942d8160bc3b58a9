//! One continuation that is being drawn.

use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use savi_models::Model;
use savi_nn::attention::{KvNode, KvPrefix};
use savi_nn::ops::log_normaliser;
use savi_schema::{Alternative, Completion, Event, FinishReason, Sampling, Token};

use crate::EngineError;
use crate::Prompt;
use crate::constraint::Follower;
use crate::detokenize::{Detokenizer, Passed, StopStrings};
use crate::sample::{Context, Drawn, draw, likeliest};
use crate::text::TextModel;
use crate::tree::Place;
use crate::whole::Whole;

/// Room for tokens that a row begins with.
const ROOM: usize = 32;

/// What a row continues, and how.
#[derive(Debug, Clone)]
pub(crate) struct Start {
    /// Which request, and which of its samplings.
    pub(crate) owner: (usize, usize),
    pub(crate) request_id: Arc<str>,
    pub(crate) prompt: Arc<Prompt>,
    pub(crate) sampling: Sampling,
    pub(crate) rng: ChaCha8Rng,
    /// The prompt, where what is cached holds for one length only.
    pub(crate) whole: Option<Arc<Whole>>,
    /// Whether somebody wants to hear of it while it grows.
    pub(crate) streams: bool,
}

/// One continuation that is being drawn.
#[derive(Debug)]
pub(crate) struct Row {
    start: Start,
    /// Where its own tokens begin.
    pub(crate) place: Place,
    /// Its own tokens but the last, which no pass has seen yet.
    pub(crate) node: KvNode,
    pub(crate) ids: Vec<u32>,
    logps: Vec<f32>,
    sampling_logps: Vec<f32>,
    top_logps: Vec<Vec<Alternative>>,
    finish: Option<FinishReason>,
    /// What of its text is settled, and how much of that was told.
    text: String,
    told: usize,
    /// Tokens that were not told.
    untold: Vec<Token>,
    words: Detokenizer,
    stops: StopStrings,
    /// Where its text stands in the form that it is held to.
    follower: Option<Follower>,
}

impl Row {
    /// A row that goes on from a place.
    pub(crate) fn new(model: &Model, text: &TextModel, place: Place, start: Start) -> Self {
        let max = start.sampling.max_tokens;
        Self {
            node: model.cache_node(place.prefix.clone(), max.min(ROOM)),
            place,
            finish: (max == 0).then_some(FinishReason::Length),
            words: text.detokenizer(),
            stops: StopStrings::new(&start.sampling.stop),
            start,
            ids: Vec::new(),
            logps: Vec::new(),
            sampling_logps: Vec::new(),
            top_logps: Vec::new(),
            text: String::new(),
            told: 0,
            untold: Vec::new(),
            follower: None,
        }
    }

    pub(crate) fn owner(&self) -> (usize, usize) {
        self.start.owner
    }

    pub(crate) fn request_id(&self) -> &str {
        &self.start.request_id
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.finish.is_some()
    }

    /// Everything up to its last token, which a row that gave up its cache has to have computed to go on.
    pub(crate) fn so_far(&self) -> Prompt {
        self.start.prompt.followed_by(&self.ids[..self.ids.len().saturating_sub(1)])
    }

    /// Gives up what was computed for it.
    pub(crate) fn give_up(&mut self, model: &Model) {
        self.place = Place::root();
        self.node = model.cache_node(None, 1);
    }

    /// Goes on from a place at the end of [`so_far`](Self::so_far).
    pub(crate) fn resume(&mut self, model: &Model, place: Place) {
        self.node = model.cache_node(place.prefix.clone(), ROOM);
        self.place = place;
    }

    /// The logits after its last token, computed anew where what is cached does not hold for a sequence
    /// that is one longer; none where the row goes on from its cache.
    pub(crate) fn renew(&mut self, model: &Model) -> candle_core::Result<Option<Vec<f32>>> {
        let tokens = self.node.total();
        let whole = self.start.whole.as_ref();
        let Some(whole) = whole.filter(|_| model.rotates_anew(tokens, tokens + 1)) else {
            return Ok(None);
        };
        let (node, logits) = whole.fill(model, &self.ids)?;
        self.node = model.cache_node(Some(KvPrefix::whole(node)), ROOM);
        Ok(Some(logits))
    }

    /// Draws the next token from the logits after the last one.
    pub(crate) fn take(&mut self, logits: Vec<f32>, text: &TextModel) -> Result<(), EngineError> {
        let sampling = &self.start.sampling;
        if self.ids.is_empty() {
            self.follower = text.follow(sampling)?;
            if self.follower.as_ref().is_some_and(Follower::is_over) {
                self.finish = Some(FinishReason::Stop);
                return Ok(());
            }
        }
        let (max, log_sum) = log_normaliser(&logits);
        let ends: &[u32] = if sampling.ignore_eos { &[] } else { text.ends() };
        let context = Context {
            prompt: &self.start.prompt.ids,
            generated: &self.ids,
            // The stand-ins for visual tokens are no words.
            banned: text.placeholders(),
            ends,
            allowed: self.follower.as_ref().map(Follower::allowed),
        };
        let drawn = draw(logits.clone(), sampling, context, &mut self.start.rng);
        let Some(Drawn { token, logp }) = drawn else {
            let so_far = text.decode(&self.ids)?;
            let reason = format!("bans leave no token to go on with after {so_far:?}");
            return Err(EngineError::Constraint(reason));
        };
        let Some(logit) = logits.get(token as usize) else {
            let reason = format!("token {token} is outside the vocabulary of {}", logits.len());
            return Err(EngineError::Conversation(reason));
        };
        let logp_of = |logit: f32| logit - max - log_sum;
        self.ids.push(token);
        self.logps.push(logp_of(*logit));
        self.sampling_logps.push(logp);
        let told = |token: u32, logit: f32| Alternative {
            token_id: token,
            bytes: text.token_bytes(token).to_vec(),
            logp: logp_of(logit),
        };
        let top = match sampling.top_logprobs {
            0 => Vec::new(),
            count => likeliest(&logits, count, told),
        };
        if self.start.streams {
            self.untold.push(Token { drawn: told(token, *logit), top: top.clone() });
        }
        if sampling.top_logprobs > 0 {
            self.top_logps.push(top);
        }
        let ended = ends.contains(&token) || sampling.stop_token_ids.contains(&token);
        if ended {
            self.finish = Some(FinishReason::Stop);
        } else if let Some(follower) = &mut self.follower {
            follower.take(token)?;
            self.finish = follower.is_over().then_some(FinishReason::Stop);
        }
        if self.finish.is_none() && self.ids.len() >= sampling.max_tokens {
            self.finish = Some(FinishReason::Length);
        }
        // A token that ends the text is no part of it.
        if !ended {
            let new = self.words.push(token);
            self.write(&new);
        }
        if self.finish.is_some() {
            self.write_rest(text)?;
        }
        Ok(())
    }

    /// Takes more of the text, up to a stop string.
    fn write(&mut self, new: &str) {
        match self.stops.push(new) {
            Passed::On(text) => self.text.push_str(&text),
            Passed::Stopped(text) => {
                self.text.push_str(&text);
                self.finish = Some(FinishReason::Stop);
                self.stops = StopStrings::new(&[]);
                self.words.close();
            }
        }
    }

    /// No token follows: what waited for one is the text's end.
    fn write_rest(&mut self, text: &TextModel) -> Result<(), EngineError> {
        let rest = std::mem::replace(&mut self.words, text.detokenizer()).finish()?;
        self.write(&rest);
        let held = std::mem::replace(&mut self.stops, StopStrings::new(&[])).finish();
        self.text.push_str(&held);
        Ok(())
    }

    /// What nobody was told yet, where somebody wants to hear.
    pub(crate) fn news(&mut self) -> Option<Event> {
        let text = &self.text[self.told..];
        if !self.start.streams || (text.is_empty() && self.untold.is_empty()) {
            return None;
        }
        let (index, text) = (self.start.owner.1, text.to_owned());
        self.told = self.text.len();
        Some(Event::Delta { index, text, tokens: std::mem::take(&mut self.untold) })
    }

    /// The tokens whose keys and values its node holds.
    pub(crate) fn own_tokens(&self) -> &[u32] {
        let drawn = self.place.len().checked_sub(self.start.prompt.ids.len());
        let own = drawn.and_then(|start| self.ids.get(start..start + self.node.len()));
        own.unwrap_or_default()
    }

    /// What was drawn, and the cache of it.
    pub(crate) fn finished(self) -> (Completion, Place, KvNode) {
        let completion = Completion {
            text: self.text,
            token_ids: self.ids,
            logps: self.logps,
            sampling_logps: self.sampling_logps,
            top_logps: self.top_logps,
            finish_reason: self.finish.unwrap_or(FinishReason::Length),
        };
        (completion, self.place, self.node)
    }
}
