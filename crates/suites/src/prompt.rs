//! The wording in which questions are put to a model.

use savi_schema::{Media, Message, Part, Role};
use serde::{Deserialize, Serialize};

use crate::{Format, QuestionRecord};

/// Templates with the places `{question}` and, for choice questions, `{options}`.
///
/// The clip comes before the words and the system text is the same for every question, so that all
/// questions of a clip share their start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct QuestionPrompt {
    /// Instructions above the conversation; `None` for no system turn.
    pub system: Option<String>,
    /// For open questions.
    pub open: String,
    /// For choice questions; options become lines `A. left`.
    pub choice: String,
}

impl Default for QuestionPrompt {
    fn default() -> Self {
        Self {
            system: None,
            open: "{question}\nAnswer with a few words.".to_owned(),
            choice: "{question}\n{options}\nAnswer with the text of one option.".to_owned(),
        }
    }
}

impl QuestionPrompt {
    /// The words that ask `question`.
    pub fn words(&self, question: &QuestionRecord) -> String {
        self.words_of(question.format, &question.question, question.options())
    }

    /// The same of a question by its parts.
    pub fn words_of(&self, format: Format, question: &str, options: &[String]) -> String {
        match format {
            Format::Open => fill(&self.open, &[("{question}", question)]),
            Format::Choice => {
                let lines: Vec<String> = options
                    .iter()
                    .zip('A'..='Z')
                    .map(|(option, letter)| format!("{letter}. {option}"))
                    .collect();
                let options = lines.join("\n");
                fill(&self.choice, &[("{question}", question), ("{options}", &options)])
            }
        }
    }

    /// The conversation that asks `question`, about `media` where there is one.
    pub fn messages(&self, question: &QuestionRecord, media: Option<Media>) -> Vec<Message> {
        let text = Part::Text { text: self.words(question) };
        let content = media.map(Part::Video).into_iter().chain([text]).collect();
        let system = self.system.as_deref().map(|system| Message::text(Role::System, system));
        system.into_iter().chain([Message { role: Role::User, content }]).collect()
    }
}

/// Puts values into their places in one pass, so that braces in a value stay what they are.
pub(crate) fn fill(template: &str, values: &[(&str, &str)]) -> String {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((at, (name, value))) = values
        .iter()
        .filter_map(|entry| rest.find(entry.0).map(|at| (at, entry)))
        .min_by_key(|(at, _)| *at)
    {
        text.push_str(&rest[..at]);
        text.push_str(value);
        rest = &rest[at + name.len()..];
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::question::tests::{choice, question};

    #[test]
    fn asks_in_both_formats() {
        let prompt = QuestionPrompt::default();
        assert_eq!(
            prompt.words(&question("1", "c", "shape", "disc")),
            "What is the shape?\nAnswer with a few words."
        );
        let mut asked = choice("1", "c", &["left", "up"], "up");
        asked.question = "Is it {options}?".to_owned();
        assert_eq!(
            prompt.words(&asked),
            "Is it {options}?\nA. left\nB. up\nAnswer with the text of one option."
        );
    }

    #[test]
    fn media_come_before_words_and_system_first() {
        let prompt = QuestionPrompt { system: Some("Look.".to_owned()), ..Default::default() };
        let media = Media { source: "a.mp4".to_owned(), policy: None };
        let asked = question("1", "c", "shape", "disc");
        let messages = prompt.messages(&asked, Some(media));
        assert_eq!(messages[0], Message::text(Role::System, "Look."));
        assert!(matches!(messages[1].content[..], [Part::Video(_), Part::Text { .. }]));
        assert_eq!(prompt.messages(&asked, None)[1].content.len(), 1);
    }
}
