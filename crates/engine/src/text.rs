//! From conversations to tokens and back: tokenizer, chat template, placeholders of pictures and
//! clips.

use std::collections::BTreeMap;

use savi_models::{Coordinates, Mark, Model, Piece, Plan, VisualKind};
use savi_nn::{Forest, Parent};
use savi_schema::{Media, Message, Part};
use serde_json::{Value, json};
use tokenizers::Tokenizer;

use crate::EngineError;
use crate::media::Shown;
use crate::template::{Chat, ChatTemplate};
use crate::vocabulary::Lazy;

/// Ends a turn in the ChatML manner.
pub(crate) const TURN_END: &str = "<|im_end|>";

/// A conversation as tokens.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Prompt {
    /// Tokens up to where the assistant goes on.
    pub ids: Vec<u32>,
    /// The pictures and clips, in the order of their placeholders.
    pub visuals: Vec<PromptVisual>,
    /// Positions on three axes, and where what follows goes on; none where the model's positions have
    /// one.
    pub coordinates: Option<Coordinates>,
}

/// A picture or a clip in a prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct PromptVisual {
    /// What is shown.
    pub shown: Shown,
    /// What stands for it.
    pub plan: Plan,
    /// From its first placeholder to behind its last.
    pub range: std::ops::Range<usize>,
}

impl Prompt {
    /// The first `len` tokens, which hold a picture or a clip whole or not at all.
    pub fn start(&self, len: usize) -> Self {
        let coordinates = self.coordinates.as_ref().map(|(coordinates, next)| {
            let next = coordinates.get(len).map_or(*next, |at| at[0]);
            (coordinates[..len].to_vec(), next)
        });
        let visuals = self.visuals.iter().filter(|visual| visual.range.end <= len).cloned();
        Self { ids: self.ids[..len].to_vec(), visuals: visuals.collect(), coordinates }
    }

    /// Appends the tokens `range` to a forest as a segment that goes on from what is cached.
    pub(crate) fn go_on(&self, forest: &mut Forest, after: Parent, range: std::ops::Range<usize>) {
        match &self.coordinates {
            Some((coordinates, next)) => {
                let next = coordinates.get(range.end).map_or(*next, |at| at[0]);
                forest.push_at(after, &coordinates[range], next);
            }
            None => {
                forest.push(after, range.len());
            }
        }
    }

    /// The prompt and words after it.
    pub fn followed_by(&self, words: &[u32]) -> Self {
        let coordinates = self.coordinates.as_ref().map(|(coordinates, next)| {
            let end = next + words.len() as u32;
            (coordinates.iter().copied().chain((*next..end).map(|at| [at; 3])).collect(), end)
        });
        Self { ids: [&self.ids, words].concat(), visuals: self.visuals.clone(), coordinates }
    }

    /// Appends the tokens to a forest as a new root.
    pub fn root(&self, forest: &mut Forest) -> usize {
        match &self.coordinates {
            Some((coordinates, next)) => forest.push_at(Parent::Root, coordinates, *next),
            None => forest.push(Parent::Root, self.ids.len()),
        }
    }
}

/// Words by which a chat template shows pictures and clips, and the placeholders for their tokens.
#[derive(Debug, Clone, Default)]
struct Marks {
    image: Option<String>,
    video: Option<String>,
    placeholders: Vec<u32>,
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
    /// Further special tokens by the names that templates have for them, as `pad_token`.
    pub named: BTreeMap<String, String>,
}

impl TextFiles {
    /// A tokenizer and a template in the ChatML manner.
    pub fn chatml(tokenizer: Vec<u8>, template: impl Into<String>) -> Self {
        let template = Some(template.into());
        Self { tokenizer, template, eos: Some(TURN_END.to_owned()), ..Self::default() }
    }

    /// Special tokens by the names that templates have for them.
    fn tokens(&self) -> BTreeMap<String, String> {
        let mut all = self.named.clone();
        let own = [("bos_token", &self.bos), ("eos_token", &self.eos)];
        all.extend(
            own.into_iter().filter_map(|(name, token)| Some((name.to_owned(), token.clone()?))),
        );
        all
    }
}

/// A model's tokenizer and chat template.
pub struct TextModel {
    pub(crate) tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    /// Of conversations with clips, where it is another.
    clip_template: Option<ChatTemplate>,
    /// Tokens that have a meaning of their own, in words.
    special: Vec<String>,
    marks: Marks,
    /// Whether the template wants a message as a list of parts even where it is words alone.
    parts: bool,
    /// Whether the template knows words alone: marks of pictures and clips then stand among them.
    words_alone: bool,
    pub(crate) turn_end: Option<u32>,
    ends: Vec<u32>,
    pub(crate) lazy: Lazy,
}

impl std::fmt::Debug for TextModel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TextModel").field("marks", &self.marks).finish_non_exhaustive()
    }
}

impl TextModel {
    /// Reads a tokenizer and a chat template; `model` says what stands for pictures and clips.
    pub fn new(files: &TextFiles, model: Option<&Model>) -> Result<Self, EngineError> {
        let malformed =
            |file: &str, reason: String| EngineError::Malformed { file: file.to_owned(), reason };
        let mut tokenizer = Tokenizer::from_bytes(&files.tokenizer)
            .map_err(|e| malformed("tokenizer.json", e.to_string()))?;
        // Some files carry the settings of a batch along.
        tokenizer.with_truncation(None).map_err(|e| malformed("tokenizer.json", e.to_string()))?;
        tokenizer.with_padding(None);
        let compile = |source: &String| ChatTemplate::new(source, files.tokens());
        let template = files.template.as_ref().map(compile).transpose()?;
        let added = tokenizer.get_added_tokens_decoder();
        let special = added.values().filter(|t| t.special).map(|t| t.content.clone()).collect();
        let mut text = Self {
            tokenizer,
            template,
            clip_template: None,
            special,
            marks: Marks::default(),
            parts: false,
            words_alone: false,
            turn_end: None,
            ends: files.eos_ids.clone(),
            lazy: Lazy::default(),
        };
        if let Some(model) = model {
            let word = |kind| match model.mark(kind)? {
                Mark::Token(id) => text.tokenizer.id_to_token(id),
                Mark::Word(word) => Some(word),
            };
            let (image, video) = (word(VisualKind::Image), word(VisualKind::Video));
            let clips =
                model.clip_template().map(|source| ChatTemplate::new(source, files.tokens()));
            text.clip_template = clips.transpose()?;
            text.marks = Marks { image, video, placeholders: model.placeholders() };
        }
        text.parts = text.wants_parts();
        text.words_alone = text.passes_over_media();
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
        let turn = |role: &str| json!({"role": role, "content": self.content(WORDS)});
        let text = self.render(&[turn("user"), turn("assistant")], false).ok()?;
        let rest = &text[text.rfind(WORDS)? + WORDS.len()..];
        let first = *self.encode(rest).ok()?.first()?;
        let word = self.tokenizer.id_to_token(first)?;
        self.special.contains(&word).then_some(first)
    }

    /// Whether the template passes over words that are not in a list of parts.
    fn wants_parts(&self) -> bool {
        const WORDS: &str = "Qzxq";
        let shows = |content: Value| {
            let rendered = self.render(&[json!({"role": "user", "content": content})], false);
            rendered.is_ok_and(|text| text.contains(WORDS))
        };
        !shows(json!(WORDS)) && shows(json!([{"type": "text", "text": WORDS}]))
    }

    /// Whether the template shows neither pictures nor clips where they are parts of a message.
    fn passes_over_media(&self) -> bool {
        let shows = |kind: &str, mark: &Option<String>| {
            let Some(mark) = mark else { return false };
            let content = json!([{"type": kind}, {"type": "text", "text": "Qzxq"}]);
            let rendered = self.render(&[json!({"role": "user", "content": content})], false);
            rendered.is_ok_and(|text| text.contains(mark))
        };
        !shows("image", &self.marks.image) && !shows("video", &self.marks.video)
    }

    /// A message's words, with marks of its pictures and clips on lines of their own among them.
    fn marked_words(&self, message: &Message) -> String {
        let line = |mark: &Option<String>| format!("{}\n", mark.as_deref().unwrap_or_default());
        let part = |part: &Part| match part {
            Part::Text { text } => text.clone(),
            Part::Image(_) => line(&self.marks.image),
            Part::Video(_) => line(&self.marks.video),
        };
        message.content.iter().map(part).collect()
    }

    /// Words as the template wants them.
    pub(crate) fn content(&self, words: &str) -> Value {
        if self.parts { json!([{"type": "text", "text": words}]) } else { json!(words) }
    }

    fn render(&self, messages: &[Value], go_on: bool) -> Result<String, EngineError> {
        self.template()?.render(&Chat::new(messages, go_on))
    }

    /// The chat template.
    pub fn template(&self) -> Result<&ChatTemplate, EngineError> {
        self.template.as_ref().ok_or_else(|| {
            let reason = "this model has no chat template; give the prompt raw";
            EngineError::Conversation(reason.to_owned())
        })
    }

    /// The tokens that stand for visual tokens.
    pub fn placeholders(&self) -> &[u32] {
        &self.marks.placeholders
    }

    /// The tokens with which the model ends its turn or its text.
    pub fn ends(&self) -> &[u32] {
        &self.ends
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
    /// Marks in it are places of `shown`, in order.
    pub fn raw(
        &self,
        text: &str,
        shown: Vec<Shown>,
        plan: impl FnMut(&Shown) -> Result<Plan, EngineError>,
    ) -> Result<Prompt, EngineError> {
        self.expand(text, shown, true, plan)
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

    /// A conversation up to where the assistant goes on. `plan` says what stands for a picture or a
    /// clip.
    pub fn prompt(
        &self,
        messages: &[Message],
        plan: impl FnMut(&Shown) -> Result<Plan, EngineError>,
    ) -> Result<Prompt, EngineError> {
        let mut shown = Vec::new();
        let mut show = |kind, media: &Media| {
            shown.push(Shown { kind, media: media.clone(), pictures: 0 });
            json!({"type": if kind == VisualKind::Image { "image" } else { "video" }})
        };
        let mut rendered = Vec::with_capacity(messages.len());
        for message in messages {
            let mut content = Vec::with_capacity(message.content.len());
            for part in &message.content {
                content.push(match part {
                    Part::Text { text } => {
                        self.refuse_special(text)?;
                        json!({"type": "text", "text": text})
                    }
                    Part::Video(clip) => show(VisualKind::Video, clip),
                    Part::Image(image) => show(VisualKind::Image, image),
                });
            }
            let words = message.content.iter().all(|part| matches!(part, Part::Text { .. }));
            let content = if words {
                self.content(&message.words())
            } else if self.words_alone {
                self.content(&self.marked_words(message))
            } else {
                Value::Array(content)
            };
            rendered.push(json!({"role": message.role, "content": content}));
        }
        let clips = shown.iter().any(|shown| shown.kind == VisualKind::Video);
        let other = self.clip_template.as_ref().filter(|_| clips);
        let template = other.map_or_else(|| self.template(), Ok)?;
        let text = template.render(&Chat::new(&rendered, true))?;
        self.expand(&text, shown, false, plan)
    }

    /// Words of people never hold tokens that mean something.
    pub(crate) fn refuse_special(&self, text: &str) -> Result<(), EngineError> {
        let marks = [&self.marks.image, &self.marks.video].into_iter().flatten();
        let mut special = self.special.iter().chain(marks);
        match special.find(|token| text.contains(token.as_str())) {
            None => Ok(()),
            Some(token) => Err(EngineError::Conversation(format!(
                "the text {text:?} contains the special token {token}"
            ))),
        }
    }

    /// Puts what stands for pictures and clips in the places of their marks, and makes tokens of it all.
    fn expand(
        &self,
        text: &str,
        shown: Vec<Shown>,
        around: bool,
        mut plan: impl FnMut(&Shown) -> Result<Plan, EngineError>,
    ) -> Result<Prompt, EngineError> {
        let pictures = shown.iter().filter(|shown| shown.kind == VisualKind::Image).count();
        let (images, videos): (Vec<Shown>, Vec<Shown>) = shown
            .into_iter()
            .map(|shown| Shown { pictures, ..shown })
            .partition(|shown| shown.kind == VisualKind::Image);
        let mut kinds = [
            (&self.marks.image, "pictures", images.len(), images.into_iter()),
            (&self.marks.video, "clips", videos.len(), videos.into_iter()),
        ];
        let (mut expanded, mut rest) = (String::new(), text);
        let mut planned: Vec<(Shown, Plan)> = Vec::new();
        loop {
            let places = kinds.iter_mut().filter_map(|(mark, name, count, left)| {
                let mark = mark.as_deref()?;
                Some((rest.find(mark)?, mark, *name, *count, left))
            });
            let Some((at, mark, name, count, left)) = places.min_by_key(|place| place.0) else {
                break;
            };
            let Some(next) = left.next() else {
                return Err(EngineError::Conversation(format!(
                    "the prompt has more places for {name} ({mark}) than the {count} that are given"
                )));
            };
            expanded.push_str(&rest[..at]);
            rest = &rest[at + mark.len()..];
            let plan = plan(&next)?;
            for piece in &plan.pieces {
                match piece {
                    Piece::Words(words) => expanded.push_str(words),
                    Piece::Tokens { id, count } => {
                        let word = self.tokenizer.id_to_token(*id).ok_or_else(|| {
                            EngineError::Malformed {
                                file: "tokenizer.json".to_owned(),
                                reason: format!("has no token {id}, which stands for pictures"),
                            }
                        })?;
                        expanded.push_str(&word.repeat(*count));
                    }
                }
            }
            planned.push((next, plan));
        }
        expanded.push_str(rest);
        for (mark, name, count, left) in kinds {
            if left.len() > 0 {
                let reason = match mark {
                    None => format!("this model does not take {name}"),
                    Some(mark) => format!(
                        "the prompt has places ({mark}) for {} of {count} {name}",
                        count - left.len()
                    ),
                };
                return Err(EngineError::Conversation(reason));
            }
        }
        let encoding = self
            .tokenizer
            .encode_fast(expanded, around)
            .map_err(|e| EngineError::Conversation(e.to_string()))?;
        let ids = encoding.get_ids().to_vec();
        let mut places = ids
            .iter()
            .enumerate()
            .filter_map(|(at, id)| self.marks.placeholders.contains(id).then_some(at));
        let mut visuals = Vec::with_capacity(planned.len());
        for (shown, plan) in planned {
            let own: Vec<usize> = places.by_ref().take(plan.len()).collect();
            let (Some(first), Some(last)) = (own.first(), own.last()) else { continue };
            visuals.push(PromptVisual { range: *first..last + 1, shown, plan });
        }
        Ok(Prompt { ids, visuals, coordinates: None })
    }
}

/// The words with a number of their own in a `tokenizer.json`.
pub(crate) fn special_tokens(tokenizer: &[u8]) -> Result<BTreeMap<String, u32>, EngineError> {
    #[derive(serde::Deserialize)]
    struct Token {
        id: u32,
        content: String,
    }
    #[derive(serde::Deserialize)]
    struct File {
        #[serde(default)]
        added_tokens: Vec<Token>,
    }
    let file: File = serde_json::from_slice(tokenizer).map_err(|e| EngineError::Malformed {
        file: "tokenizer.json".to_owned(),
        reason: e.to_string(),
    })?;
    Ok(file.added_tokens.into_iter().map(|token| (token.content, token.id)).collect())
}
