//! The front door: from a source and a policy to a clip.

use std::path::Path;

use rayon::prelude::*;
use savi_schema::{Clip, ClipMetadata, Frame, FrameSampling, MediaPolicy, RgbImage};

use crate::source::{Kind, Source};
use crate::{IngestError, IngestOptions, folder};

/// What a reader needs to know.
pub(crate) struct Request<'a> {
    pub(crate) file: &'a str,
    pub(crate) path: &'a Path,
    pub(crate) policy: MediaPolicy,
    pub(crate) options: &'a IngestOptions,
    #[cfg_attr(not(feature = "video"), expect(dead_code, reason = "frame folders need none"))]
    pub(crate) threads: usize,
}

/// A frame that was asked for.
pub(crate) struct Picked {
    pub(crate) time: f64,
    pub(crate) requested: f64,
    pub(crate) index: Option<u64>,
    pub(crate) image: RgbImage,
}

/// What a reader returns.
pub(crate) struct Finished {
    pub(crate) metadata: ClipMetadata,
    pub(crate) picked: Vec<Picked>,
    pub(crate) partial: Option<String>,
}

/// What a file says about itself, read without decoding.
pub fn probe(source: &str, options: &IngestOptions) -> Result<ClipMetadata, IngestError> {
    let source = Source::parse(source, options)?;
    match source.kind()? {
        Kind::Folder => folder::probe(&source.file, &source.path, options),
        Kind::File => probe_file(&source, options),
    }
}

/// Reads the frames of one clip that `policy` asks for. `source` is a file, a folder of pictures,
/// or either with `#t=start,end` behind it.
pub fn read_clip(
    source: &str,
    policy: &MediaPolicy,
    options: &IngestOptions,
) -> Result<Clip, IngestError> {
    read_with(source, policy, options, threads(options, 1))
}

/// Reads several clips at once, in the order given.
pub fn read_clips(
    sources: &[(String, MediaPolicy)],
    options: &IngestOptions,
) -> Vec<Result<Clip, IngestError>> {
    let threads = threads(options, sources.len());
    sources.par_iter().map(|(source, policy)| read_with(source, policy, options, threads)).collect()
}

fn read_with(
    source: &str,
    policy: &MediaPolicy,
    options: &IngestOptions,
    threads: usize,
) -> Result<Clip, IngestError> {
    let source = Source::parse(source, options)?;
    let policy = source.bound(policy);
    policy.validate().map_err(|e| IngestError::Policy { file: source.file.clone(), source: e })?;
    let kind = source.kind()?;
    let (file, path) = (source.file.as_str(), source.path.as_path());
    let request = Request { file, path, policy, options, threads };
    let finished = match kind {
        Kind::Folder => folder::read(&request)?,
        Kind::File => read_file(&request)?,
    };
    let frames = finished
        .picked
        .into_iter()
        .map(|p| Frame { time: p.time, requested: p.requested, index: p.index, image: p.image })
        .collect();
    let policy = request.policy;
    let frames = in_order_of_asking(frames, &policy);
    let (metadata, partial) = (finished.metadata, finished.partial);
    Ok(Clip { source: source.file, metadata, policy, frames, partial })
}

/// Readers go forward in time; explicit times are given back in the order in which they were asked
/// for, so that a policy can show a clip backwards or shuffled.
fn in_order_of_asking(frames: Vec<Frame>, policy: &MediaPolicy) -> Vec<Frame> {
    let FrameSampling::Times { times } = &policy.sampling else { return frames };
    let mut order: Vec<usize> = (0..times.len()).collect();
    order.sort_by(|&a, &b| times[a].total_cmp(&times[b]));
    let mut places = order.into_iter().peekable();
    let mut placed: Vec<(usize, Frame)> = Vec::with_capacity(frames.len());
    for frame in frames {
        // Frames that are missing from a partial clip leave their places empty.
        while places.next_if(|&place| times[place] < frame.requested).is_some() {}
        placed.push((places.next().unwrap_or(times.len()), frame));
    }
    placed.sort_by_key(|(place, _)| *place);
    placed.into_iter().map(|(_, frame)| frame).collect()
}

#[cfg(feature = "video")]
fn probe_file(source: &Source, options: &IngestOptions) -> Result<ClipMetadata, IngestError> {
    crate::av::probe(&source.file, &source.path, options)
}

#[cfg(feature = "video")]
fn read_file(request: &Request<'_>) -> Result<Finished, IngestError> {
    crate::av::read(request)
}

#[cfg(not(feature = "video"))]
fn probe_file(source: &Source, _: &IngestOptions) -> Result<ClipMetadata, IngestError> {
    Err(no_video(&source.file))
}

#[cfg(not(feature = "video"))]
fn read_file(request: &Request<'_>) -> Result<Finished, IngestError> {
    Err(no_video(request.file))
}

#[cfg(not(feature = "video"))]
fn no_video(file: &str) -> IngestError {
    let codec = "reading video files (built without the feature `video`)".to_owned();
    IngestError::Unsupported { file: file.to_owned(), codec }
}

/// Decoder threads: what was asked for, or the machine's cores up to four for one clip. Several
/// clips keep the cores busy by themselves.
fn threads(options: &IngestOptions, clips: usize) -> usize {
    match options.threads {
        0 if clips > 1 => 1,
        0 => std::thread::available_parallelism().map_or(1, usize::from).min(4),
        n => n.min(64),
    }
}
