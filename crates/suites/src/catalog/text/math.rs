//! MATH-500 (Lightman et al., arXiv 2305.20050: 500 problems of Hendrycks et al.'s MATH) and AIME, the American
//! Invitational Mathematics Examination, whose answers are whole numbers from 0 to 999.
//!
//! Carriers: `test.jsonl` of `HuggingFaceH4/MATH-500` (`problem, solution, answer, subject, level, unique_id`); for AIME
//! 2024 the parquet of `Maxwell-Jia/AIME_2024` (`ID, Problem, Solution, Answer`), for 2025 `test.jsonl` of `math-ai/aime25`
//! (`id, problem, answer`). Replies are graded by the verifier that rewards use ([`savi_judge::rewards::math`]).

use std::path::PathBuf;

use savi_data::DataError;
use savi_judge::rewards::math::{Answer, Find};

use super::published;
use crate::cells::Cells;
use crate::readers::Reading;
use crate::suite::{Ask, Found, Scorer, Suite, each_row, greedy};
use crate::{Gold, Item};

/// MATH-500.
pub(super) const MATH_500: Suite = Suite {
    name: "math-500",
    manifest: published!("math-500/manifest.toml"),
    marks: &[],
    load: load_math,
    words: |item| {
        let wish = "Work it out step by step and put the final answer into \\boxed{}.";
        format!("{}\n{wish}", item.question)
    },
    ask: Ask::Reply { sampling: greedy::<4096> },
    scorers: SCORERS,
    categories: &["subject", "level"],
    shot: None,
};

/// AIME.
pub(super) const AIME: Suite = Suite {
    name: "aime",
    manifest: published!("aime/manifest.toml"),
    marks: &[],
    load: load_aime,
    words: |item| {
        let wish = "The answer is a whole number from 0 to 999. Work it out step by step and put the number into \\boxed{}.";
        format!("{}\n{wish}", item.question)
    },
    ask: Ask::Reply { sampling: greedy::<16384> },
    scorers: SCORERS,
    categories: &[],
    shot: None,
};

const SCORERS: &[Scorer] = &[Scorer { name: "strict", read: verified }];

/// The answer in the last box, or after the last mark, or the last number, held against the known one.
pub(super) fn verified(item: &Item, reply: &str, _: u64) -> Reading {
    let found = Answer::find(reply, Find::Auto);
    let right = match (&item.gold, &found) {
        (Gold::Text(known), Some(found)) => found.is_same(&Answer::known(known)),
        _ => false,
    };
    Reading {
        answer: found.map(|answer| answer.text().to_owned()),
        credit: Some(f64::from(right)),
        guessed: false,
        needs_judge: false,
    }
}

fn load_math(files: &[PathBuf], _: &str) -> Result<Vec<Found>, DataError> {
    each_row(files, |row| {
        let cells = Cells::of(row)?;
        let level = cells.index(&["level"])?;
        if !(1..=5).contains(&level) {
            return Err(cells.bad(format!("level {level}, not 1 to 5")));
        }
        let gold = Gold::Text(cells.text(&["answer"])?);
        let mut item = Item::new(cells.text(&["unique_id"])?, cells.text(&["problem"])?, gold)
            .within("subject", cells.text(&["subject"])?)
            .within("level", level.to_string());
        item.more.insert("solution".to_owned(), cells.text(&["solution"])?.into());
        Ok(Some(item))
    })
}

fn load_aime(files: &[PathBuf], split: &str) -> Result<Vec<Found>, DataError> {
    each_row(files, |row| {
        let cells = Cells::of(row)?;
        let answer = cells.index(&["answer", "Answer"])?;
        if answer > 999 {
            return Err(cells.bad(format!("the answer is {answer}, not 0 to 999")));
        }
        let problem = cells.text(&["problem", "Problem"])?;
        let id = format!("{split}-{}", cells.text(&["id", "ID"])?);
        Ok(Some(Item::new(id, problem, Gold::Text(answer.to_string()))))
    })
}
