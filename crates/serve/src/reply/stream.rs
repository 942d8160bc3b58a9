//! Answers that come word by word, as server-sent events.
//!
//! A task takes what the back end tells and hands it to the connection piece by piece. Where the client reads more
//! slowly than the model writes, the task waits for it and words join in the queue; where the client
//! takes nothing for too long, the task lets go of the request.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use hyper::body::Frame;
use savi_schema::Token;
use serde_json::{Value, json};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::time::timeout;

use super::{Usage, Voice, logprobs, reason};
use crate::generation::{Run, Told};
use crate::options::ServeOptions;
use crate::refusal::Refusal;
use crate::request::Shape;

/// Pieces between the task and the connection.
const PIECES: usize = 4;

/// Answers once the request's turn has come, or when that takes long; so what is wrong with a request has a
/// status of its own in most cases.
pub(crate) async fn stream(
    mut run: Run,
    voice: Voice,
    options: &ServeOptions,
) -> Result<Response, Refusal> {
    let first = match timeout(options.keep_alive, run.next()).await {
        Ok(Some(Err(refusal))) => return Err(refusal),
        Ok(Some(Ok(told))) => Some(told),
        Ok(None) | Err(_) => None,
    };
    let (sender, receiver) = channel(PIECES);
    let writer = Writer { sender, patience: options.write_timeout };
    let narration = Narration::new(voice, run.choices());
    tokio::spawn(narrate(run, narration, first, writer, options.keep_alive));
    let mut response = Response::new(Body::new(Pieces { receiver, ended: false }));
    let headers = response.headers_mut();
    let fixed = HeaderValue::from_static;
    headers.insert(header::CONTENT_TYPE, fixed("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, fixed("no-cache"));
    // Proxies that hold answers back until they are whole know this one.
    headers.insert("x-accel-buffering", fixed("no"));
    Ok(response)
}

/// Tells the client all that is told of a request. Returning early drops the run, which lets go of it.
async fn narrate(
    mut run: Run,
    mut narration: Narration,
    first: Option<Told>,
    writer: Writer,
    keep_alive: Duration,
) {
    let mut text = first.map(|told| narration.tell(told)).unwrap_or_default();
    loop {
        if !text.is_empty() && writer.write(text).await.is_err() {
            return;
        }
        let next = tokio::select! {
            () = writer.sender.closed() => return,
            next = timeout(keep_alive, run.next()) => next,
        };
        text = match next {
            Err(_) => ": still here\n\n".to_owned(),
            Ok(Some(Ok(told))) => narration.tell(told),
            Ok(Some(Err(refusal))) => {
                let error = format!("event: error\ndata: {}\n\n", refusal.body());
                let _ = writer.end(format!("{error}data: [DONE]\n\n")).await;
                return;
            }
            Ok(None) => {
                let _ = writer.end(narration.end()).await;
                return;
            }
        };
    }
}

/// What has been told of a request so far.
struct Narration {
    voice: Voice,
    usage: Usage,
    /// Where the next token of each choice begins, in characters.
    offsets: Vec<usize>,
    /// Bytes of each choice that have been told.
    told: Vec<usize>,
}

impl Narration {
    fn new(voice: Voice, choices: usize) -> Self {
        Self { voice, usage: Usage::default(), offsets: vec![0; choices], told: vec![0; choices] }
    }

    /// The events for one thing that was told.
    fn tell(&mut self, told: Told) -> String {
        match told {
            Told::Started { choices, prompt_tokens, cached_tokens } => {
                self.usage.prompt += prompt_tokens;
                self.usage.cached += cached_tokens;
                if self.voice.shape == Shape::Text {
                    return String::new();
                }
                let role = json!({"role": "assistant", "content": ""});
                choices.map(|choice| self.chat(choice, role.clone(), Value::Null, None)).collect()
            }
            Told::Delta { choice, text, tokens } => {
                let told = self.voice.logprobs.is_some() && !tokens.is_empty();
                if text.is_empty() && !told {
                    return String::new();
                }
                let logprobs = if told { self.logprobs(choice, &tokens) } else { Value::Null };
                self.words(choice, &text, logprobs)
            }
            Told::Done { choice, completion } => {
                self.usage.completion += completion.token_ids.len();
                let finish = Some(reason(completion.finish_reason));
                // A back end may know a text only once it is whole.
                let told = self.told.get(choice).copied().unwrap_or(0);
                let mut events = match completion.text.get(told..) {
                    Some(rest) if !rest.is_empty() => self.words(choice, rest, Value::Null),
                    _ => String::new(),
                };
                events.push_str(&match self.voice.shape {
                    Shape::Chat => self.chat(choice, json!({}), Value::Null, finish),
                    Shape::Text => self.text(choice, "", Value::Null, finish),
                });
                events
            }
        }
    }

    /// The events after all choices are whole.
    fn end(&self) -> String {
        let mut text = String::new();
        if self.voice.include_usage {
            let mut chunk = self.voice.with(self.object(), Vec::new());
            chunk["usage"] = self.usage.value();
            text = format!("data: {chunk}\n\n");
        }
        text.push_str("data: [DONE]\n\n");
        text
    }

    /// More words of a choice.
    fn words(&mut self, choice: usize, text: &str, logprobs: Value) -> String {
        if let Some(told) = self.told.get_mut(choice) {
            *told += text.len();
        }
        match self.voice.shape {
            Shape::Chat => self.chat(choice, json!({"content": text}), logprobs, None),
            Shape::Text => self.text(choice, text, logprobs, None),
        }
    }

    fn logprobs(&mut self, choice: usize, tokens: &[Token]) -> Value {
        let most = self.voice.logprobs.unwrap_or(0);
        match (self.voice.shape, self.offsets.get_mut(choice)) {
            (Shape::Text, Some(offset)) => logprobs::completion(tokens, most, offset),
            _ => logprobs::chat(tokens, most),
        }
    }

    fn chat(&self, choice: usize, delta: Value, logprobs: Value, finish: Option<&str>) -> String {
        self.event(json!({
            "index": choice, "delta": delta, "logprobs": logprobs, "finish_reason": finish,
        }))
    }

    fn text(&self, choice: usize, text: &str, logprobs: Value, finish: Option<&str>) -> String {
        self.event(json!({
            "index": choice, "text": text, "logprobs": logprobs, "finish_reason": finish,
        }))
    }

    fn event(&self, choice: Value) -> String {
        let mut chunk = self.voice.with(self.object(), vec![choice]);
        if self.voice.include_usage {
            chunk["usage"] = Value::Null;
        }
        format!("data: {chunk}\n\n")
    }

    fn object(&self) -> &'static str {
        match self.voice.shape {
            Shape::Chat => "chat.completion.chunk",
            Shape::Text => "text_completion",
        }
    }
}

/// What goes from the task to the connection.
enum Piece {
    Text(String),
    /// All has been said. A stream that ends without it has broken off.
    End,
}

/// The client takes nothing any more.
struct Gone;

struct Writer {
    sender: Sender<Piece>,
    patience: Duration,
}

impl Writer {
    async fn write(&self, text: String) -> Result<(), Gone> {
        self.send(Piece::Text(text)).await
    }

    async fn end(&self, text: String) -> Result<(), Gone> {
        self.send(Piece::Text(text)).await?;
        self.send(Piece::End).await
    }

    async fn send(&self, piece: Piece) -> Result<(), Gone> {
        self.sender.send_timeout(piece, self.patience).await.map_err(|_| Gone)
    }
}

/// The body of an answer.
struct Pieces {
    receiver: Receiver<Piece>,
    ended: bool,
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let piece = ready!(self.receiver.poll_recv(context));
        self.ended = !matches!(piece, Some(Piece::Text(_)));
        Poll::Ready(match piece {
            Some(Piece::Text(text)) => Some(Ok(Frame::data(Bytes::from(text)))),
            Some(Piece::End) => None,
            None => Some(Err(io::Error::other("the stream broke off"))),
        })
    }
}
