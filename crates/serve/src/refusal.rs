//! Answers that say what is wrong, in the shape of OpenAI's errors.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use savi_schema::GenerateError;
use serde_json::{Value, json};

const INVALID: &str = "invalid_request_error";

/// Longest message that is sent; what is longer stands in the log.
const LONGEST_MESSAGE: usize = 2000;

/// What is wrong with a request, or with us.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    pub(crate) kind: &'static str,
    /// The field that is at fault.
    pub(crate) param: Option<String>,
    /// The reason in one word, for programs; metrics count by it.
    pub(crate) code: &'static str,
    /// Seconds after which another attempt makes sense.
    pub(crate) retry_after: Option<u64>,
    /// Whether the rest of the request was left unread, so that nothing more can be read after it.
    pub(crate) closes: bool,
}

/// The code of a refusal, for those who count.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RefusedFor(pub(crate) &'static str);

impl Refusal {
    fn new(status: StatusCode, kind: &'static str, code: &'static str, message: String) -> Self {
        Self { status, message, kind, param: None, code, retry_after: None, closes: false }
    }

    /// A field has a value that cannot be taken.
    pub(crate) fn value(field: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        let field = field.into();
        let message = format!("{field}: {reason}");
        let new = Self::new(StatusCode::BAD_REQUEST, INVALID, "invalid_value", message);
        Self { param: Some(field), ..new }
    }

    /// A field is not there.
    pub(crate) fn missing(field: impl Into<String>, reason: &str) -> Self {
        Self { code: "missing_required_parameter", ..Self::value(field, reason) }
    }

    /// Nobody knows a field.
    pub(crate) fn unknown(field: impl Into<String>, nearest: Option<&str>) -> Self {
        let reason = match nearest {
            Some(nearest) => format!("there is no such field; is {nearest} meant?"),
            None => "there is no such field".to_owned(),
        };
        Self { code: "unknown_parameter", ..Self::value(field, reason) }
    }

    /// A field is known and what it asks for is not done here.
    pub(crate) fn unsupported(field: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self { code: "unsupported_parameter", ..Self::value(field, reason) }
    }

    /// The body is not JSON.
    pub(crate) fn json(reason: impl std::fmt::Display) -> Self {
        let message = format!("the body is not a JSON object: {reason}");
        Self::new(StatusCode::BAD_REQUEST, INVALID, "invalid_json", message)
    }

    /// The body says that it is something other than JSON.
    pub(crate) fn content_type(found: &str) -> Self {
        let message = format!("Content-Type is {found:?}; it has to be application/json");
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, INVALID, "unsupported_content_type", message)
    }

    /// A model that is not served here.
    pub(crate) fn model(name: &str, served: &[String]) -> Self {
        let message = format!("model: {name:?} is not served here; there is {}", served.join(", "));
        let new = Self::new(StatusCode::NOT_FOUND, INVALID, "model_not_found", message);
        Self { param: Some("model".to_owned()), ..new }
    }

    /// A path that leads nowhere.
    pub(crate) fn route(method: &str, path: &str) -> Self {
        let message = format!("there is no {method} {path}");
        Self::new(StatusCode::NOT_FOUND, INVALID, "unknown_url", message)
    }

    /// A path that is not there for this method.
    pub(crate) fn method(method: &str, path: &str) -> Self {
        let message = format!("{path} cannot be asked with {method}");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, INVALID, "method_not_allowed", message)
    }

    /// A body above the limit.
    pub(crate) fn too_large(limit: usize) -> Self {
        let message = format!("the body is longer than {limit} bytes");
        let code = "request_too_large";
        let new = Self::new(StatusCode::PAYLOAD_TOO_LARGE, INVALID, code, message);
        Self { closes: true, ..new }
    }

    /// A body that did not come in time.
    pub(crate) fn slow(seconds: f64) -> Self {
        let message = format!("the body was not there after {seconds} seconds");
        let new = Self::new(StatusCode::REQUEST_TIMEOUT, INVALID, "request_timeout", message);
        Self { closes: true, ..new }
    }

    /// A body that ended before its end.
    pub(crate) fn broken(reason: impl std::fmt::Display) -> Self {
        let message = format!("the body broke off: {reason}");
        let new = Self::new(StatusCode::BAD_REQUEST, INVALID, "incomplete_body", message);
        Self { closes: true, ..new }
    }

    /// No key, or a wrong one.
    pub(crate) fn key(reason: &str) -> Self {
        let message = format!("{reason}; send Authorization: Bearer KEY");
        Self::new(StatusCode::UNAUTHORIZED, "authentication_error", "invalid_api_key", message)
    }

    /// More at once than is taken.
    pub(crate) fn busy(code: &'static str, message: String) -> Self {
        let new = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", code, message);
        Self { retry_after: Some(1), ..new }
    }

    /// The server is being shut down.
    pub(crate) fn ending() -> Self {
        let message = "the server is shutting down".to_owned();
        let status = StatusCode::SERVICE_UNAVAILABLE;
        let new = Self::new(status, "server_error", "shutting_down", message);
        Self { retry_after: Some(5), ..new }
    }

    /// It is our fault.
    pub(crate) fn internal(message: impl Into<String>) -> Self {
        let status = StatusCode::INTERNAL_SERVER_ERROR;
        Self::new(status, "server_error", "internal_error", message.into())
    }

    /// What the back end says. Details of its own failures are for the log alone.
    pub(crate) fn from_backend(error: GenerateError) -> Self {
        let bad =
            |code, message: String| Self::new(StatusCode::BAD_REQUEST, INVALID, code, message);
        match error {
            GenerateError::BadRequest { reason, .. } => bad("invalid_value", reason),
            GenerateError::TooLong { prompt_tokens, new_tokens, limit, .. } => {
                let message = format!(
                    "{prompt_tokens} prompt tokens and up to {new_tokens} new ones do not fit the \
                     model's maximum context length of {limit} tokens; shorten the prompt or lower \
                     max_tokens"
                );
                bad("context_length_exceeded", message)
            }
            // The file's name says nothing to the client: it is ours.
            GenerateError::Media { reason, .. } => {
                bad("invalid_media", format!("a picture or clip could not be read: {reason}"))
            }
            busy @ GenerateError::Busy { .. } => Self::busy("queue_full", busy.to_string()),
            GenerateError::Interrupted => Self::ending(),
            GenerateError::Backend(reason) => {
                tracing::error!("back end: {reason}");
                Self::internal("the model failed; the server's log says more")
            }
        }
    }

    /// The error as it is written.
    pub(crate) fn body(&self) -> Value {
        let mut message = self.message.as_str();
        if message.len() > LONGEST_MESSAGE {
            let end = (0..=LONGEST_MESSAGE).rev().find(|&at| message.is_char_boundary(at));
            message = &message[..end.unwrap_or(0)];
        }
        json!({"error": {
            "message": message, "type": self.kind, "param": self.param, "code": self.code,
        }})
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body().to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.closes {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response.extensions_mut().insert(RefusedFor(self.code));
        response
    }
}
