//! Worked examples before a raw prompt (no chat template), as lm-evaluation-harness puts them there.

use crate::Item;

/// How worked examples of a suite look and where they come from.
#[derive(Clone, Copy)]
pub struct Shots {
    /// The split whose items are the examples.
    pub split: &'static str,
    /// Examples share this category with the item (MMLU's `subject`).
    pub same: Option<&'static str>,
    /// What stands once before everything, and at the start of the suite's prompt without examples, too.
    pub head: fn(&Item) -> String,
    /// An example: what is asked and what is right.
    pub worked: fn(&Item) -> String,
}

impl Shots {
    /// Examples from `split` with nothing before them.
    pub const fn new(split: &'static str, worked: fn(&Item) -> String) -> Self {
        Self { split, same: None, head: |_| String::new(), worked }
    }

    /// `prompt`, which puts `item`, with the first `count` of `examples` that go with it before it; an empty line
    /// is between all of them. The harness takes the first ones under `sampler: first_n` (as MMLU does) and draws
    /// them otherwise. Fewer are put where there are fewer; the item itself is never one of them.
    pub fn put(&self, examples: &[Item], count: usize, item: &Item, prompt: &str) -> String {
        let kind = |item: &Item| self.same.map(|kind| item.categories.get(kind).cloned());
        let fitting = examples.iter().filter(|other| kind(other) == kind(item) && *other != item);
        let mut text = (self.head)(item);
        let rest = prompt.strip_prefix(&text).unwrap_or(prompt);
        for example in fitting.take(count) {
            text.push_str(&(self.worked)(example));
            text.push_str("\n\n");
        }
        text + rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Gold;

    #[test]
    fn the_first_fitting_examples_stand_between_the_head_and_the_prompt() {
        let item = |id: &str, subject: &str| {
            Item::new(id, format!("{id}?"), Gold::Text("so".to_owned())).within("subject", subject)
        };
        let shots = Shots {
            same: Some("subject"),
            head: |item| format!("About {}.\n\n", item.categories["subject"]),
            ..Shots::new("dev", |item| format!("{} {}", item.question, item.target()))
        };
        let examples = [item("a", "x"), item("b", "y"), item("c", "y"), item("d", "y")];
        let asked = item("e", "y");
        let put = |count| shots.put(&examples, count, &asked, "About y.\n\ne?");
        assert_eq!(put(0), "About y.\n\ne?");
        assert_eq!(put(2), "About y.\n\nb? so\n\nc? so\n\ne?");
        assert_eq!(put(9), "About y.\n\nb? so\n\nc? so\n\nd? so\n\ne?");
        let own = shots.put(&examples, 1, &examples[1], "About y.\n\nb?");
        assert_eq!(own, "About y.\n\nc? so\n\nb?");
    }
}
