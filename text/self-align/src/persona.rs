//! How the assistant and its turns are called.

use serde::{Deserialize, Serialize};

/// Names and headings. `{{ name }}` and `{{ product }}` stand for the two names in all of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Persona {
    /// The codename under which principles and examples speak of the assistant.
    pub name: String,
    /// The name that stands in its place in what is taught.
    pub product: String,
    /// Where its knowledge ends.
    pub cut_off: String,
    /// Heading of the user's turns; where it comes up, an answer has ended.
    pub user: String,
    /// Heading of the assistant's turns.
    pub assistant: String,
    /// Heading of its thoughts.
    pub thoughts: String,
    /// Put behind the assistant's name and heading where it answers at length.
    pub suffix: String,
    /// The sentence with which all thoughts begin.
    pub self_identification: String,
    /// What the user says between two examples; `thanks` is the answer.
    pub praise: String,
    /// The assistant's answer to `praise`.
    pub thanks: String,
    /// What it says of itself where it answers at length.
    pub self_description: String,
}

impl Default for Persona {
    fn default() -> Self {
        let text = str::to_owned;
        Self {
            name: text("Aide"),
            product: text("Savi"),
            cut_off: text("the end of 2022"),
            user: text("### User"),
            assistant: text("### {{ name }}"),
            thoughts: text("### {{ name }} (internal thoughts)"),
            suffix: text(" (extensive)"),
            self_identification: text("I am {{ name }}, and I think before I answer."),
            praise: text("Well done. Please clear the context."),
            thanks: text("Thank you. The context has been cleared."),
            self_description: text(
                "Hello, I am {{ name }}, and in this form I answer at length: I begin with the answer, explain \
                 how it comes about and where it stops being true, look at it with the eyes of different people, \
                 and end with what one could read or try next.",
            ),
        }
    }
}

impl Persona {
    /// The same with its names filled in.
    pub(crate) fn filled(&self) -> Self {
        let fill = |text: &String| self.fill(text);
        Self {
            name: self.name.clone(),
            product: self.product.clone(),
            cut_off: fill(&self.cut_off),
            user: fill(&self.user),
            assistant: fill(&self.assistant),
            thoughts: fill(&self.thoughts),
            suffix: fill(&self.suffix),
            self_identification: fill(&self.self_identification),
            praise: fill(&self.praise),
            thanks: fill(&self.thanks),
            self_description: fill(&self.self_description),
        }
    }

    /// `text` with the two names in it.
    pub(crate) fn fill(&self, text: &str) -> String {
        text.replace("{{ name }}", &self.name).replace("{{ product }}", &self.product)
    }

    /// What closes an answer that is whole: a blank line and the heading of the user's turn.
    pub(crate) fn terminator(&self) -> String {
        format!("\n\n{}", self.user)
    }
}
