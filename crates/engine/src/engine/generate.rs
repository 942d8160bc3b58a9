//! Continuing conversations.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use savi_schema::{
    Completion, Event, Generate, GenerateError, Message, RawPrompt, Request, Sampling, Tokenize,
};

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

    /// Turns a request's prompt into tokens and checks both.
    pub(crate) fn prepare(&self, request: Request) -> Result<Prepared, GenerateError> {
        let prompt = match &request.raw {
            Some(raw) => self.raw_tokens(raw),
            None => self.prompt(&request.messages),
        };
        let prompt = prompt.map_err(|error| error.for_request(&request.id))?;
        self.fitting(request, Arc::new(prompt))
    }

    /// Checks that a prompt and what may follow it fit the model; samplings that ask for all room get it.
    pub(crate) fn fitting(
        &self,
        mut request: Request,
        prompt: Arc<Prompt>,
    ) -> Result<Prepared, GenerateError> {
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
        let mut samplings = request.samplings.iter();
        self.check_prompt(&prompt)
            .and_then(|()| samplings.try_for_each(|sampling| self.check_sampling(sampling)))
            .map_err(|error| error.for_request(&request.id))?;
        Ok(Prepared { request, prompt })
    }

    /// Refuses tokens that the model does not know, and stand-ins for visual tokens that stand for none.
    pub(crate) fn check_prompt(&self, prompt: &Prompt) -> Result<(), EngineError> {
        let size = self.model.config().vocab_size;
        if let Some(id) = prompt.ids.iter().find(|&&id| id as usize >= size) {
            let reason = format!("token {id} is outside the vocabulary of {size}");
            return Err(EngineError::Conversation(reason));
        }
        let placeholders = self.text.placeholders();
        let places = prompt.ids.iter().filter(|id| placeholders.contains(id)).count();
        let seen: usize = prompt.visuals.iter().map(|visual| visual.plan.len()).sum();
        if places != seen {
            let reason = format!(
                "{places} of its tokens stand for visual tokens, of which its pictures and clips have {seen}"
            );
            return Err(EngineError::Conversation(reason));
        }
        Ok(())
    }

    /// As [`check_prompt`](Self::check_prompt), of words.
    pub(crate) fn check_words(&self, ids: &[u32]) -> Result<(), EngineError> {
        self.check_prompt(&Prompt { ids: ids.to_vec(), ..Prompt::default() })
    }

    /// Refuses settings of sampling that mean nothing to this model.
    pub(crate) fn check_sampling(&self, sampling: &Sampling) -> Result<(), EngineError> {
        sampling.check().map_err(EngineError::Conversation)?;
        self.check_words(&sampling.forced_tokens)
            .map_err(|error| EngineError::Conversation(format!("forced_tokens: {error}")))?;
        self.text.follow(sampling).map(|_| ())
    }
}

/// What is served next, or the number of a request that cannot be served and why.
type Next = Result<Job, (usize, GenerateError)>;

impl Engine {
    /// Serves requests, taken one after the other as there is room for them, and tells of each by its number
    /// in their order; deltas only where `streams`. Ends with an error once `told` says that nobody listens.
    pub fn follow(
        &self,
        requests: impl IntoIterator<Item = Request>,
        streams: bool,
        told: impl FnMut(usize, Event) -> bool,
    ) -> Result<(), GenerateError> {
        self.drive(self.jobs(requests, streams), told)
    }

    fn jobs(
        &self,
        requests: impl IntoIterator<Item = Request>,
        streams: bool,
    ) -> impl Iterator<Item = Next> {
        requests.into_iter().enumerate().map(move |(number, request)| {
            let prepared = self.prepare(request);
            let Prepared { request, prompt } = prepared.map_err(|error| (number, error))?;
            Ok(Job { number, request, prompt, streams })
        })
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
        let Prepared { request, prompt } = self.fitting(request, Arc::new(prompt))?;
        let job = Job { number: 0, request, prompt, streams };
        self.drive(std::iter::once(Ok(job)), |_, event| told(event))
    }

    /// Decodes what comes, one batch for all.
    fn drive(
        &self,
        jobs: impl Iterator<Item = Next>,
        mut told: impl FnMut(usize, Event) -> bool,
    ) -> Result<(), GenerateError> {
        let mut batch = Batch::default();
        let mut jobs = jobs.peekable();
        loop {
            let fits = |batch: &Batch, next: &Next| {
                next.as_ref().map_or(true, |job| batch.has_room(self, job.request.samplings.len()))
            };
            while let Some(next) = jobs.next_if(|next| fits(&batch, next)) {
                match next {
                    Ok(job) => batch.push(self, job),
                    Err((number, error)) => {
                        if !told(number, Event::Failed(error)) {
                            return Err(GenerateError::Interrupted);
                        }
                    }
                }
            }
            if batch.is_idle() {
                return Ok(());
            }
            let set = |flag: &Arc<AtomicBool>| flag.load(Ordering::SeqCst);
            if self.options.interrupt.as_ref().is_some_and(set) {
                return Err(GenerateError::Interrupted);
            }
            let step = batch.step(self);
            for (number, event) in step.map_err(|e| GenerateError::Backend(e.to_string()))? {
                if !told(number, event) {
                    return Err(GenerateError::Interrupted);
                }
            }
        }
    }

    /// All completions of jobs that are numbered from 0, of which `counts` says how many each asks for; the first
    /// failure ends it.
    pub(crate) fn complete(
        &self,
        counts: impl Iterator<Item = usize>,
        jobs: impl Iterator<Item = Next>,
    ) -> Result<Vec<Vec<Completion>>, GenerateError> {
        let mut drawn: Vec<Vec<Option<Completion>>> =
            counts.map(|count| vec![None; count]).collect();
        let mut failed = None;
        let ended = self.drive(jobs, |number, event| match event {
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
        let whole = drawn.into_iter().map(|of| of.into_iter().collect::<Option<Vec<_>>>());
        whole.collect::<Option<Vec<_>>>().ok_or_else(|| {
            GenerateError::Backend("a completion was begun and never ended".to_owned())
        })
    }
}

impl Generate for Engine {
    fn generate(&self, requests: &[Request]) -> Result<Vec<Vec<Completion>>, GenerateError> {
        let counts = requests.iter().map(|request| request.samplings.len());
        self.complete(counts, self.jobs(requests.iter().cloned(), false))
    }

    fn fingerprint(&self) -> String {
        self.fingerprint_now()
    }
}

impl Tokenize for Engine {
    fn prompt_tokens(
        &self,
        messages: &[Message],
        raw: Option<&RawPrompt>,
    ) -> Result<Vec<u32>, GenerateError> {
        let prompt = match raw {
            Some(raw) => self.raw_tokens(raw),
            None => self.prompt(messages),
        };
        let prompt = prompt.map_err(|error| error.for_request("prompt"))?;
        if !prompt.visuals.is_empty() {
            let reason = "pictures and clips have no form in tokens alone".to_owned();
            return Err(GenerateError::BadRequest { id: "prompt".to_owned(), reason });
        }
        Ok(prompt.ids)
    }

    fn words(&self, tokens: &[u32]) -> Result<String, GenerateError> {
        self.text.decode(tokens).map_err(|error| error.for_request("words"))
    }

    fn end_tokens(&self) -> Vec<u32> {
        self.text.ends().to_vec()
    }
}
