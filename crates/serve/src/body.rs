//! Bodies of requests, read within limits of length, time and memory.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderMap, header};
use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::options::ServeOptions;
use crate::refusal::Refusal;

/// Memory of bodies is counted in pieces of so many bytes.
const PIECE: usize = 16 << 10;
/// What comes of a body that was refused is thrown away for so long: a client that is still writing
/// reads no answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// How much the bodies of all requests may hold.
#[derive(Debug, Clone)]
pub(crate) struct Memory(Arc<Semaphore>);

impl Memory {
    pub(crate) fn new(options: &ServeOptions) -> Self {
        let pieces = options.max_bodies_bytes.div_ceil(PIECE).min(Semaphore::MAX_PERMITS);
        Self(Arc::new(Semaphore::new(pieces)))
    }
}

/// A body's JSON; its share of the memory is given back with it.
#[derive(Debug)]
pub(crate) struct Read {
    pub(crate) value: Value,
    pub(crate) held: Held,
}

/// A share of the memory for bodies.
#[derive(Debug, Default)]
pub(crate) struct Held(Option<OwnedSemaphorePermit>);

impl Held {
    /// Sees to it that `bytes` are held in all.
    fn grow(&mut self, memory: &Memory, bytes: usize) -> Result<(), Refusal> {
        let held = self.0.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        let more = bytes.div_ceil(PIECE).saturating_sub(held);
        if more == 0 {
            return Ok(());
        }
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        let Ok(permit) = memory.0.clone().try_acquire_many_owned(more) else {
            let message = "other requests hold all memory that there is for bodies".to_owned();
            let refusal = Refusal::busy("too_many_bytes", message);
            return Err(Refusal { closes: true, ..refusal });
        };
        match &mut self.0 {
            Some(all) => all.merge(permit),
            none => *none = Some(permit),
        }
        Ok(())
    }
}

/// Reads a body and parses it.
pub(crate) async fn read(
    headers: &HeaderMap,
    mut body: Body,
    memory: &Memory,
    options: &ServeOptions,
) -> Result<Read, Refusal> {
    let result = read_bytes(headers, &mut body, memory, options).await;
    let (bytes, held) = match result {
        Ok(read) => read,
        Err(refusal) => {
            discard(body).await;
            return Err(refusal);
        }
    };
    let value = serde_json::from_slice(&bytes).map_err(Refusal::json)?;
    Ok(Read { value, held })
}

/// Throws away what comes of a body for a while, before a refusal.
pub(crate) async fn discard(mut body: Body) {
    let rest = async { while let Some(Ok(_)) = next(&mut body).await {} };
    let _ = timeout(PATIENCE, rest).await;
}

async fn read_bytes(
    headers: &HeaderMap,
    body: &mut Body,
    memory: &Memory,
    options: &ServeOptions,
) -> Result<(Vec<u8>, Held), Refusal> {
    // A page of any origin may send forms and plain text without asking; JSON it may not.
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let kind = kind.unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        return Err(Refusal::content_type(kind));
    }
    let limit = options.max_body_bytes;
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|text| text.to_str().ok());
    if declared.and_then(|text| text.parse::<u64>().ok()).is_some_and(|n| n > limit as u64) {
        return Err(Refusal::too_large(limit));
    }
    let mut held = Held::default();
    let mut bytes = Vec::new();
    let all = async {
        while let Some(frame) = next(body).await {
            let frame = frame.map_err(Refusal::broken)?;
            if bytes.len() + frame.len() > limit {
                return Err(Refusal::too_large(limit));
            }
            held.grow(memory, bytes.len() + frame.len())?;
            bytes.extend_from_slice(&frame);
        }
        Ok(())
    };
    match timeout(options.read_timeout, all).await {
        Ok(result) => result?,
        Err(_) => return Err(Refusal::slow(options.read_timeout.as_secs_f64())),
    }
    Ok((bytes, held))
}

/// The next bytes of a body; trailers are passed over.
async fn next(body: &mut Body) -> Option<Result<Bytes, axum::Error>> {
    loop {
        match poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await? {
            Ok(frame) => match frame.into_data() {
                Ok(bytes) => return Some(Ok(bytes)),
                Err(_) => continue,
            },
            Err(error) => return Some(Err(error)),
        }
    }
}
