//! Models and data sets on a hub, by name: found in the cache that Python's huggingface_hub shares, or downloaded
//! into it (feature `hub`).
//!
//! A repository's folder in the cache is `models--ORG--NAME` or `datasets--ORG--NAME`: `refs/REVISION` holds a commit,
//! `snapshots/COMMIT/` links to the files in `blobs/`, which are named by their etags. What is in the
//! cache is used without asking the hub; only what a model needs is downloaded: config, safetensors,
//! tokenizer, processors.

mod cache;
#[cfg(feature = "hub")]
mod client;
mod error;

use std::env;
use std::path::{Path, PathBuf};

pub use error::HubError;

/// Files beside a model's weights and config that transformers and we read.
pub const BESIDE_WEIGHTS: &[&str] = &[
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "generation_config.json",
    "image_processor_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor.json",
    "processor_config.json",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tekken.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
    "vocab.json",
    "vocab.txt",
];

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Model,
    Dataset,
}

/// `org/name`, and a branch, tag or commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubName {
    kind: Kind,
    repository: String,
    revision: String,
}

impl HubName {
    /// The same text as the name of a data set.
    pub fn dataset(text: &str) -> Option<Self> {
        Self::parse(text).map(|name| Self { kind: Kind::Dataset, ..name })
    }

    /// Reads `org/name` or `org/name@revision`.
    pub fn parse(text: &str) -> Option<Self> {
        let (repository, revision) = text.split_once('@').unwrap_or((text, "main"));
        let (owner, name) = repository.split_once('/')?;
        let word = |word: &str| {
            word.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
                && word.starts_with(|c: char| c.is_ascii_alphanumeric())
                && !word.contains("..")
                && !word.contains("--")
                && word.len() <= 96
        };
        let known = word(owner) && word(name) && revision.split('/').all(word);
        let (repository, revision) = (repository.to_owned(), revision.to_owned());
        known.then_some(Self { kind: Kind::Model, repository, revision })
    }

    /// The same of what a user calls a model. A path that exists is none, nor is a .gguf file or what is
    /// compiled in.
    pub fn of_model(model: &str) -> Option<Self> {
        let path = Path::new(model);
        let file = path.extension().is_some_and(|extension| extension == "gguf");
        if file || path.symlink_metadata().is_ok() { None } else { Self::parse(model) }
    }

    /// Whether the revision is a commit, which never changes.
    fn is_commit(&self) -> bool {
        self.revision.len() == 40 && self.revision.chars().all(|c| c.is_ascii_hexdigit())
    }
}

impl std::fmt::Display for HubName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.repository)?;
        if self.revision == "main" { Ok(()) } else { write!(f, "@{}", self.revision) }
    }
}

/// How far a download is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HubEvent<'a> {
    /// A file begins.
    File {
        /// Its name.
        name: &'a str,
        /// Its length.
        bytes: u64,
        /// Bytes that an earlier download left.
        there: u64,
    },
    /// So many of its bytes are there.
    Bytes(u64),
    /// It is whole.
    Done,
}

/// What lets a user in. It is never shown.
#[cfg_attr(not(feature = "hub"), allow(dead_code, reason = "sent by downloads alone"))]
struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(hidden)")
    }
}

/// A hub and its cache.
#[derive(Debug)]
#[cfg_attr(not(feature = "hub"), allow(dead_code, reason = "some settings are for downloads"))]
pub struct Hub {
    cache: PathBuf,
    endpoint: String,
    token: Option<Token>,
    offline: bool,
}

impl Hub {
    /// The hub that the environment names, by the variables of huggingface_hub: `HF_HOME`,
    /// `HF_HUB_CACHE` (or `HUGGINGFACE_HUB_CACHE`), `HF_ENDPOINT`, `HF_TOKEN` (or the file
    /// `HF_TOKEN_PATH`, by default `HF_HOME/token`), `HF_HUB_OFFLINE` (or `TRANSFORMERS_OFFLINE`).
    pub fn from_env() -> Result<Self, HubError> {
        let set = |key: &str| env::var(key).ok().filter(|value| !value.trim().is_empty());
        let user = set("HOME").map(PathBuf::from);
        let path = |text: String| match (text.strip_prefix("~/"), &user) {
            (Some(rest), Some(user)) => user.join(rest),
            _ => PathBuf::from(text),
        };
        let caches = || {
            let cache = set("XDG_CACHE_HOME").map(&path);
            cache.or_else(|| Some(user.as_ref()?.join(".cache")))
        };
        let home = match set("HF_HOME").map(&path) {
            Some(home) => Some(home),
            None => caches().map(|cache| cache.join("huggingface")),
        };
        let cache = set("HF_HUB_CACHE").or_else(|| set("HUGGINGFACE_HUB_CACHE")).map(&path);
        let Some(cache) = cache.or_else(|| Some(home.as_ref()?.join("hub"))) else {
            return Err(HubError::NoCache);
        };
        let token = set("HF_TOKEN").or_else(|| set("HUGGING_FACE_HUB_TOKEN")).or_else(|| {
            let file =
                set("HF_TOKEN_PATH").map(&path).or_else(|| Some(home.as_ref()?.join("token")));
            std::fs::read_to_string(file?).ok()
        });
        let token = token.map(|token| token.trim().to_owned()).filter(|token| !token.is_empty());
        let yes = |key: &str| {
            let value = set(key).unwrap_or_default().to_ascii_uppercase();
            ["1", "ON", "YES", "TRUE"].contains(&value.as_str())
        };
        let endpoint = set("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".to_owned());
        Ok(Self {
            cache,
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            token: token.map(Token),
            offline: yes("HF_HUB_OFFLINE") || yes("TRANSFORMERS_OFFLINE"),
        })
    }

    /// Where models lie.
    pub fn cache(&self) -> &Path {
        &self.cache
    }

    /// The hub's address.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Whether there is a token; it is never shown itself.
    pub fn has_token(&self) -> bool {
        self.token.is_some()
    }

    /// Whether downloads are switched off.
    pub fn is_offline(&self) -> bool {
        self.offline
    }

    /// The folder of a model: as it lies in the cache, or after a download.
    pub fn model(
        &self,
        name: &HubName,
        progress: &mut dyn FnMut(HubEvent<'_>),
    ) -> Result<PathBuf, HubError> {
        let repository = cache::Repository::of(&self.cache, name);
        let missing = match repository.snapshot(name) {
            Some(snapshot) => match cache::missing(&snapshot)? {
                missing if missing.is_empty() => return Ok(snapshot),
                missing => missing,
            },
            None => vec![format!("the revision {}", name.revision)],
        };
        #[cfg(feature = "hub")]
        if !self.offline {
            return client::download(self, name, &repository, progress);
        }
        let _ = progress;
        Err(self.lacks(name, &repository, &missing))
    }

    /// The folder of some files of a data set: as it lies in the cache where `whole` says that all are there, or after a
    /// download of those of its files that `wanted` picks.
    pub fn dataset(
        &self,
        name: &HubName,
        whole: &dyn Fn(&Path) -> bool,
        wanted: &dyn Fn(&[String]) -> Vec<String>,
        progress: &mut dyn FnMut(HubEvent<'_>),
    ) -> Result<PathBuf, HubError> {
        let repository = cache::Repository::of(&self.cache, name);
        if let Some(snapshot) = repository.snapshot(name).filter(|snapshot| whole(snapshot)) {
            return Ok(snapshot);
        }
        #[cfg(feature = "hub")]
        if !self.offline {
            return client::download_files(self, name, &repository, wanted, progress);
        }
        let _ = (wanted, progress);
        Err(self.lacks(name, &repository, &["its files".to_owned()]))
    }

    /// What is missing cannot be downloaded.
    fn lacks(
        &self,
        name: &HubName,
        repository: &cache::Repository,
        missing: &[String],
    ) -> HubError {
        HubError::NotCached {
            name: name.to_string(),
            missing: missing.join(", "),
            cache: repository.folder.clone(),
            reason: match self.offline {
                true => "HF_HUB_OFFLINE forbids to ask the hub",
                false => "this build cannot download (it was made without the feature hub)",
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_hub_and_other_names() {
        let name = |text| HubName::parse(text).map(|name| (name.repository, name.revision));
        let pair = |a: &str, b: &str| Some((a.to_owned(), b.to_owned()));
        assert_eq!(name("org/a-model_1.5B"), pair("org/a-model_1.5B", "main"));
        assert_eq!(name("org/model@refs/pr/3"), pair("org/model", "refs/pr/3"));
        for other in [
            "model", "a/b/c", "./a", "/a/b", "../b", "a/..", "a/b@", "a/b@../c", "a b/c",
            "a/b@x//y", "-a/b", "a/b--c",
        ] {
            assert_eq!(name(other), None, "{other}");
        }
        assert!(HubName::of_model("org/model.gguf").is_none());
        assert!(HubName::of_model("builtin:tiny").is_none());
        // Here, `src/hub` is a folder, and wins.
        assert!(HubName::parse("src/hub").is_some() && HubName::of_model("src/hub").is_none());
        assert_eq!(HubName::parse("org/model@v1").unwrap().to_string(), "org/model@v1");
    }

    #[test]
    fn a_token_is_not_shown() {
        let hub = Hub {
            cache: "cache".into(),
            endpoint: String::new(),
            token: Some(Token("hf_secret".to_owned())),
            offline: false,
        };
        let shown = format!("{hub:?}");
        assert!(shown.contains("(hidden)") && !shown.contains("secret"), "{shown}");
    }
}
