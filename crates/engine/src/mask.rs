//! Which tokens of a conversation are the assistant's, for training on every one of its turns.
//!
//! A template with `{% generation %}` blocks tells: a token counts that overlaps a block, as in
//! transformers. For any other, each turn of the assistant is found by rendering the conversation up to it, opened and whole
//! (as TRL and others do): the text in between is the turn's, up to the token that ends a turn. Templates that
//! rewrite earlier turns, as those that drop thoughts, are refused: no one sequence shows all turns as the
//! model would have said them.

use std::ops::Range;

use savi_schema::{Message, Part};
use serde_json::{Value, json};

use crate::template::Chat;
use crate::{EngineError, TextModel};

/// A conversation as tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Masked {
    /// The tokens.
    pub ids: Vec<u32>,
    /// For each token whether it is the assistant's, the end of its turn included.
    pub assistant: Vec<bool>,
}

impl TextModel {
    /// A whole conversation of words, with a mask of what the assistant says in it.
    pub fn conversation(&self, messages: &[Message]) -> Result<Masked, EngineError> {
        let turns: Vec<Value> =
            messages.iter().map(|message| self.turn(message)).collect::<Result<_, _>>()?;
        let template = self.template()?;
        if template.generates() {
            let (text, spans) = template.render_spans(&Chat::new(&turns, false))?;
            let (ids, offsets) = self.tokens(&text)?;
            let overlaps = |token: &Range<usize>| {
                spans.iter().any(|span| token.start < span.end && token.end > span.start)
            };
            return Ok(Masked { ids, assistant: offsets.iter().map(overlaps).collect() });
        }
        self.by_prefixes(&turns)
    }

    fn by_prefixes(&self, turns: &[Value]) -> Result<Masked, EngineError> {
        let template = self.template()?;
        let text = template.render(&Chat::new(turns, false))?;
        let (ids, _) = self.tokens(&text)?;
        let mut assistant = vec![false; ids.len()];
        for (number, _) in turns.iter().enumerate().filter(|(_, turn)| turn["role"] == "assistant")
        {
            let prefix = |chat: Chat<'_>| -> Result<usize, EngineError> {
                let rendered = template.render(&chat)?;
                if !text.starts_with(&rendered) {
                    let same = text.bytes().zip(rendered.bytes()).take_while(|(a, b)| a == b);
                    let at = text.floor_char_boundary(same.count());
                    let shown = |text: &str| text[at..].chars().take(24).collect::<String>();
                    return Err(EngineError::Conversation(format!(
                        "the chat template writes turn {} in another way when more turns follow ({:?} instead of {:?}): \
                         give the model's turns one by one, or a template with generation blocks",
                        number + 1,
                        shown(&text),
                        shown(&rendered)
                    )));
                }
                let (tokens, _) = self.tokens(&rendered)?;
                if !ids.starts_with(&tokens) {
                    return Err(EngineError::Conversation(format!(
                        "a token reaches from the prompt into turn {} or out of it: begin and end its text \
                         without line ends and blanks",
                        number + 1
                    )));
                }
                Ok(tokens.len())
            };
            let start = prefix(Chat::new(&turns[..number], true))?;
            let end = prefix(Chat::new(&turns[..=number], false))?;
            let said = ids.get(start..end).unwrap_or_default();
            // What the template writes after a turn's end is its own.
            let last = said.iter().rposition(|&id| Some(id) == self.turn_end);
            let length = last.map_or(said.len(), |last| last + 1);
            assistant[start..start + length].fill(true);
        }
        Ok(Masked { ids, assistant })
    }

    /// A turn as templates read it.
    fn turn(&self, message: &Message) -> Result<Value, EngineError> {
        for part in &message.content {
            match part {
                Part::Text { text } => self.refuse_special(text)?,
                Part::Image(media) | Part::Video(media) => {
                    return Err(EngineError::Conversation(format!(
                        "{}: masks of several turns are for words alone",
                        media.source
                    )));
                }
            }
        }
        Ok(json!({"role": message.role, "content": self.content(&message.words())}))
    }

    /// Tokens of a text, with the bytes that each stands for.
    fn tokens(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>), EngineError> {
        let encoding = self
            .tokenizer
            .encode(text, false)
            .map_err(|error| EngineError::Conversation(error.to_string()))?;
        let offsets = encoding.get_offsets().iter().map(|&(start, end)| start..end).collect();
        Ok((encoding.get_ids().to_vec(), offsets))
    }
}
