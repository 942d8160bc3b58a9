//! Pictures and clips of requests become files: of `data:` addresses, of folders that are allowed, and of the web
//! where that is allowed.

mod address;
mod data_url;
#[cfg(feature = "fetch")]
mod fetch;
mod files;
mod kind;

use std::io::Write;

use savi_schema::{Media, Message, Part, RawPrompt};
use tempfile::TempPath;

use crate::error::ServeError;
use crate::options::ServeOptions;
use crate::refusal::Refusal;
use crate::request::{Draft, DraftMessage, DraftPart, Reference};

use kind::Kind;

/// Where media may come from.
#[derive(Debug)]
pub(crate) struct Sources {
    files: files::Folders,
    #[cfg(feature = "fetch")]
    web: Option<fetch::Web>,
}

/// A prompt whose media are files, and those of the files that lie there as long as this does.
#[derive(Debug)]
pub(crate) struct Prompt {
    pub(crate) messages: Vec<Message>,
    pub(crate) raw: Option<RawPrompt>,
    pub(crate) files: Vec<TempPath>,
}

impl Sources {
    pub(crate) fn new(options: &ServeOptions) -> Result<Self, ServeError> {
        Ok(Self {
            files: files::Folders::new(&options.allow_files)?,
            #[cfg(feature = "fetch")]
            web: options.allow_http.then(|| fetch::Web::new(options)),
        })
    }

    /// Makes files of a prompt's references. It waits for disks and for other servers.
    pub(crate) fn prompt(&self, draft: Draft) -> Result<Prompt, Refusal> {
        let mut prompt = Prompt { messages: Vec::new(), raw: None, files: Vec::new() };
        match draft {
            Draft::Raw(raw) => prompt.raw = Some(raw),
            Draft::Messages(messages) => {
                for DraftMessage { role, content } in messages {
                    let part = |part| self.part(part, &mut prompt.files);
                    let content = content.into_iter().map(part).collect::<Result<_, _>>()?;
                    prompt.messages.push(Message { role, content });
                }
            }
        }
        Ok(prompt)
    }

    fn part(&self, part: DraftPart, files: &mut Vec<TempPath>) -> Result<Part, Refusal> {
        Ok(match part {
            DraftPart::Text(text) => Part::Text { text },
            DraftPart::Image(reference) => {
                Part::Image(self.media(reference, Kind::Image, files)?)
            }
            DraftPart::Video(reference) => {
                Part::Video(self.media(reference, Kind::Video, files)?)
            }
        })
    }

    fn media(
        &self,
        reference: Reference,
        kind: Kind,
        files: &mut Vec<TempPath>,
    ) -> Result<Media, Refusal> {
        let Reference { url, policy, field } = reference;
        let bad =
            |reason: String| Refusal { code: "invalid_media", ..Refusal::value(&field, reason) };
        // A part of a clip, in seconds; only we read it, whatever the address is.
        let (address, range) = match url.rsplit_once("#t=") {
            Some((address, range)) if kind == Kind::Video => (address, Some(range)),
            _ => (url.as_str(), None),
        };
        let scheme = address.split(':').next().unwrap_or_default().to_ascii_lowercase();
        let source = match scheme.as_str() {
            "data" => {
                let (mime, bytes) = data_url::read(address).map_err(bad)?;
                stored(&bytes, kind, &mime, "", files).map_err(bad)?
            }
            "file" => self.files.find(address).map_err(bad)?,
            "http" | "https" => {
                let (mime, bytes) = self.fetched(address).map_err(bad)?;
                stored(&bytes, kind, &mime, address, files).map_err(bad)?
            }
            _ => {
                let shown: String = url.chars().take(40).collect();
                let reason = format!("{shown:?} is no data:, file: or http(s): address");
                return Err(bad(reason));
            }
        };
        let source = match range {
            Some(range) if range.chars().all(|c| c.is_ascii_digit() || ".,".contains(c)) => {
                format!("{source}#t={range}")
            }
            Some(_) => return Err(bad("has no #t=START,END in seconds at its end".to_owned())),
            None => source,
        };
        Ok(Media { source, policy })
    }

    #[cfg(feature = "fetch")]
    fn fetched(&self, address: &str) -> Result<(String, Vec<u8>), String> {
        match &self.web {
            Some(web) => web.get(address),
            None => Err("this server fetches nothing; send a data: address".to_owned()),
        }
    }

    #[cfg(not(feature = "fetch"))]
    fn fetched(&self, _: &str) -> Result<(String, Vec<u8>), String> {
        Err("this server fetches nothing; send a data: address".to_owned())
    }
}

/// Writes bytes to a file of their kind, and gives its path.
fn stored(
    bytes: &[u8],
    kind: Kind,
    mime: &str,
    address: &str,
    files: &mut Vec<TempPath>,
) -> Result<String, String> {
    if bytes.is_empty() {
        return Err("holds no bytes".to_owned());
    }
    let extension = kind::extension(kind, bytes, mime, address)?;
    let failed = |error: std::io::Error| {
        tracing::error!("a file for media could not be written: {error}");
        "could not be stored".to_owned()
    };
    let mut file = tempfile::Builder::new()
        .prefix("savi-media-")
        .suffix(&format!(".{extension}"))
        .tempfile()
        .map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.flush()).map_err(failed)?;
    let path = file.into_temp_path();
    let Some(name) = path.to_str().map(str::to_owned) else {
        return Err("could not be stored: the folder for temporary files is not Unicode".to_owned());
    };
    files.push(path);
    Ok(name)
}
