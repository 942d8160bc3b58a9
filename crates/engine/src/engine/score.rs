//! Log-probabilities of given continuations: after one prefix, many in one pass.

use std::sync::Arc;

use candle_core::{DType, Tensor};
use savi_nn::Forest;
use savi_nn::attention::KvNode;
use savi_nn::layers::Mode;
use savi_schema::{Continuation, GenerateError, Score, ScoreRequest, TokenScore};

use super::Engine;
use crate::tree::Place;
use crate::{EngineError, Prompt};

impl Engine {
    fn score_one(&self, request: &ScoreRequest) -> Result<Vec<TokenScore>, EngineError> {
        let prompt = match &request.raw {
            Some(raw) => self.raw_tokens(raw)?,
            None => self.prompt(&request.messages)?,
        };
        let tokens = request.continuations.iter().map(|continuation| match continuation {
            Continuation::Text(words) => self.text.encode(words),
            Continuation::Tokens(tokens) => Ok(tokens.clone()),
        });
        let tokens = tokens.collect::<Result<Vec<_>, _>>()?;
        if prompt.ids.is_empty() && request.raw.is_some() {
            return tokens.into_iter().map(|ids| self.score_from_second(ids)).collect();
        }
        self.score_tokens(&prompt, tokens)
    }

    /// A text that stands after nothing: its first token has no probability.
    fn score_from_second(&self, mut ids: Vec<u32>) -> Result<TokenScore, EngineError> {
        if ids.len() < 2 {
            return Ok(TokenScore { token_ids: Vec::new(), logps: Vec::new() });
        }
        let rest = ids.split_off(1);
        let first = Prompt { ids, ..Prompt::default() };
        let scored = self.score_tokens(&first, vec![rest])?.pop();
        scored.ok_or_else(|| EngineError::Conversation("the text was not scored".to_owned()))
    }

    /// Log-probabilities of continuations that are given as tokens. A token's log-probability is that
    /// after the prompt and the tokens before it.
    pub fn score_tokens(
        &self,
        prompt: &Prompt,
        continuations: Vec<Vec<u32>>,
    ) -> Result<Vec<TokenScore>, EngineError> {
        let config = self.model.config();
        let longest = continuations.iter().map(Vec::len).max().unwrap_or(0);
        let limit = config.max_position_embeddings;
        if prompt.ids.is_empty() || prompt.ids.len() + longest > limit {
            let reason = format!(
                "a prompt of {} tokens and up to {longest} more: a model of {limit} positions scores after \
                 at least one token",
                prompt.ids.len()
            );
            return Err(EngineError::Conversation(reason));
        }
        self.check_prompt(prompt)?;
        continuations.iter().try_for_each(|ids| self.check_words(ids))?;
        let prompt = Arc::new(prompt.clone());
        if self.depends_on_length() {
            let whole = self.whole(&prompt)?;
            let score = |token_ids: Vec<u32>| {
                let logps = whole.score(&self.model, &token_ids)?;
                Ok(TokenScore { token_ids, logps })
            };
            return continuations.into_iter().map(score).collect();
        }
        let place = self.place(prompt)?;
        let mut scores = Vec::with_capacity(continuations.len());
        let mut rest = continuations.into_iter().peekable();
        while rest.peek().is_some() {
            // As many as a pass takes, and one at least.
            let (mut part, mut tokens) = (Vec::new(), 0);
            while let Some(next) =
                rest.next_if(|next| tokens == 0 || tokens + next.len() <= self.chunk())
            {
                tokens += next.len();
                part.push(next);
            }
            scores.extend(self.score_part(&place, part)?);
        }
        Ok(scores)
    }

    /// One pass: every continuation a branch of the place, whose own state tells of the first tokens.
    fn score_part(
        &self,
        place: &Place,
        continuations: Vec<Vec<u32>>,
    ) -> Result<Vec<TokenScore>, EngineError> {
        let (mut forest, mut ids, mut nodes) = (Forest::new(), Vec::new(), Vec::new());
        let (mut states, mut targets) = (Vec::new(), Vec::new());
        for continuation in &continuations {
            let Some((_, seen)) = continuation.split_last() else { continue };
            // Row 0 is the state of the place, then come those of the pass.
            states.push(0);
            states.extend(ids.len() as u32 + 1..=(ids.len() + seen.len()) as u32);
            targets.extend(continuation);
            if !seen.is_empty() {
                let node = self.model.cache_node(place.prefix.clone(), seen.len());
                forest.push(node.after(), seen.len());
                nodes.push(node);
                ids.extend(seen);
            }
        }
        let mut all: Vec<Tensor> = place.hidden.clone().into_iter().collect();
        if !ids.is_empty() {
            let embeds = self.model.embed(&ids, &[], Mode::INFER)?;
            let mut rows: Vec<&mut KvNode> = nodes.iter_mut().collect();
            all.push(self.model.hidden_cached(
                &embeds,
                &Arc::new(forest),
                Mode::INFER,
                &mut rows,
            )?);
            self.count(|counts| counts.computed_tokens += ids.len() as u64);
        }
        let logps = if targets.is_empty() {
            Vec::new()
        } else {
            let all = Tensor::cat(&all, 0)?;
            let index = Tensor::new(states, all.device())?;
            let hidden = all.index_select(&index, 0)?;
            let logps = self.model.logps(&hidden, &targets, Mode::INFER)?;
            logps.to_dtype(DType::F32)?.to_vec1::<f32>()?
        };
        let mut logps = logps.into_iter();
        let scored = continuations.into_iter().map(|token_ids| TokenScore {
            logps: logps.by_ref().take(token_ids.len()).collect(),
            token_ids,
        });
        Ok(scored.collect())
    }
}

impl Score for Engine {
    fn score(&self, requests: &[ScoreRequest]) -> Result<Vec<Vec<TokenScore>>, GenerateError> {
        requests
            .iter()
            .enumerate()
            .map(|(i, request)| self.score_one(request).map_err(|e| e.for_request(&i.to_string())))
            .collect()
    }
}
