//! What of a clip the model gets to see: the clip as it is, or a view that hides time or all of it.

use std::path::Path;

use savi_judge::order::Order;
use savi_schema::{FrameSampling, Media, MediaPolicy};
use savi_video_ingest::{IngestError, IngestOptions, plan_times, probe};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What of a clip is shown. All but `Normal` are floors: a question that is still answered there
/// did not need what was hidden.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum View {
    /// The clip under the policy.
    #[default]
    Normal,
    /// The question alone.
    Blind,
    /// The middle one of the frames.
    OneFrame,
    /// The same frames in an order drawn for the clip, never that of time.
    Shuffled,
    /// The same frames, last one first.
    Reversed,
}

/// Why a view of a clip cannot be had.
#[derive(Debug, Error)]
#[error("{clip}: {source}")]
pub struct ViewError {
    /// The file.
    pub clip: String,
    /// Why it cannot be looked at.
    pub source: IngestError,
}

impl View {
    /// Every view.
    pub const ALL: [Self; 5] =
        [Self::Normal, Self::Blind, Self::OneFrame, Self::Shuffled, Self::Reversed];

    /// Its name on the command line and in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::Normal => "normal",
            Self::Blind => "blind",
            Self::OneFrame => "one-frame",
            Self::Shuffled => "shuffled",
            Self::Reversed => "reversed",
        }
    }

    /// The clip as this view shows it; `None` shows nothing. Views that change time or number of
    /// frames state explicit times, planned from the file's metadata; `seed` and `clip_id` decide
    /// the shuffled order.
    pub fn media(
        self,
        path: &Path,
        policy: &MediaPolicy,
        seed: u64,
        clip_id: &str,
        ingest: &IngestOptions,
    ) -> Result<Option<Media>, ViewError> {
        let source = path.display().to_string();
        if self == Self::Blind {
            return Ok(None);
        }
        let policy = if self == Self::Normal {
            policy.clone()
        } else {
            let planned = probe(&source, ingest)
                .and_then(|metadata| plan_times(&metadata, policy))
                .map_err(|error| ViewError { clip: source.clone(), source: error })?;
            let times = self.times(&planned, seed, clip_id);
            // Planned times lie inside the policy's part of the clip already.
            let sampling = FrameSampling::Times { times };
            MediaPolicy { sampling, start: None, end: None, ..policy.clone() }
        };
        Ok(Some(Media { source, policy: Some(policy) }))
    }

    /// Which of the `planned` moments are shown, in the order of showing.
    fn times(self, planned: &[f64], seed: u64, clip_id: &str) -> Vec<f64> {
        match self {
            Self::Normal => planned.to_vec(),
            Self::Blind => Vec::new(),
            Self::OneFrame => planned.get(planned.len() / 2).copied().into_iter().collect(),
            Self::Reversed => planned.iter().rev().copied().collect(),
            Self::Shuffled => {
                let mut attempt = 0u32;
                loop {
                    let names = ["shuffled", clip_id, &attempt.to_string()];
                    let order = Order::shuffled(planned.len(), seed, &names);
                    if planned.len() < 2 || order != Order::identity(planned.len()) {
                        break order.candidates().iter().map(|&place| planned[place]).collect();
                    }
                    attempt += 1;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_choose_and_order_the_planned_moments() {
        let planned = [0.5, 1.5, 2.5, 3.5];
        let times = |view: View| view.times(&planned, 7, "clip");
        assert_eq!(times(View::Normal), planned);
        assert_eq!(times(View::Blind), [0.0; 0]);
        assert_eq!(times(View::OneFrame), [2.5]);
        assert_eq!(times(View::Reversed), [3.5, 2.5, 1.5, 0.5]);
        let mut shuffled = times(View::Shuffled);
        assert_eq!(shuffled, times(View::Shuffled));
        shuffled.sort_by(f64::total_cmp);
        assert_eq!(shuffled, planned);
    }

    /// A folder of four grey pictures, each brighter than the one before.
    fn grey_folder() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for grey in 0u8..4 {
            let picture = image::RgbImage::from_pixel(2, 2, image::Rgb([grey * 60; 3]));
            picture.save(dir.path().join(format!("{grey:04}.png"))).unwrap();
        }
        dir
    }

    #[test]
    fn frames_come_as_the_view_orders_them() {
        let dir = grey_folder();
        let policy = MediaPolicy::count(4, savi_schema::CountRule::Linspace);
        let shown = |view: View| {
            let options = IngestOptions::default();
            let media = view.media(dir.path(), &policy, 7, "clip", &options).unwrap().unwrap();
            let policy = media.policy.unwrap();
            let clip = savi_video_ingest::read_clip(&media.source, &policy, &options).unwrap();
            clip.frames.iter().map(|frame| frame.image.data[0] / 60).collect::<Vec<u8>>()
        };
        assert_eq!(shown(View::Normal), [0, 1, 2, 3]);
        assert_eq!(shown(View::Reversed), [3, 2, 1, 0]);
        assert_eq!(shown(View::OneFrame), [2]);
        let mut shuffled = shown(View::Shuffled);
        assert_ne!(shuffled, [0, 1, 2, 3]);
        shuffled.sort_unstable();
        assert_eq!(shuffled, [0, 1, 2, 3]);
        let blind = View::Blind.media(dir.path(), &policy, 7, "clip", &IngestOptions::default());
        assert_eq!(blind.unwrap(), None);
    }

    #[test]
    fn shuffled_is_never_in_time_order() {
        for clip in 0..200 {
            let times = View::Shuffled.times(&[1.0, 2.0], 7, &clip.to_string());
            assert_eq!(times, [2.0, 1.0]);
        }
        assert_eq!(View::Shuffled.times(&[1.0], 7, "clip"), [1.0]);
    }

    #[test]
    fn names_are_those_of_records() {
        for view in View::ALL {
            let text = serde_json::to_string(&view).unwrap();
            assert_eq!(text, format!("\"{}\"", view.name()));
        }
    }
}
