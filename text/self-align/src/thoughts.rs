//! Reading thoughts: what is asked, and which rules are cited.

use crate::Persona;
use crate::records::{Dropped, Thoughts};

/// The thoughts of a reply, and the answer after them: all that follows the first heading of the assistant's turn
/// after a blank line. Thoughts begin with the sentence by which they are known.
pub(crate) fn read<'a>(
    raw: &'a str,
    persona: &Persona,
    principles: usize,
) -> Result<(Thoughts, &'a str), Dropped> {
    let raw = raw.trim_start();
    if !raw.starts_with(&persona.self_identification) {
        return Err(Dropped::NoSelfIdentification);
    }
    let heading = format!("\n\n{}\n", persona.assistant);
    let (text, answer) = raw.split_once(&heading).ok_or(Dropped::NoAnswer)?;
    let thoughts = Thoughts { text: text.trim().to_owned(), rules: cited(text, principles) };
    Ok((thoughts, answer))
}

/// Numbers from 1 to `principles` that stand before a name in parentheses: `3 (helpful)`.
fn cited(text: &str, principles: usize) -> Vec<usize> {
    let mut rules = Vec::new();
    for (at, _) in text.match_indices(" (") {
        let before = &text[..at];
        let start = before.trim_end_matches(|c: char| c.is_ascii_digit()).len();
        if let Ok(rule) = before[start..].parse()
            && (1..=principles).contains(&rule)
            && !rules.contains(&rule)
        {
            rules.push(rule);
        }
    }
    rules
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thoughts_and_answer_are_told_apart() {
        let persona = Persona::default().filled();
        let check = |raw: &str, expected: Result<(&[usize], &str), Dropped>| {
            let read = read(raw, &persona, 16);
            let read = read.as_ref().map(|(thoughts, answer)| (thoughts.rules.as_slice(), *answer));
            assert_eq!(read.map_err(|dropped| *dropped), expected, "{raw:?}");
        };
        let start = "I am Aide, and I think before I answer.";
        let answer = "\n\n### Aide\nNobody knows.";
        check(
            &format!(
                "{start} It is asked. The rules that matter are 3 (helpful), 12 (dated), 3 (x).{answer}"
            ),
            Ok((&[3, 12], "Nobody knows.")),
        );
        check(
            &format!(" \n{start} Rule 17 (none), in 1999 (a year).{answer}"),
            Ok((&[], "Nobody knows.")),
        );
        check(
            &format!("{start}{answer}\n\n### Aide\nAgain"),
            Ok((&[], "Nobody knows.\n\n### Aide\nAgain")),
        );
        check(
            &format!("{start} No heading after a blank line.\n### Aide\nNo."),
            Err(Dropped::NoAnswer),
        );
        check(&format!("{start} The thoughts go on"), Err(Dropped::NoAnswer));
        check(&format!("Well. {start}{answer}"), Err(Dropped::NoSelfIdentification));
        check("", Err(Dropped::NoSelfIdentification));
    }
}
