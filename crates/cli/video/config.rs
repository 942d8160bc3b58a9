//! The config of `savi video run`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use savi_endpoint::EndpointOptions;
use savi_engine::FeatureFolder;
use savi_schema::MediaPolicy;
use savi_suites::View;
use savi_train::{DpoConfig, SftConfig};
use savi_video_ingest::IngestOptions;
use savi_videosavi::DrawKind;
use savi_worlds::moving_shapes::{DatasetConfig, NAME, Split};
use serde::{Deserialize, Serialize};

/// One complete run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RunConfig {
    /// Seed of everything that is random.
    #[serde(default)]
    pub(crate) seed: u64,
    /// A Hugging Face directory, or `builtin:tiny`.
    pub(crate) model: String,
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    #[serde(default = "crate::run_args::auto")]
    pub(crate) device: String,
    /// `f32` or `bf16`.
    #[serde(default = "crate::run_args::f32")]
    pub(crate) dtype: String,
    /// The clips to learn from, as paths with wildcards; `PATH#t=START,END` is a part of a clip.
    #[serde(default)]
    pub(crate) videos: Vec<String>,
    /// What becomes of clips that cannot be read: `skip` leaves them out, counted and with a warning,
    /// `fail` stops.
    #[serde(default)]
    pub(crate) unreadable: Unreadable,
    /// What reading allows a file: sizes, lengths, time, protocols.
    #[serde(default)]
    pub(crate) ingest: IngestOptions,
    /// Where visual tokens are kept for other runs about the same clips.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) feature_cache: Option<FeatureFolder>,
    /// A JSON Lines file of captions, `{"clip": <path as given by videos>, "caption": "..."}`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) captions: Option<PathBuf>,
    /// How a clip becomes frames; the model's own way where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) frames: Option<MediaPolicy>,
    /// A model elsewhere that draws in place of the one that learns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) generation: Option<Generation>,
    /// A synthetic world in place of `videos`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) world: Option<World>,
    /// The method.
    #[serde(default)]
    pub(crate) method: savi_videosavi::Config,
    /// Learning pairs.
    #[serde(default)]
    pub(crate) dpo: DpoConfig,
    /// Learning examples (controls).
    #[serde(default)]
    pub(crate) sft: SftConfig,
    /// The held-out questions.
    #[serde(default)]
    pub(crate) evaluation: Evaluation,
}

/// Who draws what. Training and measuring stay with the model of this process; the served model stays as
/// it is, so what rounds learn from can be its only where there is one round, and it serves the same
/// weights.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Generation {
    /// An OpenAI-compatible server. What reading allows a file is that of the run, and clips are shown by
    /// the run's frames.
    pub(crate) endpoint: EndpointOptions,
    /// What it draws: describe, ask, answer, judge, critique, revise; all of it where it is not given.
    #[serde(default = "all_draws")]
    pub(crate) draws: Vec<DrawKind>,
}

fn all_draws() -> Vec<DrawKind> {
    DrawKind::ALL.to_vec()
}

/// What becomes of clips that cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Unreadable {
    /// They are left out.
    #[default]
    Skip,
    /// The run stops.
    Fail,
}

/// A synthetic world whose clips are made where they are not there yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct World {
    /// Its name: moving-shapes.
    pub(crate) name: String,
    /// Where its files are; the run folder's `data` where it is not given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) dir: Option<PathBuf>,
    /// Seed of its scenes.
    #[serde(default)]
    pub(crate) seed: u64,
    /// Number of clips of each split.
    pub(crate) clips: BTreeMap<Split, u64>,
}

impl World {
    /// What the data set is made from.
    pub(crate) fn dataset(&self) -> DatasetConfig {
        DatasetConfig::new(self.seed, self.clips.clone())
    }
}

/// On what and how every round is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Evaluation {
    /// A questions file; its clips are relative to `root`. With a world, its `split` is asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) questions: Option<PathBuf>,
    /// Folder of the clips of `questions`; that of the file where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) root: Option<PathBuf>,
    /// Split of the world; opening `test` is logged.
    pub(crate) split: Split,
    /// Stop after the clip that brings the number of questions to this; 0 asks all.
    pub(crate) max_questions: usize,
    /// Longest reply, in tokens.
    pub(crate) max_tokens: usize,
    /// Clips asked about in one call. It changes the speed and nothing else.
    pub(crate) clips_at_once: usize,
    /// What of a clip is shown (the blind floors).
    pub(crate) view: View,
    /// Answer once, let this many answers vote, or criticise and revise.
    pub(crate) answering: Answering,
    /// Number of answers that vote.
    pub(crate) votes: usize,
    /// Resamples of the intervals.
    pub(crate) resamples: usize,
}

impl Default for Evaluation {
    fn default() -> Self {
        Self {
            questions: None,
            root: None,
            split: Split::Dev,
            max_questions: 0,
            max_tokens: 32,
            clips_at_once: 8,
            view: View::Normal,
            answering: Answering::Direct,
            votes: 5,
            resamples: 10_000,
        }
    }
}

/// How a held-out question is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answering {
    /// One greedy answer.
    Direct,
    /// A vote of sampled answers.
    Majority,
    /// A greedy answer, its critique, and its revision where the critique calls it wrong.
    CritiqueRevise,
}

impl RunConfig {
    /// Refuses what cannot be carried out, naming the key.
    pub(crate) fn validate(&self) -> anyhow::Result<()> {
        match &self.world {
            Some(world) => {
                ensure!(self.videos.is_empty(), "videos and world exclude each other");
                ensure!(world.name == NAME, "world.name: {:?} is unknown, only {NAME}", world.name);
                ensure!(
                    self.evaluation.questions.is_none(),
                    "evaluation.questions and world exclude each other"
                );
            }
            None if self.videos.is_empty() && self.method.rounds > 0 => {
                bail!("give the clips to learn from: videos = [\"...\"] or [world]");
            }
            None => {}
        }
        if let Some(generation) = &self.generation {
            generation.endpoint.validate().context("generation")?;
            let usual = EndpointOptions::default();
            ensure!(
                generation.endpoint.frames == usual.frames
                    && generation.endpoint.ingest == usual.ingest,
                "generation.endpoint: frames and ingest are those of the run"
            );
            ensure!(!generation.draws.is_empty(), "generation.draws is empty");
            savi_videosavi::check_served(&generation.draws, self.method.rounds)
                .map_err(|problem| anyhow::anyhow!("generation.draws: {problem}"))?;
        }
        if let Some(policy) = &self.frames {
            policy.validate()?;
        }
        self.method.validate().map_err(|problem| anyhow::anyhow!("method.{problem}"))?;
        self.dpo.validate().context("dpo")?;
        ensure!(self.dpo.lora_r > 0, "dpo: lora_r = 0: rounds need an adapter, at least 1");
        self.sft.validate().context("sft")?;
        ensure!(
            self.evaluation.split != Split::Unlabelled,
            "evaluation.split: unlabelled clips have no questions"
        );
        ensure!(self.evaluation.max_tokens > 0, "evaluation.max_tokens must be at least 1");
        ensure!(self.evaluation.votes > 0, "evaluation.votes must be at least 1");
        ensure!(self.evaluation.resamples > 0, "evaluation.resamples must be at least 1");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn check(text: &str) -> anyhow::Result<RunConfig> {
        let config: RunConfig = savi_run::load_str(text, Path::new("x.toml"), &[])?.value;
        config.validate()?;
        Ok(config)
    }

    #[test]
    fn every_config_of_the_wing_loads() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/video");
        let mut seen = 0;
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let loaded = savi_run::load::<RunConfig>(&path, &[]).unwrap();
            loaded.value.validate().unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            // What is saved is what was loaded.
            let saved = toml::to_string(&loaded.resolved).unwrap();
            let again = savi_run::load_str::<RunConfig>(&saved, &path, &[]).unwrap();
            assert_eq!(again.value, loaded.value);
            let header = std::fs::read_to_string(&path).unwrap();
            let command = format!("savi video run --config configs/video/{}", loaded.name);
            assert!(header.starts_with('#') && header.contains(&command), "{}", path.display());
            seen += 1;
        }
        assert!(seen >= 3);
    }

    /// The adapter's options have PEFT's names, as in its own file; what is not set is not written.
    #[test]
    fn options_of_the_adapter() {
        let text =
            "model = 'm'\nvideos = ['a']\n[dpo]\nlora_r = 4\noptim.gradient_checkpointing = true
            [dpo.lora]\nlora_dropout = 0.1\ntarget_modules = ['q_proj', 'down_proj']
            layers_to_transform = [0, 2]\nbias = 'lora_only'\ninit_lora_weights = 'gaussian'
            [dpo.lora.alpha_pattern]\n'z_proj' = 8\n'a_proj' = 4.5";
        let loaded = savi_run::load_str::<RunConfig>(text, Path::new("x.toml"), &[]).unwrap();
        let patterns = &loaded.value.dpo.lora.alpha_pattern.0;
        assert_eq!(patterns[0], ("z_proj".to_owned(), 8.0));
        assert!(loaded.value.dpo.optim.gradient_checkpointing);
        let saved = toml::to_string(&loaded.resolved).unwrap();
        let again = savi_run::load_str::<RunConfig>(&saved, Path::new("x.toml"), &[]).unwrap();
        assert_eq!(again.value, loaded.value);
        let plain = savi_run::load_str::<RunConfig>(
            "model = 'm'\nvideos = ['a']",
            Path::new("x.toml"),
            &[],
        );
        let plain = toml::to_string(&plain.unwrap().resolved).unwrap();
        assert!(!plain.contains("[dpo.lora]") && !plain.contains("gradient_checkpointing"));
    }

    #[test]
    fn a_served_model_draws_what_it_may() {
        let text = |rounds: u32, rest: &str| {
            format!(
                "model = 'm'\nvideos = ['a']\nmethod.rounds = {rounds}\n[generation]\n{rest}
                [generation.endpoint]\nbase_url = 'http://h:1/v1'\nmodel = 'served'
                [generation.endpoint.extra.chat_template_kwargs]\nenable_thinking = false"
            )
        };
        let loaded =
            savi_run::load_str::<RunConfig>(&text(1, ""), Path::new("x.toml"), &[]).unwrap();
        loaded.value.validate().unwrap();
        assert_eq!(loaded.value.generation.as_ref().unwrap().draws.len(), 6);
        let saved = toml::to_string(&loaded.resolved).unwrap();
        let again = savi_run::load_str::<RunConfig>(&saved, Path::new("x.toml"), &[]).unwrap();
        assert_eq!(again.value, loaded.value);
        check(&text(3, "draws = ['ask', 'judge']")).unwrap();
        for (rounds, rest, expected) in [
            (2, "", "\"answer\" is what the model learns from"),
            (2, "draws = ['judge', 'revise']", "\"revise\""),
            (1, "draws = []", "generation.draws"),
            (1, "draws = ['think']", "think"),
        ] {
            let message = format!("{:#}", check(&text(rounds, rest)).unwrap_err());
            assert!(message.contains(expected), "{message}");
        }
        let bad = text(1, "").replace("http://", "");
        assert!(format!("{:#}", check(&bad).unwrap_err()).contains("base_url"));
    }

    #[test]
    fn contradictions_are_refused_by_key() {
        let cases = [
            ("model = 'm'", "videos"),
            (
                "model = 'm'\nvideos = ['a']\nworld = { name = 'moving-shapes', clips = {} }",
                "world",
            ),
            ("model = 'm'\nworld = { name = 'still-life', clips = {} }", "world.name"),
            ("model = 'm'\nvideos = ['a']\nmethod.clips_at_once = 0", "method.clips_at_once"),
            ("model = 'm'\nvideos = ['a']\nevaluation.votes = 0", "evaluation.votes"),
            ("model = 'm'\nvideos = ['a']\ndpo.lora.use_dora = true", "use_dora"),
            ("model = 'm'\nvideos = ['a']\ndpo.lora.init_lora_weights = 'pissa'", "pissa"),
            ("model = 'm'\nvideos = ['a']\ndpo.lora.target_module = 'x'", "`target_modules`?"),
            ("model = 'm'\nvideos = ['a']\nmethod.roundz = 1", "did you mean `rounds`?"),
        ];
        for (text, expected) in cases {
            let message = format!("{:#}", check(text).unwrap_err());
            assert!(message.contains(expected), "{message}");
        }
        check("model = 'm'\nvideos = ['a']").unwrap();
    }
}
