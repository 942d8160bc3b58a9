//! Pictures and clips as servers take them: by URL, as bytes in the request, or as frames.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use image::codecs::jpeg::JpegEncoder;
use image::codecs::png::PngEncoder;
use image::{ExtendedColorType, ImageEncoder};
use savi_schema::{Clip, Media, MediaPolicy, RgbImage};
use savi_video_ingest::{read_clip, read_picture};
use serde_json::{Value, json};

use crate::{Dialect, EndpointOptions, MediaTransport, PictureFormat, VideoForm};

/// So many pictures and clips are kept as they are sent: requests about one clip follow each other.
const KEPT: usize = 32;
/// A file that is sent whole is no longer than this.
const LONGEST_FILE: u64 = 1 << 30;

/// What a part is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    ImageUrl,
    VideoUrl,
    /// llama.cpp's.
    InputVideo,
}

#[derive(Debug)]
enum Payload {
    /// Several are the frames of a `video/jpeg`.
    Bytes {
        mime: &'static str,
        pieces: Vec<Vec<u8>>,
    },
    Url(String),
}

/// A picture or a clip, ready to be sent.
#[derive(Debug)]
pub(crate) struct Encoded {
    kind: Kind,
    payload: Payload,
    /// What stands for it in the key of a cached answer: a hash of its bytes, or its URL.
    name: String,
    /// Frames per second of a `video/jpeg`.
    rate: Option<f64>,
}

impl Encoded {
    fn bytes(kind: Kind, mime: &'static str, pieces: Vec<Vec<u8>>) -> Self {
        let mut hash = blake3::Hasher::new();
        for piece in &pieces {
            hash.update(&(piece.len() as u64).to_le_bytes()).update(piece);
        }
        let name = format!("blake3:{}", hash.finalize().to_hex());
        Self { kind, payload: Payload::Bytes { mime, pieces }, name, rate: None }
    }

    /// As a part of a message's content.
    pub(crate) fn part(&self) -> Value {
        let url = match &self.payload {
            Payload::Url(url) => url.clone(),
            Payload::Bytes { mime, pieces } => {
                let pieces: Vec<String> =
                    pieces.iter().map(|piece| STANDARD.encode(piece)).collect();
                let joined = pieces.join(",");
                if self.kind == Kind::InputVideo {
                    return json!({"type": "input_video", "input_video": {"data": joined}});
                }
                format!("data:{mime};base64,{joined}")
            }
        };
        self.with(url)
    }

    /// The same with a name in place of bytes.
    pub(crate) fn named_part(&self) -> Value {
        match &self.payload {
            Payload::Bytes { mime, .. } => self.with(format!("{mime} {}", self.name)),
            Payload::Url(_) => self.with(self.name.clone()),
        }
    }

    fn with(&self, url: String) -> Value {
        let kind = match self.kind {
            Kind::ImageUrl => "image_url",
            Kind::VideoUrl => "video_url",
            Kind::InputVideo => "input_video",
        };
        json!({"type": kind, kind: {"url": url}})
    }

    /// Frames per second, where it is a video of single frames; 0 where it cannot be told.
    pub(crate) fn rate(&self) -> Option<f64> {
        self.rate
    }
}

/// Why media cannot be sent.
pub(crate) type MediaError = String;

type Parts = Result<Arc<Vec<Encoded>>, MediaError>;
type Slot = (String, Arc<OnceLock<Parts>>);

/// Turns media into parts, and keeps the last ones.
#[derive(Debug)]
pub(crate) struct Encoder {
    options: EndpointOptions,
    dialect: Dialect,
    kept: Mutex<VecDeque<Slot>>,
}

impl Encoder {
    pub(crate) fn new(options: &EndpointOptions, dialect: Dialect) -> Self {
        Self { options: options.clone(), dialect, kept: Mutex::default() }
    }

    /// A still picture.
    pub(crate) fn picture(&self, media: &Media) -> Parts {
        self.kept("picture", media, || Ok(vec![self.encode_picture(media)?]))
    }

    /// A clip: one part, or one for each frame.
    pub(crate) fn clip(&self, media: &Media) -> Parts {
        self.kept("clip", media, || self.encode_clip(media))
    }

    /// Threads that need the same wait for the one that makes it.
    fn kept(
        &self,
        kind: &str,
        media: &Media,
        make: impl FnOnce() -> Result<Vec<Encoded>, MediaError>,
    ) -> Parts {
        let policy = serde_json::to_string(&media.policy).unwrap_or_default();
        let key = format!("{kind}\0{}\0{policy}", media.source);
        let slot = {
            let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
            match kept.iter().find(|(known, _)| *known == key) {
                Some((_, slot)) => slot.clone(),
                None => {
                    let slot = Arc::new(OnceLock::new());
                    kept.push_back((key, slot.clone()));
                    if kept.len() > KEPT {
                        kept.pop_front();
                    }
                    slot
                }
            }
        };
        slot.get_or_init(|| make().map(Arc::new)).clone()
    }

    fn encode_picture(&self, media: &Media) -> Result<Encoded, MediaError> {
        let size = media.policy.as_ref().and_then(|policy| Some((policy.size?, policy.resampling)));
        if is_web(&media.source) {
            return match size {
                None => Ok(web(Kind::ImageUrl, &media.source)),
                Some(_) => {
                    Err("a picture of the web cannot be scaled before it is sent".to_owned())
                }
            };
        }
        let path = local(&media.source);
        if let Some(((width, height), resampling)) = size {
            let picture =
                read_picture(&path, &self.options.ingest).map_err(|error| error.to_string())?;
            let picture = savi_schema::resample(&picture, width, height, resampling)
                .map_err(|error| error.to_string())?;
            return Ok(Encoded::bytes(Kind::ImageUrl, "image/png", vec![png(&picture)?]));
        }
        let bytes = whole(&path)?;
        let Some(mime) = picture_type(&bytes) else {
            let picture =
                read_picture(&path, &self.options.ingest).map_err(|error| error.to_string())?;
            return Ok(Encoded::bytes(Kind::ImageUrl, "image/png", vec![png(&picture)?]));
        };
        let encoded = Encoded::bytes(Kind::ImageUrl, mime, vec![bytes]);
        self.transported(encoded, &path)
    }

    fn encode_clip(&self, media: &Media) -> Result<Vec<Encoded>, MediaError> {
        let web_source = is_web(&media.source);
        let path = local(&media.source);
        let policy = media.policy.as_ref();
        let part = policy.is_some_and(|p| p.start.is_some() || p.end.is_some())
            || (!path.exists() && media.source.contains("#t="));
        let folder = path.is_dir();
        let framed = match self.dialect {
            Dialect::Vllm => VideoForm::Jpeg,
            _ => VideoForm::Frames,
        };
        let form = match self.options.video {
            VideoForm::Auto if web_source && self.dialect != Dialect::OpenAi => VideoForm::Url,
            VideoForm::Auto if self.dialect == Dialect::OpenAi => VideoForm::Frames,
            VideoForm::Auto if policy.is_some() || part || folder => framed,
            VideoForm::Auto => VideoForm::Url,
            form => form,
        };
        match form {
            VideoForm::Auto | VideoForm::Url => {
                if part || folder {
                    return Err(
                        "a part of a clip or a folder of frames can be shown by its frames alone: set \
                         video = \"frames\""
                            .to_owned(),
                    );
                }
                let kind = match self.dialect {
                    Dialect::LlamaCpp => Kind::InputVideo,
                    _ => Kind::VideoUrl,
                };
                if web_source {
                    return Ok(vec![web(kind, &media.source)]);
                }
                let bytes = whole(&path)?;
                let encoded = Encoded::bytes(kind, video_type(&path, &bytes), vec![bytes]);
                Ok(vec![self.transported(encoded, &path)?])
            }
            VideoForm::Frames => {
                let clip = self.frames(media)?;
                let kind = Kind::ImageUrl;
                let encode = |image: &RgbImage| -> Result<Encoded, MediaError> {
                    Ok(match self.options.pictures {
                        PictureFormat::Jpeg => {
                            Encoded::bytes(kind, "image/jpeg", vec![self.jpeg(image)?])
                        }
                        PictureFormat::Png => Encoded::bytes(kind, "image/png", vec![png(image)?]),
                    })
                };
                clip.frames.iter().map(|frame| encode(&frame.image)).collect()
            }
            VideoForm::Jpeg => {
                let clip = self.frames(media)?;
                let pieces = clip.frames.iter().map(|frame| self.jpeg(&frame.image));
                let pieces = pieces.collect::<Result<_, _>>()?;
                let mut encoded = Encoded::bytes(Kind::VideoUrl, "video/jpeg", pieces);
                encoded.rate = Some(rate(&clip).unwrap_or(0.0));
                Ok(vec![encoded])
            }
        }
    }

    fn frames(&self, media: &Media) -> Result<Clip, MediaError> {
        let policy: &MediaPolicy = media.policy.as_ref().unwrap_or(&self.options.frames);
        let clip = read_clip(&media.source, policy, &self.options.ingest)
            .map_err(|error| error.to_string())?;
        match clip.frames.is_empty() {
            true => Err("no frame of it can be shown".to_owned()),
            false => Ok(clip),
        }
    }

    /// A file by its path, where the server is to read it itself.
    fn transported(&self, encoded: Encoded, path: &Path) -> Result<Encoded, MediaError> {
        if self.options.media == MediaTransport::Data {
            return Ok(encoded);
        }
        let path = path.canonicalize().map_err(|error| error.to_string())?;
        let Some(path) = path.to_str() else {
            return Err("its path is no text that could be sent".to_owned());
        };
        // Whatever a URL gives a meaning of its own.
        let mut url = String::from("file://");
        for byte in path.bytes() {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'/' | b'-' | b'_' | b'.' | b'~' => {
                    url.push(char::from(byte));
                }
                byte => url.push_str(&format!("%{byte:02X}")),
            }
        }
        Ok(Encoded { payload: Payload::Url(url), ..encoded })
    }

    fn jpeg(&self, image: &RgbImage) -> Result<Vec<u8>, MediaError> {
        let mut bytes = Vec::new();
        JpegEncoder::new_with_quality(&mut bytes, self.options.jpeg_quality)
            .write_image(&image.data, image.width, image.height, ExtendedColorType::Rgb8)
            .map_err(|error| error.to_string())?;
        Ok(bytes)
    }
}

fn png(image: &RgbImage) -> Result<Vec<u8>, MediaError> {
    let mut bytes = Vec::new();
    PngEncoder::new(&mut bytes)
        .write_image(&image.data, image.width, image.height, ExtendedColorType::Rgb8)
        .map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// Frames per second of what is shown of a clip.
fn rate(clip: &Clip) -> Option<f64> {
    let (first, last) = (clip.frames.first()?.time, clip.frames.last()?.time);
    let rate = (clip.frames.len() - 1) as f64 / (last - first);
    (rate.is_finite() && rate > 0.0).then_some(rate)
}

fn is_web(source: &str) -> bool {
    source.starts_with("http://") || source.starts_with("https://")
}

fn web(kind: Kind, url: &str) -> Encoded {
    let payload = Payload::Url(url.to_owned());
    Encoded { kind, payload, name: url.to_owned(), rate: None }
}

fn local(source: &str) -> PathBuf {
    PathBuf::from(source.strip_prefix("file://").unwrap_or(source))
}

/// A regular file's bytes.
fn whole(path: &Path) -> Result<Vec<u8>, MediaError> {
    let metadata = std::fs::metadata(path).map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("neither a file nor an address of the web".to_owned());
    }
    if metadata.len() > LONGEST_FILE {
        let length = metadata.len();
        return Err(format!("{length} bytes are too many to be sent; set media = \"file\""));
    }
    std::fs::read(path).map_err(|error| error.to_string())
}

/// What all servers read, by its first bytes.
fn picture_type(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [0x89, b'P', b'N', b'G', ..] => Some("image/png"),
        [b'G', b'I', b'F', b'8', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    }
}

/// Servers look at the bytes; the word has to begin with `video/`.
fn video_type(path: &Path, bytes: &[u8]) -> &'static str {
    let name = path.extension().and_then(|ending| ending.to_str()).unwrap_or_default();
    match (name.to_ascii_lowercase().as_str(), bytes) {
        ("webm", _) => "video/webm",
        ("mov", _) => "video/quicktime",
        ("avi", _) => "video/x-msvideo",
        (_, [0x1a, 0x45, 0xdf, 0xa3, ..]) => "video/x-matroska",
        _ => "video/mp4",
    }
}

#[cfg(test)]
mod tests {
    use savi_schema::CountRule;

    use super::*;

    fn folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for number in 0u8..6 {
            let data = vec![40 * number; 4 * 4 * 3];
            let picture = RgbImage::new(4, 4, data).unwrap();
            std::fs::write(dir.path().join(format!("{number}.png")), png(&picture).unwrap())
                .unwrap();
        }
        dir
    }

    fn encoder(dialect: Dialect, change: impl FnOnce(&mut EndpointOptions)) -> Encoder {
        let mut options = EndpointOptions::new("http://h", "m");
        change(&mut options);
        Encoder::new(&options, dialect)
    }

    fn media(path: &Path, frames: Option<usize>) -> Media {
        let policy = frames.map(|frames| MediaPolicy::count(frames, CountRule::Linspace));
        Media { source: path.display().to_string(), policy }
    }

    fn url(part: &Value, kind: &str) -> String {
        assert_eq!(part["type"], kind, "{part}");
        part[kind]["url"].as_str().unwrap().to_owned()
    }

    #[test]
    fn frames_are_those_of_the_policy() {
        let dir = folder();
        let png_frames = |o: &mut EndpointOptions| o.pictures = PictureFormat::Png;
        let parts = encoder(Dialect::OpenAi, png_frames).clip(&media(dir.path(), Some(2))).unwrap();
        assert_eq!(parts.len(), 2);
        let bytes = |part: &Encoded| {
            let url = url(&part.part(), "image_url");
            STANDARD.decode(url.strip_prefix("data:image/png;base64,").unwrap()).unwrap()
        };
        let shown: Vec<u8> = parts
            .iter()
            .map(|part| {
                image::load_from_memory(&bytes(part)).unwrap().into_rgb8().get_pixel(0, 0).0[0]
            })
            .collect();
        assert_eq!(shown, [0, 200]);
        assert_ne!(parts[0].named_part(), parts[1].named_part());
        assert!(url(&parts[0].named_part(), "image_url").starts_with("image/png blake3:"));
        let default = encoder(Dialect::OpenAi, |_| {}).clip(&media(dir.path(), None)).unwrap();
        assert_eq!(default.len(), 8);
        assert!(url(&default[0].part(), "image_url").starts_with("data:image/jpeg;base64,"));
    }

    #[test]
    fn vllm_takes_frames_as_a_video() {
        let dir = folder();
        let parts = encoder(Dialect::Vllm, |_| {}).clip(&media(dir.path(), Some(3))).unwrap();
        assert_eq!(parts.len(), 1);
        let url = url(&parts[0].part(), "video_url");
        let frames: Vec<&str> =
            url.strip_prefix("data:video/jpeg;base64,").unwrap().split(',').collect();
        assert_eq!(frames.len(), 3);
        assert!(parts[0].rate().unwrap() > 0.0);
    }

    #[test]
    fn whole_files() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a b.mp4");
        std::fs::write(&file, b"clip").unwrap();
        let plain = media(&file, None);
        let parts = encoder(Dialect::Vllm, |_| {}).clip(&plain).unwrap();
        assert_eq!(url(&parts[0].part(), "video_url"), "data:video/mp4;base64,Y2xpcA==");
        let parts = encoder(Dialect::LlamaCpp, |_| {}).clip(&plain).unwrap();
        assert_eq!(parts[0].part()["input_video"]["data"], "Y2xpcA==");
        let by_path = |o: &mut EndpointOptions| o.media = MediaTransport::File;
        let parts = encoder(Dialect::Sglang, by_path).clip(&plain).unwrap();
        let shown = url(&parts[0].part(), "video_url");
        assert!(shown.starts_with("file:///") && shown.ends_with("/a%20b.mp4"), "{shown}");
        // The bytes name it all the same.
        assert!(url(&parts[0].named_part(), "video_url").starts_with("blake3:"));
        let web = Media { source: "https://h/x.mp4".to_owned(), policy: None };
        let parts = encoder(Dialect::Vllm, |_| {}).clip(&web).unwrap();
        assert_eq!(url(&parts[0].part(), "video_url"), "https://h/x.mp4");
        let by_url = |o: &mut EndpointOptions| o.video = VideoForm::Url;
        let part = Media { source: format!("{}#t=1,2", file.display()), policy: None };
        let error = encoder(Dialect::Vllm, by_url).clip(&part).unwrap_err();
        assert!(error.contains("frames"), "{error}");
    }

    #[test]
    fn pictures() {
        let dir = folder();
        let file = dir.path().join("3.png");
        let parts = encoder(Dialect::OpenAi, |_| {}).picture(&media(&file, None)).unwrap();
        let sent = url(&parts[0].part(), "image_url");
        assert!(sent.starts_with("data:image/png;base64,"));
        let mut scaled = media(&file, Some(1));
        scaled.policy = scaled.policy.map(|policy| policy.with_size(8, 2));
        let parts = encoder(Dialect::OpenAi, |_| {}).picture(&scaled).unwrap();
        let sent = url(&parts[0].part(), "image_url");
        let bytes = STANDARD.decode(sent.strip_prefix("data:image/png;base64,").unwrap()).unwrap();
        let picture = image::load_from_memory(&bytes).unwrap();
        assert_eq!((picture.width(), picture.height()), (8, 2));
        let missing = media(&dir.path().join("none.png"), None);
        encoder(Dialect::OpenAi, |_| {}).picture(&missing).unwrap_err();
    }
}
