//! The world moving-shapes as lessons: what a video-language model from scratch learns from.

use savi_engine::{Engine, Processor};
use savi_schema::{FrameSampling, Media, MediaPolicy};
use savi_train::{Head, LabelledFrames, Sample};
use savi_videosavi::Prompts;
use savi_worlds::moving_shapes::{
    self, CELLS, LessonPlan, Split, cell_answers, cell_labels, lessons, random_moment,
    sample_frames,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::exit::BadInput;

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Lessons {
    /// In the dense stage twice as many.
    readings: usize,
    /// Things followed through all frames; in the dense stage twice as many.
    #[serde(default)]
    tracks: usize,
    asks: usize,
    /// Share of the questions that are asked by a description of the clip.
    caption_share: f64,
    /// As many critiques and revisions come with them.
    answers: usize,
    uncriticised_answers: usize,
    judgements: usize,
    choice_share: f64,
    /// Share of answers that say what is seen first.
    grounded_share: f64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Shape {
    text_hidden_size: usize,
    text_intermediate_size: usize,
    text_layers: usize,
    text_heads: usize,
    text_kv_heads: usize,
    vision_hidden_size: usize,
    vision_intermediate_size: usize,
    vision_layers: usize,
    vision_heads: usize,
    image_size: usize,
    patch_size: usize,
    max_position_embeddings: usize,
    #[serde(default = "theta")]
    rope_theta: f64,
}

fn theta() -> f64 {
    10000.0
}

/// What a step teaches; each stage stands on the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Whole clips, described and read frame by frame.
    Dense,
    /// Everything.
    Mixed,
}

impl Lessons {
    /// Refuses shares that are none.
    pub(super) fn validate(&self) -> anyhow::Result<()> {
        for (key, share) in [
            ("caption_share", self.caption_share),
            ("choice_share", self.choice_share),
            ("grounded_share", self.grounded_share),
        ] {
            anyhow::ensure!((0.0..=1.0).contains(&share), "{key} {share} is not between 0 and 1");
        }
        Ok(())
    }

    pub(super) fn plan(&self, stage: Stage) -> LessonPlan {
        let policy = Processor::default().policy;
        if stage == Stage::Dense {
            let none = LessonPlan { policy, asks: 0, answers: 0, ..LessonPlan::default() };
            return LessonPlan {
                readings: self.readings * 2,
                tracks: self.tracks * 2,
                uncriticised_answers: 0,
                judgements: 0,
                ..none
            };
        }
        LessonPlan {
            policy,
            readings: self.readings,
            tracks: self.tracks,
            asks: self.asks,
            caption_share: self.caption_share,
            answers: self.answers,
            uncriticised_answers: self.uncriticised_answers,
            judgements: self.judgements,
            choice_share: self.choice_share,
            grounded_share: self.grounded_share,
            ..LessonPlan::default()
        }
    }
}

impl Shape {
    pub(super) fn config(&self, vocab: usize, placeholder: u32) -> Value {
        json!({
            "architectures": ["LlavaOnevisionForConditionalGeneration"],
            "model_type": "llava_onevision",
            "dtype": "bfloat16",
            "image_token_index": placeholder,
            "video_token_index": placeholder,
            "projector_hidden_act": "gelu",
            "multimodal_projector_bias": true,
            "vision_feature_layer": -1,
            "vision_feature_select_strategy": "full",
            "vision_aspect_ratio": "anyres_max_9",
            "image_grid_pinpoints": [[self.image_size, self.image_size]],
            "tie_word_embeddings": true,
            "text_config": {
                "model_type": "qwen2",
                "hidden_size": self.text_hidden_size,
                "intermediate_size": self.text_intermediate_size,
                "num_hidden_layers": self.text_layers,
                "num_attention_heads": self.text_heads,
                "num_key_value_heads": self.text_kv_heads,
                "vocab_size": vocab,
                "max_position_embeddings": self.max_position_embeddings,
                "rms_norm_eps": 1e-6,
                "rope_theta": self.rope_theta,
                "hidden_act": "silu",
                "use_sliding_window": false,
                "tie_word_embeddings": true,
            },
            "vision_config": {
                "model_type": "siglip_vision_model",
                "hidden_size": self.vision_hidden_size,
                "intermediate_size": self.vision_intermediate_size,
                "num_hidden_layers": self.vision_layers,
                "num_attention_heads": self.vision_heads,
                "num_channels": 3,
                "image_size": self.image_size,
                "patch_size": self.patch_size,
                "layer_norm_eps": 1e-6,
                "hidden_act": "gelu_pytorch_tanh",
                "vision_use_head": false,
            },
        })
    }
}

/// Frames that the model takes of a clip.
pub(super) fn frames(engine: &Engine) -> anyhow::Result<usize> {
    match engine.processor().policy.sampling {
        FrameSampling::Count { frames, .. } => Ok(frames),
        _ => Err(BadInput(anyhow::anyhow!("perception needs a fixed number of frames")).into()),
    }
}

/// What is asked of every visual token; its frame's number only where others can be seen.
pub(super) fn heads(frames: usize) -> Vec<Head> {
    let words = |words: Vec<&str>| words.into_iter().map(str::to_owned).collect();
    let cells = cell_answers().into_iter();
    let cells = cells.map(|(name, w)| Head { name, answers: words(w), before_decoder: true });
    let numbers = (1..=frames).map(|number| number.to_string()).collect();
    cells.chain([Head { name: "frame", answers: numbers, before_decoder: false }]).collect()
}

/// Pictures of as many scenes, in place of a clip.
pub(super) fn pictures(seed: u64, frames: usize, index: u64) -> LabelledFrames {
    let policy = Processor::default().policy;
    let mut images = Vec::with_capacity(frames);
    let cells = cell_answers().len();
    let mut labels = vec![Vec::new(); cells + 1];
    for frame in 0..frames {
        let number = index * frames as u64 + frame as u64;
        let scene = moving_shapes::scene(Split::Train, seed, PICTURES + number);
        let mut rng = savi_nn::rng::stream(seed, &["pictures", &number.to_string()]);
        let seconds = random_moment(&scene, &policy, &mut rng);
        let sampling = FrameSampling::Times { times: vec![seconds] };
        images.extend(sample_frames(&scene, &MediaPolicy { sampling, ..policy.clone() }));
        for (all, of_frame) in labels.iter_mut().zip(cell_labels(&scene, seconds)) {
            all.extend(of_frame);
        }
        labels[cells].extend([(frame as u32, 1.0); CELLS * CELLS]);
    }
    LabelledFrames { id: format!("pictures-{index}"), frames: images, labels }
}

/// Scenes from here on are for pictures; those of clips come before.
const PICTURES: u64 = 1 << 32;

pub(super) fn sample(
    seed: u64,
    plan: LessonPlan,
    prompts: &Prompts,
    index: u64,
) -> anyhow::Result<Sample> {
    let scene = moving_shapes::scene(Split::Train, seed, index);
    let mut rng = savi_nn::rng::stream(seed, &["lessons", &index.to_string()]);
    let lessons = lessons(&scene, &mut rng, &plan);
    let policy = plan.policy;
    let id = format!("train-{index}");
    let media = Media { source: id.clone(), policy: Some(policy.clone()) };
    let example = crate::lessons::example(prompts, &id, media, &lessons)?;
    let kinds = lessons.iter().map(crate::lessons::kind).collect();
    Ok(Sample { example, clips: vec![sample_frames(&scene, &policy)], kinds })
}

/// The words of a scene's lessons, turn by turn.
pub(super) fn words(
    seed: u64,
    plan: &LessonPlan,
    prompts: &Prompts,
    index: u64,
) -> anyhow::Result<Vec<Vec<String>>> {
    let scene = moving_shapes::scene(Split::Train, seed, index);
    let mut rng = savi_nn::rng::stream(seed, &["lessons", &index.to_string()]);
    let media = Media { source: String::new(), policy: None };
    let lessons = lessons(&scene, &mut rng, plan);
    let example = crate::lessons::example(prompts, "tokenizer", media, &lessons)?;
    let words = |turns: Vec<_>| turns.iter().map(savi_schema::Message::words).collect();
    Ok(example.conversations.into_iter().map(words).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_that_are_none_are_refused_by_key() {
        let good = Lessons {
            readings: 0,
            tracks: 0,
            asks: 0,
            caption_share: 0.0,
            answers: 0,
            uncriticised_answers: 0,
            judgements: 0,
            choice_share: 1.0,
            grounded_share: 0.5,
        };
        assert!(good.validate().is_ok());
        for share in [-0.1, 1.5, f64::NAN] {
            let refused = |bad: Lessons| bad.validate().unwrap_err().to_string();
            let caption = refused(Lessons { caption_share: share, ..good.clone() });
            let choice = refused(Lessons { choice_share: share, ..good.clone() });
            let grounded = refused(Lessons { grounded_share: share, ..good.clone() });
            assert!(caption.contains("caption_share"), "{caption}");
            assert!(choice.contains("choice_share"), "{choice}");
            assert!(grounded.contains("grounded_share"), "{grounded}");
        }
    }
}
