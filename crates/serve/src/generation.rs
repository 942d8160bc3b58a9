//! A request at the back end: given to it, listened to, and let go of when its client leaves.

use std::sync::Arc;

use savi_schema::{Completion, Event, Request, Token};
use tokio::sync::OwnedSemaphorePermit;

use crate::body::Held;
use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::refusal::Refusal;
use crate::request::Asked;
use crate::server::App;

/// The id of every request, as the back end sees it. Random numbers depend on it, so equal seeds give equal
/// texts only where it is always the same.
const ID: &str = "request";

/// A place among the requests that are read, wait or are served.
#[derive(Debug)]
pub(crate) struct Place {
    metrics: Arc<Metrics>,
    _permit: OwnedSemaphorePermit,
}

impl Place {
    /// Refuses one request too many.
    pub(crate) fn take(app: &App) -> Result<Self, Refusal> {
        if app.is_ending() {
            return Err(Refusal::ending());
        }
        let Ok(permit) = app.places.clone().try_acquire_owned() else {
            let most = app.options.max_requests;
            let message = format!("{most} requests are being served already; try again later");
            return Err(Refusal::busy("too_many_requests", message));
        };
        app.metrics.open.inc();
        Ok(Self { metrics: app.metrics.clone(), _permit: permit })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.metrics.open.dec();
    }
}

/// A request that the back end has taken up. Dropping it lets go of the request.
#[derive(Debug)]
pub(crate) struct Run {
    queue: Arc<Queue>,
    metrics: Arc<Metrics>,
    /// Choices of a prompt.
    choices: usize,
    /// Prompts.
    prompts: usize,
    /// Choices that are not whole yet.
    open: usize,
    /// Whether nothing more will come.
    ended: bool,
    _place: Place,
}

/// What the back end tells; choices are counted over all prompts.
#[derive(Debug)]
pub(crate) enum Told {
    /// The turn of a prompt has come.
    Started { choices: std::ops::Range<usize>, prompt_tokens: usize, cached_tokens: usize },
    /// A choice goes on.
    Delta { choice: usize, text: String, tokens: Vec<Token> },
    /// A choice is whole.
    Done { choice: usize, completion: Completion },
}

impl Run {
    /// Makes files of a request's media and gives it to the back end. `held` is the memory of its body.
    pub(crate) async fn start(
        app: &Arc<App>,
        place: Place,
        asked: Asked,
        held: Held,
    ) -> Result<Self, Refusal> {
        let Asked { prompts, sampling, choices, seed, .. } = asked;
        let wants_deltas = asked.stream || asked.logprobs.is_some();
        let queue = Queue::new(app.metrics.clone(), wants_deltas);
        // Made first: it lets go of the request should the client leave right now.
        let mut run = Self {
            queue: queue.clone(),
            metrics: app.metrics.clone(),
            choices,
            prompts: prompts.len(),
            open: choices * prompts.len(),
            ended: false,
            _place: place,
        };
        let app = app.clone();
        let submit = move || {
            // All of them first: nothing is begun of a request that is refused.
            let prompts = prompts.into_iter().map(|draft| app.sources.prompt(draft));
            let prompts = prompts.collect::<Result<Vec<_>, _>>()?;
            drop(held);
            for (number, prompt) in prompts.into_iter().enumerate() {
                if queue.is_left() {
                    break;
                }
                let listener = queue.listener(number, choices, prompt.files);
                let request = Request {
                    id: ID.to_owned(),
                    messages: prompt.messages,
                    raw: prompt.raw,
                    samplings: vec![sampling.clone(); choices],
                    seed: seed.unwrap_or_else(rand::random),
                };
                app.backend.submit(request, listener).map_err(Refusal::from_backend)?;
            }
            Ok(())
        };
        let submitted = tokio::task::spawn_blocking(submit).await.unwrap_or_else(|error| {
            tracing::error!("a request could not be given to the back end: {error}");
            Err(Refusal::internal("the server failed; its log says more"))
        });
        if let Err(refusal) = submitted {
            run.ended = true;
            return Err(refusal);
        }
        Ok(run)
    }

    /// Choices over all prompts.
    pub(crate) fn choices(&self) -> usize {
        self.choices * self.prompts
    }

    /// What the back end tells next; nothing once all choices are whole, and after a failure.
    pub(crate) async fn next(&mut self) -> Option<Result<Told, Refusal>> {
        if self.ended {
            return None;
        }
        let (prompt, event) = loop {
            match self.queue.next().await {
                (_, Event::Waiting) => continue,
                told => break told,
            }
        };
        let first = prompt * self.choices;
        let told = match event {
            Event::Started { prompt_tokens, cached_tokens } => {
                let choices = first..first + self.choices;
                Ok(Told::Started { choices, prompt_tokens, cached_tokens })
            }
            Event::Delta { index, .. } | Event::Done { index, .. } if index >= self.choices => {
                tracing::error!("the back end tells of choice {index} of {}", self.choices);
                Err(Refusal::internal("the server failed; its log says more"))
            }
            Event::Delta { index, text, tokens } => {
                Ok(Told::Delta { choice: first + index, text, tokens })
            }
            Event::Done { index, completion } => {
                self.open = self.open.saturating_sub(1);
                Ok(Told::Done { choice: first + index, completion })
            }
            Event::Failed(error) => Err(Refusal::from_backend(error)),
            Event::Waiting => return None,
        };
        self.ended = told.is_err() || self.open == 0;
        Some(told)
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // Other prompts of a request that has failed may still be running.
        self.queue.leave();
        if !self.ended {
            self.metrics.cancelled.inc();
        }
        self.metrics.duration.observe(self.queue.begun().elapsed().as_secs_f64());
    }
}
