//! `savi ingest`: frames, their times and a contact sheet out of clips.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;
use savi_schema::{
    Clip, ClipMetadata, CountRule, FrameSampling, MediaPolicy, RgbImage, SCHEMA_VERSION,
};
use savi_video_ingest::{IngestOptions, Limits, read_clips};
use serde::Serialize;

use crate::contact_sheet::contact_sheet;
use crate::exit::BadInput;

/// Read frames out of clips: pictures, frames.json (times, indices, policy) and a contact sheet.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Video files or folders of pictures; `FILE#t=START,END` reads a part.
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    /// Number of frames, chosen by --rule.
    #[arg(long, value_name = "N", conflicts_with_all = ["fps", "times"])]
    frames: Option<usize>,
    /// Which frames are taken when their number is given.
    #[arg(long, value_enum, default_value_t = Rule::MidSegment)]
    rule: Rule,
    /// Frames per second of the clip, within --min-frames and --max-frames.
    #[arg(long, value_name = "F", conflicts_with = "times")]
    fps: Option<f64>,
    /// Fewest frames with --fps.
    #[arg(long, value_name = "N", default_value_t = 4)]
    min_frames: usize,
    /// Most frames with --fps.
    #[arg(long, value_name = "N", default_value_t = 768)]
    max_frames: usize,
    /// With --fps the number of frames is a multiple of this.
    #[arg(long, value_name = "N", default_value_t = 2)]
    multiple_of: usize,
    /// Explicit moments, in seconds from the start of the clip.
    #[arg(long, value_name = "S,S,..", value_delimiter = ',')]
    times: Option<Vec<f64>>,
    /// Size of the frames; the display size if not given.
    #[arg(long, value_name = "WxH", value_parser = parse_size)]
    size: Option<(u32, u32)>,
    /// Start of the part that is looked at, in seconds.
    #[arg(long, value_name = "S")]
    start: Option<f64>,
    /// End of the part that is looked at, in seconds.
    #[arg(long, value_name = "S")]
    end: Option<f64>,
    /// Keep the frames that can be had of damaged clips; frames.json says what is missing.
    #[arg(long)]
    allow_partial: bool,
    /// Seconds allowed per clip.
    #[arg(long, value_name = "S", default_value_t = 600.0)]
    deadline: f64,
    /// Longest video that is read, in seconds.
    #[arg(long, value_name = "S", default_value_t = Limits::default().max_duration)]
    max_duration: f64,
    /// Longest side of a frame that is read, in pixels.
    #[arg(long, value_name = "N", default_value_t = Limits::default().max_side)]
    max_side: u32,
    /// FFmpeg protocols that may be opened besides `file`.
    #[arg(long, value_name = "NAME")]
    allow_protocol: Vec<String>,
    /// Decoder threads per clip; 0 chooses.
    #[arg(long, value_name = "N", default_value_t = 0)]
    threads: usize,
    /// Folder for the results; several clips get a folder each in it.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// [`CountRule`] as the command line spells it.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum Rule {
    /// The middle of each of N equal segments.
    MidSegment,
    /// N points from the first to the last frame.
    Linspace,
    /// N interior points, neither end included.
    Endpoint,
    /// The first frame of each of N equal parts.
    SegmentStart,
    /// The middle of each of N equal parts, rounded down.
    SegmentMiddle,
}

/// What frames.json says of a clip.
#[derive(Debug, Serialize)]
struct Report<'a> {
    schema: u32,
    source: &'a str,
    metadata: &'a ClipMetadata,
    policy: &'a MediaPolicy,
    partial: Option<&'a str>,
    frames: Vec<FrameLine>,
}

#[derive(Debug, Serialize)]
struct FrameLine {
    file: String,
    time: f64,
    requested: f64,
    index: Option<u64>,
}

pub(crate) fn run(args: Args, global: &crate::Global) -> anyhow::Result<()> {
    let policy = policy(&args);
    policy.validate().map_err(|e| BadInput(e.into()))?;
    if !(args.deadline.is_finite() && args.deadline > 0.0 && args.deadline < 1e9) {
        return Err(BadInput(anyhow::anyhow!("--deadline must be a positive number")).into());
    }
    let mut allow_protocols = IngestOptions::default().allow_protocols;
    allow_protocols.extend(args.allow_protocol.iter().cloned());
    let (max_duration, max_side) = (args.max_duration, args.max_side);
    let options = IngestOptions {
        limits: Limits { max_duration, max_side, ..Limits::default() },
        allow_protocols,
        allow_partial: args.allow_partial,
        deadline: Some(Duration::from_secs_f64(args.deadline)),
        threads: args.threads,
    };
    let folders = folders(&args);
    let sources: Vec<(String, MediaPolicy)> =
        args.files.iter().map(|file| (file.clone(), policy.clone())).collect();
    // No more clips in memory at once than are read at once.
    let chunk = std::thread::available_parallelism().map_or(1, usize::from);
    let mut reports = Vec::new();
    let mut failures = Vec::new();
    for (sources, folders) in sources.chunks(chunk).zip(folders.chunks(chunk)) {
        for (clip, folder) in read_clips(sources, &options).into_iter().zip(folders) {
            match clip {
                Ok(clip) => {
                    let report = write(&clip, folder)?;
                    if !global.json {
                        let partial = clip.partial.as_ref().map(|p| format!(" (partial: {p})"));
                        println!(
                            "{}: {} frames in {}{}",
                            clip.source,
                            clip.frames.len(),
                            folder.display(),
                            partial.unwrap_or_default()
                        );
                    }
                    reports.push(report);
                }
                Err(error) => failures.push(error),
            }
        }
    }
    if global.json {
        println!("{}", serde_json::to_string_pretty(&reports)?);
    }
    let Some(last) = failures.pop() else { return Ok(()) };
    for error in &failures {
        tracing::error!("{error}");
    }
    if last.is_bad_input() { Err(BadInput(last.into()).into()) } else { Err(last.into()) }
}

fn policy(args: &Args) -> MediaPolicy {
    let rule = match args.rule {
        Rule::MidSegment => CountRule::MidSegment,
        Rule::Linspace => CountRule::Linspace,
        Rule::Endpoint => CountRule::Endpoint,
        Rule::SegmentStart => CountRule::SegmentStart,
        Rule::SegmentMiddle => CountRule::SegmentMiddle,
    };
    let sampling = match (&args.times, args.fps) {
        (Some(times), _) => FrameSampling::Times { times: times.clone() },
        (None, Some(fps)) => FrameSampling::Fps {
            fps,
            min_frames: args.min_frames,
            max_frames: args.max_frames,
            multiple_of: args.multiple_of,
            rule: CountRule::Linspace,
        },
        (None, None) => FrameSampling::Count { frames: args.frames.unwrap_or(8), rule },
    };
    let (start, end, size) = (args.start, args.end, args.size);
    MediaPolicy { start, end, size, ..MediaPolicy::new(sampling) }
}

fn parse_size(text: &str) -> Result<(u32, u32), String> {
    let parsed = text.split_once(['x', 'X']).and_then(|(width, height)| {
        let side = |s: &str| s.parse::<u32>().ok().filter(|s| (1..=16_384).contains(s));
        Some((side(width)?, side(height)?))
    });
    parsed.ok_or_else(|| format!("`{text}` is no size; write WIDTHxHEIGHT, at most 16384 each"))
}

/// Where each clip's results go: `--out` itself for one, a folder by the file's name for several.
fn folders(args: &Args) -> Vec<PathBuf> {
    if args.files.len() == 1 {
        return vec![args.out.clone()];
    }
    let mut taken = HashSet::new();
    args.files
        .iter()
        .map(|file| {
            let file = file.rsplit_once("#t=").map_or(file.as_str(), |(file, _)| file);
            let stem = Path::new(file).file_stem().map(|s| s.to_string_lossy().into_owned());
            let stem = stem.unwrap_or_else(|| "clip".to_owned());
            let mut name = stem.clone();
            for number in 2.. {
                if taken.insert(name.clone()) {
                    break;
                }
                name = format!("{stem}-{number}");
            }
            args.out.join(name)
        })
        .collect()
}

fn write(clip: &Clip, folder: &Path) -> anyhow::Result<serde_json::Value> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut frames = Vec::with_capacity(clip.frames.len());
    for (number, frame) in clip.frames.iter().enumerate() {
        let file = format!("frame-{number:04}.png");
        write_png(&folder.join(&file), &frame.image)?;
        let (time, requested, index) = (frame.time, frame.requested, frame.index);
        frames.push(FrameLine { file, time, requested, index });
    }
    write_png(&folder.join("contact-sheet.png"), &contact_sheet(&clip.frames)?)?;
    let report = serde_json::to_value(Report {
        schema: SCHEMA_VERSION,
        source: &clip.source,
        metadata: &clip.metadata,
        policy: &clip.policy,
        partial: clip.partial.as_deref(),
        frames,
    })?;
    let text = serde_json::to_string_pretty(&report)? + "\n";
    write_whole(&folder.join("frames.json"), text.as_bytes())?;
    Ok(report)
}

fn write_png(path: &Path, picture: &RgbImage) -> anyhow::Result<()> {
    let mut bytes = Vec::new();
    let encoder = image::codecs::png::PngEncoder::new(&mut bytes);
    let (width, height) = (picture.width, picture.height);
    image::ImageEncoder::write_image(
        encoder,
        &picture.data,
        width,
        height,
        image::ExtendedColorType::Rgb8,
    )
    .with_context(|| format!("cannot encode {}", path.display()))?;
    write_whole(path, &bytes)
}

/// A file is there whole or not at all.
fn write_whole(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let Some(folder) = path.parent() else { bail!("{} has no folder", path.display()) };
    let context = || format!("cannot write {}", path.display());
    let mut file = tempfile::NamedTempFile::new_in(folder).with_context(context)?;
    std::io::Write::write_all(&mut file, bytes).with_context(context)?;
    file.persist(path).with_context(context)?;
    Ok(())
}
