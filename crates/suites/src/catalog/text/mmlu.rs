//! MMLU (Hendrycks et al., ICLR 2021): exam questions of 57 subjects in four groups, four options each.
//!
//! Carrier: the parquet of `cais/mmlu`, configuration `all` (`question, subject, choices, answer`, the answer from 0). A
//! prompt begins, as in the paper (section 4), with a line that names the subject; what is compared are the letters.
//! Examples are the `dev` split's questions of the same subject.

use std::collections::HashMap;
use std::path::PathBuf;

use savi_data::DataError;

use super::{options, published};
use crate::cells::Cells;
use crate::suite::{Ask, Found, Suite, each_row};
use crate::{Gold, Item, Shots};

/// The suite.
pub(super) const MMLU: Suite = Suite {
    name: "mmlu",
    manifest: published!("mmlu/manifest.toml"),
    marks: &[],
    load,
    words: |item| head(item) + &question(item),
    ask: Ask::LogProbs {
        pairs: |item| {
            let letters: Vec<String> = ('A'..='D').map(String::from).collect();
            options::after(&(head(item) + &question(item)), &letters)
        },
        figures: options::accuracy,
    },
    scorers: &[],
    categories: &["group", "subject"],
    shot: Some(Shots {
        split: "dev",
        same: Some("subject"),
        head,
        worked: |item| format!("{} {}", question(item), item.target()),
    }),
};

/// Subjects by group.
const GROUPS: [(&str, &[&str]); 4] = [
    (
        "stem",
        &[
            "abstract_algebra",
            "anatomy",
            "astronomy",
            "college_biology",
            "college_chemistry",
            "college_computer_science",
            "college_mathematics",
            "college_physics",
            "computer_security",
            "conceptual_physics",
            "electrical_engineering",
            "elementary_mathematics",
            "high_school_biology",
            "high_school_chemistry",
            "high_school_computer_science",
            "high_school_mathematics",
            "high_school_physics",
            "high_school_statistics",
            "machine_learning",
        ],
    ),
    (
        "humanities",
        &[
            "formal_logic",
            "high_school_european_history",
            "high_school_us_history",
            "high_school_world_history",
            "international_law",
            "jurisprudence",
            "logical_fallacies",
            "moral_disputes",
            "moral_scenarios",
            "philosophy",
            "prehistory",
            "professional_law",
            "world_religions",
        ],
    ),
    (
        "social_sciences",
        &[
            "econometrics",
            "high_school_geography",
            "high_school_government_and_politics",
            "high_school_macroeconomics",
            "high_school_microeconomics",
            "high_school_psychology",
            "human_sexuality",
            "professional_psychology",
            "public_relations",
            "security_studies",
            "sociology",
            "us_foreign_policy",
        ],
    ),
    (
        "other",
        &[
            "business_ethics",
            "clinical_knowledge",
            "college_medicine",
            "global_facts",
            "human_aging",
            "management",
            "marketing",
            "medical_genetics",
            "miscellaneous",
            "nutrition",
            "professional_accounting",
            "professional_medicine",
            "virology",
        ],
    ),
];

fn head(item: &Item) -> String {
    let subject = item.categories.get("subject").map_or("", String::as_str).replace('_', " ");
    format!("The following are multiple choice questions (with answers) about {subject}.\n\n")
}

fn question(item: &Item) -> String {
    let mut words = item.question.trim().to_owned();
    for (option, letter) in item.options.iter().zip('A'..) {
        words.push_str(&format!("\n{letter}. {option}"));
    }
    words + "\nAnswer:"
}

fn load(files: &[PathBuf], _: &str) -> Result<Vec<Found>, DataError> {
    let mut counts: HashMap<String, usize> = HashMap::new();
    each_row(files, |row| {
        let cells = Cells::of(row)?;
        let subject = cells.text(&["subject"])?;
        let group = GROUPS.iter().find(|(_, subjects)| subjects.contains(&subject.as_str()));
        let Some((group, _)) = group else {
            return Err(cells.bad(format!("{subject:?} is no subject of MMLU's")));
        };
        let options = cells.texts(&["choices"])?;
        if options.len() != 4 {
            return Err(cells.bad(format!("{} options where 4 are needed", options.len())));
        }
        let count = counts.entry(subject.clone()).or_default();
        *count += 1;
        let gold = Gold::Option(cells.index(&["answer"])?);
        let item = Item::new(format!("{subject}-{count}"), cells.text(&["question"])?, gold)
            .with_options(options)
            .within("group", *group)
            .within("subject", subject);
        Ok(Some(item))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subject_is_in_one_group() {
        let mut all: Vec<&str> =
            GROUPS.iter().flat_map(|(_, subjects)| *subjects).copied().collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 57);
    }
}
