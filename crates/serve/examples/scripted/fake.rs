//! A back end without a model: prompts say what comes.
//!
//! The last words of a prompt are a script, its lines one instruction each; what is none is said back,
//! word by word.
//!
//! ```text
//! words N        says N words
//! pause MS       waits so long before every word
//! big BYTES      makes every word so long
//! draw           says words that depend on seed, id and choice
//! silent         says nothing before all is said
//! look           tells the bytes of all media
//! fail WHY, late-fail WHY, too-long, media-fail, refuse WHY, interrupted, vanish, panic
//! ```

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use savi_schema::{
    Alternative, Completion, Constraint, Event, FinishReason, GenerateError, Listener, Part,
    RawPrompt, Request, Sampling, Serve, Token,
};

/// A prompt of more bytes does not fit.
const LONGEST: usize = 500_000;

/// How many are served at once and how many may wait.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) running: usize,
    pub(crate) waiting: usize,
}

/// The back end; its thread ends with it.
pub(crate) struct Scripted {
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    limits: Limits,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Job>,
    running: usize,
    draining: bool,
    dropped: bool,
    seen: Vec<Request>,
    cancelled: usize,
}

struct Job {
    request: Request,
    listener: Listener,
    script: Script,
    choices: Vec<Choice>,
    started: bool,
    next: Instant,
}

struct Choice {
    words: Vec<String>,
    finish: FinishReason,
    at: usize,
    held: String,
    done: bool,
}

#[derive(Debug, Default, Clone)]
struct Script {
    words: Option<usize>,
    pause: Duration,
    big: usize,
    draw: bool,
    silent: bool,
    look: bool,
    fails: Option<(String, String)>,
    echo: String,
}

impl Scripted {
    pub(crate) fn new(limits: Limits) -> Self {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new(), limits });
        let worker = shared.clone();
        std::thread::spawn(move || worker.work());
        Self { shared }
    }

    /// Requests that were taken up, in order.
    #[allow(dead_code, reason = "for tests alone")]
    pub(crate) fn seen(&self) -> Vec<Request> {
        self.shared.lock().seen.clone()
    }

    /// Requests whose listeners said that nobody listens.
    #[allow(dead_code, reason = "for tests alone")]
    pub(crate) fn cancelled(&self) -> usize {
        self.shared.lock().cancelled
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.shared.lock().dropped = true;
        self.shared.changed.notify_all();
    }
}

impl Serve for Scripted {
    fn submit(&self, request: Request, listener: Listener) -> Result<(), GenerateError> {
        let script = script(&request);
        let id = request.id.clone();
        match &script.fails {
            Some((how, reason)) if how == "refuse" => {
                return Err(GenerateError::BadRequest { id, reason: reason.clone() });
            }
            Some((how, _)) if how == "panic" => panic!("as the script says"),
            _ => {}
        }
        let mut state = self.shared.lock();
        if state.draining {
            return Err(GenerateError::Interrupted);
        }
        if state.waiting.len() >= self.shared.limits.waiting {
            return Err(GenerateError::Busy { waiting: state.waiting.len() });
        }
        // Kept for tests; a long run must not keep them all.
        if state.seen.len() < 1000 {
            state.seen.push(request.clone());
        }
        let next = Instant::now();
        let choices = Vec::new();
        state.waiting.push_back(Job { request, listener, script, choices, started: false, next });
        self.shared.changed.notify_all();
        Ok(())
    }

    fn load(&self) -> (usize, usize) {
        let state = self.shared.lock();
        (state.running, state.waiting.len())
    }

    fn drain(&self, limit: Duration) {
        let end = Instant::now() + limit;
        let mut state = self.shared.lock();
        state.draining = true;
        while state.running + state.waiting.len() > 0 {
            let Some(left) = end.checked_duration_since(Instant::now()) else { return };
            let waited = self.shared.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn tokenize(&self, text: &str) -> Result<Vec<u32>, GenerateError> {
        Ok((0..text.split_whitespace().count() as u32).collect())
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes round, one word a choice.
    fn work(&self) {
        let mut jobs: Vec<Job> = Vec::new();
        loop {
            {
                let mut state = self.lock();
                while jobs.len() < self.limits.running
                    && let Some(job) = state.waiting.pop_front()
                {
                    jobs.push(job);
                }
                let before = state.waiting.len();
                state.waiting.retain_mut(|job| (job.listener)(Event::Waiting));
                state.cancelled += before - state.waiting.len();
                state.running = jobs.len();
                self.changed.notify_all();
                if state.dropped {
                    return;
                }
                let idle = if jobs.is_empty() { 1000 } else { 1 };
                let waited = self.changed.wait_timeout(state, Duration::from_millis(idle));
                drop(waited.unwrap_or_else(PoisonError::into_inner));
            }
            jobs.retain_mut(|job| match job.step() {
                Step::On => true,
                Step::End => false,
                Step::Left => {
                    self.lock().cancelled += 1;
                    false
                }
            });
        }
    }
}

enum Step {
    On,
    End,
    Left,
}

impl Job {
    fn step(&mut self) -> Step {
        if Instant::now() < self.next {
            return Step::On;
        }
        self.next = Instant::now() + self.script.pause;
        if !self.started {
            return self.start();
        }
        let late = matches!(&self.script.fails, Some((how, _)) if how == "late-fail");
        for index in 0..self.choices.len() {
            let sampling = &self.request.samplings[index];
            let choice = &mut self.choices[index];
            if choice.done {
                continue;
            }
            if late && choice.at == 2 {
                return self.fail();
            }
            if choice.at == choice.words.len() {
                choice.done = true;
                let event = Event::Done { index, completion: choice.completion(sampling) };
                if !(self.listener)(event) {
                    return Step::Left;
                }
                continue;
            }
            let token = token(&choice.words[choice.at], choice.at, sampling);
            choice.held.push_str(&choice.words[choice.at]);
            choice.at += 1;
            // Now and then words wait, as those do that may begin a stop string.
            let waits = choice.at % 3 == 1 && choice.at < choice.words.len();
            let text = if waits { String::new() } else { std::mem::take(&mut choice.held) };
            if self.script.silent {
                continue;
            }
            if !(self.listener)(Event::Delta { index, text, tokens: vec![token] }) {
                return Step::Left;
            }
        }
        if self.choices.iter().all(|choice| choice.done) { Step::End } else { Step::On }
    }

    fn start(&mut self) -> Step {
        self.started = true;
        if matches!(&self.script.fails, Some((how, _)) if how == "vanish") {
            return Step::End;
        }
        if matches!(&self.script.fails, Some((how, _)) if how != "late-fail") {
            return self.fail();
        }
        let mut told = self.script.echo.clone();
        if self.script.look {
            told = match looked(&self.request) {
                Ok(told) => told,
                Err(reason) => {
                    self.script.fails = Some(("media-fail".to_owned(), reason));
                    return self.fail();
                }
            };
        }
        let Self { request, script, .. } = self;
        let choice = |(index, sampling)| Choice::new(request, script, index, sampling, &told);
        self.choices = request.samplings.iter().enumerate().map(choice).collect();
        let prompt_tokens = words(&self.request).split_whitespace().count();
        let cached_tokens = prompt_tokens / 2;
        match (self.listener)(Event::Started { prompt_tokens, cached_tokens }) {
            true => Step::On,
            false => Step::Left,
        }
    }

    fn fail(&mut self) -> Step {
        let id = self.request.id.clone();
        let (how, reason) = self.script.fails.clone().unwrap_or_default();
        let error = match how.as_str() {
            "too-long" => {
                GenerateError::TooLong { id, prompt_tokens: 900, new_tokens: 200, limit: 1000 }
            }
            "media-fail" => GenerateError::Media { id, media: "a file".to_owned(), reason },
            "interrupted" => GenerateError::Interrupted,
            _ => GenerateError::Backend(reason),
        };
        (self.listener)(Event::Failed(error));
        Step::End
    }
}

impl Choice {
    fn new(
        request: &Request,
        script: &Script,
        index: usize,
        sampling: &Sampling,
        told: &str,
    ) -> Self {
        let word = |at: usize| {
            let word = match script.draw && sampling.temperature > 0.0 {
                true => format!("{:x}", drawn(request, index, at)),
                false => format!("w{at}"),
            };
            format!("{word}{} ", "x".repeat(script.big))
        };
        let mut text = match (&sampling.constraint, script.words) {
            (Some(Constraint::Choice(choices)), _) => choices[0].clone(),
            (Some(Constraint::Regex(_) | Constraint::Grammar(_)), _) => "held".to_owned(),
            (Some(Constraint::JsonObject | Constraint::JsonSchema(_)), _) => {
                "{\"name\": \"Ada\", \"age\": 36}".to_owned()
            }
            (None, Some(count)) => (0..count).map(word).collect(),
            (None, None) if script.draw => (0..4).map(word).collect(),
            (None, None) => told.to_owned(),
        };
        let mut finish = FinishReason::Stop;
        let stop = sampling.stop.iter().filter_map(|stop| text.find(stop.as_str())).min();
        if let Some(at) = stop {
            text.truncate(at);
        }
        let mut words: Vec<String> = text.split_inclusive(' ').map(str::to_owned).collect();
        if words.len() > sampling.max_tokens {
            words.truncate(sampling.max_tokens);
            finish = FinishReason::Length;
        }
        Self { words, finish, at: 0, held: String::new(), done: false }
    }

    fn completion(&self, sampling: &Sampling) -> Completion {
        let tokens: Vec<Token> =
            self.words.iter().enumerate().map(|(at, word)| token(word, at, sampling)).collect();
        Completion {
            text: self.words.concat(),
            token_ids: tokens.iter().map(|token| token.drawn.token_id).collect(),
            logps: tokens.iter().map(|token| token.drawn.logp).collect(),
            sampling_logps: Vec::new(),
            top_logps: tokens.into_iter().map(|token| token.top).collect(),
            finish_reason: self.finish,
        }
    }
}

fn token(word: &str, at: usize, sampling: &Sampling) -> Token {
    let one = |text: &str, rank: usize| Alternative {
        token_id: (at * 100 + rank) as u32,
        bytes: text.as_bytes().to_vec(),
        logp: -0.5 * (rank + 1) as f32,
    };
    let top = (0..sampling.top_logprobs).map(|rank| match rank {
        0 => one(word, 0),
        rank => one(&format!("other{rank}"), rank),
    });
    Token { drawn: one(word, 0), top: top.collect() }
}

/// Depends on what random numbers may depend on (FNV-1a).
fn drawn(request: &Request, index: usize, at: usize) -> u64 {
    let text = format!("{} {} {index} {at}", request.seed, request.id);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// The last words of a prompt.
fn words(request: &Request) -> String {
    match &request.raw {
        Some(RawPrompt::Text(text)) => text.clone(),
        Some(RawPrompt::Tokens(tokens)) => {
            tokens.iter().map(u32::to_string).collect::<Vec<_>>().join(" ")
        }
        None => request.messages.last().map(|message| message.words()).unwrap_or_default(),
    }
}

fn script(request: &Request) -> Script {
    let mut script = Script::default();
    let mut echo = Vec::new();
    let text = words(request);
    for line in text.lines() {
        let (what, rest) = line.split_once(' ').unwrap_or((line, ""));
        let number = rest.parse::<u64>();
        match (what, number) {
            ("words", Ok(count)) => script.words = Some(count as usize),
            ("pause", Ok(count)) => script.pause = Duration::from_millis(count),
            ("big", Ok(count)) => script.big = count as usize,
            ("draw", _) => script.draw = true,
            ("silent", _) => script.silent = true,
            ("look", _) => script.look = true,
            (
                "fail" | "late-fail" | "too-long" | "media-fail" | "refuse" | "interrupted"
                | "vanish" | "panic",
                _,
            ) => script.fails = Some((what.to_owned(), rest.to_owned())),
            _ => echo.push(line),
        }
    }
    if text.len() > LONGEST {
        script.fails = Some(("too-long".to_owned(), String::new()));
    }
    script.echo = echo.join("\n");
    if script.echo.is_empty() && script.words.is_none() && !script.look {
        script.words = Some(5);
    }
    script
}

/// Kind, bytes and policy of all media.
fn looked(request: &Request) -> Result<String, String> {
    let mut told = Vec::new();
    for part in request.messages.iter().flat_map(|message| &message.content) {
        let (kind, media) = match part {
            Part::Text { .. } => continue,
            Part::Image(media) => ("image", media),
            Part::Video(media) => ("video", media),
        };
        let (file, range) = media.source.split_once("#t=").unwrap_or((&media.source, ""));
        let path = std::path::Path::new(file);
        let bytes = std::fs::read(path).map_err(|error| error.to_string())?.len();
        let ending = path.extension().unwrap_or_default().to_string_lossy();
        told.push(format!("{kind}:{ending}:{bytes}:{range}"));
    }
    Ok(told.join(" "))
}
