//! Texts that run in circles, seen by the n-grams that they say again.
//!
//! Direct Nash Optimization (arXiv 2404.03715, section 4) takes such samples for negatives without asking a judge. Its
//! thresholds are not published; these are ours.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

/// When a text counts as running in circles. A word is what white space separates.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Repetition {
    /// Words of an n-gram; 0 takes no text for one that runs in circles.
    pub ngram: usize,
    /// Largest share of n-grams that were said before, from 0 to 1.
    pub most_repeated: f64,
    /// Texts of fewer words are left alone.
    pub least_words: usize,
}

impl Default for Repetition {
    fn default() -> Self {
        Self { ngram: 4, most_repeated: 0.5, least_words: 32 }
    }
}

impl Repetition {
    /// Refuses what means nothing, naming the key.
    pub fn check(&self) -> Result<(), String> {
        match (0.0..=1.0).contains(&self.most_repeated) {
            true => Ok(()),
            false => Err(format!("most_repeated = {} is not from 0 to 1", self.most_repeated)),
        }
    }

    /// Whether `text` runs in circles.
    pub fn is_degenerate(&self, text: &str) -> bool {
        let words = text.split_whitespace().count();
        self.ngram > 0
            && words >= self.least_words
            && repeated_share(text, self.ngram) > self.most_repeated
    }
}

/// Share of a text's n-grams of words that it has said before, from 0 to 1; 0 where it has none.
pub fn repeated_share(text: &str, ngram: usize) -> f64 {
    let words: Vec<&str> = text.split_whitespace().collect();
    if ngram == 0 || words.len() < ngram {
        return 0.0;
    }
    let all = words.len() - ngram + 1;
    let different: HashSet<&[&str]> = words.windows(ngram).collect();
    1.0 - different.len() as f64 / all as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_by_hand() {
        assert_eq!(repeated_share("a b c d", 2), 0.0);
        // ab, ba, ab, ba, ab: two of five are new.
        assert_eq!(repeated_share("a b a b a b", 2), 0.6);
        assert_eq!(repeated_share("a", 2), 0.0);
        assert_eq!(repeated_share("a a", 0), 0.0);
    }

    #[test]
    fn circles_are_seen_and_short_or_varied_texts_are_not() {
        let usual = Repetition::default();
        let circle = "so it is five and ".repeat(12);
        assert!(usual.is_degenerate(&circle));
        assert!(!usual.is_degenerate("no no no no no no no no"));
        let varied: Vec<String> = (0..60).map(|n| format!("word{n}")).collect();
        assert!(!usual.is_degenerate(&varied.join(" ")));
        // Said twice is not yet in circles.
        let twice = format!("{0} {0}", varied[..20].join(" "));
        assert!(!usual.is_degenerate(&twice));
        assert!(!Repetition { ngram: 0, ..usual }.is_degenerate(&circle));
        let wrong = Repetition { most_repeated: 1.5, ..usual };
        assert!(wrong.check().unwrap_err().contains("most_repeated = 1.5"));
    }
}
