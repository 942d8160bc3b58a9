//! Downloads from a hub: which files, their etags, and their bytes, resumed where they were cut.
//!
//! A file is downloaded into `blobs/ETAG.incomplete`, checked (length, and SHA-256 where the etag is
//! one), renamed, and linked into the snapshot. The reference of a branch is written last: a snapshot
//! that it leads to is whole.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use sha2::{Digest, Sha256};
use ureq::Agent;
use ureq::http::Response;

use super::cache::{self, INDEX, Repository, WEIGHTS};
use super::{BESIDE_WEIGHTS, Hub, HubError, HubEvent, HubName, Kind};

/// Attempts for a file whose connection breaks.
const ATTEMPTS: u32 = 5;
/// Before the second attempt; doubled before each that follows.
const PAUSE: Duration = Duration::from_millis(250);
/// A list of files or an index is no longer than this.
const LONGEST_TEXT: u64 = 64 << 20;

type Progress<'a> = &'a mut dyn FnMut(HubEvent<'_>);

/// Downloads what a model needs and gives its folder.
pub(super) fn download(
    hub: &Hub,
    name: &HubName,
    repository: &Repository,
    progress: Progress<'_>,
) -> Result<PathBuf, HubError> {
    let client = Client::new(hub, name);
    let (commit, files) = client.listed()?;
    let has = |wanted: &str| files.iter().any(|file| file == wanted);
    let weights = if has(INDEX) { INDEX } else { WEIGHTS };
    for needed in ["config.json", weights] {
        if !has(needed) {
            let reason = format!("has no {needed}; models are read from safetensors");
            return Err(HubError::Malformed { place: name.to_string(), reason });
        }
    }
    let snapshot = repository.of_commit(&commit);
    let mut get = |file: &str| client.file(repository, &commit, file, progress);
    get("config.json")?;
    for file in BESIDE_WEIGHTS.iter().filter(|file| has(file)) {
        get(file)?;
    }
    get(weights)?;
    if weights == INDEX {
        for shard in cache::shards(&snapshot.join(INDEX))? {
            get(&shard)?;
        }
    }
    refer(name, repository, &commit)?;
    Ok(snapshot)
}

/// Downloads the files that `wanted` picks of those that there are, and gives their folder.
pub(super) fn download_files(
    hub: &Hub,
    name: &HubName,
    repository: &Repository,
    wanted: &dyn Fn(&[String]) -> Vec<String>,
    progress: Progress<'_>,
) -> Result<PathBuf, HubError> {
    let client = Client::new(hub, name);
    let (commit, files) = client.listed()?;
    let wanted = wanted(&files);
    if wanted.is_empty() {
        let reason = "has none of the files that were looked for".to_owned();
        return Err(HubError::Malformed { place: name.to_string(), reason });
    }
    for file in wanted {
        client.file(repository, &commit, &file, progress)?;
    }
    refer(name, repository, &commit)?;
    Ok(repository.of_commit(&commit))
}

/// Writes down which commit a branch or tag is.
fn refer(name: &HubName, repository: &Repository, commit: &str) -> Result<(), HubError> {
    if name.is_commit() {
        return Ok(());
    }
    let reference = repository.reference(name);
    let partial = reference.with_extension("incomplete");
    made(&reference)?;
    fs::write(&partial, commit).map_err(io(&partial))?;
    fs::rename(&partial, &reference).map_err(io(&reference))
}

/// What the hub says of a file before it is downloaded.
struct Head {
    etag: String,
    bytes: u64,
}

struct Client<'a> {
    hub: &'a Hub,
    name: &'a HubName,
    /// Follows redirections, and tells the token to the first host alone.
    following: Agent,
    /// Follows none.
    staying: Agent,
}

impl<'a> Client<'a> {
    fn new(hub: &'a Hub, name: &'a HubName) -> Self {
        let agent = |redirects: u32| -> Agent {
            crate::http::settings()
                .max_redirects(redirects)
                .timeout_connect(Some(Duration::from_secs(20)))
                .timeout_recv_response(Some(Duration::from_secs(60)))
                .build()
                .into()
        };
        Self { hub, name, following: agent(10), staying: agent(0) }
    }

    /// The commit of the revision and the names of its files.
    fn listed(&self) -> Result<(String, Vec<String>), HubError> {
        let HubName { kind, repository, revision } = self.name;
        let kind = match kind {
            Kind::Model => "models",
            Kind::Dataset => "datasets",
        };
        let endpoint = &self.hub.endpoint;
        let revision = revision.replace('/', "%2F");
        let url = format!("{endpoint}/api/{kind}/{repository}/revision/{revision}");
        let text = self.patiently(|| {
            let mut response = self.allowed(&url, self.get(&self.following, &url, None)?)?;
            let body = response.body_mut().with_config().limit(LONGEST_TEXT);
            body.read_to_string().map_err(|error| self.broken(&url, &error))
        })?;
        let bad = |reason: String| HubError::Malformed { place: url.clone(), reason };
        let value: Value = serde_json::from_str(&text).map_err(|e| bad(e.to_string()))?;
        let commit = value.get("sha").and_then(Value::as_str).unwrap_or_default();
        if commit.is_empty() || !commit.chars().all(|c| c.is_ascii_alphanumeric()) {
            return Err(bad(format!("names the commit {commit:?}")));
        }
        let siblings = value.get("siblings").and_then(Value::as_array).into_iter().flatten();
        let names = siblings.filter_map(|file| file.get("rfilename")?.as_str().map(str::to_owned));
        Ok((commit.to_owned(), names.collect()))
    }

    /// Sees to it that a file lies in the snapshot.
    fn file(
        &self,
        repository: &Repository,
        commit: &str,
        file: &str,
        progress: Progress<'_>,
    ) -> Result<(), HubError> {
        let link = repository.of_commit(commit).join(file);
        if link.is_file() {
            return Ok(());
        }
        let HubName { kind, repository: name, .. } = self.name;
        let below = if *kind == Kind::Dataset { "datasets/" } else { "" };
        let url = format!("{}/{below}{name}/resolve/{commit}/{file}", self.hub.endpoint);
        let head = self.patiently(|| self.head(&url))?;
        let blob = repository.folder.join("blobs").join(&head.etag);
        made(&blob)?;
        if !blob.is_file() {
            self.blob(&url, &head, &blob, file, progress)?;
        }
        made(&link)?;
        // What is in its place leads nowhere.
        let _ = fs::remove_file(&link);
        let target = Path::new("../../blobs").join(&head.etag);
        std::os::unix::fs::symlink(target, &link).map_err(io(&link))
    }

    fn blob(
        &self,
        url: &str,
        head: &Head,
        blob: &Path,
        file: &str,
        progress: Progress<'_>,
    ) -> Result<(), HubError> {
        let mut partial = blob.as_os_str().to_owned();
        partial.push(".incomplete");
        let partial = PathBuf::from(partial);
        let mut options = OpenOptions::new();
        let mut out =
            options.read(true).append(true).create(true).open(&partial).map_err(io(&partial))?;
        // Another program that downloads the same is waited for.
        out.lock().map_err(io(&partial))?;
        if blob.is_file() {
            return Ok(());
        }
        let length = |out: &File| out.metadata().map(|data| data.len()).map_err(io(&partial));
        if length(&out)? > head.bytes {
            out.set_len(0).map_err(io(&partial))?;
        }
        let there = length(&out)?;
        progress(HubEvent::File { name: file, bytes: head.bytes, there });
        self.patiently(|| {
            let start = length(&out)?;
            if start == head.bytes {
                return Ok(());
            }
            self.append(url, &mut out, &partial, start, &mut *progress)?;
            match length(&out)? {
                end if end < head.bytes => {
                    Err(self.connection(url, format!("ended after {end} of {} bytes", head.bytes)))
                }
                _ => Ok(()),
            }
        })?;
        let end = length(&out)?;
        let whole = end == head.bytes && checked(&mut out, &head.etag).map_err(io(&partial))?;
        if !whole {
            // Begun anew the next time.
            fs::remove_file(&partial).map_err(io(&partial))?;
            let reason = format!("{end} bytes that are not those of {file} were received");
            return Err(HubError::Malformed { place: url.to_owned(), reason });
        }
        out.sync_all().map_err(io(&partial))?;
        fs::rename(&partial, blob).map_err(io(blob))?;
        progress(HubEvent::Done);
        Ok(())
    }

    /// Adds the bytes from `start` on to a file, or all of them where the hub gives no parts.
    fn append(
        &self,
        url: &str,
        out: &mut File,
        path: &Path,
        start: u64,
        progress: Progress<'_>,
    ) -> Result<(), HubError> {
        let response = self.allowed(url, self.get(&self.following, url, Some(start))?)?;
        let from = header(&response, "content-range")
            .and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse::<u64>().ok());
        let mut there = start;
        if response.status().as_u16() != 206 || from != Some(start) {
            out.set_len(0).map_err(io(path))?;
            there = 0;
        }
        let mut body = response.into_body().into_reader();
        let mut buffer = vec![0; 1 << 16];
        loop {
            let count = match body.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => count,
                Err(error) => return Err(self.connection(url, error.to_string())),
            };
            out.write_all(&buffer[..count]).map_err(io(path))?;
            there += count as u64;
            progress(HubEvent::Bytes(there));
        }
    }

    /// Etag and length of a file. Redirections within the hub are followed; the one that leads to where
    /// large files lie is not, as only the hub knows their etags.
    fn head(&self, url: &str) -> Result<Head, HubError> {
        let mut at = url.to_owned();
        for _ in 0..5 {
            let request = self.signed(self.staying.head(&at));
            let request = request.header("Accept-Encoding", "identity");
            let response = request.call().map_err(|error| self.broken(&at, &error))?;
            let response = self.allowed(&at, response)?;
            let location = header(&response, "location").unwrap_or_default();
            let linked = header(&response, "x-linked-etag");
            if response.status().is_redirection() && location.starts_with('/') && linked.is_none() {
                at = format!("{}{location}", origin(&at));
                continue;
            }
            let bad = |reason: String| HubError::Malformed { place: at.clone(), reason };
            let etag = linked.or_else(|| header(&response, "etag")).unwrap_or_default();
            let etag = etag.trim_start_matches("W/").trim_matches('"').to_owned();
            if etag.is_empty() || !etag.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') {
                return Err(bad(format!("gives the etag {etag:?}")));
            }
            let length = header(&response, "x-linked-size")
                .or_else(|| header(&response, "content-length"))
                .and_then(|length| length.parse().ok());
            let Some(bytes) = length else { return Err(bad("gives no length".to_owned())) };
            return Ok(Head { etag, bytes });
        }
        Err(self.connection(url, "is redirected again and again".to_owned()))
    }

    fn get(
        &self,
        agent: &Agent,
        url: &str,
        start: Option<u64>,
    ) -> Result<Response<ureq::Body>, HubError> {
        let mut request = self.signed(agent.get(url)).header("Accept-Encoding", "identity");
        if let Some(start) = start.filter(|&start| start > 0) {
            request = request.header("Range", format!("bytes={start}-"));
        }
        request.call().map_err(|error| self.broken(url, &error))
    }

    fn signed<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.hub.token {
            Some(token) => request.header("Authorization", format!("Bearer {}", token.0)),
            None => request,
        }
    }

    /// An answer that is none is an error with what to do about it.
    fn allowed(
        &self,
        url: &str,
        response: Response<ureq::Body>,
    ) -> Result<Response<ureq::Body>, HubError> {
        let status = response.status().as_u16();
        let hint = match (status, &self.hub.token) {
            (200..=399, _) => return Ok(response),
            (401 | 403, Some(_)) => "the token of HF_TOKEN or of the token file may not read it",
            (401 | 403, None) => "it does not exist, or is private or gated: then set HF_TOKEN",
            (404, _) => "there is no such model, revision or file, nor a folder of this name here",
            (429, _) => "too many requests; try again later",
            (500.., _) => "the hub has difficulties; try again later",
            _ => "the hub does not give it",
        };
        let (name, url) = (self.name.to_string(), url.to_owned());
        Err(HubError::Refused { name, url, status, hint })
    }

    fn broken(&self, url: &str, error: &ureq::Error) -> HubError {
        self.connection(url, error.to_string())
    }

    fn connection(&self, url: &str, reason: String) -> HubError {
        HubError::Connection { name: self.name.to_string(), url: url.to_owned(), reason }
    }

    /// Tries again what may succeed later.
    fn patiently<T>(
        &self,
        mut attempt: impl FnMut() -> Result<T, HubError>,
    ) -> Result<T, HubError> {
        let mut pause = PAUSE;
        for _ in 1..ATTEMPTS {
            match attempt() {
                Err(
                    HubError::Connection { .. } | HubError::Refused { status: 429 | 500.., .. },
                ) => {
                    std::thread::sleep(pause);
                    pause *= 2;
                }
                other => return other,
            }
        }
        attempt()
    }
}

/// Scheme and host of an address.
fn origin(url: &str) -> &str {
    let host = url.find("://").map_or(0, |at| at + 3);
    let end = url[host..].find('/').map_or(url.len(), |at| host + at);
    &url[..end]
}

fn header(response: &Response<ureq::Body>, name: &str) -> Option<String> {
    response.headers().get(name)?.to_str().ok().map(str::to_owned)
}

/// Whether a file is the one that its etag names: that of a large file is its SHA-256, others cannot
/// be checked.
fn checked(file: &mut File, etag: &str) -> std::io::Result<bool> {
    if etag.len() != 64 {
        return Ok(true);
    }
    file.seek(SeekFrom::Start(0))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => break,
            count => hash.update(&buffer[..count]),
        }
    }
    let hex: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(hex == etag.to_ascii_lowercase())
}

/// Makes the folder of a file.
fn made(path: &Path) -> Result<(), HubError> {
    let Some(folder) = path.parent() else { return Ok(()) };
    fs::create_dir_all(folder).map_err(io(folder))
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> HubError {
    move |source| HubError::Io { path: path.to_owned(), source }
}
