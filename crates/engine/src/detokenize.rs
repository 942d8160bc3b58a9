//! A text from its tokens, as they come.
//!
//! [`TextModel::decode`] wants all tokens at once; asked anew after every token, a text costs the square of its length.
//! A [`Detokenizer`] looks at every token once and gives what is new of the text and will not change any more: halves of
//! characters wait, and where single bytes are tokens (SentencePiece) so does a run of them, because whether such a run is
//! characters or as many U+FFFD is known at its end. All that it gives together is what `decode` gives of all tokens.
//!
//! [`StopStrings`] stands behind it: it finds strings that end a text, also where they begin in one token and end in a
//! later one, and holds back what may yet turn out to be the beginning of one.

use std::sync::Arc;

use crate::EngineError;
use crate::text::TextModel;
use crate::vocabulary::{Joining, Vocabulary, Word};

/// Turns tokens into a text, one at a time.
#[derive(Debug, Clone)]
pub struct Detokenizer {
    vocabulary: Arc<Vocabulary>,
    /// Bytes that are not a text yet.
    bytes: Vec<u8>,
    /// Characters that are still taken off the text's start.
    strip: usize,
    /// All tokens, where the text is known as a whole alone.
    tokens: Vec<u32>,
}

impl TextModel {
    /// For the tokens of a new text.
    pub fn detokenizer(&self) -> Detokenizer {
        let vocabulary = self.vocabulary().clone();
        let strip = if let Joining::Pieces(_, count) = vocabulary.joining { count } else { 0 };
        Detokenizer { vocabulary, bytes: Vec::new(), strip, tokens: Vec::new() }
    }
}

impl Detokenizer {
    /// What is new of the text after one more token, as far as it is settled.
    pub fn push(&mut self, token: u32) -> String {
        let vocabulary = self.vocabulary.clone();
        let (word, joining) = (vocabulary.word(token), &vocabulary.joining);
        match (joining, word) {
            (Joining::Whole(_), _) => {
                self.tokens.push(token);
                String::new()
            }
            (_, Word::None | Word::Special(_)) => String::new(),
            (Joining::Bytes, Word::Piece(bytes)) => {
                self.bytes.extend_from_slice(bytes);
                self.settled()
            }
            (_, Word::Byte(byte)) => {
                self.bytes.push(*byte);
                String::new()
            }
            (Joining::Pieces(..), Word::Piece(piece)) => {
                let mut text = self.run();
                text.push_str(&String::from_utf8_lossy(piece));
                self.stripped(text)
            }
        }
    }

    /// Forgets what waits: the text has ended before it.
    pub(crate) fn close(&mut self) {
        self.bytes.clear();
        self.tokens.clear();
    }

    /// What is left of the text when no token follows.
    pub fn finish(mut self) -> Result<String, EngineError> {
        match &self.vocabulary.clone().joining {
            Joining::Whole(tokenizer) => tokenizer
                .decode(&self.tokens, true)
                .map_err(|error| EngineError::Conversation(error.to_string())),
            Joining::Bytes => Ok(String::from_utf8_lossy(&self.bytes).into_owned()),
            Joining::Pieces(..) => {
                let text = self.run();
                Ok(self.stripped(text))
            }
        }
    }

    /// The bytes up to a character that may go on, as [`String::from_utf8_lossy`] reads them.
    fn settled(&mut self) -> String {
        let mut text = String::new();
        let mut chunks = self.bytes.utf8_chunks().peekable();
        let mut rest = 0;
        while let Some(chunk) = chunks.next() {
            text.push_str(chunk.valid());
            let half = std::str::from_utf8(chunk.invalid()).err();
            let open = half.is_some_and(|error| error.error_len().is_none());
            if chunks.peek().is_none() && open {
                rest = chunk.invalid().len();
            } else if !chunk.invalid().is_empty() {
                text.push(char::REPLACEMENT_CHARACTER);
            }
        }
        self.bytes.drain(..self.bytes.len() - rest);
        text
    }

    /// The run of single bytes that has come to its end.
    fn run(&mut self) -> String {
        String::from_utf8(std::mem::take(&mut self.bytes)).unwrap_or_else(|error| {
            char::REPLACEMENT_CHARACTER.to_string().repeat(error.as_bytes().len())
        })
    }

    /// Without what decoding takes off the text's start.
    fn stripped(&mut self, text: String) -> String {
        let Joining::Pieces(letter, _) = self.vocabulary.joining else { return text };
        let mut rest = text.as_str();
        while self.strip > 0 && !rest.is_empty() {
            match rest.strip_prefix(letter) {
                Some(after) => (rest, self.strip) = (after, self.strip - 1),
                None => self.strip = 0,
            }
        }
        rest.to_owned()
    }
}

/// Finds the strings that end a text.
#[derive(Debug, Clone)]
pub struct StopStrings {
    stops: Vec<String>,
    /// What may be the beginning of one.
    held: String,
}

/// What is new of a text, once it has been looked at for stop strings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Passed {
    /// The text goes on.
    On(String),
    /// A stop string has come; this is the last of the text before it.
    Stopped(String),
}

impl StopStrings {
    /// For texts that end before any of `stops`.
    pub fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        Self { stops, held: String::new() }
    }

    /// Takes more of the text. Of several stop strings the one that is complete first ends it, of those that are complete
    /// at the same letter the longest, however the text comes in parts.
    pub fn push(&mut self, text: &str) -> Passed {
        self.held.push_str(text);
        let found = self.stops.iter().filter_map(|stop| {
            let start = self.held.find(stop.as_str())?;
            Some((start + stop.len(), start))
        });
        if let Some((_, start)) = found.min() {
            self.held.truncate(start);
            return Passed::Stopped(std::mem::take(&mut self.held));
        }
        let begins = |at: &usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[*at..]));
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let near = self.held.len().saturating_sub(longest);
        let at = (near..self.held.len()).filter(|&at| self.held.is_char_boundary(at)).find(begins);
        let rest = self.held.split_off(at.unwrap_or(self.held.len()));
        Passed::On(std::mem::replace(&mut self.held, rest))
    }

    /// What was held back, when nothing follows.
    pub fn finish(self) -> String {
        self.held
    }
}
