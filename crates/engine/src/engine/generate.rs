//! Continuing conversations.

use std::sync::Arc;

use savi_schema::{Completion, Event, Generate, GenerateError, RawPrompt, Request};

use super::Engine;
use crate::batch::{Batch, Job};
use crate::{EngineError, Prompt};

/// A request that can be served: its prompt is known and fits the model.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub(crate) request: Request,
    pub(crate) prompt: Arc<Prompt>,
}

impl Engine {
    /// A raw prompt as tokens.
    pub(crate) fn raw_tokens(&self, raw: &RawPrompt) -> Result<Prompt, EngineError> {
        match raw {
            RawPrompt::Text(text) => self.raw_prompt(text, Vec::new()),
            RawPrompt::Tokens(ids) => Ok(Prompt { ids: ids.clone(), ..Prompt::default() }),
        }
    }

    /// Checks a request and turns its prompt into tokens.
    pub(crate) fn prepare(&self, request: Request) -> Result<Prepared, GenerateError> {
        let bad = |reason: String| GenerateError::BadRequest { id: request.id.clone(), reason };
        for sampling in &request.samplings {
            sampling.check().map_err(bad)?;
        }
        let prompt = match &request.raw {
            Some(raw) => self.raw_tokens(raw),
            None => self.prompt(&request.messages),
        };
        let prompt = prompt.map_err(|error| error.for_request(&request.id))?;
        let limit = self.model.config().max_position_embeddings;
        let longest = request.samplings.iter().map(|s| s.max_tokens).max().unwrap_or(0);
        if prompt.ids.is_empty() || prompt.ids.len().saturating_add(longest) > limit {
            let count = prompt.ids.len();
            return Err(bad(format!(
                "{count} prompt tokens and up to {longest} new ones do not fit the model's {limit}"
            )));
        }
        self.check_tokens(&prompt.ids).map_err(|error| error.for_request(&request.id))?;
        Ok(Prepared { request, prompt: Arc::new(prompt) })
    }

    /// Refuses tokens that the model does not know.
    pub(crate) fn check_tokens(&self, ids: &[u32]) -> Result<(), EngineError> {
        let size = self.model.config().vocab_size;
        match ids.iter().find(|&&id| id as usize >= size) {
            None => Ok(()),
            Some(id) => {
                let reason = format!("token {id} is outside the vocabulary of {size}");
                Err(EngineError::Conversation(reason))
            }
        }
    }
}

impl Generate for Engine {
    fn generate(&self, requests: &[Request]) -> Result<Vec<Vec<Completion>>, GenerateError> {
        let failed = |error: EngineError| GenerateError::Backend(error.to_string());
        let mut drawn: Vec<Vec<Option<Completion>>> =
            requests.iter().map(|request| vec![None; request.samplings.len()]).collect();
        let (mut batch, mut next) = (Batch::default(), 0);
        loop {
            while let Some(request) = requests.get(next)
                && batch.has_room(self, request.samplings.len())
            {
                let Prepared { request, prompt } = self.prepare(request.clone())?;
                batch.push(self, Job { number: next, request, prompt, streams: false });
                next += 1;
            }
            if batch.is_idle() {
                break;
            }
            for (number, event) in batch.step(self).map_err(failed)? {
                match event {
                    Event::Done { index, completion } => drawn[number][index] = Some(completion),
                    Event::Failed(error) => return Err(error),
                    Event::Waiting | Event::Started { .. } | Event::Delta { .. } => {}
                }
            }
        }
        Ok(drawn.into_iter().map(|of| of.into_iter().flatten().collect()).collect())
    }

    fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }
}
