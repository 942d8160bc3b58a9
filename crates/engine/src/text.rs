//! From conversations to tokens and back: tokenizer, chat template, clip placeholders.

use std::collections::HashMap;

use minijinja::{Environment, context};
use savi_schema::{Media, Message, Part};
use serde_json::{Value, json};
use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    Tokenizer, TokenizerImpl,
};

use crate::EngineError;

/// Marks a clip in the rendered template; never part of a user's words.
const CLIP_MARK: &str = "<video>";
/// Ends a turn in the ChatML manner.
const TURN_END: &str = "<|im_end|>";

/// A conversation as tokens, each clip one placeholder run.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// Tokens up to where the assistant goes on.
    pub ids: Vec<u32>,
    /// The clips, in order, with the range of their placeholders.
    pub clips: Vec<(Media, std::ops::Range<usize>)>,
}

/// What a model's files say about its text.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct TextFiles {
    /// `tokenizer.json`.
    pub tokenizer: Vec<u8>,
    /// The Jinja chat template, if the model has one.
    pub template: Option<String>,
    /// The token that begins a text, in words.
    pub bos: Option<String>,
    /// The token that ends a text, in words.
    pub eos: Option<String>,
    /// Tokens that end a generation.
    pub eos_ids: Vec<u32>,
}

impl TextFiles {
    /// A tokenizer and a template in the ChatML manner.
    pub fn chatml(tokenizer: Vec<u8>, template: impl Into<String>) -> Self {
        let template = Some(template.into());
        Self { tokenizer, template, eos: Some(TURN_END.to_owned()), ..Self::default() }
    }
}

/// A model's tokenizer and chat template.
pub struct TextModel {
    tokenizer: Tokenizer,
    template: Option<Environment<'static>>,
    bos: Option<String>,
    eos: Option<String>,
    /// Tokens that have a meaning of their own, in words.
    special: Vec<String>,
    placeholder: Option<u32>,
    turn_end: Option<u32>,
    ends: Vec<u32>,
}

impl std::fmt::Debug for TextModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextModel").field("placeholder", &self.placeholder).finish_non_exhaustive()
    }
}

impl TextModel {
    /// Reads a tokenizer and a chat template; `placeholder` stands for a visual token, where the model
    /// takes any.
    pub fn new(files: &TextFiles, placeholder: Option<u32>) -> Result<Self, EngineError> {
        let malformed =
            |file: &str, reason: String| EngineError::Malformed { file: file.to_owned(), reason };
        let mut tokenizer = Tokenizer::from_bytes(&files.tokenizer)
            .map_err(|e| malformed("tokenizer.json", e.to_string()))?;
        // Some files carry the settings of a batch along.
        tokenizer.with_truncation(None).map_err(|e| malformed("tokenizer.json", e.to_string()))?;
        tokenizer.with_padding(None);
        let template = files.template.as_ref().map(|template| environment(template)).transpose()?;
        let added = tokenizer.get_added_tokens_decoder();
        let special = added.values().filter(|t| t.special).map(|t| t.content.clone()).collect();
        let mut text = Self {
            tokenizer,
            template,
            bos: files.bos.clone(),
            eos: files.eos.clone(),
            special,
            placeholder,
            turn_end: None,
            ends: files.eos_ids.clone(),
        };
        let eos = files.eos.as_deref().and_then(|eos| text.tokenizer.token_to_id(eos));
        text.turn_end = text.template_end().or(eos).or(files.eos_ids.first().copied());
        for end in [text.turn_end, eos].into_iter().flatten() {
            if !text.ends.contains(&end) {
                text.ends.push(end);
            }
        }
        Ok(text)
    }

    /// The special token that the template puts after an assistant's words.
    fn template_end(&self) -> Option<u32> {
        const WORDS: &str = "Qzxq";
        let turn = |role: &str| json!({"role": role, "content": WORDS});
        let text = self.render(&[turn("user"), turn("assistant")], false).ok()?;
        let rest = &text[text.rfind(WORDS)? + WORDS.len()..];
        let first = *self.encode(rest).ok()?.first()?;
        let word = self.tokenizer.id_to_token(first)?;
        self.special.contains(&word).then_some(first)
    }

    fn render(&self, messages: &[Value], go_on: bool) -> Result<String, EngineError> {
        let Some(template) = &self.template else {
            let reason = "this model has no chat template; give the prompt raw";
            return Err(EngineError::Conversation(reason.to_owned()));
        };
        let rendered = template.get_template("chat").and_then(|t| {
            t.render(context! {
                messages => messages,
                add_generation_prompt => go_on,
                bos_token => self.bos.as_deref().unwrap_or(""),
                eos_token => self.eos.as_deref().unwrap_or(""),
            })
        });
        rendered.map_err(|e| EngineError::Conversation(format!("chat template: {e:#}")))
    }

    /// The token that stands for a visual token, where the model takes any.
    pub fn placeholder(&self) -> Option<u32> {
        self.placeholder
    }

    /// Whether the model ends its turn or its text with this token.
    pub fn ends(&self, token: u32) -> bool {
        self.ends.contains(&token)
    }

    /// Tokens of plain words; special tokens written in them stay words only as far as the
    /// tokenizer tells them apart.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        let encoding = self
            .tokenizer
            .encode_fast(text, false)
            .map_err(|e| EngineError::Conversation(e.to_string()))?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Tokens of a text on its own, without a chat template: with what the tokenizer puts around texts.
    pub fn raw(&self, text: &str) -> Result<Prompt, EngineError> {
        let encoding = self
            .tokenizer
            .encode_fast(text, true)
            .map_err(|e| EngineError::Conversation(e.to_string()))?;
        Ok(Prompt { ids: encoding.get_ids().to_vec(), clips: Vec::new() })
    }

    /// Words of tokens, special tokens left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String, EngineError> {
        self.tokenizer.decode(ids, true).map_err(|e| EngineError::Conversation(e.to_string()))
    }

    /// An assistant's turn as tokens, its end included.
    pub fn completion(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        let mut ids = self.encode(text)?;
        let Some(end) = self.turn_end else {
            let reason = "neither chat template nor config says what ends a turn of this model";
            return Err(EngineError::Conversation(reason.to_owned()));
        };
        ids.push(end);
        Ok(ids)
    }

    /// A conversation up to where the assistant goes on. `tokens` gives a clip's number of
    /// placeholders.
    pub fn prompt(
        &self,
        messages: &[Message],
        mut tokens: impl FnMut(&Media) -> Result<usize, EngineError>,
    ) -> Result<Prompt, EngineError> {
        let mut media = Vec::new();
        let rendered: Vec<Value> = messages
            .iter()
            .map(|message| {
                let content: Vec<Value> = message
                    .content
                    .iter()
                    .map(|part| match part {
                        Part::Text { text } => {
                            let of_model = self.special.iter().map(String::as_str);
                            let mut special = of_model.chain([CLIP_MARK]);
                            if let Some(token) = special.find(|&token| text.contains(token)) {
                                return Err(EngineError::Conversation(format!(
                                    "the text {text:?} contains the special token {token}"
                                )));
                            }
                            Ok(json!({"type": "text", "text": text}))
                        }
                        Part::Video(clip) => {
                            media.push(clip.clone());
                            Ok(json!({"type": "video"}))
                        }
                        Part::Image(image) => Err(EngineError::Conversation(format!(
                            "{}: still pictures are not supported by this model",
                            image.source
                        ))),
                    })
                    .collect::<Result<_, _>>()?;
                let only_text =
                    message.content.iter().all(|part| matches!(part, Part::Text { .. }));
                let content =
                    if only_text { Value::String(message.words()) } else { Value::Array(content) };
                Ok(json!({"role": message.role, "content": content}))
            })
            .collect::<Result<_, EngineError>>()?;
        let text = self.render(&rendered, true)?;
        let mut prompt = Prompt { ids: Vec::new(), clips: Vec::new() };
        let pieces: Vec<&str> = text.split(CLIP_MARK).collect();
        if pieces.len() != media.len() + 1 {
            return Err(EngineError::Conversation(format!(
                "the chat template shows {} of {} clips",
                pieces.len() - 1,
                media.len()
            )));
        }
        for (i, piece) in pieces.iter().enumerate() {
            if !piece.is_empty() {
                prompt.ids.extend(self.encode(piece)?);
            }
            if let Some(clip) = media.get(i) {
                let Some(placeholder) = self.placeholder else {
                    return Err(EngineError::Conversation(format!(
                        "{}: this model reads text alone, not clips",
                        clip.source
                    )));
                };
                let start = prompt.ids.len();
                prompt.ids.resize(start + tokens(clip)?, placeholder);
                prompt.clips.push((clip.clone(), start..prompt.ids.len()));
            }
        }
        Ok(prompt)
    }
}

/// The template with what transformers gives to it.
fn environment(template: &str) -> Result<Environment<'static>, EngineError> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.add_function("raise_exception", |reason: String| -> Result<String, _> {
        Err(minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, reason))
    });
    environment.add_template_owned("chat", template.to_owned()).map_err(|e| {
        EngineError::Malformed { file: "chat template".to_owned(), reason: format!("{e:#}") }
    })?;
    Ok(environment)
}

/// Trains a byte-level BPE of at most `size` entries on `corpus`, single digits apart, with the
/// special tokens of the built-in chat template.
pub fn train_tokenizer(
    corpus: impl Iterator<Item = String> + Send,
    size: usize,
) -> Result<Vec<u8>, EngineError> {
    let failed = |e: tokenizers::Error| EngineError::Malformed {
        file: "corpus".to_owned(),
        reason: e.to_string(),
    };
    let special: Vec<AddedToken> = ["<|endoftext|>", "<|im_start|>", TURN_END, CLIP_MARK]
        .into_iter()
        .map(|token| AddedToken::from(token, true))
        .collect();
    type Parts = TokenizerImpl<
        BPE,
        NormalizerWrapper,
        PreTokenizerWrapper,
        PostProcessorWrapper,
        DecoderWrapper,
    >;
    let mut tokenizer: Parts = TokenizerImpl::new(BPE::default());
    let pieces = vec![Digits::new(true).into(), ByteLevel::new(false, true, true).into()];
    tokenizer.with_pre_tokenizer(Some(Sequence::new(pieces)));
    tokenizer.with_decoder(Some(ByteLevel::default()));
    let mut alphabet: Vec<char> = ByteLevel::alphabet().into_iter().collect();
    alphabet.sort_unstable();
    let mut trainer = BpeTrainerBuilder::new()
        .vocab_size(size)
        .special_tokens(special)
        .initial_alphabet(alphabet.into_iter().collect())
        .show_progress(false)
        .build();
    // Counts are taken here: the library's own threads would make ties depend on their order.
    let mut counts: HashMap<String, u64> = HashMap::new();
    for text in corpus {
        *counts.entry(text).or_default() += 1;
    }
    let mut texts: Vec<String> = counts.into_keys().collect();
    texts.sort_unstable();
    tokenizer.train(&mut trainer, texts.into_iter()).map_err(failed)?;
    let text = tokenizer.to_string(false).map_err(failed)?;
    Ok(text.into_bytes())
}
