//! The engine in this process.

mod counts;
mod generate;
mod node;
mod score;
mod weights;

use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::{DType, Tensor};
use savi_models::{Model, ModelFiles, Plan, Processors, VisualKind};
use savi_nn::layers::Mode;
use savi_nn::{Weights, device};
use savi_schema::Message;
use savi_video_ingest::IngestOptions;
use serde_json::Value;

pub use self::counts::EngineCounts;
pub(crate) use self::generate::Prepared;
pub use self::node::{Branch, Node};
use crate::EngineError;
use crate::convert::{self, SaveOptions};
use crate::features::{FeatureFolder, Features, Found, Seen};
use crate::files::ModelDir;
use crate::media::{ClipKey, Processor, Shown};
use crate::side::{self, SideFiles};
use crate::text::{Prompt, TextFiles, TextModel, special_tokens};
use crate::tree::{Tree, Unit, units};
use crate::whole::Whole;

/// Where and how a model runs.
#[derive(Debug, Clone)]
pub struct EngineOptions {
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// `f32` or `bf16`: the type of weights and activations.
    pub dtype: String,
    /// Bytes of keys and values: of what is being decoded, and of what may be asked for again.
    pub kv_budget: usize,
    /// Whether prompts share what they have in common, in the cache and beside each other.
    pub prefix_sharing: bool,
    /// Rows that decode together; more wait for their turn.
    pub max_rows: usize,
    /// Tokens of prompts that one pass takes in.
    pub prefill_chunk: usize,
    /// Bytes of visual tokens in memory.
    pub feature_budget: usize,
    /// Where visual tokens are kept beyond the process.
    pub feature_folder: Option<FeatureFolder>,
    /// How clips are read.
    pub ingest: IngestOptions,
    /// Once it is set, generating ends with [`savi_schema::GenerateError::Interrupted`] before the next
    /// token.
    pub interrupt: Option<Arc<AtomicBool>>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            device: "auto".into(),
            dtype: "f32".into(),
            kv_budget: 1 << 30,
            prefix_sharing: true,
            max_rows: 192,
            prefill_chunk: 2048,
            feature_budget: 1 << 30,
            feature_folder: None,
            ingest: IngestOptions::default(),
            interrupt: None,
        }
    }
}

/// A model that can be asked, scored and (through [`Engine::model`]) trained.
#[derive(Debug)]
pub struct Engine {
    model: Model,
    text: TextModel,
    processor: Processor,
    processors: Processors,
    files: TextFiles,
    /// The files beside weights and config, where the model was read from a directory.
    side: Option<SideFiles>,
    tree: Tree,
    features: Features,
    /// Identifies what sees, where visual tokens are kept.
    tower: Option<String>,
    options: EngineOptions,
    counts: Mutex<EngineCounts>,
    /// Of the weights as they are; made when it is asked for.
    fingerprint: OnceLock<String>,
}

impl Engine {
    /// Opens a model by name, as [`ModelDir::find`] does.
    pub fn load(name: &str, options: &EngineOptions) -> Result<Self, EngineError> {
        Self::from_dir(ModelDir::find(name)?, options)
    }

    /// Opens a model whose files are in memory.
    pub fn from_dir(dir: ModelDir, options: &EngineOptions) -> Result<Self, EngineError> {
        let ModelFiles { config, processors, tensors } = dir.files;
        let tensors = Weights::Checkpoint(Box::new(tensors));
        let engine = Self::build(&config, tensors, dir.text, &processors, dir.processor, options)?;
        Ok(Self { side: dir.side, ..engine })
    }

    /// Builds a model from a config and a source of weights. `processors` say how it is shown pictures,
    /// `processor` how it looks at clips where that is not as `processors` say.
    pub fn build(
        config: &Value,
        weights: Weights,
        files: TextFiles,
        processors: &Processors,
        processor: Option<Processor>,
        options: &EngineOptions,
    ) -> Result<Self, EngineError> {
        let dtype = match options.dtype.as_str() {
            "f32" => DType::F32,
            "bf16" => DType::BF16,
            other => {
                return Err(EngineError::Malformed {
                    file: "dtype".to_owned(),
                    reason: format!("{other:?} is neither f32 nor bf16"),
                });
            }
        };
        let device = device::select(&options.device)?;
        let tokens = special_tokens(&files.tokenizer)?;
        let processors = Processors { tokens, ..processors.clone() };
        let model = Model::new(config, &processors, weights, dtype, &device)?;
        let text = TextModel::new(&files, Some(&model))?;
        let own = || model.policy().map(|policy| Processor { policy });
        let processor = processor.or_else(own).unwrap_or_default();
        let mut engine = Self {
            model,
            text,
            processor,
            processors,
            files,
            side: None,
            tree: Tree::new(options.kv_budget, options.prefix_sharing),
            features: Features::new(options.feature_budget, options.feature_folder.clone()),
            tower: None,
            options: options.clone(),
            counts: Mutex::default(),
            fingerprint: OnceLock::new(),
        };
        engine.weights_changed()?;
        Ok(engine)
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Tokenizer and chat template.
    pub fn text(&self) -> &TextModel {
        &self.text
    }

    /// How clips are looked at.
    pub fn processor(&self) -> &Processor {
        &self.processor
    }

    pub(crate) fn tree(&self) -> &Tree {
        &self.tree
    }

    pub(crate) fn chunk(&self) -> usize {
        self.options.prefill_chunk.max(1)
    }

    pub(crate) fn max_rows(&self) -> usize {
        self.options.max_rows.max(1)
    }

    /// Bytes of a token's keys and values.
    pub fn token_bytes(&self) -> usize {
        let config = self.model.config();
        let width = config.num_key_value_heads * config.head_dim;
        let size = if self.model.params().device().is_cpu() {
            4
        } else {
            self.model.params().dtype().size_in_bytes()
        };
        2 * size * width * config.layers.len()
    }

    /// Bytes that keys and values may take in all.
    pub fn kv_budget(&self) -> usize {
        self.options.kv_budget
    }

    /// The tokenizer's and the chat template's files.
    pub fn text_files(&self) -> &TextFiles {
        &self.files
    }

    /// Writes the model as a Hugging Face directory, with the files that lay beside it where it was read.
    pub fn save(&self, dir: &Path, options: impl Into<SaveOptions>) -> Result<(), EngineError> {
        let side = match &self.side {
            Some(side) => side.clone(),
            None => {
                let processor = (!self.model.placeholders().is_empty()).then_some(&self.processor);
                side::generated(&self.files, processor)
            }
        };
        convert::save(&self.model, &side, dir, &options.into())
    }

    /// A conversation as tokens.
    pub fn prompt(&self, messages: &[Message]) -> Result<Prompt, EngineError> {
        self.located(self.text.prompt(messages, |shown| self.plan(shown))?)
    }

    /// A text without a chat template as tokens; the template's marks in it are places of `shown`.
    pub fn raw_prompt(&self, text: &str, shown: Vec<Shown>) -> Result<Prompt, EngineError> {
        self.located(self.text.raw(text, shown, |shown| self.plan(shown))?)
    }

    fn located(&self, mut prompt: Prompt) -> Result<Prompt, EngineError> {
        let plans: Vec<&Plan> = prompt.visuals.iter().map(|visual| &visual.plan).collect();
        prompt.coordinates = self.model.coordinates(&prompt.ids, &plans)?;
        Ok(prompt)
    }

    /// What stands for a picture or a clip: by the number of its frames where that says it all, else it
    /// is read.
    fn plan(&self, shown: &Shown) -> Result<Plan, EngineError> {
        let plan = self.planned_frames(shown).and_then(|frames| self.model.plan_of_count(frames));
        plan.map_or_else(|| Ok(self.see(shown)?.plan), Ok)
    }

    /// Frames that the policy of a clip names by number.
    fn planned_frames(&self, shown: &Shown) -> Option<usize> {
        use savi_schema::FrameSampling::{Count, Fps, Times};
        match (&self.processor.policy(&shown.media).sampling, shown.kind) {
            (Count { frames, .. }, VisualKind::Video) => Some(*frames),
            (Times { times }, VisualKind::Video) => Some(times.len()),
            (Fps { .. }, VisualKind::Video) | (_, VisualKind::Image) => None,
        }
    }

    /// Visual tokens of a picture or a clip, computed once for each and each policy.
    pub fn clip(&self, shown: &Shown) -> Result<Tensor, EngineError> {
        Ok(self.see(shown)?.tokens)
    }

    /// What identifies the frames of a picture or a clip.
    fn clip_key(&self, shown: &Shown) -> ClipKey {
        self.processor.key(shown, &self.features.identity(&shown.media.source))
    }

    /// What a prompt is made of, token by token.
    pub(crate) fn units(&self, prompt: &Prompt) -> Arc<[Unit]> {
        let keys = prompt.visuals.iter().map(|visual| self.clip_key(&visual.shown));
        units(prompt, &keys.collect::<Vec<_>>(), self.text.placeholders()).into()
    }

    fn see(&self, shown: &Shown) -> Result<Seen, EngineError> {
        let key = self.clip_key(shown);
        let (device, dtype) = (self.model.params().device(), self.model.params().dtype());
        if let Some((seen, found)) = self.features.get(&key, self.tower.as_deref(), device, dtype) {
            if found == Found::Disk {
                self.count(|counts| counts.clips_from_disk += 1);
            }
            return Ok(seen);
        }
        let media =
            |reason: String| EngineError::Media { clip: shown.media.source.clone(), reason };
        let visual = self.processor.read(shown, &self.options.ingest)?;
        if let Some(planned) = self.planned_frames(shown)
            && visual.frames.len() != planned
        {
            let given = visual.frames.len();
            return Err(media(format!("gave {given} frames, {planned} were planned")));
        }
        let plan = self.model.plan(&visual).map_err(|error| media(error.to_string()))?;
        let pixels = self.model.pixels(&visual).map_err(|error| media(error.to_string()))?;
        let tokens = self.model.encode(&[pixels], Mode::INFER)?.remove(0);
        if tokens.dim(0)? != plan.len() {
            let (seen, planned) = (tokens.dim(0)?, plan.len());
            return Err(media(format!("gave {seen} visual tokens, {planned} were planned")));
        }
        let seen = Seen { plan, tokens };
        self.count(|counts| counts.clips_encoded += 1);
        self.features.insert(&key, self.tower.as_deref(), &seen)?;
        Ok(seen)
    }

    /// Whether what is cached holds for sequences of one length only (RoPE of types `dynamic` and
    /// `longrope`): prompts then share nothing.
    pub(crate) fn depends_on_length(&self) -> bool {
        self.model.rotates_anew(0, usize::MAX)
    }

    /// A prompt that is computed whole.
    pub(crate) fn whole(&self, prompt: &Arc<Prompt>) -> Result<Whole, EngineError> {
        let visuals = prompt.visuals.iter().map(|visual| self.clip(&visual.shown));
        Ok(Whole { prompt: prompt.clone(), visuals: visuals.collect::<Result<_, _>>()? })
    }

    /// What was done so far.
    pub fn counts(&self) -> EngineCounts {
        let (kv_bytes, evicted_nodes) = self.tree.usage();
        let counts = *self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        EngineCounts { kv_bytes: kv_bytes as u64, evicted_nodes, ..counts }
    }

    pub(crate) fn count(&self, add: impl FnOnce(&mut EngineCounts)) {
        add(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
