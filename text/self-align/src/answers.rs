//! What the two stages that answer have in common: where an answer ends, and what may not be in it.

use crate::trim::{cut_circles, without_last_word};
use crate::{Data, Persona};

/// An answer as far as it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) text: String,
    /// Its end is missing.
    pub(crate) truncated: bool,
    pub(crate) looped: bool,
}

/// Cuts an answer where it runs in circles, and at the heading of the user's turn, which the model may have written
/// itself. `cut` says that it reached the token limit; then half a word may be at its end.
pub(crate) fn end(text: &str, cut: bool, persona: &Persona, ends: &[char]) -> Ended {
    let (text, cut) = match text.split_once(&persona.user) {
        Some((before, _)) => (before, false),
        None => (text, cut),
    };
    let (kept, looped) = cut_circles(text, ends);
    let kept = if cut && !looped { without_last_word(kept) } else { kept };
    Ended { text: kept.trim().to_owned(), truncated: cut || looped, looped }
}

/// Headings and what stands between two examples: none of it belongs in an answer.
pub(crate) fn scaffold(persona: &Persona) -> Vec<String> {
    let Persona { user, assistant, thoughts, praise, thanks, self_identification, .. } = persona;
    [user, assistant, thoughts, praise, thanks, self_identification].map(Clone::clone).to_vec()
}

/// Content words of all examples.
pub(crate) fn leaks(data: &Data) -> Vec<String> {
    data.exemplars.iter().flat_map(|exemplar| exemplar.leaks.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trim::ENDS;

    #[test]
    fn answers_end_at_the_next_turn_at_a_circle_or_at_half_a_word() {
        let persona = Persona::default().filled();
        let check = |text: &str, cut: bool, expected: &str, truncated: bool, looped: bool| {
            let expected = Ended { text: expected.to_owned(), truncated, looped };
            assert_eq!(end(text, cut, &persona, &ENDS), expected, "{text:?}");
        };
        check(" Yes, it is.\n", false, "Yes, it is.", false, false);
        check("Yes, it is.\n\n### User\nAnd", true, "Yes, it is.", false, false);
        check("Yes, it is. And als", true, "Yes, it is. And", true, false);
        check("Yes. No. Yes. No. Yes. N", true, "Yes. No.", true, true);
        check("Yes. No. Yes.", false, "Yes. No.", true, true);
        check("", true, "", true, false);
    }
}
