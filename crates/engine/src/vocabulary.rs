//! What the tokens of a tokenizer stand for, one by one, and how they become a text.
//!
//! A tokenizer's decoder is a program over a list of words. Nearly all language models use one of two:
//! byte-level BPE, whose tokens are bytes in disguise (GPT-2, Llama 3, Qwen), and SentencePiece, whose tokens are
//! words with blanks as `▁` and single bytes for letters without a token (Llama 2, Gemma, Phi-3). These are
//! understood here, so that tokens can be looked at apart; of any other the text is known as a whole alone.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};

use tokenizers::decoders::DecoderWrapper;
use tokenizers::{Decoder, Tokenizer};

use crate::constraint::Grammars;
use crate::text::TextModel;

/// What is made of a tokenizer when it is first asked for.
#[derive(Default)]
pub(crate) struct Lazy {
    vocabulary: OnceLock<Arc<Vocabulary>>,
    pub(crate) grammars: OnceLock<Result<Grammars, String>>,
}

impl TextModel {
    /// The tokens one by one.
    pub(crate) fn vocabulary(&self) -> &Arc<Vocabulary> {
        self.lazy.vocabulary.get_or_init(|| Arc::new(Vocabulary::new(&self.tokenizer)))
    }

    /// The bytes of a token: a token need not be whole characters. Of a token with a meaning of its own they are
    /// those of its name.
    pub fn token_bytes(&self, token: u32) -> &[u8] {
        self.vocabulary().bytes(token)
    }
}

/// What one token stands for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Word {
    /// No token has this number.
    None,
    /// A token with a meaning of its own, which is no part of the text.
    Special(Box<str>),
    /// A piece of the text. In byte-level vocabularies it need not be whole characters.
    Piece(Box<[u8]>),
    /// A byte of a character that has no token (SentencePiece).
    Byte(u8),
}

/// How words become a text.
#[derive(Debug, Clone)]
pub(crate) enum Joining {
    /// Bytes after bytes; what is no UTF-8 turns into U+FFFD as by [`String::from_utf8_lossy`].
    Bytes,
    /// Words after words. A run of [`Word::Byte`]s that is no UTF-8 as a whole turns into a U+FFFD for each.
    /// So many of the character at the text's very start are taken off.
    Pieces(char, usize),
    /// In a way of its own, which only the tokenizer knows.
    Whole(Box<Tokenizer>),
}

/// All tokens of a tokenizer.
#[derive(Debug)]
pub(crate) struct Vocabulary {
    words: Vec<Word>,
    pub(crate) joining: Joining,
}

impl Vocabulary {
    pub(crate) fn new(tokenizer: &Tokenizer) -> Self {
        let added = tokenizer.get_added_tokens_decoder();
        let special: HashSet<&str> =
            added.values().filter(|token| token.special).map(|t| t.content.as_str()).collect();
        let ids = tokenizer.get_vocab(true).into_values().chain(added.keys().copied());
        let count = ids.max().map_or(0, |last| last + 1);
        let steps = Steps::of(tokenizer.get_decoder());
        let word = |id| match tokenizer.id_to_token(id) {
            None => Word::None,
            Some(word) if special.contains(word.as_str()) => Word::Special(word.into()),
            Some(word) => steps.as_ref().map_or_else(
                || Word::Piece(word.as_bytes().into()),
                |steps| steps.word(word.clone()),
            ),
        };
        let words = (0..count).map(word).collect();
        let joining = match steps {
            None => Joining::Whole(Box::new(tokenizer.clone())),
            Some(Steps::Bytes) => Joining::Bytes,
            Some(Steps::Pieces { strip: (blank, count), .. }) => Joining::Pieces(blank, count),
        };
        Self { words, joining }
    }

    /// How many numbers tokens have.
    pub(crate) fn len(&self) -> usize {
        self.words.len()
    }

    pub(crate) fn word(&self, token: u32) -> &Word {
        self.words.get(token as usize).unwrap_or(&Word::None)
    }

    /// The bytes of a token; of one with a meaning of its own those of its name.
    pub(crate) fn bytes(&self, token: u32) -> &[u8] {
        match self.word(token) {
            Word::None => &[],
            Word::Special(name) => name.as_bytes(),
            Word::Piece(bytes) => bytes,
            Word::Byte(byte) => std::slice::from_ref(byte),
        }
    }
}

/// A decoder that is understood.
enum Steps<'a> {
    Bytes,
    Pieces {
        /// What is done to every word by itself.
        replaces: Vec<&'a DecoderWrapper>,
        /// Whether `<0x41>` is a byte.
        bytes: bool,
        strip: (char, usize),
    },
}

impl<'a> Steps<'a> {
    fn of(decoder: Option<&'a DecoderWrapper>) -> Option<Self> {
        let mut flat = Vec::new();
        flatten(decoder?, &mut flat);
        if let [DecoderWrapper::ByteLevel(_)] = flat[..] {
            return Some(Self::Bytes);
        }
        let mut rest = flat.into_iter().peekable();
        let mut replaces = Vec::new();
        while let Some(step) = rest.next_if(|step| matches!(step, DecoderWrapper::Replace(_))) {
            replaces.push(step);
        }
        let bytes = rest.next_if(|step| matches!(step, DecoderWrapper::ByteFallback(_))).is_some();
        let fused = rest.next_if(|step| matches!(step, DecoderWrapper::Fuse(_))).is_some();
        let strip = match rest.next() {
            None => ('\0', 0),
            Some(DecoderWrapper::Strip(strip)) if fused && strip.stop == 0 => {
                (strip.content, strip.start)
            }
            Some(_) => return None,
        };
        rest.next().is_none().then_some(Self::Pieces { replaces, bytes, strip })
    }

    fn word(&self, word: String) -> Word {
        match self {
            Self::Bytes => {
                let bytes: Option<Vec<u8>> = word.chars().map(byte_of).collect();
                Word::Piece(bytes.unwrap_or_else(|| word.into_bytes()).into())
            }
            Self::Pieces { replaces, bytes, .. } => {
                let mut piece = word;
                for step in replaces {
                    piece = step.decode(vec![piece.clone()]).unwrap_or(piece);
                }
                let byte = || {
                    let digits = piece.strip_prefix("<0x")?.strip_suffix('>')?;
                    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok())?
                };
                match byte().filter(|_| *bytes) {
                    Some(byte) => Word::Byte(byte),
                    None => Word::Piece(piece.into_bytes().into()),
                }
            }
        }
    }
}

fn flatten<'a>(decoder: &'a DecoderWrapper, into: &mut Vec<&'a DecoderWrapper>) {
    match decoder {
        DecoderWrapper::Sequence(sequence) => {
            sequence.get_decoders().iter().for_each(|step| flatten(step, into));
        }
        step => into.push(step),
    }
}

/// The byte behind a character of GPT-2's alphabet, in which bytes that print stand for themselves and the others for
/// the characters from 256 on.
fn byte_of(letter: char) -> Option<u8> {
    let prints = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match u32::from(letter) {
        code @ 0..=255 => Some(code as u8).filter(|&byte| prints(byte)),
        code => (0..=255u8).filter(|&byte| !prints(byte)).nth(code as usize - 256),
    }
}
