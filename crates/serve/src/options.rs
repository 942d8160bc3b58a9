//! What a server takes and what it refuses.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::ServeError;

/// A key that clients have to show. It is never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct ApiKey(pub(crate) String);

impl ApiKey {
    /// A key; blanks and line ends around it do not count.
    pub fn new(key: &str) -> Self {
        Self(key.trim().to_owned())
    }
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ApiKey(hidden)")
    }
}

/// What a server takes and what it refuses.
#[derive(Debug, Clone)]
pub struct ServeOptions {
    /// Names under which the model is served; answers say the first unless a request says another.
    pub models: Vec<String>,
    /// Names the model and its weights; equal names mean equal completions for equal seeds.
    pub fingerprint: Option<String>,
    /// Keys of which a client has to show one; empty lets everybody in.
    pub keys: Vec<ApiKey>,
    /// Origins whose pages may ask from a browser; `*` is any. Empty sends no header for it.
    pub origins: Vec<String>,

    /// Longest body of a request.
    pub max_body_bytes: usize,
    /// Most bytes of bodies at once, of all requests together.
    pub max_bodies_bytes: usize,
    /// Time for a body to come whole, and for the head of a request.
    pub read_timeout: Duration,
    /// A client that takes nothing for so long is treated as gone.
    pub write_timeout: Duration,
    /// A comment is sent on a stream that has been silent for so long.
    pub keep_alive: Duration,
    /// Most connections; more wait to be accepted.
    pub max_connections: usize,
    /// Most requests that are read, wait or are served at once; more are refused.
    pub max_requests: usize,
    /// Most choices of a request, over all its prompts.
    pub max_choices: usize,
    /// Longest continuation that may be asked for.
    pub max_tokens: usize,
    /// Time for what has been taken up to end when the server is stopped.
    pub drain: Duration,

    /// Most pictures of a request.
    pub max_images: usize,
    /// Most clips of a request.
    pub max_videos: usize,
    /// Most frames that a request may want of a clip.
    pub max_frames: usize,
    /// Folders whose files requests may name by `file://`.
    pub allow_files: Vec<PathBuf>,
    /// Whether requests may name media by `http://` and `https://`.
    pub allow_http: bool,
    /// Longest file that is fetched.
    pub max_fetch_bytes: u64,
    /// Time for a file to be fetched.
    pub fetch_timeout: Duration,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            models: vec!["savi".to_owned()],
            fingerprint: None,
            keys: Vec::new(),
            origins: Vec::new(),
            max_body_bytes: 64 << 20,
            max_bodies_bytes: 512 << 20,
            read_timeout: Duration::from_secs(60),
            write_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(15),
            max_connections: 1024,
            max_requests: 512,
            max_choices: 128,
            max_tokens: 1 << 20,
            drain: Duration::from_secs(30),
            max_images: 32,
            max_videos: 4,
            max_frames: 768,
            allow_files: Vec::new(),
            allow_http: false,
            max_fetch_bytes: 64 << 20,
            fetch_timeout: Duration::from_secs(30),
        }
    }
}

impl ServeOptions {
    /// Refuses values that mean nothing, by name.
    pub(crate) fn check(&self) -> Result<(), ServeError> {
        let bad = |option, reason: &str| Err(ServeError::Option { option, reason: reason.into() });
        if self.models.is_empty() || self.models.iter().any(String::is_empty) {
            return bad("models", "a served model has no name");
        }
        if self.keys.iter().any(|key| key.0.is_empty()) {
            return bad("keys", "a key is empty");
        }
        let counts = [
            ("max_body_bytes", self.max_body_bytes),
            ("max_bodies_bytes", self.max_bodies_bytes),
            ("max_connections", self.max_connections),
            ("max_requests", self.max_requests),
            ("max_choices", self.max_choices),
            ("max_tokens", self.max_tokens),
            ("max_frames", self.max_frames),
        ];
        for (option, count) in counts {
            if count == 0 {
                return bad(option, "is 0");
            }
        }
        if self.max_bodies_bytes < self.max_body_bytes {
            return bad(
                "max_bodies_bytes",
                "is less than max_body_bytes: none of that size would pass",
            );
        }
        let times = [
            ("read_timeout", self.read_timeout),
            ("write_timeout", self.write_timeout),
            ("keep_alive", self.keep_alive),
            ("fetch_timeout", self.fetch_timeout),
        ];
        for (option, time) in times {
            if time.is_zero() {
                return bad(option, "is 0");
            }
        }
        if self.allow_http && !cfg!(feature = "fetch") {
            return bad("allow_http", "this build fetches nothing; it lacks the feature fetch");
        }
        Ok(())
    }
}
