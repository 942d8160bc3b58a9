//! Frames by time against PyAV on clips that hit every trap (tests/goldens/ingest/make.py): times
//! exactly, pictures within [`MEAN`] and [`LARGEST`].

use std::path::{Path, PathBuf};

use savi_schema::{Clip, CountRule, FrameSampling, MediaPolicy, RgbImage};
use savi_video_ingest::{IngestError, IngestOptions, probe, read_clip, read_clips};

/// Mean absolute difference of a picture, in levels. The reference converts 4:2:0 with swscale's
/// fast path, which cuts fractions off: it is 1.1 levels below the exact values on average.
const MEAN: f64 = 1.25;
/// Largest difference of a single value; the fast path is up to 3 levels off.
const LARGEST: u8 = 4;
/// Times come from the same ticks and one division.
const SECONDS: f64 = 1e-9;

struct Golden {
    clip: String,
    size: (u32, u32),
    rotation: u32,
    times: Vec<f64>,
    /// Which frames have pictures, and the pictures.
    shown: Vec<usize>,
    pictures: Vec<RgbImage>,
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/ingest")
}

fn goldens() -> Vec<Golden> {
    let text = std::fs::read_to_string(folder().join("goldens.json")).unwrap();
    let list: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    list.iter().map(golden).collect()
}

fn golden(value: &serde_json::Value) -> Golden {
    let number = |key: &str| value[key].as_u64().unwrap() as u32;
    let clip = value["clip"].as_str().unwrap().to_owned();
    let (width, height) = (number("width"), number("height"));
    let strip = image::open(folder().join(format!("{clip}.png"))).unwrap().into_rgb8();
    let pictures = strip
        .as_raw()
        .chunks(width as usize * height as usize * 3)
        .map(|bytes| RgbImage::new(width, height, bytes.to_vec()).unwrap())
        .collect();
    let list = |key: &str| value[key].as_array().unwrap().clone();
    Golden {
        clip,
        size: (width, height),
        rotation: number("rotation"),
        times: list("times").iter().map(|t| t.as_f64().unwrap()).collect(),
        shown: list("shown").iter().map(|i| i.as_u64().unwrap() as usize).collect(),
        pictures,
    }
}

impl Golden {
    fn source(&self) -> String {
        folder().join(&self.clip).display().to_string()
    }

    fn read(&self, sampling: FrameSampling) -> Result<Clip, IngestError> {
        read_clip(&self.source(), &MediaPolicy::new(sampling), &IngestOptions::default())
    }

    /// What is wrong with `clip`: frames out of `expected`, times that are not those of the index,
    /// pictures that are not the reference's.
    fn faults(&self, clip: Result<Clip, IngestError>, expected: &[u64]) -> Vec<String> {
        let clip = match clip {
            Ok(clip) => clip,
            Err(error) => return vec![error.to_string()],
        };
        let name = &self.clip;
        let mut faults = Vec::new();
        if indices(&clip) != expected || clip.partial.is_some() {
            let found = indices(&clip);
            faults.push(format!("{name}: frames {found:?}, not {expected:?}; {:?}", clip.partial));
        }
        for frame in &clip.frames {
            let index = frame.index.unwrap() as usize;
            if self.times.get(index).is_none_or(|t| (frame.time - t).abs() > SECONDS) {
                faults.push(format!("{name} {index}: at {} s", frame.time));
            }
            let Some(place) = self.shown.iter().position(|&i| i == index) else { continue };
            let (mean, largest) = difference(&frame.image, &self.pictures[place]);
            if mean > MEAN || largest > LARGEST {
                faults.push(format!("{name} {index}: differs by {mean:.3}, at most {largest}"));
            }
        }
        faults
    }

    /// Number of the frame that is shown at `time`.
    fn shown_at(&self, time: f64) -> u64 {
        self.times.iter().rposition(|&t| t <= time + 1e-9).unwrap() as u64
    }
}

fn difference(ours: &RgbImage, theirs: &RgbImage) -> (f64, u8) {
    assert_eq!((ours.width, ours.height), (theirs.width, theirs.height));
    let pairs = ours.data.iter().zip(theirs.data.iter());
    let (sum, largest) = pairs.fold((0u64, 0u8), |(sum, largest), (&a, &b)| {
        let d = a.abs_diff(b);
        (sum + u64::from(d), largest.max(d))
    });
    (sum as f64 / ours.data.len() as f64, largest)
}

fn none_of(faults: Vec<String>) {
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn indices(clip: &Clip) -> Vec<u64> {
    clip.frames.iter().map(|f| f.index.unwrap()).collect()
}

#[test]
fn every_trap_has_its_clip() {
    let goldens = goldens();
    assert!(goldens.len() >= 40, "{}", goldens.len());
    let traps = [
        "vfr",
        "open-gop",
        "long-gop",
        "bframes",
        "offset.ts",
        "offset.mkv",
        "rotate90",
        "rotate180",
        "rotate270",
        "10bit",
        "odd",
        "bt601",
        "bt709",
        "bt2020",
        "full-range",
        "mpeg2",
        "mpeg4",
        "vp8",
        "vp9",
        "av1",
        "hevc",
        "gif",
        "cinepak",
        "msmpeg4",
        ".webm",
        ".avi",
        ".mov",
        "edit-list",
    ];
    for trap in traps {
        assert!(goldens.iter().any(|g| g.clip.contains(trap)), "{trap}");
    }
}

#[test]
fn all_frames_agree() {
    let mut faults = Vec::new();
    for golden in goldens() {
        let all: Vec<u64> = (0..golden.times.len() as u64).collect();
        let clip = golden.read(FrameSampling::Times { times: golden.times.clone() });
        if let Ok(Clip { metadata, .. }) = &clip
            && ((metadata.width, metadata.height) != golden.size
                || metadata.rotation != golden.rotation
                || metadata.frame_count != all.len() as u64)
        {
            faults.push(format!("{}: {metadata:?}", golden.clip));
        }
        faults.extend(golden.faults(clip, &all));
    }
    none_of(faults);
}

#[test]
fn few_frames_are_the_same_frames() {
    let mut faults = Vec::new();
    for golden in goldens() {
        let n = golden.times.len() as u64;
        // What each rule's reference gives for n frames.
        let middle = |i: u64| {
            let segment = (n - 1) as f64 / 4.0;
            (segment / 2.0 + (segment * i as f64).round_ties_even()) as u64
        };
        let rules = [
            (CountRule::Linspace, vec![0, (n - 1) / 2, n - 1]),
            (CountRule::Endpoint, vec![n / 3, 2 * n / 3]),
            (CountRule::MidSegment, (0..4).map(middle).collect()),
        ];
        for (rule, expected) in rules {
            let clip = golden.read(FrameSampling::Count { frames: expected.len(), rule });
            // With a variable rate a rule's slots are equal parts of the time, not of the frames.
            let expected = match &clip {
                Ok(clip) if golden.clip.contains("vfr") => {
                    let slot = clip.metadata.duration / n as f64;
                    expected.iter().map(|&i| golden.shown_at((i as f64 + 0.5) * slot)).collect()
                }
                _ => expected,
            };
            faults.extend(golden.faults(clip, &expected));
        }
        // Each frame alone, from a fresh reader: where decoding starts must not change what it is.
        for &index in &golden.shown {
            let clip = golden.read(FrameSampling::Times { times: vec![golden.times[index]] });
            faults.extend(golden.faults(clip, &[index as u64]));
        }
    }
    none_of(faults);
}

#[test]
fn between_two_frames_the_earlier_is_shown() {
    let mut faults = Vec::new();
    for golden in goldens() {
        let times: Vec<f64> =
            golden.times.windows(2).rev().map(|pair| 0.25 * pair[0] + 0.75 * pair[1]).collect();
        let expected: Vec<u64> = times.iter().map(|&t| golden.shown_at(t)).collect();
        let clip = golden.read(FrameSampling::Times { times: times.clone() });
        if let Ok(clip) = &clip {
            assert!(clip.frames.iter().zip(&times).all(|(f, &t)| f.requested == t));
        }
        faults.extend(golden.faults(clip, &expected));
    }
    none_of(faults);
}

#[test]
fn parts_of_a_clip() {
    let all = goldens();
    let golden = all.iter().find(|g| g.clip == "h264-bframes-long-gop.mp4").unwrap();
    let options = IngestOptions::default();
    let mut policy = MediaPolicy::count(3, CountRule::Linspace);
    (policy.start, policy.end) = (Some(0.4), Some(0.8));
    let clip = read_clip(&golden.source(), &policy, &options).unwrap();
    assert_eq!(indices(&clip), [10, 15, 20]);
    let fragment = format!("{}#t=0.4,0.8", golden.source());
    let policy = MediaPolicy::count(3, CountRule::Linspace);
    let same = read_clip(&fragment, &policy, &options).unwrap();
    assert_eq!(indices(&same), [10, 15, 20]);
    assert_eq!((same.policy.start, same.policy.end), (Some(0.4), Some(0.8)));
    let (fps, rule) = (5.0, CountRule::Linspace);
    let sampling = FrameSampling::Fps { fps, min_frames: 2, max_frames: 100, multiple_of: 2, rule };
    let clip = golden.read(sampling).unwrap();
    assert_eq!(indices(&clip), [0, 8, 15, 23]);
}

#[test]
fn several_clips_at_once_and_one_alone_are_the_same() {
    let policy = MediaPolicy::count(4, CountRule::MidSegment).with_size(32, 24);
    let sources: Vec<(String, MediaPolicy)> =
        goldens().iter().map(|g| (g.source(), policy.clone())).collect();
    let together = read_clips(&sources, &IngestOptions::default());
    for ((source, policy), clip) in sources.iter().zip(together) {
        for threads in [1, 3] {
            let options = IngestOptions { threads, ..IngestOptions::default() };
            let alone = read_clip(source, policy, &options).unwrap();
            assert_eq!(&alone, clip.as_ref().unwrap(), "{source}");
        }
    }
}

#[test]
fn metadata_without_decoding() {
    for golden in goldens() {
        // Only decoding tells that the first pictures of a cut clip are lost.
        if golden.clip.contains("cut") {
            continue;
        }
        let metadata = probe(&golden.source(), &IngestOptions::default()).unwrap();
        assert_eq!(metadata.frame_count, golden.times.len() as u64, "{}", golden.clip);
        assert_eq!((metadata.width, metadata.height), golden.size, "{}", golden.clip);
        assert_eq!(metadata.rotation, golden.rotation, "{}", golden.clip);
        let last = golden.times[golden.times.len() - 1];
        let tail = metadata.duration - last;
        assert!(tail > 0.0 && tail < 0.5, "{}: {} after {last}", golden.clip, metadata.duration);
        assert!(!golden.clip.starts_with("h264-") || metadata.codec == "h264", "{}", golden.clip);
    }
}
