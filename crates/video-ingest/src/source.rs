//! What a source string names: a file or folder, and the part of it that is meant.

use std::path::{Path, PathBuf};

use savi_schema::MediaPolicy;

use crate::{IngestError, IngestOptions};

/// A source, taken apart.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Source {
    /// The source without its fragment.
    pub(crate) file: String,
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Start and end of a `#t=` fragment, in seconds.
    pub(crate) start: Option<f64>,
    pub(crate) end: Option<f64>,
}

impl Source {
    /// Takes `text` apart and refuses protocols that are not allowed.
    pub(crate) fn parse(text: &str, options: &IngestOptions) -> Result<Self, IngestError> {
        let whole = |file: &str| {
            let path = PathBuf::from(file.strip_prefix("file://").unwrap_or(file));
            Self { file: file.to_owned(), path, start: None, end: None }
        };
        // A file whose name holds a `#t=` is taken by its name.
        if Path::new(text).exists() {
            return Ok(whole(text));
        }
        let mut source = match text.rsplit_once("#t=") {
            None => whole(text),
            Some((file, range)) => {
                let (start, end) = fragment(range).ok_or_else(|| IngestError::Range {
                    file: text.to_owned(),
                    reason: format!("`#t={range}` is no time range; write #t=START,END"),
                })?;
                Self { start, end, ..whole(file) }
            }
        };
        if let Some(protocol) = protocol(&source.file)
            && !source.path.exists()
        {
            if !options.allow_protocols.iter().any(|p| p == protocol) {
                let (file, protocol) = (text.to_owned(), protocol.to_owned());
                return Err(IngestError::Protocol { file, protocol });
            }
            if protocol == "file" {
                let rest = source.file["file:".len()..].to_owned();
                source.path = PathBuf::from(rest.strip_prefix("//").unwrap_or(&rest));
            }
        }
        Ok(source)
    }

    /// The policy with the fragment's bounds where it has none of its own.
    pub(crate) fn bound(&self, policy: &MediaPolicy) -> MediaPolicy {
        let mut policy = policy.clone();
        policy.start = policy.start.or(self.start);
        policy.end = policy.end.or(self.end);
        policy
    }

    /// Looks at the path: only regular files with bytes and folders pass, for a pipe or a device
    /// may never end. Sources of other, allowed protocols pass unseen.
    pub(crate) fn kind(&self) -> Result<Kind, IngestError> {
        let file = || self.file.clone();
        let metadata = match std::fs::metadata(&self.path) {
            Ok(metadata) => metadata,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                return if protocol(&self.file).is_some_and(|p| p != "file") {
                    Ok(Kind::File)
                } else {
                    Err(IngestError::Missing { file: file() })
                };
            }
            Err(source) => return Err(IngestError::Io { file: file(), source }),
        };
        if metadata.is_dir() {
            return Ok(Kind::Folder);
        }
        if !metadata.is_file() {
            return Err(IngestError::NotAFile { file: file() });
        }
        if metadata.len() == 0 {
            return Err(IngestError::Empty { file: file() });
        }
        // The cause of a refusal is clearer from the system than from FFmpeg.
        std::fs::File::open(&self.path)
            .map_err(|source| IngestError::Io { file: file(), source })?;
        Ok(Kind::File)
    }
}

/// What a path holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A media file.
    File,
    /// A folder of pictures.
    Folder,
}

/// What stands before the colon, where it looks like a protocol.
pub(crate) fn protocol(file: &str) -> Option<&str> {
    let (head, _) = file.split_once(':')?;
    let mut letters = head.chars();
    let first = letters.next()?.is_ascii_alphabetic();
    (first && letters.all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))).then_some(head)
}

/// `a,b`, `a` or `,b` of a media fragment (W3C Media Fragments, temporal dimension, NPT).
fn fragment(range: &str) -> Option<(Option<f64>, Option<f64>)> {
    let range = range.strip_prefix("npt:").unwrap_or(range);
    let (start, end) = range.split_once(',').unwrap_or((range, ""));
    if start.is_empty() && end.is_empty() {
        return None;
    }
    let moment = |text: &str| if text.is_empty() { Some(None) } else { clock_time(text).map(Some) };
    Some((moment(start)?, moment(end)?))
}

/// Seconds, `mm:ss` or `hh:mm:ss`, with an optional fraction.
fn clock_time(text: &str) -> Option<f64> {
    let parts: Vec<&str> = text.split(':').collect();
    if parts.len() > 3 {
        return None;
    }
    let mut seconds = 0.0;
    for part in parts {
        if part.is_empty() || !part.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return None;
        }
        seconds = seconds * 60.0 + part.parse::<f64>().ok()?;
    }
    Some(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fragments() {
        let check = |text: &str, expected| assert_eq!(fragment(text), expected, "{text}");
        check("1.5,3", Some((Some(1.5), Some(3.0))));
        check("2", Some((Some(2.0), None)));
        check(",4", Some((None, Some(4.0))));
        check("npt:0:01:02.5,1:02:03", Some((Some(62.5), Some(3723.0))));
        check("", None);
        check(",", None);
        check("a,b", None);
        check("1,-2", None);
        check("1e9,2", None);
    }

    #[test]
    fn protocols_are_refused_unless_allowed() {
        let options = IngestOptions::default();
        for text in ["http://example.com/a.mp4", "concat:a|b", "tcp://1.2.3.4:5", "x+y:z"] {
            let error = Source::parse(text, &options).expect_err(text);
            assert!(matches!(error, IngestError::Protocol { .. }), "{error}");
        }
        let source = Source::parse("file:///no/such#t=1,2", &options).expect("file is allowed");
        assert_eq!(source.path, Path::new("/no/such"));
        assert_eq!((source.start, source.end), (Some(1.0), Some(2.0)));
        assert!(matches!(source.kind(), Err(IngestError::Missing { .. })));
    }

    #[test]
    fn devices_are_refused() {
        let source = Source::parse("/dev/zero", &IngestOptions::default()).expect("a path");
        assert!(matches!(source.kind(), Err(IngestError::NotAFile { .. })));
    }
}
