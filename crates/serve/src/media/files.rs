//! `file://` addresses, for files in folders that are allowed and nowhere else.

use std::path::{Path, PathBuf};

use crate::error::ServeError;

/// One answer for all that is not allowed, so that nobody learns what lies elsewhere.
const REFUSED: &str = "is no file in a folder that this server may read";

/// Folders whose files may be read.
#[derive(Debug)]
pub(super) struct Folders(Vec<PathBuf>);

impl Folders {
    pub(super) fn new(folders: &[PathBuf]) -> Result<Self, ServeError> {
        let real = |path: &PathBuf| {
            let failed = |source| ServeError::Folder { path: path.clone(), source };
            let real = path.canonicalize().map_err(failed)?;
            std::fs::read_dir(&real).map_err(failed)?;
            Ok(real)
        };
        Ok(Self(folders.iter().map(real).collect::<Result<_, ServeError>>()?))
    }

    /// The real path that an address leads to: links are followed before it is looked at where it lies.
    pub(super) fn find(&self, address: &str) -> Result<String, String> {
        if self.0.is_empty() {
            return Err("this server reads no files of its own; send a data: address".to_owned());
        }
        let path = path(address).ok_or("is no file:///PATH")?;
        let real = path.canonicalize().map_err(|_| REFUSED)?;
        let within = |real: &Path| self.0.iter().any(|folder| real.starts_with(folder));
        if !within(&real) {
            return Err(REFUSED.to_owned());
        }
        // A folder of frames: its pictures are read, wherever they are.
        if real.is_dir() {
            for entry in std::fs::read_dir(&real).map_err(|_| REFUSED)? {
                let entry = entry.map_err(|_| REFUSED)?.path();
                let inside = entry.canonicalize().is_ok_and(|real| within(&real));
                if !inside {
                    return Err(REFUSED.to_owned());
                }
            }
        }
        match real.to_str() {
            // What follows would be taken for a part of a clip.
            Some(name) if !name.contains("#t=") => Ok(name.to_owned()),
            _ => Err("has a name that cannot be used here".to_owned()),
        }
    }
}

/// The absolute path of a `file:` address on this machine, `%XX` undone.
fn path(address: &str) -> Option<PathBuf> {
    let rest = address.get("file:".len()..)?.strip_prefix("//")?;
    let rest = rest.strip_prefix("localhost").unwrap_or(rest);
    if !rest.starts_with('/') {
        return None;
    }
    let mut bytes = Vec::new();
    let mut left = rest.bytes();
    while let Some(byte) = left.next() {
        let byte = match byte {
            b'%' => {
                let digits = [left.next()?, left.next()?];
                let digits = std::str::from_utf8(&digits).ok()?;
                // A sign would be taken for a part of the number.
                let hex = digits.bytes().all(|digit| digit.is_ascii_hexdigit());
                u8::from_str_radix(digits, 16).ok().filter(|_| hex)?
            }
            b'?' | b'#' | 0 => return None,
            other => other,
        };
        bytes.push(byte);
    }
    if bytes.contains(&0) {
        return None;
    }
    String::from_utf8(bytes).ok().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_allowed_folders_are_read() {
        let top = tempfile::tempdir().unwrap();
        let open = top.path().join("open");
        let beside = top.path().join("open-too");
        for folder in [&open, &beside, &open.join("frames"), &open.join("leaky")] {
            fs::create_dir(folder).unwrap();
        }
        let secret = beside.join("secret.png");
        for file in [&open.join("a b.png"), &open.join("frames/1.png"), &secret] {
            fs::write(file, "x").unwrap();
        }
        symlink(&secret, open.join("link.png")).unwrap();
        symlink(open.join("a b.png"), open.join("inner.png")).unwrap();
        symlink(&secret, open.join("leaky/1.png")).unwrap();
        let folders = Folders::new(std::slice::from_ref(&open)).unwrap();
        let real = open.canonicalize().unwrap();
        let find = |name: &str| folders.find(&format!("file://{}/{name}", open.display()));
        let file = real.join("a b.png").display().to_string();
        assert_eq!(find("a%20b.png"), Ok(file.clone()));
        assert_eq!(find("inner.png"), Ok(file.clone()));
        assert_eq!(find("frames/../a b.png"), Ok(file));
        assert_eq!(find("frames"), Ok(real.join("frames").display().to_string()));
        for outside in [
            "link.png",
            "leaky",
            "../open-too/secret.png",
            "%2e%2e/open-too/secret.png",
            "frames/../../open-too/secret.png",
            "no-such.png",
            "..",
        ] {
            assert_eq!(find(outside), Err(REFUSED.to_owned()), "{outside}");
        }
        for bad in ["a%00.png", "a%zz", "a%+1", "a?b", "a#b"] {
            assert_eq!(find(bad), Err("is no file:///PATH".to_owned()), "{bad}");
        }
        for bad in ["file:relative", "file://elsewhere/a.png", "file:/a.png"] {
            assert!(folders.find(bad).is_err(), "{bad}");
        }
        assert_eq!(folders.find("file:///etc/passwd"), Err(REFUSED.to_owned()));
    }

    #[test]
    fn without_folders_nothing_is_read() {
        let folders = Folders::new(&[]).unwrap();
        assert!(folders.find("file:///etc/passwd").unwrap_err().contains("no files of its own"));
        assert!(Folders::new(&["no/such/folder".into()]).is_err());
    }
}
