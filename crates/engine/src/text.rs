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
/// Ends a turn.
const TURN_END: &str = "<|im_end|>";

/// A conversation as tokens, each clip one placeholder run.
#[derive(Debug, Clone, PartialEq)]
pub struct Prompt {
    /// Tokens up to where the assistant goes on.
    pub ids: Vec<u32>,
    /// The clips, in order, with the range of their placeholders.
    pub clips: Vec<(Media, std::ops::Range<usize>)>,
}

/// A model's tokenizer and chat template.
pub struct TextModel {
    tokenizer: Tokenizer,
    template: Environment<'static>,
    placeholder: Option<u32>,
    turn_end: u32,
}

impl std::fmt::Debug for TextModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextModel").field("placeholder", &self.placeholder).finish_non_exhaustive()
    }
}

impl TextModel {
    /// Reads `tokenizer.json` and a Jinja chat template; `placeholder` stands for a visual token, where
    /// the model takes any.
    pub fn new(
        tokenizer: &[u8],
        template: &str,
        placeholder: Option<u32>,
    ) -> Result<Self, EngineError> {
        let malformed =
            |file: &str, reason: String| EngineError::Malformed { file: file.to_owned(), reason };
        let tokenizer = Tokenizer::from_bytes(tokenizer)
            .map_err(|e| malformed("tokenizer.json", e.to_string()))?;
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment
            .add_template_owned("chat", template.to_owned())
            .map_err(|e| malformed("chat template", format!("{e:#}")))?;
        let Some(turn_end) = tokenizer.token_to_id(TURN_END) else {
            return Err(malformed("tokenizer.json", format!("has no token {TURN_END}")));
        };
        Ok(Self { tokenizer, template: environment, placeholder, turn_end })
    }

    /// The token that stands for a visual token, where the model takes any.
    pub fn placeholder(&self) -> Option<u32> {
        self.placeholder
    }

    /// The token that ends a turn.
    pub fn turn_end(&self) -> u32 {
        self.turn_end
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

    /// Words of tokens, special tokens left out.
    pub fn decode(&self, ids: &[u32]) -> Result<String, EngineError> {
        self.tokenizer.decode(ids, true).map_err(|e| EngineError::Conversation(e.to_string()))
    }

    /// An assistant's turn as tokens, its end included.
    pub fn completion(&self, text: &str) -> Result<Vec<u32>, EngineError> {
        let mut ids = self.encode(text)?;
        ids.push(self.turn_end);
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
                            if text.contains(CLIP_MARK) || text.contains("<|im_") {
                                return Err(EngineError::Conversation(format!(
                                    "the text {text:?} contains a special token of the template"
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
        let text = self
            .template
            .get_template("chat")
            .and_then(|t| {
                t.render(context! { messages => rendered, add_generation_prompt => true })
            })
            .map_err(|e| EngineError::Conversation(format!("chat template: {e:#}")))?;
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
