//! The server: accepts connections until it is told to stop, then lets what was taken up end.

use std::future::{Future, pending};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use savi_schema::Serve;
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::body::Memory;
use crate::connection::attend;
use crate::endpoints::router;
use crate::error::ServeError;
use crate::media::Sources;
use crate::metrics::Metrics;
use crate::options::ServeOptions;
use crate::reply::now;

/// Before the next attempt, where the system gives no connection.
const PAUSE: Duration = Duration::from_millis(100);
/// For answers to reach their clients once the back end has ended with them.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// How often a stop is looked for.
const LOOK: Duration = Duration::from_millis(100);
/// Threads for connections: they parse and write, the model has the other cores.
const THREADS: usize = 2;

/// What all requests share.
pub(crate) struct App {
    pub(crate) backend: Arc<dyn Serve>,
    pub(crate) options: ServeOptions,
    pub(crate) sources: Sources,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) memory: Memory,
    /// One for each request at once.
    pub(crate) places: Arc<Semaphore>,
    /// When the server was started, in seconds since 1970.
    pub(crate) started: u64,
    ending: AtomicBool,
}

impl App {
    pub(crate) fn new(backend: Arc<dyn Serve>, options: ServeOptions) -> Result<Self, ServeError> {
        options.check()?;
        Ok(Self {
            backend,
            sources: Sources::new(&options)?,
            metrics: Arc::new(Metrics::new()),
            memory: Memory::new(&options),
            places: Arc::new(Semaphore::new(options.max_requests.min(Semaphore::MAX_PERMITS))),
            started: now(),
            ending: AtomicBool::new(false),
            options,
        })
    }

    /// Whether nothing more is taken up.
    pub(crate) fn is_ending(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }
}

/// Serves until `shutdown` is ready. Then no connection is accepted and no request taken up any more;
/// those that were have [`ServeOptions::drain`] to end.
pub async fn serve(
    listener: TcpListener,
    backend: Arc<dyn Serve>,
    options: ServeOptions,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), ServeError> {
    let app = Arc::new(App::new(backend, options)?);
    let router = router(app.clone());
    let most = app.options.max_connections.min(Semaphore::MAX_PERMITS);
    let free = Arc::new(Semaphore::new(most));
    let (end, ending) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        let accepted = async {
            // Held before a connection is accepted: those too many wait with the system.
            let Ok(permit) = free.clone().acquire_owned().await else { return pending().await };
            loop {
                match listener.accept().await {
                    Ok((stream, _)) => return (stream, permit),
                    Err(error) => {
                        tracing::warn!("no connection could be accepted: {error}");
                        sleep(PAUSE).await;
                    }
                }
            }
        };
        let (stream, permit) = tokio::select! {
            () = shutdown.as_mut() => break,
            accepted = accepted => accepted,
            Some(_) = connections.join_next() => continue,
        };
        let (router, app, ending) = (router.clone(), app.clone(), ending.clone());
        connections.spawn(async move {
            app.metrics.connections.inc();
            attend(stream, router, &app.options, ending).await;
            app.metrics.connections.dec();
            drop(permit);
        });
    }
    drop(listener);
    app.ending.store(true, Ordering::Relaxed);
    let _ = end.send(true);
    let (backend, limit) = (app.backend.clone(), app.options.drain);
    tracing::info!("stopping: requests that were taken up have {limit:?} to end");
    let drained = tokio::task::spawn_blocking(move || backend.drain(limit));
    // The back end keeps to the limit itself; a little more, should it not.
    let _ = timeout(limit + LAST_WORDS, drained).await;
    let all = async { while connections.join_next().await.is_some() {} };
    if timeout(LAST_WORDS, all).await.is_err() {
        tracing::warn!("{} connections were cut", connections.len());
        connections.shutdown().await;
    }
    Ok(())
}

/// [`serve`] on threads of its own, until `stop` says so. `listening` is told the address, whose port
/// may have been 0.
pub fn serve_blocking(
    address: &str,
    backend: Arc<dyn Serve>,
    options: ServeOptions,
    listening: impl FnOnce(SocketAddr),
    stop: impl Fn() -> bool + Send + 'static,
) -> Result<(), ServeError> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    let result = runtime.block_on(async {
        let failed = |source| ServeError::Bind { address: address.to_owned(), source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        listening(listener.local_addr()?);
        let shutdown = async move {
            while !stop() {
                sleep(LOOK).await;
            }
        };
        serve(listener, backend, options, shutdown).await
    });
    // A download may still be under way on a thread that cannot be stopped.
    runtime.shutdown_timeout(PAUSE);
    result
}
