//! Our own rule ([`crate::extract`]) as one scorer among the others: no random letters, no article
//! for a letter, and what cannot be read is wrong.

use crate::extract::{choice, normalise, open};

use super::{Asked, Reading, letter, tempcompass};

/// The option that the reply names, or for want of options its whole text.
pub(super) fn choice_or_text(asked: &Asked, reply: &str) -> Reading {
    if !asked.options.is_empty() {
        return Reading::letter(asked, choice(reply, asked.options).ok().map(letter));
    }
    let said = open(reply).ok();
    let right = said.as_deref() == Some(normalise(asked.gold).as_str());
    Reading::graded(said, right)
}

/// Yes or no: the reply's first word unless the other stands in it, too ("Yes, it moves."), else
/// the word that the rule of options finds; a letter says neither.
pub(super) fn yes_no(asked: &Asked, reply: &str) -> Reading {
    let words = ["yes", "no"].map(str::to_owned);
    let normal = normalise(reply);
    let stands = |index: usize| normal.split(' ').any(|word| word == words[index]);
    let first = words.iter().position(|word| normal.split(' ').next() == Some(word.as_str()));
    let said = first.filter(|&index| !stands(1 - index));
    let said = said.or_else(|| choice(reply, &words).ok().filter(|&index| stands(index)));
    let said = said.map(|index| words[index].clone());
    let right = said.as_deref() == Some(asked.gold);
    Reading::graded(said, right)
}

/// A caption by its mark or its words, as the letter of its place.
pub(super) fn captions(asked: &Asked, reply: &str) -> Reading {
    let bare = |text: &str| text.trim().trim_matches(['.', '*', '"', '(', ')', ':']).to_lowercase();
    let said = bare(reply);
    let by_mark = asked.options.iter().position(|line| {
        let mark = bare(tempcompass::mark(line));
        said == mark || Some(said.as_str()) == mark.split(' ').nth(1) || said == bare(line)
    });
    let sentences: Vec<String> = asked
        .options
        .iter()
        .map(|line| line.split_once(": ").map_or(line.as_str(), |(_, text)| text).to_owned())
        .collect();
    let index = by_mark.or_else(|| choice(reply, &sentences).ok());
    Reading::letter(asked, index.map(letter))
}
