//! The moments that a policy looks at, on the frame grid of the file that a scene is written to.

use savi_schema::{CountRule, FrameSampling, MediaPolicy};

use super::scene::Scene;

/// Presentation times, in seconds, of the frames that `policy` takes from the written file: each
/// a whole number of frame durations.
pub fn sample_times(scene: &Scene, policy: &MediaPolicy) -> Vec<f64> {
    sample_indices(scene, policy)
        .into_iter()
        .map(|index| f64::from(index) / f64::from(scene.fps))
        .collect()
}

/// The same as frame numbers.
pub(super) fn sample_indices(scene: &Scene, policy: &MediaPolicy) -> Vec<u32> {
    let count = scene.frame_count;
    let fps = f64::from(scene.fps);
    let start = policy.start.unwrap_or(0.0);
    let end = policy.end.unwrap_or_else(|| scene.duration()).min(scene.duration());
    let shown = |time: f64| ((time * fps + 1e-6).floor().max(0.0) as u32).min(count - 1);
    let times: Vec<f64> = match &policy.sampling {
        FrameSampling::Count { frames, rule } => {
            let (n, span) = (*frames as f64, end - start);
            (0..*frames)
                .map(|i| match rule {
                    CountRule::MidSegment => start + span * (i as f64 + 0.5) / n,
                    CountRule::Linspace if *frames == 1 => start,
                    CountRule::Linspace => start + (span - 1.0 / fps) * i as f64 / (n - 1.0),
                    CountRule::Endpoint => start + span * (i as f64 + 1.0) / (n + 1.0),
                })
                .collect()
        }
        FrameSampling::Fps { fps: rate, min_frames, max_frames, multiple_of } => {
            let wanted = ((end - start) * rate).round() as usize;
            let most = (*max_frames).min(count as usize) / multiple_of * multiple_of;
            let frames = (wanted / multiple_of * multiple_of).clamp(*min_frames, most.max(1));
            (0..frames)
                .map(|i| start + (end - start - 1.0 / fps) * i as f64 / (frames.max(2) - 1) as f64)
                .collect()
        }
        FrameSampling::Times { times } => times.iter().map(|t| start + t).collect(),
    };
    times.into_iter().map(shown).collect()
}
