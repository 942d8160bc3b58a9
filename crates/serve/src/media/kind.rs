//! What a file is, and which ending its name gets.

/// A picture or a clip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Image,
    Video,
}

/// Endings of clips by their types.
const CLIPS: [(&str, &str); 14] = [
    ("video/mp4", "mp4"),
    ("video/x-m4v", "m4v"),
    ("video/webm", "webm"),
    ("video/quicktime", "mov"),
    ("video/x-matroska", "mkv"),
    ("video/matroska", "mkv"),
    ("video/x-msvideo", "avi"),
    ("video/avi", "avi"),
    ("video/mpeg", "mpg"),
    ("video/mp2t", "ts"),
    ("video/ogg", "ogv"),
    ("video/x-flv", "flv"),
    ("video/3gpp", "3gp"),
    ("image/gif", "gif"),
];

/// The ending of the name of a file with these bytes, which came with a type and from an address. What a
/// picture is its bytes say; which clips can be read is for those who read them.
pub(super) fn extension(
    kind: Kind,
    bytes: &[u8],
    mime: &str,
    address: &str,
) -> Result<&'static str, String> {
    match kind {
        Kind::Image => picture(bytes).ok_or_else(|| {
            let said = if mime.is_empty() { String::new() } else { format!(" ({mime})") };
            format!("is none of PNG, JPEG, WebP and BMP{said}")
        }),
        Kind::Video => {
            let mime = mime.to_ascii_lowercase();
            let by_mime = CLIPS.iter().find(|(known, _)| *known == mime);
            let path = address.split(['?', '#']).next().unwrap_or_default();
            let ending = path.rsplit_once('.').map(|(_, ending)| ending.to_ascii_lowercase());
            let by_name = || CLIPS.iter().find(|(_, known)| Some(*known) == ending.as_deref());
            match by_mime.or_else(by_name) {
                Some((_, extension)) => Ok(extension),
                None if mime.starts_with("image/") || mime.starts_with("text/") => {
                    Err(format!("is {mime}, not a clip"))
                }
                None => Ok("mp4"),
            }
        }
    }
}

/// What a picture is by its first bytes.
fn picture(bytes: &[u8]) -> Option<&'static str> {
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        Some("png")
    } else if bytes.starts_with(b"\xff\xd8\xff") {
        Some("jpg")
    } else if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
        Some("webp")
    } else if bytes.starts_with(b"BM") {
        Some("bmp")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings() {
        let png = b"\x89PNG\r\n\x1a\nrest";
        assert_eq!(extension(Kind::Image, png, "image/jpeg", ""), Ok("png"));
        assert_eq!(extension(Kind::Image, b"\xff\xd8\xff\xe0", "", ""), Ok("jpg"));
        assert_eq!(extension(Kind::Image, b"RIFF....WEBPVP8 ", "", ""), Ok("webp"));
        assert_eq!(extension(Kind::Image, b"BM..", "", ""), Ok("bmp"));
        let gif = extension(Kind::Image, b"GIF89a", "image/gif", "").unwrap_err();
        assert_eq!(gif, "is none of PNG, JPEG, WebP and BMP (image/gif)");
        assert_eq!(extension(Kind::Video, b"x", "Video/WebM", ""), Ok("webm"));
        assert_eq!(extension(Kind::Video, b"x", "", "http://a/b.MKV?c=d.mov"), Ok("mkv"));
        assert_eq!(extension(Kind::Video, b"x", "application/octet-stream", ""), Ok("mp4"));
        assert!(extension(Kind::Video, b"x", "text/html", "").is_err());
    }
}
