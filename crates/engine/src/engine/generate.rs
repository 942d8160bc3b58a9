//! Continuing conversations.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use savi_schema::{Completion, Event, Generate, GenerateError, RawPrompt, Request, Sampling};

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
        self.fitting(request, prompt)
    }

    /// Checks that a prompt and what may follow it fit the model; samplings that ask for all room get it.
    fn fitting(&self, mut request: Request, prompt: Prompt) -> Result<Prepared, GenerateError> {
        let limit = self.model.config().max_position_embeddings;
        let room = limit.saturating_sub(prompt.ids.len());
        for sampling in &mut request.samplings {
            if sampling.max_tokens == Sampling::ALL_ROOM {
                sampling.max_tokens = room.max(sampling.min_tokens).max(1);
            }
        }
        let longest = request.samplings.iter().map(|s| s.max_tokens).max().unwrap_or(0);
        if prompt.ids.is_empty() {
            let reason = "its prompt has no tokens".to_owned();
            return Err(GenerateError::BadRequest { id: request.id, reason });
        }
        if longest > room {
            let (prompt_tokens, new_tokens) = (prompt.ids.len(), longest);
            return Err(GenerateError::TooLong {
                id: request.id,
                prompt_tokens,
                new_tokens,
                limit,
            });
        }
        self.check_tokens(&prompt.ids).map_err(|error| error.for_request(&request.id))?;
        for sampling in &request.samplings {
            self.text.follow(sampling).map_err(|error| error.for_request(&request.id))?;
        }
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

impl Engine {
    /// Serves requests, taken one after the other as there is room for them, and tells of each by its number
    /// in their order; deltas only where `streams`. Ends with an error once `told` says that nobody listens.
    pub fn follow(
        &self,
        requests: impl IntoIterator<Item = Request>,
        streams: bool,
        mut told: impl FnMut(usize, Event) -> bool,
    ) -> Result<(), GenerateError> {
        let mut batch = Batch::default();
        let mut requests = requests.into_iter().enumerate().peekable();
        loop {
            while let Some((_, request)) = requests.peek()
                && batch.has_room(self, request.samplings.len())
            {
                let Some((number, request)) = requests.next() else { break };
                match self.prepare(request) {
                    Ok(Prepared { request, prompt }) if !request.samplings.is_empty() => {
                        batch.push(self, Job { number, request, prompt, streams });
                    }
                    Ok(_) => {}
                    Err(error) => {
                        if !told(number, Event::Failed(error)) {
                            return Err(GenerateError::Interrupted);
                        }
                    }
                }
            }
            if batch.is_idle() {
                return Ok(());
            }
            self.check_interrupt()?;
            let step = batch.step(self);
            for (number, event) in step.map_err(|e| GenerateError::Backend(e.to_string()))? {
                if !told(number, event) {
                    return Err(GenerateError::Interrupted);
                }
            }
        }
    }

    /// Continues a prompt that is known in tokens, and tells of it as it goes.
    pub fn follow_prompt(
        &self,
        prompt: Prompt,
        samplings: Vec<Sampling>,
        seed: u64,
        streams: bool,
        mut told: impl FnMut(Event) -> bool,
    ) -> Result<(), GenerateError> {
        let request = Request { id: "0".to_owned(), samplings, seed, ..Request::default() };
        let Prepared { request, prompt } = self.fitting(request, prompt)?;
        let mut batch = Batch::default();
        batch.push(self, Job { number: 0, request, prompt, streams });
        while !batch.is_idle() {
            self.check_interrupt()?;
            let step = batch.step(self);
            for (_, event) in step.map_err(|e| GenerateError::Backend(e.to_string()))? {
                if !told(event) {
                    return Err(GenerateError::Interrupted);
                }
            }
        }
        Ok(())
    }

    fn check_interrupt(&self) -> Result<(), GenerateError> {
        let set = self.options.interrupt.as_ref().is_some_and(|flag| flag.load(Ordering::SeqCst));
        if set { Err(GenerateError::Interrupted) } else { Ok(()) }
    }
}

impl Generate for Engine {
    fn generate(&self, requests: &[Request]) -> Result<Vec<Vec<Completion>>, GenerateError> {
        let mut drawn: Vec<Vec<Option<Completion>>> =
            requests.iter().map(|request| vec![None; request.samplings.len()]).collect();
        let mut failed = None;
        let ended = self.follow(requests.iter().cloned(), false, |number, event| match event {
            Event::Done { index, completion } => {
                drawn[number][index] = Some(completion);
                true
            }
            Event::Failed(error) => {
                failed = Some(error);
                false
            }
            Event::Waiting | Event::Started { .. } | Event::Delta { .. } => true,
        });
        match failed {
            Some(error) => return Err(error),
            None => ended?,
        }
        Ok(drawn.into_iter().map(|of| of.into_iter().flatten().collect()).collect())
    }

    fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }
}
