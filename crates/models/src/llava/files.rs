//! What the processors' files of a LLaVA say: they have to agree with the config, as both have a part in
//! how many tokens a picture has.

use savi_schema::{CountRule, FrameSampling, MediaPolicy};

use super::config::{Family, LlavaConfig};
use crate::ModelError;
use crate::look::{Look, Usual, settings};
use crate::processing::{Normalise, Processors, Size};
use crate::reader::Reader;
use crate::visual::VisualKind;

/// How pictures and clips are prepared.
#[derive(Debug, Clone)]
pub(crate) struct Looks {
    pub(crate) image: Look,
    pub(crate) video: Look,
    /// How clips are looked at; none where there is no file at all.
    pub(crate) policy: Option<MediaPolicy>,
}

impl Looks {
    /// Reads the files. Where there are none, pictures are scaled to the tower's size.
    pub(crate) fn read(processors: &Processors, config: &LlavaConfig) -> Result<Self, ModelError> {
        let next = config.family == Family::NextVideo;
        let square = |side: u32| Usual {
            size: if next {
                Size::Shortest(side)
            } else {
                Size::Exact { width: side, height: side }
            },
            crop: next.then_some(side),
            normalise: Normalise::CLIP,
        };
        // As transformers has it where a file is silent.
        let usual = square(if next { 224 } else { 384 });
        let own = Usual {
            normalise: if next { Normalise::CLIP } else { Normalise::HALF },
            ..square(config.anyres.tile)
        };
        if !processors.whole.is_null() {
            whole(Reader::of_file("processor_config.json", &processors.whole)?, config)?;
        }
        let image = match settings(processors, VisualKind::Image)? {
            None => Look::usual(&own),
            Some(file) => {
                let look = Look::read(&file, &usual, VisualKind::Image)?;
                agrees(&file, &look, config)?;
                file.ignore(&["do_sample_frames", "fps", "num_frames"]);
                file.only("aspect_ratio_setting", "anyres".to_owned())?;
                file.finish()?;
                look
            }
        };
        let (video, policy) = match settings(processors, VisualKind::Video)? {
            None => (Look::usual(&own), None),
            Some(file) => {
                let look = Look::read(&file, &usual, VisualKind::Video)?;
                let policy = sampling(&file, if next { 8 } else { 32 })?;
                file.ignore(&["aspect_ratio_setting", "image_grid_pinpoints"]);
                file.finish()?;
                (look, Some(policy))
            }
        };
        Ok(Self { image, video, policy })
    }
}

/// Refuses another size of tiles, and other sizes to choose from, than the config's.
fn agrees(file: &Reader<'_>, look: &Look, config: &LlavaConfig) -> Result<(), ModelError> {
    let tile = config.anyres.tile;
    let (key, given) = match (look.crop_size, look.size) {
        (Some((_, height)), _) => ("crop_size", height),
        (None, Size::Exact { height, .. }) => ("size", height),
        (None, Size::Shortest(edge) | Size::Longest(edge)) => ("size", edge),
    };
    if given != tile {
        let supported = format!("{tile}, the image_size of vision_config");
        return Err(file.unsupported(key, given, supported));
    }
    let pinpoints = "image_grid_pinpoints";
    match file.get::<Vec<[u32; 2]>>(pinpoints)? {
        Some(given) if given != config.anyres.pinpoints => {
            let supported = format!("{:?}, as in config.json", config.anyres.pinpoints);
            Err(file.unsupported(pinpoints, format!("{given:?}"), supported))
        }
        _ => Ok(()),
    }
}

/// Which frames a file asks for: so many, or so many a second; by their number `usual` where it is silent.
fn sampling(file: &Reader<'_>, usual: usize) -> Result<MediaPolicy, ModelError> {
    let frames = file.get::<usize>("num_frames")?;
    let fps = file.positive("fps")?;
    // Frames that are given are never passed over here: which are taken is the policy's to say.
    file.ignore(&["do_sample_frames"]);
    let policy = match (frames, fps) {
        (None, Some(fps)) => MediaPolicy::new(FrameSampling::Fps {
            fps,
            min_frames: 1,
            max_frames: 1 << 16,
            multiple_of: 1,
            rule: CountRule::SegmentStart,
        }),
        (Some(frames), _) => MediaPolicy::count(frames, CountRule::SegmentStart),
        (None, None) => MediaPolicy::count(usual, CountRule::Linspace),
    };
    match policy.validate() {
        Ok(()) => Ok(policy),
        Err(error) => {
            let given = frames.map_or_else(|| "fps".to_owned(), |n| n.to_string());
            Err(file.unsupported("num_frames", given, error))
        }
    }
}

/// `processor_config.json`: how many tokens a tile has.
fn whole(file: Reader<'_>, config: &LlavaConfig) -> Result<(), ModelError> {
    let class = config.tower.class_token;
    file.ignore(&[
        "auto_map",
        "chat_template",
        "image_processor",
        "image_token",
        "processor_class",
        "video_processor",
        "video_token",
    ]);
    let strategy = if class { "default" } else { "full" };
    file.only("vision_feature_select_strategy", strategy.to_owned())?;
    match config.family {
        Family::Onevision => {
            file.only("num_image_tokens", config.anyres.per_tile() + usize::from(class))?;
            let most = config.anyres.most_tiles.unwrap_or_default();
            file.only("vision_aspect_ratio", format!("anyres_max_{most}"))?;
        }
        Family::NextVideo => {
            file.only("patch_size", config.tower.patch_size)?;
            file.only("num_additional_image_tokens", usize::from(class))?;
        }
    }
    file.finish()
}
