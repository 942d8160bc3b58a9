//! One continuation that is being drawn.

use std::sync::Arc;

use rand_chacha::ChaCha8Rng;
use savi_models::Model;
use savi_nn::attention::{KvNode, KvPrefix};
use savi_nn::ops::log_normaliser;
use savi_schema::{Alternative, Completion, FinishReason, Sampling};

use crate::EngineError;
use crate::Prompt;
use crate::constraint::Follower;
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
    text: String,
    /// Where its text stands in the form that it is held to.
    follower: Option<Follower>,
}

impl Row {
    /// A row that goes on from a place.
    pub(crate) fn new(model: &Model, place: Place, start: Start) -> Self {
        let max = start.sampling.max_tokens;
        Self {
            node: model.cache_node(place.prefix.clone(), max.min(ROOM)),
            place,
            finish: (max == 0).then_some(FinishReason::Length),
            start,
            ids: Vec::new(),
            logps: Vec::new(),
            sampling_logps: Vec::new(),
            top_logps: Vec::new(),
            text: String::new(),
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
        self.ids.push(token);
        self.logps.push(logit - max - log_sum);
        self.sampling_logps.push(logp);
        if sampling.top_logprobs > 0 {
            let told = |token, logit: f32| Alternative {
                token_id: token,
                bytes: text.token_bytes(token).to_vec(),
                logp: logit - max - log_sum,
            };
            self.top_logps.push(likeliest(&logits, sampling.top_logprobs, told));
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
        if self.finish.is_some() || !sampling.stop.is_empty() {
            // A token that ends the text is no part of it.
            self.text = text.decode(&self.ids[..self.ids.len() - usize::from(ended)])?;
            let cut = sampling.stop.iter().filter_map(|stop| self.text.find(stop.as_str())).min();
            if let Some(cut) = cut {
                self.text.truncate(cut);
                self.finish = Some(FinishReason::Stop);
            }
        }
        Ok(())
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
