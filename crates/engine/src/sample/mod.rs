//! Drawing one token from logits: penalties and bans, then cuts, then the draw.

mod cuts;
mod penalties;

use rand::Rng;
use savi_schema::Sampling;

use crate::constraint::Mask;

/// What a token is drawn after, and what can never be drawn.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Context<'a> {
    /// Tokens of the prompt.
    pub(crate) prompt: &'a [u32],
    /// Tokens of the continuation so far.
    pub(crate) generated: &'a [u32],
    /// Tokens that are never drawn.
    pub(crate) banned: &'a [u32],
    /// Tokens that end the continuation, which are not drawn before it is long enough.
    pub(crate) ends: &'a [u32],
    /// The only tokens that can be drawn, where the text is held to a form.
    pub(crate) allowed: Option<&'a Mask>,
}

/// A drawn token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Drawn {
    pub(crate) token: u32,
    /// Log-probability under the distribution that it was drawn from.
    pub(crate) logp: f32,
}

/// Draws a token: forced at the start where the sampling says so, greedy at temperature 0, otherwise
/// from what the cuts leave of the softmax of `logits / temperature`. Ties go to the smaller token. None where bans
/// leave no token.
pub(crate) fn draw(
    mut logits: Vec<f32>,
    sampling: &Sampling,
    context: Context<'_>,
    rng: &mut impl Rng,
) -> Option<Drawn> {
    if let Some(&token) = sampling.forced_tokens.get(context.generated.len()) {
        return Some(Drawn { token, logp: 0.0 });
    }
    penalties::apply(&mut logits, sampling, context);
    if sampling.temperature <= 0.0 {
        let left = logits.iter().enumerate().filter(|(_, logit)| **logit > f32::NEG_INFINITY);
        // The first of equals: `max_by` would give the last.
        let (token, _) = left.reduce(|best, next| if next.1 > best.1 { next } else { best })?;
        return Some(Drawn { token: token as u32, logp: 0.0 });
    }
    let kept = cuts::weights(&logits, sampling);
    let total: f64 = kept.iter().map(|k| k.1).sum();
    let mut left = rng.random::<f64>() * total;
    let chosen = kept.iter().find(|(_, weight)| {
        left -= weight;
        left < 0.0
    });
    // Rounding may leave something of the draw behind the last one.
    let last = || kept.iter().rfind(|(_, weight)| *weight > 0.0);
    let &(token, weight) = chosen.or_else(last)?;
    Some(Drawn { token, logp: (weight / total).ln() as f32 })
}

/// The `count` tokens of the largest logits, the largest first; ties go to the smaller token.
pub(crate) fn likeliest<T>(
    logits: &[f32],
    count: usize,
    mut told: impl FnMut(u32, f32) -> T,
) -> Vec<T> {
    let mut tokens: Vec<u32> = (0..logits.len() as u32).collect();
    let larger =
        |a: &u32, b: &u32| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b));
    let count = count.min(tokens.len());
    if count < tokens.len() {
        tokens.select_nth_unstable_by(count, larger);
        tokens.truncate(count);
    }
    tokens.sort_unstable_by(larger);
    tokens.into_iter().map(|token| told(token, logits[token as usize])).collect()
}

#[cfg(test)]
mod frequencies;
#[cfg(test)]
mod tests;
