//! From a policy to moments: which slots of a clip are looked at.
//!
//! The rules of the references number the frames of a clip, and number them as if they came at an
//! even rate. A clip of `n` frames over `duration` seconds is therefore seen as `n` equal slots, and
//! a rule chooses slots. Slot `i` starts at `i * duration / n`. In a clip of constant rate slot `i`
//! shows frame `i`, so the rules give exactly the references' frames; with a variable rate the slot
//! shows what a viewer sees at that time, where the references would be off by seconds.

use savi_schema::{ClipMetadata, CountRule, FrameSampling, MediaPolicy};

use crate::IngestError;

/// What a policy asks of a clip.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Plan {
    /// Slots, ascending; a slot may come more than once.
    Slots(Vec<u64>),
    /// Moments in seconds, in the order given.
    Times(Vec<f64>),
}

#[cfg(feature = "video")]
impl Plan {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Slots(slots) => slots.len(),
            Self::Times(times) => times.len(),
        }
    }
}

/// The moments, in seconds from the start of the clip, that a policy looks at: one for each frame
/// that [`crate::read_clip`] returns, which gives them as `requested`.
pub fn plan_times(metadata: &ClipMetadata, policy: &MediaPolicy) -> Result<Vec<f64>, IngestError> {
    Ok(match plan("clip", metadata, policy)? {
        Plan::Slots(slots) => slots.iter().map(|&slot| slot_start(metadata, slot)).collect(),
        Plan::Times(times) => times,
    })
}

/// Start of a slot in seconds.
pub(crate) fn slot_start(metadata: &ClipMetadata, slot: u64) -> f64 {
    slot as f64 * metadata.duration / metadata.frame_count.max(1) as f64
}

/// Carries out a policy on a clip of which only the metadata is known.
pub(crate) fn plan(
    file: &str,
    metadata: &ClipMetadata,
    policy: &MediaPolicy,
) -> Result<Plan, IngestError> {
    policy.validate().map_err(|source| IngestError::Policy { file: file.to_owned(), source })?;
    let range_error = |reason: String| IngestError::Range { file: file.to_owned(), reason };
    let n = metadata.frame_count;
    if n == 0 {
        return Err(IngestError::NoFrames { file: file.to_owned() });
    }
    if let Some(start) = policy.start
        && start > 0.0
        && start >= metadata.duration
    {
        let end = metadata.duration;
        return Err(range_error(format!("start {start} s is past the end of the clip at {end} s")));
    }
    match &policy.sampling {
        FrameSampling::Count { frames, rule } => {
            let (first, last) =
                bounds(metadata, policy, f64::round_ties_even, f64::round_ties_even);
            Ok(Plan::Slots(by_count(*rule, first, last, *frames)))
        }
        FrameSampling::Fps { fps, min_frames, max_frames, multiple_of, rule } => {
            let (first, last) = bounds(metadata, policy, f64::ceil, f64::floor);
            let total = last.saturating_sub(first) + 1;
            let count =
                smart_count(total, metadata.fps, *fps, (*min_frames, *max_frames), *multiple_of);
            if count == 0 {
                return Err(range_error(format!(
                    "{total} frames in range are fewer than the {multiple_of} that must come together"
                )));
            }
            Ok(Plan::Slots(match rule {
                CountRule::Linspace => linspace_rounded(first, last, count),
                rule => by_count(*rule, first, last, count),
            }))
        }
        FrameSampling::Times { times } => {
            let start = policy.start.unwrap_or(0.0);
            let end = policy.end.map_or(metadata.duration, |end| end.min(metadata.duration));
            if let Some(bad) = times.iter().find(|&&t| t < start || t > end + TIME_TOLERANCE) {
                return Err(range_error(format!("{bad} s is outside of {start} s to {end} s")));
            }
            Ok(Plan::Times(times.clone()))
        }
    }
}

/// Decimal times are compared with time-base ticks; a rounding error must not cost a frame.
pub(crate) const TIME_TOLERANCE: f64 = 1e-6;

/// First and last slot of the part that is looked at. Where the part is shorter than a slot the
/// slot at its start is taken.
fn bounds(
    metadata: &ClipMetadata,
    policy: &MediaPolicy,
    round_start: fn(f64) -> f64,
    round_end: fn(f64) -> f64,
) -> (u64, u64) {
    let last = metadata.frame_count - 1;
    let slot = |time: f64, round: fn(f64) -> f64| {
        // `as` saturates, so absurd rates stay in range.
        (round(time.clamp(0.0, metadata.duration) * metadata.fps) as u64).min(last)
    };
    let first = policy.start.map_or(0, |start| slot(start, round_start));
    let end = policy.end.map_or(last, |end| slot(end, round_end));
    (first, end.max(first))
}

fn by_count(rule: CountRule, first: u64, last: u64, frames: usize) -> Vec<u64> {
    let (start, end) = (first as f64, last as f64);
    let count = frames as f64;
    (0..frames)
        .map(|i| {
            let i = i as f64;
            let at = match rule {
                // InternVL's get_index: segments of (end - start) / frames, numpy rounding.
                CountRule::MidSegment => {
                    let segment = (end - start) / count;
                    start + segment / 2.0 + (segment * i).round_ties_even()
                }
                // numpy.linspace(start, end, frames, dtype=int), which rounds down; its last
                // value is `end` itself.
                CountRule::Linspace if frames == 1 => start,
                CountRule::Linspace if i == count - 1.0 => end,
                CountRule::Linspace => i * ((end - start) / (count - 1.0)) + start,
                // VLMEvalKit: i * len / (frames + 1) for i from 1.
                CountRule::Endpoint => start + (i + 1.0) * ((end - start + 1.0) / (count + 1.0)),
                // torch.arange(shift, len, len / frames).int(): rounded to single precision first.
                CountRule::SegmentStart => {
                    start + f64::from((i * ((end - start + 1.0) / count)) as f32)
                }
                CountRule::SegmentMiddle => {
                    let step = (end - start + 1.0) / count;
                    start + f64::from((step / 2.0 + i * step) as f32)
                }
            };
            (at as u64).clamp(first, last)
        })
        .collect()
}

/// qwen-vl-utils' smart_nframes: `total / video_fps * fps`, between the bounds and never more than
/// there are, down to a multiple. 0 where not even one multiple fits.
fn smart_count(total: u64, video_fps: f64, fps: f64, bounds: (usize, usize), of: usize) -> usize {
    let of = of as u64;
    let least = (bounds.0 as u64).div_ceil(of) * of;
    let most = (bounds.1 as u64).min(total) / of * of;
    let wanted = total as f64 / video_fps * fps;
    let count = wanted.max(least as f64).min(most as f64).min(total as f64);
    ((count / of as f64).floor() as u64 * of) as usize
}

/// `torch.linspace(first, last, count).round()`: single precision, filled from both ends, ties to
/// even.
fn linspace_rounded(first: u64, last: u64, count: usize) -> Vec<u64> {
    let (start, end) = (first as f32, last as f32);
    if count == 1 {
        return vec![first];
    }
    let step = (end - start) / (count - 1) as f32;
    (0..count)
        .map(|i| {
            let at = if i < count / 2 {
                start + step * i as f32
            } else {
                end - step * (count - 1 - i) as f32
            };
            (at.round_ties_even() as u64).clamp(first, last)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clip(frame_count: u64, fps: f64) -> ClipMetadata {
        let duration = frame_count as f64 / fps;
        let (width, height, rotation, codec) = (64, 48, 0, "h264".to_owned());
        ClipMetadata { duration, width, height, fps, frame_count, rotation, codec }
    }

    fn slots(frames: u64, policy: &MediaPolicy) -> Vec<u64> {
        match plan("clip", &clip(frames, 30.0), policy).expect("a plan") {
            Plan::Slots(slots) => slots,
            Plan::Times(times) => panic!("times {times:?}"),
        }
    }

    fn check(frames: u64, count: usize, rule: CountRule, expected: &[u64]) {
        assert_eq!(slots(frames, &MediaPolicy::count(count, rule)), expected, "{rule:?}");
    }

    // Expected values are numpy's and torch's, from the references' own expressions.
    #[test]
    fn by_count_as_the_references() {
        check(100, 8, CountRule::MidSegment, &[6, 18, 31, 43, 56, 68, 80, 93]);
        check(100, 8, CountRule::Linspace, &[0, 14, 28, 42, 56, 70, 84, 99]);
        check(100, 8, CountRule::Endpoint, &[11, 22, 33, 44, 55, 66, 77, 88]);
        check(3, 5, CountRule::MidSegment, &[0, 0, 1, 1, 2]);
        check(3, 5, CountRule::Linspace, &[0, 0, 1, 1, 2]);
        check(1, 2, CountRule::MidSegment, &[0, 0]);
        check(10, 1, CountRule::Linspace, &[0]);
        check(10, 1, CountRule::MidSegment, &[4]);
        check(10, 1, CountRule::Endpoint, &[5]);
    }

    /// By `torch.arange(shift, len, len / n).int()`, torch 2.11.
    #[test]
    fn by_count_as_transformers() {
        use CountRule::{SegmentMiddle, SegmentStart};
        check(10, 3, SegmentStart, &[0, 3, 6]);
        check(10, 3, SegmentMiddle, &[1, 5, 8]);
        check(100, 7, SegmentStart, &[0, 14, 28, 42, 57, 71, 85]);
        check(100, 7, SegmentMiddle, &[7, 21, 35, 50, 64, 78, 92]);
        let starts =
            [0, 82, 165, 248, 330, 413, 496, 578, 661, 744, 826, 909, 992, 1074, 1157, 1240];
        check(1323, 16, SegmentStart, &starts);
        let middles =
            [41, 124, 206, 289, 372, 454, 537, 620, 702, 785, 868, 950, 1033, 1116, 1198, 1281];
        check(1323, 16, SegmentMiddle, &middles);
        // As many as there are: every frame once.
        let all: Vec<u64> = (0..49).collect();
        check(49, 49, SegmentStart, &all);
        check(49, 49, SegmentMiddle, &all);
    }

    #[test]
    fn by_count_within_bounds() {
        let mut policy = MediaPolicy::count(4, CountRule::MidSegment);
        (policy.start, policy.end) = (Some(1.0), Some(2.0));
        assert_eq!(slots(100, &policy), [33, 41, 48, 55]);
        policy.end = Some(50.0);
        policy.start = None;
        assert_eq!(slots(100, &policy), slots(100, &MediaPolicy::count(4, CountRule::MidSegment)));
        policy.start = Some(10.0);
        assert!(plan("clip", &clip(100, 30.0), &policy).is_err());
    }

    fn fps(fps: f64, bounds: (usize, usize), multiple_of: usize) -> MediaPolicy {
        let (min_frames, max_frames) = bounds;
        let rule = CountRule::Linspace;
        MediaPolicy::new(FrameSampling::Fps { fps, min_frames, max_frames, multiple_of, rule })
    }

    #[test]
    fn by_rate_as_qwen() {
        // 100 frames at 30/s are 3.33 s: 6.67 frames at 2/s, down to 6.
        assert_eq!(slots(100, &fps(2.0, (4, 768), 2)), [0, 20, 40, 59, 79, 99]);
        // Bounds: at least 4, at most 8, never more than there are.
        assert_eq!(slots(20, &fps(2.0, (4, 768), 2)).len(), 4);
        assert_eq!(slots(1000, &fps(2.0, (4, 8), 2)).len(), 8);
        assert_eq!(slots(5, &fps(60.0, (4, 768), 2)), [0, 1, 3, 4]);
        assert!(plan("clip", &clip(1, 30.0), &fps(2.0, (4, 768), 2)).is_err());
        assert_eq!(slots(1, &fps(2.0, (1, 768), 1)), [0]);
    }

    #[test]
    fn times_keep_their_order_and_stay_inside() {
        let times = |times: Vec<f64>| MediaPolicy::new(FrameSampling::Times { times });
        let planned = plan_times(&clip(30, 30.0), &times(vec![0.9, 0.1, 1.0])).expect("a plan");
        assert_eq!(planned, [0.9, 0.1, 1.0]);
        assert!(plan_times(&clip(30, 30.0), &times(vec![1.1])).is_err());
    }

    #[test]
    fn slots_start_where_even_frames_do() {
        let policy = MediaPolicy::count(4, CountRule::Linspace);
        let planned = plan_times(&clip(31, 30.0), &policy).expect("a plan");
        for (time, frame) in planned.iter().zip([0.0, 10.0, 20.0, 30.0]) {
            assert!((time - frame / 30.0).abs() < 1e-12);
        }
    }
}
