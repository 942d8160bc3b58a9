//! What an endpoint can be told.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use savi_schema::{CountRule, MediaPolicy};
use savi_video_ingest::IngestOptions;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What a server takes beyond what OpenAI's API has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dialect {
    /// Told from what the server says about itself, else `openai`.
    #[default]
    Auto,
    /// Nothing.
    OpenAi,
    /// vLLM's.
    Vllm,
    /// SGLang's.
    Sglang,
    /// That of llama.cpp's server.
    LlamaCpp,
    /// That of `savi serve`.
    Savi,
}

impl Dialect {
    /// Its name in a config.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::OpenAi => "openai",
            Self::Vllm => "vllm",
            Self::Sglang => "sglang",
            Self::LlamaCpp => "llamacpp",
            Self::Savi => "savi",
        }
    }
}

/// How a clip is shown. By `url` the server picks frames by its own rules; with the others they are
/// those of the clip's policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VideoForm {
    /// `jpeg` for vLLM and `frames` for others where the clip has a policy or is a part or a folder; a
    /// whole file without a policy by `url`, but for the dialect `openai`, which has `frames` only.
    #[default]
    Auto,
    /// The whole file (`video_url`; llama.cpp: `input_video`).
    Url,
    /// One picture a frame (`image_url`).
    Frames,
    /// A video of the frames (`video_url` with `data:video/jpeg`, which vLLM alone has).
    Jpeg,
}

/// How files get to the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MediaTransport {
    /// In the request.
    #[default]
    Data,
    /// By their path, for a server that sees the same files and allows them (vLLM:
    /// `--allowed-local-media-path`; llama.cpp: `--media-path`).
    File,
}

/// How frames are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PictureFormat {
    /// Small, not exact.
    #[default]
    Jpeg,
    /// Exact.
    Png,
}

/// Prices per million tokens.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Prices {
    /// Tokens of prompts.
    pub prompt: f64,
    /// Those of them that the server found computed; the price of the others where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cached_prompt: Option<f64>,
    /// Tokens of completions.
    pub completion: f64,
}

/// An endpoint and how it is asked. Times are in seconds.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EndpointOptions {
    /// Address of the server, with or without `/v1`.
    pub base_url: String,
    /// Name of the model; where it is empty the server has to serve one model alone.
    pub model: String,
    /// Environment variable with the key. The key itself is never shown, logged or stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub api_key_env: Option<String>,
    /// Further headers. They stand in a run's saved config: what is secret belongs in `headers_env`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// Further headers whose values are those of environment variables, and as secret as the key.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers_env: BTreeMap<String, String>,
    /// What the server is.
    pub dialect: Dialect,
    /// Calls under way at once.
    pub concurrency: usize,
    /// Longest wait for a connection.
    pub connect_timeout: f64,
    /// Longest wait for a whole answer.
    pub timeout: f64,
    /// Further tries of a call that failed in a way that may pass.
    pub max_retries: u32,
    /// The wait before a further try is drawn from 0 to this, doubled with each.
    pub backoff: f64,
    /// Longest such wait.
    pub max_backoff: f64,
    /// Longest wait that the server may ask for.
    pub max_pause: f64,
    /// For the cost.
    pub prices: Prices,
    /// A JSON Lines file of answers that are not asked for again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<PathBuf>,
    /// Whether log-probs are asked for; some hosted models refuse them.
    pub logprobs: bool,
    /// Whether the server draws several choices in one call (`n`).
    pub several_choices: bool,
    /// How clips are shown.
    pub video: VideoForm,
    /// How files get to the server.
    pub media: MediaTransport,
    /// How clips without a policy become frames, where they have to.
    pub frames: MediaPolicy,
    /// How frames are written.
    pub pictures: PictureFormat,
    /// Quality of JPEG, 1 to 100.
    pub jpeg_quality: u8,
    /// What reading allows a file.
    pub ingest: IngestOptions,
    /// Added to the body of every call for completions, for example `chat_template_kwargs`.
    #[serde(skip_serializing_if = "serde_json::Map::is_empty")]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

impl Default for EndpointOptions {
    fn default() -> Self {
        Self {
            base_url: String::new(),
            model: String::new(),
            api_key_env: None,
            headers: BTreeMap::new(),
            headers_env: BTreeMap::new(),
            dialect: Dialect::Auto,
            concurrency: 16,
            connect_timeout: 20.0,
            timeout: 600.0,
            max_retries: 6,
            backoff: 0.5,
            max_backoff: 30.0,
            max_pause: 600.0,
            prices: Prices::default(),
            cache: None,
            logprobs: true,
            several_choices: true,
            video: VideoForm::Auto,
            media: MediaTransport::Data,
            frames: MediaPolicy::count(8, CountRule::MidSegment),
            pictures: PictureFormat::Jpeg,
            jpeg_quality: 95,
            ingest: IngestOptions::default(),
            extra: serde_json::Map::new(),
        }
    }
}

/// Values of headers may let somebody in: their names alone are shown.
impl fmt::Debug for EndpointOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointOptions")
            .field("base_url", &self.base_url)
            .field("model", &self.model)
            .field("api_key_env", &self.api_key_env)
            .field("headers", &self.headers.keys())
            .field("headers_env", &self.headers_env)
            .field("dialect", &self.dialect)
            .field("concurrency", &self.concurrency)
            .field("cache", &self.cache)
            .finish_non_exhaustive()
    }
}

/// Why an endpoint cannot be set up.
#[derive(Debug, Error)]
pub enum EndpointError {
    /// An option means nothing.
    #[error("endpoint: {key}: {reason}")]
    Option {
        /// Which one.
        key: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The server cannot be asked what it serves.
    #[error("endpoint {url}: {reason}")]
    Server {
        /// Which address.
        url: String,
        /// Why.
        reason: String,
    },
    /// The cache cannot be used.
    #[error("cache {path}: {reason}", path = path.display())]
    Cache {
        /// Which file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

/// What is set by the call itself and cannot stand in `extra`.
const OURS: &[&str] =
    &["model", "messages", "prompt", "n", "seed", "stream", "logprobs", "top_logprobs"];

impl EndpointOptions {
    /// Options for a server and a model, all others as they come.
    pub fn new(base_url: impl Into<String>, model: impl Into<String>) -> Self {
        Self { base_url: base_url.into(), model: model.into(), ..Self::default() }
    }

    /// Refuses values that mean nothing, by name.
    pub fn validate(&self) -> Result<(), EndpointError> {
        let bad = |key, reason: String| Err(EndpointError::Option { key, reason });
        let rest = ["http://", "https://"].iter().find_map(|s| self.base_url.strip_prefix(s));
        match rest {
            Some(rest) if !rest.is_empty() && !rest.starts_with('/') => {}
            _ => {
                let reason = format!("{:?} is no http:// or https:// address", self.base_url);
                return bad("base_url", reason);
            }
        }
        if self.base_url.contains(['?', '#']) || rest.is_some_and(|rest| rest.contains('@')) {
            return bad(
                "base_url",
                "holds a query, a fragment or a name to log in with".to_owned(),
            );
        }
        if !(1..=4096).contains(&self.concurrency) {
            return bad("concurrency", format!("{} is not 1 to 4096", self.concurrency));
        }
        if self.max_retries > 100 {
            return bad("max_retries", format!("{} is more than 100", self.max_retries));
        }
        if !(1..=100).contains(&self.jpeg_quality) {
            return bad("jpeg_quality", format!("{} is not 1 to 100", self.jpeg_quality));
        }
        for (key, value, least) in [
            ("connect_timeout", self.connect_timeout, f64::MIN_POSITIVE),
            ("timeout", self.timeout, f64::MIN_POSITIVE),
            ("backoff", self.backoff, 0.0),
            ("max_backoff", self.max_backoff, 0.0),
            ("max_pause", self.max_pause, 0.0),
        ] {
            if !(value >= least && value <= 1e6) {
                return bad(key, format!("{value} is no number of seconds"));
            }
        }
        let Prices { prompt, cached_prompt, completion } = self.prices;
        for price in [prompt, cached_prompt.unwrap_or(0.0), completion] {
            if !(price >= 0.0 && price.is_finite()) {
                return bad("prices", format!("{price} is no price"));
            }
        }
        if let Some(key) = OURS.iter().find(|key| self.extra.contains_key(**key)) {
            return bad("extra", format!("{key:?} is set by each request"));
        }
        if let Err(error) = self.frames.validate() {
            return bad("frames", error.to_string());
        }
        Ok(())
    }

    /// The address without `/v1` and without a slash at its end.
    pub(crate) fn root(&self) -> &str {
        let url = self.base_url.trim_end_matches('/');
        url.strip_suffix("/v1").unwrap_or(url).trim_end_matches('/')
    }
}

/// A number of seconds that was checked.
pub(crate) fn seconds(value: f64) -> Duration {
    Duration::try_from_secs_f64(value).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_mean_nothing_are_refused_by_name() {
        let check = |key: &str, change: fn(&mut EndpointOptions)| {
            let mut options = EndpointOptions::new("http://host:1/v1", "m");
            options.validate().unwrap();
            change(&mut options);
            let message = options.validate().unwrap_err().to_string();
            assert!(message.contains(key), "{message}");
        };
        check("base_url", |o| o.base_url = "host:1".to_owned());
        check("base_url", |o| o.base_url = "http://".to_owned());
        check("base_url", |o| o.base_url = "http://me:key@host".to_owned());
        check("base_url", |o| o.base_url = "http://host/v1?key=1".to_owned());
        check("concurrency", |o| o.concurrency = 0);
        check("timeout", |o| o.timeout = 0.0);
        check("backoff", |o| o.backoff = f64::NAN);
        check("prices", |o| o.prices.prompt = -1.0);
        check("jpeg_quality", |o| o.jpeg_quality = 0);
        check("extra", |o| drop(o.extra.insert("seed".to_owned(), 1.into())));
        check("frames", |o| o.frames = MediaPolicy::count(0, CountRule::MidSegment));
    }

    #[test]
    fn addresses_with_and_without_v1_are_one() {
        for url in ["http://h:1", "http://h:1/", "http://h:1/v1", "http://h:1/v1/"] {
            assert_eq!(EndpointOptions::new(url, "").root(), "http://h:1", "{url}");
        }
        assert_eq!(EndpointOptions::new("https://h/api/v1", "").root(), "https://h/api");
    }

    #[test]
    fn headers_are_not_shown() {
        let mut options = EndpointOptions::new("http://h", "m");
        options.headers.insert("api-key".to_owned(), "hush".to_owned());
        let shown = format!("{options:?}");
        assert!(shown.contains("api-key") && !shown.contains("hush"), "{shown}");
    }

    #[test]
    fn options_are_written_and_read_alike() {
        let options = EndpointOptions::new("http://h", "m");
        let text = serde_json::to_string(&options).unwrap();
        assert_eq!(serde_json::from_str::<EndpointOptions>(&text).unwrap(), options);
        serde_json::from_str::<EndpointOptions>("{\"base_ur\": \"\"}").unwrap_err();
    }
}
