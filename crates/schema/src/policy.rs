//! How a clip becomes frames: one value, saved with records and checkpoints.

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Which frames are taken when their number is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CountRule {
    /// The middle of each of N equal segments (InternVL).
    #[default]
    MidSegment,
    /// N points from the first to the last frame, both included (LLaVA, decord users).
    Linspace,
    /// Interior points `i * len / (n + 1)`, neither end included (VLMEvalKit).
    Endpoint,
    /// The first frame of each of N equal parts, `i * len / n` (transformers' video processors).
    SegmentStart,
    /// The middle of each of N equal parts, `(i + 1/2) * len / n` (transformers' InternVL).
    SegmentMiddle,
}

/// Which moments of a clip are looked at.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "by", rename_all = "kebab-case", deny_unknown_fields)]
pub enum FrameSampling {
    /// A fixed number of frames.
    Count {
        /// How many.
        frames: usize,
        /// By which rule.
        #[serde(default)]
        rule: CountRule,
    },
    /// A rate, with bounds on the number of frames (qwen-vl-utils).
    Fps {
        /// Frames per second of the clip.
        fps: f64,
        /// At least this many frames.
        min_frames: usize,
        /// At most this many frames.
        max_frames: usize,
        /// The number of frames is a multiple of this (Qwen2-VL's temporal patch: 2).
        #[serde(default = "one")]
        multiple_of: usize,
        /// Which frames, once their number is known: `linspace` (qwen-vl-utils, which rounds to the
        /// nearest), or any other rule.
        #[serde(default = "linspace")]
        rule: CountRule,
    },
    /// Explicit moments, in seconds from the start of the clip.
    Times {
        /// The moments, in the order in which their frames are shown.
        times: Vec<f64>,
    },
}

fn one() -> usize {
    1
}

fn linspace() -> CountRule {
    CountRule::Linspace
}

/// How a clip becomes frames.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MediaPolicy {
    /// Which moments.
    pub sampling: FrameSampling,
    /// Start of the part that is looked at, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<f64>,
    /// End of the part that is looked at, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub end: Option<f64>,
    /// Exact output size `(width, height)`; `None` keeps the display size.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<(u32, u32)>,
    /// The filter used for scaling.
    #[serde(default)]
    pub resampling: crate::Resampling,
}

/// Most frames that a policy may name, and the longest side that it may scale to: what is more is a
/// slip, and would cost memory before anything else could refuse it.
const MOST_FRAMES: usize = 1 << 20;
const LONGEST_SIDE: u32 = 16_384;

impl MediaPolicy {
    /// `frames` frames by `rule`, at display size.
    pub fn count(frames: usize, rule: CountRule) -> Self {
        Self::new(FrameSampling::Count { frames, rule })
    }

    /// `sampling` over the whole clip, at display size.
    pub fn new(sampling: FrameSampling) -> Self {
        Self { sampling, start: None, end: None, size: None, resampling: Default::default() }
    }

    /// The same policy with frames scaled to `width` x `height`.
    #[must_use]
    pub fn with_size(mut self, width: u32, height: u32) -> Self {
        self.size = Some((width, height));
        self
    }

    /// Refuses what cannot be carried out: no frames or a million, negative rates, empty ranges,
    /// sizes of zero or beyond all bounds.
    pub fn validate(&self) -> Result<(), PolicyError> {
        let bad = |what: &str| Err(PolicyError(what.to_owned()));
        let named = match &self.sampling {
            FrameSampling::Count { frames, .. } => *frames,
            FrameSampling::Fps { max_frames, .. } => *max_frames,
            FrameSampling::Times { times } => times.len(),
        };
        if named > MOST_FRAMES {
            return bad(&format!("{named} frames are more than {MOST_FRAMES}"));
        }
        match &self.sampling {
            FrameSampling::Count { frames: 0, .. } => return bad("frames must be at least 1"),
            FrameSampling::Count { .. } => {}
            FrameSampling::Fps { fps, min_frames, max_frames, multiple_of, .. } => {
                if !(fps.is_finite() && *fps > 0.0) {
                    return bad("fps must be a positive number");
                }
                if *min_frames == 0 || min_frames > max_frames {
                    return bad("min_frames must be at least 1 and at most max_frames");
                }
                if *multiple_of == 0 || multiple_of > max_frames {
                    return bad("multiple_of must be at least 1 and at most max_frames");
                }
            }
            FrameSampling::Times { times } => {
                if times.is_empty() {
                    return bad("times must name at least one moment");
                }
                if times.iter().any(|t| !t.is_finite() || *t < 0.0) {
                    return bad("times must be non-negative numbers");
                }
            }
        }
        for (name, bound) in [("start", self.start), ("end", self.end)] {
            if bound.is_some_and(|b| !b.is_finite() || b < 0.0) {
                return bad(&format!("{name} must be a non-negative number"));
            }
        }
        if let (Some(start), Some(end)) = (self.start, self.end)
            && start >= end
        {
            return bad("start must be before end");
        }
        if self.size.is_some_and(|(w, h)| w == 0 || h == 0) {
            return bad("size must be positive");
        }
        if self.size.is_some_and(|(w, h)| w.max(h) > LONGEST_SIDE) {
            return bad(&format!("size may be at most {LONGEST_SIDE} on each side"));
        }
        Ok(())
    }
}

/// A policy that cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("media policy: {0}")]
pub struct PolicyError(String);
