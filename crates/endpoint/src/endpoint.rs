//! The endpoint: requests split into calls, made by a few threads, put together in order.

use std::fmt;
use std::panic;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use savi_schema::{Completion, Generate, GenerateError, RawPrompt, Request, Sampling};
use serde_json::{Map, Value, json};

use crate::answer::{self, Expected};
use crate::cache::Cache;
use crate::call::{Call, Prompt};
use crate::http::{Client, Sent, Wrong};
use crate::media::Encoder;
use crate::sampling::{self, Interface, Manner};
use crate::server::Server;
use crate::{Dialect, EndpointError, EndpointOptions, Usage};

/// Most choices of one call: OpenAI allows no more.
const MOST_CHOICES: usize = 128;

/// An OpenAI-compatible server as a back end.
pub struct Endpoint {
    pub(crate) options: EndpointOptions,
    pub(crate) server: Server,
    client: Client,
    pub(crate) encoder: Encoder,
    cache: Option<Cache>,
    stop: Arc<dyn Fn() -> bool + Send + Sync>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("options", &self.options)
            .field("server", &self.server)
            .field("client", &self.client)
            .finish_non_exhaustive()
    }
}

/// Samples of one request that one call draws.
struct Job<'a> {
    request: usize,
    sampling: &'a Sampling,
    /// Places among the request's samplings.
    samples: Vec<usize>,
    /// Choices of the call: one for all samples where the draw is greedy.
    choices: usize,
}

impl Endpoint {
    /// Asks the server what it is and serves, and opens the cache.
    pub fn new(options: EndpointOptions) -> Result<Self, EndpointError> {
        options.validate()?;
        let client = Client::new(&options)?;
        let cache = options.cache.as_deref().map(Cache::open).transpose()?;
        let server = Server::find(&client, &options)?;
        let encoder = Encoder::new(&options, server.dialect);
        Ok(Self { options, server, client, encoder, cache, stop: Arc::new(|| false) })
    }

    /// Stops calls and waits once `stop` says so; what was answered by then is in the cache.
    #[must_use]
    pub fn with_stop(mut self, stop: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        self.stop = Arc::new(stop);
        self
    }

    /// What has been asked so far and what it cost.
    pub fn usage(&self) -> Usage {
        self.client.counters.usage(&self.options.prices)
    }

    /// What the server takes.
    pub fn dialect(&self) -> Dialect {
        self.server.dialect
    }

    /// Where it is.
    pub fn base_url(&self) -> &str {
        &self.options.base_url
    }

    /// The model's name.
    pub fn model(&self) -> &str {
        &self.server.model
    }

    /// Makes a call, unless the cache has its answer, and reads it.
    pub(crate) fn answer<T>(
        &self,
        id: &str,
        call: &Call,
        turn: Turn<'_>,
        read: &dyn Fn(&Value) -> Result<T, Wrong>,
    ) -> Result<T, GenerateError> {
        let broken = |error: EndpointError| GenerateError::Backend(error.to_string());
        let key = self.cache.as_ref().map(|_| call.key(self.server.serves.as_deref()));
        if let (Some(cache), Some(key)) = (&self.cache, &key)
            && let Some(answer) = cache.get(key).map_err(broken)?
            && let Ok(found) = read(&answer)
        {
            self.client.counters.cached();
            return Ok(found);
        }
        let body = call.body();
        let Turn { waiting, stop } = turn;
        let sent = Sent { id, path: call.path, body: Some(&body), once: false, waiting, stop };
        let (answer, found) = self.client.ask(sent, read)?;
        if let (Some(cache), Some(key)) = (&self.cache, &key) {
            cache.put(key, &answer).map_err(broken)?;
        }
        Ok(found)
    }

    /// Does `count` things on as many threads as calls may be under way; results in order. The first thing
    /// that fails, by its number, is the error of all.
    pub(crate) fn spread<T: Send>(
        &self,
        count: usize,
        one: &(dyn Fn(usize, Turn<'_>) -> Result<T, GenerateError> + Sync),
    ) -> Result<Vec<T>, GenerateError> {
        let (next, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let failed = AtomicBool::new(false);
        let stop = || failed.load(Ordering::Relaxed) || (self.stop)();
        let found: Mutex<Vec<(usize, Result<T, GenerateError>)>> = Mutex::default();
        let work = || {
            while !stop() {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= count {
                    break;
                }
                let waiting = count - done.load(Ordering::Relaxed);
                let result = one(at, Turn { waiting, stop: &stop });
                done.fetch_add(1, Ordering::Relaxed);
                if result.is_err() {
                    failed.store(true, Ordering::Relaxed);
                }
                found.lock().unwrap_or_else(PoisonError::into_inner).push((at, result));
            }
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..self.options.concurrency.min(count))
                .map(|_| std::thread::Builder::new().spawn_scoped(scope, work))
                .collect();
            let mut any = false;
            for thread in threads {
                match thread {
                    Ok(thread) => {
                        any = true;
                        if let Err(fault) = thread.join() {
                            panic::resume_unwind(fault);
                        }
                    }
                    Err(error) => tracing::warn!("no further thread: {error}"),
                }
            }
            if !any {
                work();
            }
        });
        let mut found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        found.sort_by_key(|(at, _)| *at);
        let whole = found.len() == count;
        let mut results = Vec::with_capacity(count);
        let mut interrupted = !whole;
        for (_, result) in found {
            match result {
                Ok(result) => results.push(result),
                // Threads that stopped because another one failed.
                Err(GenerateError::Interrupted) => interrupted = true,
                Err(error) => return Err(error),
            }
        }
        if interrupted { Err(GenerateError::Interrupted) } else { Ok(results) }
    }

    pub(crate) fn refuse(&self, id: &str, reason: impl Into<String>) -> GenerateError {
        GenerateError::BadRequest { id: id.to_owned(), reason: reason.into() }
    }

    fn manner(&self, interface: Interface) -> Manner {
        let host = self.options.root().split("://").nth(1).unwrap_or_default();
        let host = host.split(['/', ':']).next().unwrap_or_default();
        Manner {
            dialect: self.server.dialect,
            interface,
            logprobs: self.options.logprobs,
            openai_itself: host == "api.openai.com" || host.ends_with(".openai.azure.com"),
        }
    }

    /// Refuses what cannot be asked before anything is paid for.
    fn check(&self, request: &Request) -> Result<(), GenerateError> {
        let interface = match (&request.raw, request.messages.last()) {
            (Some(RawPrompt::Text(text)), _) if text.is_empty() => None,
            (Some(RawPrompt::Tokens(tokens)), _) if tokens.is_empty() => None,
            (Some(_), _) => Some(Interface::Completions),
            (None, last) => last.map(|_| Interface::Chat),
        };
        let Some(interface) = interface else {
            return Err(self.refuse(&request.id, "an empty prompt cannot be asked of an endpoint"));
        };
        if interface == Interface::Chat {
            self.check_turns(&request.id, &request.messages)?;
        }
        for sampling in &request.samplings {
            sampling::fields(sampling, self.manner(interface))
                .map_err(|reason| self.refuse(&request.id, reason))?;
        }
        Ok(())
    }

    /// Refuses a last turn that cannot be continued.
    pub(crate) fn check_turns(
        &self,
        id: &str,
        messages: &[savi_schema::Message],
    ) -> Result<(), GenerateError> {
        use savi_schema::{Part, Role};
        let goes_on = messages.last().is_some_and(|last| last.role == Role::Assistant);
        let able = [Dialect::Vllm, Dialect::Sglang, Dialect::Savi];
        if goes_on && !able.contains(&self.server.dialect) {
            let reason = format!(
                "the last turn is the assistant's: an endpoint of the dialect {} cannot be asked to \
                 continue it (vllm and sglang can)",
                self.server.dialect.name()
            );
            return Err(self.refuse(id, reason));
        }
        let assistants = messages.iter().filter(|message| message.role == Role::Assistant);
        match assistants.flat_map(|m| &m.content).all(|part| matches!(part, Part::Text { .. })) {
            true => Ok(()),
            false => Err(self.refuse(id, "a turn of the assistant shows media")),
        }
    }

    fn jobs<'a>(&self, requests: &'a [Request]) -> Vec<Job<'a>> {
        let several = self.options.several_choices && self.server.dialect != Dialect::LlamaCpp;
        let mut jobs: Vec<Job<'a>> = Vec::new();
        for (number, request) in requests.iter().enumerate() {
            let first = jobs.len();
            for (sample, sampling) in request.samplings.iter().enumerate() {
                let greedy = sampling.temperature == 0.0;
                let room = if greedy { usize::MAX } else { MOST_CHOICES };
                let equal = jobs[first..].iter_mut().find(|job| {
                    (several || greedy) && job.samples.len() < room && job.sampling == sampling
                });
                match equal {
                    Some(job) => {
                        job.samples.push(sample);
                        job.choices = if greedy { 1 } else { job.samples.len() };
                    }
                    None => {
                        let samples = vec![sample];
                        jobs.push(Job { request: number, sampling, samples, choices: 1 });
                    }
                }
            }
        }
        jobs
    }

    fn call(&self, request: &Request, job: &Job<'_>) -> Result<Call, GenerateError> {
        let (messages, raw) = (&request.messages, request.raw.as_ref());
        let prompt = Prompt::new(&request.id, messages, raw, &self.encoder)?;
        let interface = prompt.interface();
        let mut fields = Map::new();
        if job.choices > 1 {
            fields.insert("n".to_owned(), job.choices.into());
        }
        if job.sampling.temperature > 0.0 {
            let place = job.samples.first().copied().unwrap_or(0);
            let seed = sampling::seed(self.server.dialect, request.seed, &request.id, place);
            fields.insert("seed".to_owned(), seed.into());
        }
        let drawn = sampling::fields(job.sampling, self.manner(interface))
            .map_err(|reason| self.refuse(&request.id, reason))?;
        fields.extend(drawn);
        fields.extend(prompt.fields(self.server.dialect));
        fields.extend(self.options.extra.clone());
        let path = match interface {
            Interface::Chat => "/v1/chat/completions",
            Interface::Completions => "/v1/completions",
        };
        Ok(Call { path, model: Some(self.server.model.clone()), prompt: Some(prompt), fields })
    }
}

/// What a thread knows of the others.
#[derive(Clone, Copy)]
pub(crate) struct Turn<'a> {
    /// How many things are not done yet.
    pub(crate) waiting: usize,
    /// Whether nobody waits for it any more.
    pub(crate) stop: &'a dyn Fn() -> bool,
}

impl Generate for Endpoint {
    fn generate(&self, requests: &[Request]) -> Result<Vec<Vec<Completion>>, GenerateError> {
        requests.iter().try_for_each(|request| self.check(request))?;
        let jobs = self.jobs(requests);
        let drawn = self.spread(jobs.len(), &|at, turn| {
            let job = &jobs[at];
            let request = &requests[job.request];
            let call = self.call(request, job)?;
            let expected = Expected { choices: job.choices, top: job.sampling.top_logprobs };
            let read = |answer: &Value| answer::completions(answer, expected);
            self.answer(&request.id, &call, turn, &read)
        })?;
        let mut completions: Vec<Vec<Option<Completion>>> =
            requests.iter().map(|request| vec![None; request.samplings.len()]).collect();
        for (job, drawn) in jobs.iter().zip(drawn) {
            // A greedy draw stands for all that would be equal to it.
            for (&sample, drawn) in job.samples.iter().zip(drawn.into_iter().cycle()) {
                completions[job.request][sample] = Some(drawn);
            }
        }
        Ok(completions.into_iter().map(|of| of.into_iter().flatten().collect()).collect())
    }

    /// Name of the model, address, dialect, what the server says that it serves under the name, and a
    /// hash of the options that change what is asked.
    fn fingerprint(&self) -> String {
        let Server { dialect, model, serves } = &self.server;
        let options = &self.options;
        let asked = json!([
            options.video,
            options.pictures,
            options.jpeg_quality,
            options.frames,
            options.extra,
            options.several_choices,
        ]);
        let asked = &crate::cache::key(&asked).to_hex()[..16];
        let serves =
            serves.as_ref().map_or_else(String::new, |serves| format!(", serving {serves}"));
        format!("{model} at {} ({}{serves}) {asked}", options.root(), dialect.name())
    }
}
