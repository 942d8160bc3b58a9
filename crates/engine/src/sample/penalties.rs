//! What is taken off and added to logits before anything is cut.

use std::collections::{HashMap, HashSet};

use savi_schema::Sampling;

use super::Context;

/// In the order in which [`Sampling`] names them.
pub(super) fn apply(logits: &mut [f32], sampling: &Sampling, context: Context<'_>) {
    #[allow(clippy::float_cmp, reason = "the very value that changes nothing")]
    if sampling.repetition_penalty != 1.0 {
        repetition(logits, sampling.repetition_penalty as f32, context);
    }
    if sampling.presence_penalty != 0.0 || sampling.frequency_penalty != 0.0 {
        let mut counts: HashMap<u32, f64> = HashMap::new();
        for &token in context.generated {
            *counts.entry(token).or_default() += 1.0;
        }
        for (token, count) in counts {
            add(logits, token, -sampling.presence_penalty - sampling.frequency_penalty * count);
        }
    }
    for (&n, &penalty) in &sampling.ngram_penalties {
        for token in completions(context.generated, n) {
            add(logits, token, -penalty);
        }
    }
    if sampling.no_repeat_ngram_size > 0 {
        let all = [context.prompt, context.generated].concat();
        for token in completions(&all, sampling.no_repeat_ngram_size) {
            ban(logits, token);
        }
    }
    for (&token, &bias) in &sampling.logit_bias {
        add(logits, token, bias);
    }
    let early = context.generated.len() < sampling.min_tokens;
    let ends = context.ends.iter().chain(&sampling.stop_token_ids).filter(|_| early);
    for &token in sampling.banned_tokens.iter().chain(context.banned).chain(ends) {
        ban(logits, token);
    }
    if let Some(allowed) = context.allowed {
        for (token, logit) in logits.iter_mut().enumerate() {
            if !allowed.allows(token as u32) {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
}

/// Keskar et al. 2019, section 4.1, in the form of transformers: a token counts once however often it
/// was there.
fn repetition(logits: &mut [f32], penalty: f32, context: Context<'_>) {
    let seen: HashSet<u32> = context.prompt.iter().chain(context.generated).copied().collect();
    for token in seen {
        if let Some(logit) = logits.get_mut(token as usize) {
            *logit = if *logit < 0.0 { *logit * penalty } else { *logit / penalty };
        }
    }
}

/// Tokens that would complete an n-gram that is in `tokens`, once for every time that it is there.
fn completions(tokens: &[u32], n: usize) -> Vec<u32> {
    if n == 0 || tokens.len() + 1 < n {
        return Vec::new();
    }
    let last = &tokens[tokens.len() + 1 - n..];
    let grams = tokens.windows(n).filter(|gram| gram[..n - 1] == *last);
    grams.map(|gram| gram[n - 1]).collect()
}

fn add(logits: &mut [f32], token: u32, value: f64) {
    if let Some(logit) = logits.get_mut(token as usize) {
        *logit += value as f32;
    }
}

fn ban(logits: &mut [f32], token: u32) {
    if let Some(logit) = logits.get_mut(token as usize) {
        *logit = f32::NEG_INFINITY;
    }
}
