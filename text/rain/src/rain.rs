//! RAIN as a generator: conversations in, searched answers out.

use savi_run::{Interrupt, Key};
use savi_schema::{
    Completion, FinishReason, Generate, GenerateError, Message, Part, RawPrompt, Request,
    ScoreRequest,
};

use crate::models::{Asking, Models, Question};
use crate::search::{Searching, replayed};
use crate::trace::{Answer, Begin, Journal, TRACE_SCHEMA};
use crate::{Config, Error, Prompts};

/// Answers conversations by search.
#[derive(Debug, Clone, Copy)]
pub struct Rain<'a> {
    /// The models.
    pub models: Models<'a>,
    /// Names the embedder; empty where there is none.
    pub embedder: &'a str,
    /// How is searched.
    pub config: &'a Config,
    /// The wording.
    pub prompts: &'a Prompts,
    /// When to stop.
    pub interrupt: &'a Interrupt,
}

impl Rain<'_> {
    /// Tokens of a conversation. Pictures, clips and conversations that leave no room are refused.
    pub fn prompt(&self, id: &str, messages: &[Message]) -> Result<Vec<u32>, Error> {
        let refuse = |reason: String| Err(Error::Question { id: id.to_owned(), reason });
        let mut parts = messages.iter().flat_map(|message| &message.content);
        if parts.any(|part| !matches!(part, Part::Text { .. })) {
            return refuse("it shows a picture or a clip; RAIN searches texts".to_owned());
        }
        let raw: Option<RawPrompt> = self.prompts.raw(messages)?;
        let tokens = self.models.tokens.prompt_tokens(messages, raw.as_ref());
        let tokens = tokens.map_err(|source| Error::model("the prompt", id, source))?;
        let longest = self.config.search.max_length;
        if tokens.is_empty() || tokens.len() >= longest {
            return refuse(format!(
                "its prompt has {} tokens, search.max_length is {longest}",
                tokens.len()
            ));
        }
        Ok(tokens)
    }

    /// Names everything that an answer depends on beside its question.
    pub fn key(&self) -> String {
        let Config { form, search, judge, baselines: _, prompts: _ } = self.config;
        let key = Key::new("rain").with("form", form).with("search", search);
        let key = key.with("judge", judge).with("prompts", self.prompts.hash());
        let key = key.with("model", &self.models.generator.fingerprint());
        key.with("judged by", &self.models.judge.fingerprint())
            .with("embedder", self.embedder)
            .finish()
    }

    /// What the trace of a question begins with.
    pub fn begin(&self, id: &str, seed: u64, messages: &[Message], prompt: &[u32]) -> Begin {
        let key = Key::new(&self.key()).with("seed", &seed).with("messages", messages);
        Begin {
            schema: TRACE_SCHEMA,
            id: id.to_owned(),
            key: key.with("prompt", prompt).finish(),
            prompt_tokens: prompt.len(),
            search: self.config.search.clone(),
        }
    }

    /// Searches an answer. What the journal knows is not asked for again; `begin` has to be what
    /// [`begin`](Self::begin) gives for the same question.
    pub fn answer(
        &self,
        begin: &Begin,
        seed: u64,
        messages: &[Message],
        prompt: &[u32],
        journal: &mut Journal,
    ) -> Result<Answer, Error> {
        if journal.is_whole() {
            return replayed(begin, journal);
        }
        let search = &begin.search;
        let question = Question { id: &begin.id, seed, messages, prompt };
        let whole_sentences = self.config.judge.whole_sentences;
        let mut asking = Asking::new(self.models, search, question, whole_sentences);
        let searching = Searching::new(search, &mut asking, journal, self.interrupt);
        searching.run(begin, &mut |_, _| {})
    }

    fn complete(&self, request: &Request, index: usize) -> Result<Completion, Error> {
        let Some(sampling) = request.samplings.get(index) else {
            let reason = format!("it has no sampling {index}");
            return Err(Error::Question { id: request.id.clone(), reason });
        };
        if request.raw.is_some() {
            let reason = "RAIN answers conversations, not raw prompts".to_owned();
            return Err(Error::Question { id: request.id.clone(), reason });
        }
        let id = format!("{}/{index}", request.id);
        let messages = &request.messages;
        let prompt = self.prompt(&id, messages)?;
        let mut begin = self.begin(&id, request.seed, messages, &prompt);
        let search = &mut begin.search;
        search.max_new_tokens = search.max_new_tokens.min(sampling.max_tokens).max(1);
        search.stop.extend(sampling.stop.iter().cloned());
        let mut journal = Journal::in_memory(&id);
        let answer = self.answer(&begin, request.seed, messages, &prompt, &mut journal)?;
        self.told(&id, &prompt, answer)
    }

    /// The answer with the log-probabilities of its tokens.
    fn told(&self, id: &str, prompt: &[u32], answer: Answer) -> Result<Completion, Error> {
        let Answer { text, token_ids, ended, .. } = answer;
        let request = ScoreRequest {
            raw: Some(RawPrompt::Tokens(prompt.to_vec())),
            continuations: vec![token_ids.clone().into()],
            ..ScoreRequest::default()
        };
        let told = self.models.scorer.score(std::slice::from_ref(&request));
        let told = told.map_err(|source| Error::model("the answer's probabilities", id, source))?;
        let told = told.into_iter().flatten().next();
        let logps = told.map(|told| told.logps).unwrap_or_default();
        let finish_reason = if ended { FinishReason::Stop } else { FinishReason::Length };
        // Nothing was drawn from one distribution.
        let (sampling_logps, top_logps) = (Vec::new(), Vec::new());
        Ok(Completion { text, token_ids, logps, sampling_logps, top_logps, finish_reason })
    }
}

impl Generate for Rain<'_> {
    /// One search for each sampling, of which `max_tokens` and `stop` hold; the rest is the config's.
    fn generate(&self, requests: &[Request]) -> Result<Vec<Vec<Completion>>, GenerateError> {
        let complete = |request: &Request| {
            let each = (0..request.samplings.len()).map(|index| self.complete(request, index));
            each.collect::<Result<Vec<_>, Error>>().map_err(|error| match error {
                Error::Interrupted => GenerateError::Interrupted,
                Error::Model { source, .. } => source,
                Error::Question { id, reason } => GenerateError::BadRequest { id, reason },
                other => GenerateError::Backend(other.to_string()),
            })
        };
        requests.iter().map(complete).collect()
    }

    fn fingerprint(&self) -> String {
        format!("rain:{}", self.key())
    }
}
