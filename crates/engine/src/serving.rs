//! Requests as they come: a thread of its own decodes whatever is asked for, all in one batch.

use std::collections::{HashMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use savi_schema::{Event, GenerateError, Listener, Request, Serve};

use crate::batch::{Batch, Job};
use crate::engine::Prepared;
use crate::{Engine, EngineError};

/// How requests are taken up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServingOptions {
    /// Requests that may wait for their turn; more are refused.
    pub max_waiting: usize,
}

impl Default for ServingOptions {
    fn default() -> Self {
        Self { max_waiting: 256 }
    }
}

/// An engine that serves requests as they come.
#[derive(Debug)]
pub struct Serving {
    engine: Arc<Engine>,
    options: ServingOptions,
    shared: Arc<Shared>,
    inbox: Mutex<Option<Sender<Box<Waiting>>>>,
    thread: Option<JoinHandle<()>>,
}

/// What the thread and those who ask share.
#[derive(Debug, Default)]
struct Shared {
    running: AtomicUsize,
    waiting: AtomicUsize,
    /// Nothing more is taken up.
    closed: AtomicBool,
    /// What is running ends now.
    stopped: AtomicBool,
    ended: (Mutex<()>, Condvar),
}

impl Shared {
    /// So many fewer are in this state.
    fn left(&self, state: &AtomicUsize, count: usize) {
        if count > 0 {
            state.fetch_sub(count, Ordering::SeqCst);
            self.ended.1.notify_all();
        }
    }
}

/// A request whose turn has not come.
struct Waiting {
    prepared: Prepared,
    listener: Listener,
}

/// A request that is being served.
struct Served {
    listener: Listener,
    id: String,
    /// Completions that have not ended.
    left: usize,
}

impl Serving {
    /// Starts the thread.
    pub fn start(engine: Engine, options: ServingOptions) -> std::io::Result<Self> {
        let (engine, shared) = (Arc::new(engine), Arc::new(Shared::default()));
        let (sender, receiver) = channel();
        let thread = {
            let (engine, shared) = (engine.clone(), shared.clone());
            let serve = move || Desk::new(&engine, &shared).serve(&receiver);
            std::thread::Builder::new().name("serving".to_owned()).spawn(serve)?
        };
        let inbox = Mutex::new(Some(sender));
        Ok(Self { engine, options, shared, inbox, thread: Some(thread) })
    }

    /// The engine.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }
}

impl Serve for Serving {
    fn submit(&self, request: Request, listener: Listener) -> Result<(), GenerateError> {
        let closed = || self.shared.closed.load(Ordering::SeqCst);
        if closed() {
            return Err(GenerateError::Interrupted);
        }
        if request.samplings.is_empty() {
            let (id, reason) = (request.id, "it asks for no completion".to_owned());
            return Err(GenerateError::BadRequest { id, reason });
        }
        let waiting = self.shared.waiting.fetch_add(1, Ordering::SeqCst);
        let taken_up = || {
            if waiting >= self.options.max_waiting {
                return Err(GenerateError::Busy { waiting });
            }
            let prepared = self.engine.prepare(request)?;
            let inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
            let sent = inbox.as_ref().filter(|_| !closed());
            let sent = sent.map(|inbox| inbox.send(Box::new(Waiting { prepared, listener })));
            sent.ok_or(GenerateError::Interrupted)?.map_err(|_| GenerateError::Interrupted)
        };
        let taken = taken_up();
        if taken.is_err() {
            self.shared.waiting.fetch_sub(1, Ordering::SeqCst);
        }
        taken
    }

    fn load(&self) -> (usize, usize) {
        let count = |of: &AtomicUsize| of.load(Ordering::SeqCst);
        (count(&self.shared.running), count(&self.shared.waiting))
    }

    fn drain(&self, limit: Duration) {
        self.shared.closed.store(true, Ordering::SeqCst);
        let end = Instant::now() + limit;
        let (lock, ended) = &self.shared.ended;
        let mut guard = lock.lock().unwrap_or_else(PoisonError::into_inner);
        while self.load() != (0, 0) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            // Woken at the latest to look at the clock: what ends is told without the lock.
            let wait = left.min(Duration::from_millis(50));
            guard = ended.wait_timeout(guard, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn tokenize(&self, text: &str) -> Result<Vec<u32>, GenerateError> {
        let prompt = self.engine.raw_prompt(text, Vec::new());
        prompt.map(|prompt| prompt.ids).map_err(|error| error.for_request("tokenize"))
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        self.shared.stopped.store(true, Ordering::SeqCst);
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that serves has panicked");
        }
    }
}

/// What the thread works on.
struct Desk<'a> {
    engine: &'a Engine,
    shared: &'a Shared,
    batch: Batch,
    waiting: VecDeque<Box<Waiting>>,
    served: HashMap<usize, Served>,
    next: usize,
}

impl<'a> Desk<'a> {
    fn new(engine: &'a Engine, shared: &'a Shared) -> Self {
        let (waiting, served) = (VecDeque::new(), HashMap::new());
        Self { engine, shared, batch: Batch::default(), waiting, served, next: 0 }
    }

    fn serve(mut self, inbox: &Receiver<Box<Waiting>>) {
        loop {
            if self.batch.is_idle() && self.waiting.is_empty() {
                match inbox.recv() {
                    Ok(waiting) => self.waiting.push_back(waiting),
                    Err(_) => return,
                }
            }
            while let Ok(waiting) = inbox.try_recv() {
                self.waiting.push_back(waiting);
            }
            if self.shared.stopped.load(Ordering::SeqCst) {
                self.interrupt();
                continue;
            }
            self.ask_for_listeners();
            self.admit();
            self.step();
        }
    }

    /// Whoever waits may have left.
    fn ask_for_listeners(&mut self) {
        let before = self.waiting.len();
        self.waiting.retain_mut(|waiting| (waiting.listener)(Event::Waiting));
        self.shared.left(&self.shared.waiting, before - self.waiting.len());
        let gone = self.served.iter_mut().filter(|(number, _)| self.batch.is_filling(**number));
        let gone: Vec<usize> = gone
            .filter_map(|(number, served)| (!(served.listener)(Event::Waiting)).then_some(*number))
            .collect();
        for number in gone {
            self.drop_request(number);
        }
    }

    fn drop_request(&mut self, number: usize) {
        self.batch.cancel(number);
        if self.served.remove(&number).is_some() {
            self.shared.left(&self.shared.running, 1);
        }
    }

    fn admit(&mut self) {
        while let Some(first) = self.waiting.front()
            && self.batch.has_room(self.engine, first.prepared.request.samplings.len())
        {
            let Some(waiting) = self.waiting.pop_front() else { break };
            let Waiting { prepared, listener } = *waiting;
            let Prepared { request, prompt } = prepared;
            let (id, left) = (request.id.clone(), request.samplings.len());
            self.shared.running.fetch_add(1, Ordering::SeqCst);
            self.shared.left(&self.shared.waiting, 1);
            self.next += 1;
            self.served.insert(self.next, Served { listener, id, left });
            let job = Job { number: self.next, request, prompt, streams: true };
            self.batch.push(self.engine, job);
        }
    }

    fn step(&mut self) {
        let step = catch_unwind(AssertUnwindSafe(|| self.batch.step(self.engine)));
        let told = match step {
            Ok(Ok(told)) => told,
            Ok(Err(error)) => return self.fail(&error),
            Err(_) => {
                let reason = "the engine has failed inside; its log says how";
                return self.fail(&EngineError::Conversation(reason.to_owned()));
            }
        };
        for (number, event) in told {
            let Some(served) = self.served.get_mut(&number) else { continue };
            let over = match &event {
                Event::Done { .. } => {
                    served.left -= 1;
                    served.left == 0
                }
                Event::Failed(_) => true,
                Event::Waiting | Event::Started { .. } | Event::Delta { .. } => false,
            };
            let listens = (served.listener)(event);
            if over || !listens {
                self.drop_request(number);
            }
        }
    }

    /// Everything that is being served has failed; what waits goes on.
    fn fail(&mut self, error: &EngineError) {
        tracing::error!("{error}");
        self.batch = Batch::default();
        let served = std::mem::take(&mut self.served);
        let count = served.len();
        for (_, mut served) in served {
            let error = match error {
                EngineError::Conversation(reason) => GenerateError::Backend(reason.clone()),
                other => other.for_request(&served.id),
            };
            (served.listener)(Event::Failed(error));
        }
        self.shared.left(&self.shared.running, count);
    }

    /// Ends everything, what waits included.
    fn interrupt(&mut self) {
        self.batch = Batch::default();
        let (served, waiting) =
            (std::mem::take(&mut self.served), std::mem::take(&mut self.waiting));
        let (running, queued) = (served.len(), waiting.len());
        let listeners = served.into_values().map(|served| served.listener);
        for mut listener in listeners.chain(waiting.into_iter().map(|waiting| waiting.listener)) {
            listener(Event::Failed(GenerateError::Interrupted));
        }
        self.shared.left(&self.shared.running, running);
        self.shared.left(&self.shared.waiting, queued);
    }
}
