//! One call: sent, received, and tried again while what went wrong may pass.
//!
//! Tried again are failed connections, time-outs, the statuses 408, 409, 429 and those from 500 on, and
//! answers that are cut off, no JSON or not of the form of an answer. Redirections are not followed: the
//! key would go along.

use std::fmt;
use std::time::{Duration, Instant};

use savi_schema::GenerateError;
use serde_json::Value;
use ureq::Agent;
use ureq::http::{HeaderMap, Response};

use crate::options::seconds;
use crate::pace::{self, Pace};
use crate::usage::Counters;
use crate::{EndpointError, EndpointOptions};

/// An answer is no longer than this.
const LONGEST_ANSWER: u64 = 1 << 30;
/// So much of what a server says in an error is told.
const LONGEST_WORDS: usize = 600;

/// What is never shown.
struct Secret(String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// What is wrong with an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wrong {
    /// It has not the form of an answer: the next try may give one.
    Form(String),
    /// It is an answer that cannot be used: another would be the same.
    Refusal(String),
}

/// How a try failed.
#[derive(Debug)]
enum Failure {
    /// It may pass.
    Passing { reason: String, status: Option<u16>, after: Option<Duration> },
    /// It will not.
    Lasting { reason: String, status: u16 },
}

/// A server and the way to it.
pub(crate) struct Client {
    agent: Agent,
    /// Scheme, host and what stands before `/v1`.
    root: String,
    key: Option<Secret>,
    headers: Vec<(String, Secret)>,
    max_retries: u32,
    backoff: Duration,
    max_backoff: Duration,
    max_pause: Duration,
    pace: Pace,
    pub(crate) counters: Counters,
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("root", &self.root)
            .field("key", &self.key)
            .finish_non_exhaustive()
    }
}

/// A call.
#[derive(Clone, Copy)]
pub(crate) struct Sent<'a> {
    /// Whose it is, for errors.
    pub(crate) id: &'a str,
    /// What stands behind the root of the server.
    pub(crate) path: &'a str,
    /// Nothing asks with GET.
    pub(crate) body: Option<&'a [u8]>,
    /// Whether it is worth no further try.
    pub(crate) once: bool,
    /// How many wait with it, for errors.
    pub(crate) waiting: usize,
    /// Whether nobody waits for it any more.
    pub(crate) stop: &'a dyn Fn() -> bool,
}

impl Client {
    pub(crate) fn new(options: &EndpointOptions) -> Result<Self, EndpointError> {
        let value = |key: &'static str, variable: &String| {
            let value = std::env::var(variable).unwrap_or_default().trim().to_owned();
            let usable = !value.is_empty() && value.bytes().all(|b| (0x20..0x7f).contains(&b));
            match usable {
                true => Ok(Secret(value)),
                false => {
                    let reason = format!("the environment variable {variable} holds no key");
                    Err(EndpointError::Option { key, reason })
                }
            }
        };
        let key =
            options.api_key_env.as_ref().map(|name| value("api_key_env", name)).transpose()?;
        let mut headers = Vec::new();
        for (name, text) in &options.headers {
            headers.push((name.clone(), Secret(text.clone())));
        }
        for (name, variable) in &options.headers_env {
            headers.push((name.clone(), value("headers_env", variable)?));
        }
        for (name, text) in &headers {
            let fits = ureq::http::HeaderName::try_from(name.as_str()).is_ok()
                && ureq::http::HeaderValue::try_from(text.0.as_str()).is_ok();
            if !fits {
                let reason = format!("{name:?} or its value cannot be a header");
                return Err(EndpointError::Option { key: "headers", reason });
            }
        }
        let root = options.root().to_owned();
        if key.is_some() && root.starts_with("http://") && !is_near(&root) {
            tracing::warn!("{root}: the key goes over a connection that is not encrypted");
        }
        let agent = savi_data::http::settings()
            .max_redirects(0)
            .max_idle_connections(options.concurrency.max(10))
            .max_idle_connections_per_host(options.concurrency)
            .timeout_connect(Some(seconds(options.connect_timeout)))
            .timeout_global(Some(seconds(options.timeout)))
            .build()
            .into();
        Ok(Self {
            agent,
            root,
            key,
            headers,
            max_retries: options.max_retries,
            backoff: seconds(options.backoff),
            max_backoff: seconds(options.max_backoff),
            max_pause: seconds(options.max_pause),
            pace: Pace::new(options.concurrency),
            counters: Counters::default(),
        })
    }

    /// Sends a call until `read` finds its answer good; gives the answer and what was read of it.
    pub(crate) fn ask<T>(
        &self,
        call: Sent<'_>,
        read: &dyn Fn(&Value) -> Result<T, Wrong>,
    ) -> Result<(Value, T), GenerateError> {
        let begin = Instant::now();
        let mut reasons: Vec<String> = Vec::new();
        for attempt in 1.. {
            let failure = match self.attempt(&call, read) {
                None => return Err(GenerateError::Interrupted),
                Some(Ok(found)) => return Ok(found),
                Some(Err(failure)) => failure,
            };
            let (reason, status, after) = match failure {
                Failure::Lasting { reason, status } => {
                    return Err(self.lasting(&call, reason, status));
                }
                Failure::Passing { reason, status, after } => (reason, status, after),
            };
            let too_long = after.filter(|&after| after > self.max_pause);
            if reasons.last() != Some(&reason) {
                reasons.push(reason.clone());
            }
            if call.once || attempt > self.max_retries || too_long.is_some() {
                let all = reasons.join("; then: ");
                let long = too_long.map_or_else(String::new, |after| {
                    format!(" (it asks to wait {} s, over max_pause)", after.as_secs())
                });
                let told = format!(
                    "request {}: {}{}: {attempt} tries in {:.1} s failed: {all}{long}",
                    call.id,
                    self.root,
                    call.path,
                    begin.elapsed().as_secs_f64()
                );
                if status == Some(429) {
                    tracing::warn!("{told}");
                    return Err(GenerateError::Busy { waiting: call.waiting });
                }
                return Err(GenerateError::Backend(told));
            }
            let name = [call.path.as_bytes(), call.id.as_bytes()].join(&0);
            let mut wait = pace::jitter(&name, attempt, self.backoff, self.max_backoff);
            if let Some(after) = after {
                // Nobody asks before; and then not all at once.
                self.pace.pause(after);
                wait = wait.saturating_add(after);
            }
            tracing::warn!(
                "request {}: {reason}; try {} of {} in {:.1} s",
                call.id,
                attempt + 1,
                self.max_retries + 1,
                wait.as_secs_f64()
            );
            self.counters.retried();
            if !pace::sleep(wait, call.stop) {
                return Err(GenerateError::Interrupted);
            }
        }
        Err(GenerateError::Interrupted)
    }

    /// One try; `None` where it is interrupted before it begins.
    fn attempt<T>(
        &self,
        call: &Sent<'_>,
        read: &dyn Fn(&Value) -> Result<T, Wrong>,
    ) -> Option<Result<(Value, T), Failure>> {
        let place = self.pace.place(call.stop)?;
        let result = self.exchange(call);
        drop(place);
        let passing = |reason| Failure::Passing { reason, status: None, after: None };
        let (status, headers, text) = match result {
            Ok(received) => received,
            Err(error) => return Some(Err(self.broken(&error))),
        };
        let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        if let Some(rest) = pace::used_up(header) {
            self.pace.pause(rest.min(self.max_pause));
        }
        if status != 200 {
            let after = pace::retry_after(header);
            return Some(Err(self.refused(status, &text, after, header("location"))));
        }
        let answer: Value = match serde_json::from_str(&text) {
            Ok(answer) => answer,
            Err(error) => {
                let reason = format!("the answer is no JSON: {error}: {}", beginning(&text));
                return Some(Err(passing(reason)));
            }
        };
        // Some servers in the middle wrap the errors of others in an answer.
        if let Some(error) = answer.get("error").filter(|error| !error.is_null()) {
            let code =
                error.get("code").and_then(Value::as_u64).and_then(|c| u16::try_from(c).ok());
            return Some(Err(self.refused(code.unwrap_or(400), &text, None, None)));
        }
        self.counters.answered(&answer);
        Some(match read(&answer) {
            Ok(found) => Ok((answer, found)),
            Err(Wrong::Form(reason)) => Err(passing(format!("{reason}: {}", beginning(&text)))),
            Err(Wrong::Refusal(reason)) => Err(Failure::Lasting { reason, status: 200 }),
        })
    }

    fn exchange(&self, call: &Sent<'_>) -> Result<(u16, HeaderMap, String), ureq::Error> {
        let url = format!("{}{}", self.root, call.path);
        let response: Response<ureq::Body> = match call.body {
            None => self.signed(self.agent.get(&url)).call()?,
            Some(body) => {
                let request = self.signed(self.agent.post(&url));
                request.header("Content-Type", "application/json").send(body)?
            }
        };
        let (parts, body) = response.into_parts();
        let bytes = body.into_with_config().limit(LONGEST_ANSWER).read_to_vec()?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok((parts.status.as_u16(), parts.headers, self.hidden(text)))
    }

    fn signed<B>(&self, mut request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        if let Some(Secret(key)) = &self.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        for (name, Secret(value)) in &self.headers {
            request = request.header(name, value);
        }
        request
    }

    /// A text without the key, should a server say it back.
    fn hidden(&self, mut text: String) -> String {
        let secrets = self.key.iter().chain(self.headers.iter().map(|(_, value)| value));
        for Secret(secret) in secrets {
            // What is shorter is no secret, and may well be a word.
            if secret.len() >= 8 && text.contains(secret.as_str()) {
                text = text.replace(secret.as_str(), "(hidden)");
            }
        }
        text
    }

    fn broken(&self, error: &ureq::Error) -> Failure {
        let reason = self.hidden(error.to_string());
        match error {
            ureq::Error::BadUri(_) | ureq::Error::InvalidProxyUrl | ureq::Error::Http(_) => {
                Failure::Lasting { reason, status: 0 }
            }
            ureq::Error::Tls(_) | ureq::Error::Rustls(_) => Failure::Lasting { reason, status: 0 },
            _ => Failure::Passing { reason, status: None, after: None },
        }
    }

    /// What an answer of another status than 200 means.
    fn refused(
        &self,
        status: u16,
        text: &str,
        after: Option<Duration>,
        location: Option<&str>,
    ) -> Failure {
        let said = words(text);
        let reason = match (status, location) {
            (300..=399, Some(to)) => format!(
                "the server answers {status} and leads to {}: the key does not go there; set \
                 base_url to where the server is",
                self.hidden(to.to_owned())
            ),
            _ => format!("the server answers {status}: {said}"),
        };
        match status {
            // Azure and OpenAI say so of an account without money: waiting does not help.
            429 if said.contains("insufficient_quota") => Failure::Lasting { reason, status },
            408 | 409 | 429 | 500.. => Failure::Passing { reason, status: Some(status), after },
            _ => Failure::Lasting { reason, status },
        }
    }

    fn lasting(&self, call: &Sent<'_>, reason: String, status: u16) -> GenerateError {
        let hint = match (status, &self.key) {
            (401 | 403, None) => " (no key was sent: set api_key_env)",
            (401 | 403, Some(_)) => " (the key of api_key_env may not ask this)",
            _ => "",
        };
        let reason = format!("{}{}: {reason}{hint}", self.root, call.path);
        match status {
            // What is not there to be read is no fault of the server.
            405 if call.body.is_none() => {
                GenerateError::BadRequest { id: call.id.to_owned(), reason }
            }
            200 | 400 | 404 | 413 | 415 | 422 => {
                GenerateError::BadRequest { id: call.id.to_owned(), reason }
            }
            _ => GenerateError::Backend(format!("request {}: {reason}", call.id)),
        }
    }
}

/// Whether an address is on this machine.
fn is_near(root: &str) -> bool {
    let host = root.split("://").nth(1).unwrap_or_default();
    ["localhost", "127.", "[::1]"].iter().any(|near| host.starts_with(near))
}

/// What a server says of an error, in any of the usual forms.
fn words(text: &str) -> String {
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    let message = ["/error/message", "/message", "/error", "/detail"]
        .iter()
        .find_map(|pointer| value.pointer(pointer)?.as_str());
    match message {
        Some(message) => {
            let code = value.pointer("/error/code").and_then(Value::as_str);
            let code = code.map_or_else(String::new, |code| format!(" [{code}]"));
            format!("{}{code}", beginning(message))
        }
        None => beginning(text),
    }
}

fn beginning(text: &str) -> String {
    let mut short: String = text.trim().chars().take(LONGEST_WORDS).collect();
    if short.len() < text.trim().len() {
        short.push_str("...");
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_errors() {
        let check = |text: &str, expected: &str| assert_eq!(words(text), expected, "{text}");
        check(r#"{"error": {"message": "too long", "code": "x"}}"#, "too long [x]");
        check(r#"{"object": "error", "message": "too long"}"#, "too long");
        check(r#"{"detail": "not found"}"#, "not found");
        check(r#"{"error": "no"}"#, "no");
        check(" <html> ", "<html>");
        assert_eq!(words(&"x".repeat(1000)).len(), LONGEST_WORDS + 3);
    }
}
