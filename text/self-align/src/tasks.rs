//! Reading a numbered list of tasks, and what a task has to be (1a of the paper's stage 1).

use savi_judge::rouge::words;

use crate::SelfInstruct;
use crate::records::{Dropped, Task};

/// The tasks of a reply to a prompt that ended with the open instruction number `first`. The last one is left away
/// where the reply was cut off.
pub(crate) fn parse(raw: &str, first: usize, cut: bool) -> Vec<Task> {
    let text = format!("{first}. Instruction:{raw}");
    let mut pieces: Vec<&str> = text.split("###").collect();
    if cut || pieces.last().is_some_and(|piece| piece.trim().is_empty()) {
        pieces.pop();
    }
    let tasks =
        pieces.iter().enumerate().map(|(place, piece)| match parse_one(piece, first + place) {
            Some((instruction, input)) => {
                Task { instruction, input, similarity: None, dropped: None }
            }
            None => Task {
                instruction: piece.trim().to_owned(),
                input: String::new(),
                similarity: None,
                dropped: Some(Dropped::Malformed),
            },
        });
    tasks.collect()
}

/// A piece has to hold instruction and input under its own number, once each.
fn parse_one(piece: &str, number: usize) -> Option<(String, String)> {
    let (instruction, input) = (format!("{number}. Instruction:"), format!("{number}. Input:"));
    let rest = piece.trim().strip_prefix(&instruction)?;
    let (said, given) = rest.split_once(&input)?;
    if rest.contains(&instruction) || given.contains(&input) {
        return None;
    }
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let given = given.trim();
    let given = if given.eq_ignore_ascii_case("<noinput>") { "" } else { given };
    Some((said.trim_end_matches(':').to_owned(), given.to_owned()))
}

/// Why a task is not used, before it is compared with others; the first reason in the paper's order.
pub(crate) fn fault(instruction: &str, input: &str, config: &SelfInstruct) -> Option<Dropped> {
    let count = instruction.split_whitespace().count();
    let first = instruction.chars().next();
    let named =
        || config.blacklist.iter().any(|word| has_word(instruction, word) || has_word(input, word));
    if count < config.least_words {
        Some(Dropped::Short)
    } else if count > config.most_words {
        Some(Dropped::Long)
    } else if named() {
        Some(Dropped::Blacklisted)
    } else if first.is_some_and(|first| first.is_ascii_punctuation()) {
        Some(Dropped::Punctuation)
    } else if first.is_some_and(|first| !first.is_ascii()) {
        Some(Dropped::NonAscii)
    } else {
        None
    }
}

/// Whether `text` has `word` (or the words of it, one after the other) as whole words in any case.
fn has_word(text: &str, word: &str) -> bool {
    let (text, word) = (words(text), words(word));
    !word.is_empty() && text.windows(word.len()).any(|window| window == word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_by_their_numbers() {
        let raw = " Name three\n birds:\n6. Input:\n<NoInput>\n###\n7. Instruction: Sort it.\n7. Input:\nb\na\n\
                   ###\n8. Instruction: No input here.\n###\n10. Instruction: Wrong.\n10. Input:\nx\n\
                   ###\n10. Instruction: Twice. 10. Input: 10. Input:\n###\n11. Instruction: Half";
        let tasks = parse(raw, 6, true);
        let read: Vec<(&str, &str, bool)> = tasks
            .iter()
            .map(|task| (task.instruction.as_str(), task.input.as_str(), task.dropped.is_none()))
            .collect();
        assert_eq!(read[..2], [("Name three birds", "", true), ("Sort it.", "b\na", true)]);
        assert_eq!(read.len(), 5);
        assert!(read[2..].iter().all(|task| !task.2));
        assert_eq!(parse(raw, 6, false).len(), 6);
        assert_eq!(parse(" a b c d\n1. Input:\n<noinput>\n###\n", 1, false).len(), 1);
        assert!(parse("", 6, true).is_empty());
    }

    #[test]
    fn filters_come_in_the_papers_order() {
        let config = SelfInstruct::default();
        let check = |instruction: &str, input: &str, expected: Option<Dropped>| {
            assert_eq!(fault(instruction, input, &config), expected, "{instruction}");
        };
        check("Name three red birds.", "", None);
        check("Name three birds.", "", Some(Dropped::Short));
        check(&"word ".repeat(150), "", None);
        check(&"word ".repeat(151), "", Some(Dropped::Long));
        check("Describe the Image in words.", "", Some(Dropped::Blacklisted));
        check("Describe the imagery of it.", "a MAP", Some(Dropped::Blacklisted));
        check("Tell me where to go.", "", None);
        check("Then I go  to the shop.", "", Some(Dropped::Blacklisted));
        check("\"Quote this for me, please.", "", Some(Dropped::Punctuation));
        check("Épeler le mot maison ici.", "", Some(Dropped::NonAscii));
        check("- map", "", Some(Dropped::Short));
        check("- a b map", "", Some(Dropped::Blacklisted));
    }
}
