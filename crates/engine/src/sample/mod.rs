//! Drawing one token from logits: penalties and bans, then cuts, then the draw.

mod cuts;
mod penalties;

use rand::Rng;
use savi_schema::Sampling;

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
}

/// A drawn token.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Drawn {
    pub(crate) token: u32,
    /// Log-probability under the distribution that it was drawn from.
    pub(crate) logp: f32,
}

/// Draws a token: forced at the start where the sampling says so, greedy at temperature 0, otherwise
/// from what the cuts leave of the softmax of `logits / temperature`. Ties go to the smaller token.
pub(crate) fn draw(
    mut logits: Vec<f32>,
    sampling: &Sampling,
    context: Context<'_>,
    rng: &mut impl Rng,
) -> Drawn {
    if let Some(&token) = sampling.forced_tokens.get(context.generated.len()) {
        return Drawn { token, logp: 0.0 };
    }
    penalties::apply(&mut logits, sampling, context);
    if sampling.temperature <= 0.0 {
        let best =
            |best: (usize, f32), (i, &x): (usize, &f32)| if x > best.1 { (i, x) } else { best };
        let (token, _) = logits.iter().enumerate().fold((0, f32::NEG_INFINITY), best);
        return Drawn { token: token as u32, logp: 0.0 };
    }
    let kept = cuts::weights(&logits, sampling);
    let total: f64 = kept.iter().map(|k| k.1).sum();
    let mut left = rng.random::<f64>() * total;
    let chosen = kept.iter().find(|(_, weight)| {
        left -= weight;
        left < 0.0
    });
    let Some(&(token, weight)) = chosen.or(kept.last()) else {
        return Drawn { token: 0, logp: 0.0 };
    };
    Drawn { token, logp: (weight / total).ln() as f32 }
}

#[cfg(test)]
mod tests;
