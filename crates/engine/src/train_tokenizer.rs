//! A tokenizer of one's own: byte-level BPE, trained on a corpus.

use std::collections::HashMap;

use tokenizers::models::bpe::{BPE, BpeTrainerBuilder};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::{
    AddedToken, DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper,
    TokenizerImpl,
};

use crate::EngineError;
use crate::text::TURN_END;

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
    let special: Vec<AddedToken> = ["<|endoftext|>", "<|im_start|>", TURN_END, "<video>"]
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
