//! The moments that a policy looks at, on the frame grid of the file that a scene is written to.

use savi_schema::{ClipMetadata, MediaPolicy};

use super::scene::Scene;

impl Scene {
    /// What the file of this scene says about itself.
    pub fn metadata(&self) -> ClipMetadata {
        ClipMetadata {
            duration: self.duration(),
            width: self.width,
            height: self.height,
            fps: f64::from(self.fps),
            frame_count: u64::from(self.frame_count),
            rotation: 0,
            codec: "h264".to_owned(),
        }
    }
}

/// Presentation times, in seconds, of the frames that `policy` takes from the file of a scene;
/// none where the policy cannot be carried out on it.
pub fn sample_times(scene: &Scene, policy: &MediaPolicy) -> Vec<f64> {
    let time = |index: u32| f64::from(index) / f64::from(scene.fps);
    sample_indices(scene, policy).into_iter().map(time).collect()
}

/// The same as frame numbers: the frame shown at a moment is the last that starts by then.
pub(super) fn sample_indices(scene: &Scene, policy: &MediaPolicy) -> Vec<u32> {
    let shown = |time: f64| {
        let index = (time * f64::from(scene.fps) + 1e-4).floor().max(0.0);
        (index as u32).min(scene.frame_count - 1)
    };
    let times = savi_video_ingest::plan_times(&scene.metadata(), policy).unwrap_or_default();
    times.into_iter().map(shown).collect()
}
