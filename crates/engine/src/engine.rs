//! The engine in this process.

mod weights;

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use candle_core::{DType, Tensor};
use savi_models::{Model, ModelFiles, Plan, Processors, VisualKind};
use savi_nn::attention::{KvNode, KvPrefix};
use savi_nn::layers::Mode;
use savi_nn::{Forest, Weights, device};
use savi_schema::{
    Completion, Generate, GenerateError, Message, Request, Score, ScoreRequest, TokenScore,
};
use savi_video_ingest::IngestOptions;
use serde_json::Value;

use crate::EngineError;
use crate::convert::{self, SaveOptions};
use crate::decode::{Prefilled, Row, Whole, host_logits, run};
use crate::files::ModelDir;
use crate::media::{ClipKey, Processor, Shown};
use crate::prefix::PrefixCache;
use crate::side::{self, SideFiles};
use crate::text::{Prompt, TextFiles, TextModel, special_tokens};

/// Rows that decode together; more wait for their turn.
const MAX_ROWS: usize = 192;

/// Where and how a model runs.
#[derive(Debug, Clone, PartialEq)]
pub struct EngineOptions {
    /// `auto`, `cpu`, `cuda` or `cuda:N`.
    pub device: String,
    /// `f32` or `bf16`: the type of weights and activations.
    pub dtype: String,
    /// Bytes of cached prefixes.
    pub prefix_budget: usize,
    /// Clips whose visual tokens are kept.
    pub clip_budget: usize,
    /// How clips are read.
    pub ingest: IngestOptions,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            device: "auto".into(),
            dtype: "f32".into(),
            prefix_budget: 1 << 29,
            clip_budget: 4096,
            ingest: IngestOptions::default(),
        }
    }
}

/// A picture or a clip as the model sees it.
#[derive(Debug, Clone)]
struct Seen {
    plan: Plan,
    tokens: Tensor,
}

/// A model that can be asked, scored and (through [`Engine::model`]) trained.
#[derive(Debug)]
pub struct Engine {
    model: Model,
    text: TextModel,
    processor: Processor,
    files: TextFiles,
    /// The files beside weights and config, where the model was read from a directory.
    side: Option<SideFiles>,
    prefixes: PrefixCache,
    clips: Mutex<HashMap<ClipKey, Seen>>,
    clip_budget: usize,
    ingest: IngestOptions,
    fingerprint: String,
}

impl Engine {
    /// Opens a model by name, as [`ModelDir::find`] does.
    pub fn load(name: &str, options: &EngineOptions) -> Result<Self, EngineError> {
        Self::open(ModelDir::find(name)?, options)
    }

    /// Opens a model whose files are in memory.
    pub fn open(dir: ModelDir, options: &EngineOptions) -> Result<Self, EngineError> {
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
            files,
            side: None,
            prefixes: PrefixCache::new(options.prefix_budget),
            clips: Mutex::default(),
            clip_budget: options.clip_budget,
            ingest: options.ingest.clone(),
            fingerprint: String::new(),
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

    /// Prefixes found in the cache and prefixes computed, so far.
    pub fn prefix_counts(&self) -> (u64, u64) {
        self.prefixes.counts()
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

    fn lock_clips(&self) -> std::sync::MutexGuard<'_, HashMap<ClipKey, Seen>> {
        self.clips.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// A conversation as tokens.
    pub fn prompt(&self, messages: &[Message]) -> Result<Prompt, EngineError> {
        self.place(self.text.prompt(messages, |shown| self.plan(shown))?)
    }

    /// A text without a chat template as tokens; the template's marks in it are places of `shown`.
    pub fn raw_prompt(&self, text: &str, shown: Vec<Shown>) -> Result<Prompt, EngineError> {
        self.place(self.text.raw(text, shown, |shown| self.plan(shown))?)
    }

    fn place(&self, mut prompt: Prompt) -> Result<Prompt, EngineError> {
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

    fn see(&self, shown: &Shown) -> Result<Seen, EngineError> {
        let key = self.processor.key(shown);
        if let Some(seen) = self.lock_clips().get(&key) {
            return Ok(seen.clone());
        }
        let media =
            |reason: String| EngineError::Media { clip: shown.media.source.clone(), reason };
        let visual = self.processor.read(shown, &self.ingest)?;
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
        let mut clips = self.lock_clips();
        if clips.len() >= self.clip_budget {
            clips.clear();
        }
        clips.insert(key, seen.clone());
        Ok(seen)
    }

    /// The prompt's start up to its last clip as a cached node, and how many tokens that is.
    fn prefix(&self, prompt: &Prompt) -> Result<(Option<Arc<KvNode>>, usize), EngineError> {
        let Some(last) = prompt.visuals.last() else { return Ok((None, 0)) };
        let end = last.range.end;
        if end == prompt.ids.len() {
            let reason = "a prompt has to go on with words after its last picture or clip";
            return Err(EngineError::Conversation(reason.to_owned()));
        }
        let shown = || prompt.visuals.iter().map(|visual| &visual.shown);
        let keys: Vec<ClipKey> = shown().map(|shown| self.processor.key(shown)).collect();
        let key = format!("{:?}{:?}", keys, &prompt.ids[..end]);
        if let Some(node) = self.prefixes.get(&key) {
            return Ok((Some(node), end));
        }
        let clips = shown().map(|shown| self.clip(shown)).collect::<Result<Vec<_>, _>>()?;
        let embeds = self.model.embed(&prompt.ids[..end], &clips, Mode::INFER)?;
        let mut node = self.model.cache_node(None, end);
        let mut forest = Forest::new();
        prompt.start(end).root(&mut forest);
        self.model.hidden_cached(&embeds, &Arc::new(forest), Mode::INFER, &mut [&mut node])?;
        let node = Arc::new(node);
        self.prefixes.insert(key, node.clone());
        Ok((Some(node), end))
    }

    /// Whether what is cached holds for sequences of one length only (RoPE of types `dynamic` and
    /// `longrope`): prompts then share nothing.
    fn depends_on_length(&self) -> bool {
        self.model.rotates_anew(0, usize::MAX)
    }

    /// A prompt that is computed whole.
    fn whole(&self, prompt: &Prompt) -> Result<Whole, EngineError> {
        let visuals = prompt.visuals.iter().map(|visual| self.clip(&visual.shown));
        Ok(Whole { prompt: prompt.clone(), visuals: visuals.collect::<Result<_, _>>()? })
    }

    /// Fills one node per prompt with the tokens after its prefix, in one pass; gives the nodes and
    /// the logits after their last tokens.
    fn prefill(&self, prompts: &[Prompt]) -> Result<Vec<Prefilled>, EngineError> {
        let mut nodes = Vec::with_capacity(prompts.len());
        let mut forest = Forest::new();
        let mut ids: Vec<u32> = Vec::new();
        let mut lasts = Vec::with_capacity(prompts.len());
        for prompt in prompts {
            let (prefix, end) = self.prefix(prompt)?;
            let rest = &prompt.ids[end..];
            let node = self.model.cache_node(prefix.map(KvPrefix::whole), rest.len());
            forest.push(node.after(), rest.len());
            ids.extend(rest);
            lasts.push(ids.len() as u32 - 1);
            nodes.push(node);
        }
        let embeds = self.model.embed(&ids, &[], Mode::INFER)?;
        let mut rows: Vec<&mut KvNode> = nodes.iter_mut().collect();
        let hidden =
            self.model.hidden_cached(&embeds, &Arc::new(forest), Mode::INFER, &mut rows)?;
        let index = Tensor::from_slice(&lasts, lasts.len(), hidden.device())?;
        let logits = host_logits(&self.model, &hidden.index_select(&index, 0)?)?;
        Ok(nodes.into_iter().map(Arc::new).zip(logits).collect())
    }

    fn generate_wave(
        &self,
        requests: &[Request],
        prompts: &[Prompt],
    ) -> Result<Vec<Vec<Completion>>, EngineError> {
        let mut rows = Vec::new();
        let whole = self.depends_on_length();
        let wholes = prompts
            .iter()
            .map(|prompt| if whole { self.whole(prompt).map(Some) } else { Ok(None) });
        let wholes = wholes.collect::<Result<Vec<_>, _>>()?;
        let filled = if whole {
            let filled = wholes.iter().flatten().map(|whole| whole.fill(&self.model, &[]));
            filled.collect::<Result<Vec<_>, _>>()?
        } else {
            self.prefill(prompts)?
        };
        let filled = filled.into_iter().zip(requests).zip(prompts).zip(wholes);
        for ((((node, logits), request), prompt), whole) in filled {
            let whole = whole.map(Arc::new);
            let prompt: Arc<[u32]> = prompt.ids.as_slice().into();
            for (index, sampling) in request.samplings.iter().enumerate() {
                let rng = savi_nn::rng::stream(
                    request.seed,
                    &["sample", &request.id, &index.to_string()],
                );
                let row = Row::new(
                    &self.model,
                    &self.text,
                    (node.clone(), &logits),
                    prompt.clone(),
                    sampling,
                    rng,
                )?;
                rows.push(row.computed_whole(whole.clone()));
            }
        }
        let mut completions = run(&self.model, &self.text, rows)?.into_iter();
        Ok(requests
            .iter()
            .map(|r| completions.by_ref().take(r.samplings.len()).collect())
            .collect())
    }

    fn score_one(&self, request: &ScoreRequest) -> Result<Vec<TokenScore>, EngineError> {
        let prompt = self.prompt(&request.messages)?;
        let tokens = request.continuations.iter().map(|text| self.text.encode(text));
        self.score_tokens(&prompt, tokens.collect::<Result<_, _>>()?)
    }

    /// Log-probabilities of continuations that are given as tokens. A token's log-probability is that
    /// after the prompt and the tokens before it.
    pub fn score_tokens(
        &self,
        prompt: &Prompt,
        continuations: Vec<Vec<u32>>,
    ) -> Result<Vec<TokenScore>, EngineError> {
        let config = self.model.config();
        let longest = continuations.iter().map(Vec::len).max().unwrap_or(0);
        let limit = config.max_position_embeddings;
        if prompt.ids.is_empty() || prompt.ids.len() + longest > limit {
            let reason = format!(
                "a prompt of {} tokens and up to {longest} more: a model of {limit} positions scores after \
                 at least one token",
                prompt.ids.len()
            );
            return Err(EngineError::Conversation(reason));
        }
        let known = |&&id: &&u32| id as usize >= config.vocab_size;
        if let Some(id) = prompt.ids.iter().chain(continuations.iter().flatten()).find(known) {
            let reason = format!("token {id} is outside the vocabulary of {}", config.vocab_size);
            return Err(EngineError::Conversation(reason));
        }
        if self.depends_on_length() {
            let whole = self.whole(prompt)?;
            let score = |token_ids: Vec<u32>| {
                let logps = whole.score(&self.model, &token_ids)?;
                Ok(TokenScore { token_ids, logps })
            };
            return continuations.into_iter().map(score).collect();
        }
        let (node, end) = self.prefix(prompt)?;
        let rest = &prompt.ids[end..];
        let mut base = self.model.cache_node(node.map(KvPrefix::whole), rest.len());
        if rest.len() > 1 {
            let mut forest = Forest::new();
            forest.push(base.after(), rest.len() - 1);
            let embeds = self.model.embed(&rest[..rest.len() - 1], &[], Mode::INFER)?;
            self.model.hidden_cached(&embeds, &Arc::new(forest), Mode::INFER, &mut [&mut base])?;
        }
        let base = Arc::new(base);
        let (mut forest, mut ids, mut targets) = (Forest::new(), Vec::new(), Vec::new());
        let mut nodes = Vec::new();
        for continuation in continuations.iter().filter(|t| !t.is_empty()) {
            forest.push(base.after(), continuation.len());
            ids.extend(rest.last());
            ids.extend(&continuation[..continuation.len() - 1]);
            targets.extend(continuation);
            nodes.push(
                self.model.cache_node(Some(KvPrefix::whole(base.clone())), continuation.len()),
            );
        }
        let mut logps = if ids.is_empty() {
            Vec::new()
        } else {
            let embeds = self.model.embed(&ids, &[], Mode::INFER)?;
            let mut rows: Vec<&mut KvNode> = nodes.iter_mut().collect();
            let hidden =
                self.model.hidden_cached(&embeds, &Arc::new(forest), Mode::INFER, &mut rows)?;
            self.model
                .logps(&hidden, &targets, Mode::INFER)?
                .to_dtype(DType::F32)?
                .to_vec1::<f32>()?
        }
        .into_iter();
        Ok(continuations
            .into_iter()
            .map(|token_ids| TokenScore {
                logps: logps.by_ref().take(token_ids.len()).collect(),
                token_ids,
            })
            .collect())
    }
}

impl Generate for Engine {
    fn generate(&self, requests: &[Request]) -> Result<Vec<Vec<Completion>>, GenerateError> {
        let limit = self.model.config().max_position_embeddings;
        let mut out = Vec::with_capacity(requests.len());
        let mut start = 0;
        while start < requests.len() {
            let (mut end, mut rows) = (start, 0);
            let mut prompts = Vec::new();
            while end < requests.len()
                && (rows == 0 || rows + requests[end].samplings.len() <= MAX_ROWS)
            {
                let request = &requests[end];
                let prompt =
                    self.prompt(&request.messages).map_err(|e| e.for_request(&request.id))?;
                for sampling in &request.samplings {
                    let bad = |reason| GenerateError::BadRequest { id: request.id.clone(), reason };
                    sampling.check().map_err(bad)?;
                }
                let longest = request.samplings.iter().map(|s| s.max_tokens).max().unwrap_or(0);
                if prompt.ids.is_empty() || prompt.ids.len() + longest > limit {
                    return Err(GenerateError::BadRequest {
                        id: request.id.clone(),
                        reason: format!(
                            "{} prompt tokens and up to {longest} new ones do not fit the model's {limit}",
                            prompt.ids.len()
                        ),
                    });
                }
                rows += request.samplings.len();
                prompts.push(prompt);
                end += 1;
            }
            let wave = &requests[start..end];
            out.extend(self.generate_wave(wave, &prompts).map_err(|e| e.for_request(&wave[0].id))?);
            start = end;
        }
        Ok(out)
    }

    fn fingerprint(&self) -> String {
        self.fingerprint.clone()
    }
}

impl Score for Engine {
    fn score(&self, requests: &[ScoreRequest]) -> Result<Vec<Vec<TokenScore>>, GenerateError> {
        requests
            .iter()
            .enumerate()
            .map(|(i, request)| self.score_one(request).map_err(|e| e.for_request(&i.to_string())))
            .collect()
    }
}
