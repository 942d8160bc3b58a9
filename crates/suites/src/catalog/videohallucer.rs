//! VideoHallucer (Wang et al., 2024): pairs of questions for a yes or a no, one on what a clip shows (`basic`) and
//! one on what it does not (`hallucination`); a pair counts where both replies are right.
//!
//! Carrier: the authors' `<setting>/<setting>.json`, a list of `{basic: {video, question, answer}, hallucination:
//! {...}, type}`. A pair gives two items, `<setting>-<place>-basic` and `-hallucination`, places from 0; `more.pair`
//! is what they share. Clips lie in `<setting>/videos`. The cluster is the clip of a pair, or the first by name where
//! the two questions are on cuts of one video, so that a pair never falls apart; settings on the same clips share
//! clusters.
//!
//! The authors' table says 200 pairs in each setting; the file of `temporal` has 176. The two external settings ask
//! the same basic questions, which are asked twice. Their repository has two further settings (`fact_detect`,
//! `interaction`) outside of that table, which are left out.

use std::path::PathBuf;

use savi_data::{DataError, Rows};

use super::shapes::{inner, stem};
use crate::cells::Cells;
use crate::suite::{Ask, Found, Suite, greedy, yes_no_words};
use crate::{Gold, Item, ItemClip};

/// The suite.
pub(super) const SUITE: Suite = Suite {
    name: "videohallucer",
    manifest: include_str!("../../../../datasets/videohallucer/manifest.toml"),
    marks: &[("test", include_str!("../../../../datasets/videohallucer/test.marks"))],
    load,
    words: yes_no_words,
    ask: Ask::Reply { sampling: greedy::<16> },
    categories: &["setting", "type", "side"],
    ..Suite::CHOICE
};

const SETTINGS: [&str; 5] =
    ["object_relation", "temporal", "semantic_detail", "external_factual", "external_nonfactual"];

fn load(files: &[PathBuf], _: &str) -> Result<Vec<Found>, DataError> {
    let mut found = Vec::new();
    for path in files {
        let setting = stem(path);
        for (at, row) in Rows::open(path)?.enumerate() {
            let row = row?;
            let cells = Cells::of(&row)?;
            if !SETTINGS.contains(&setting.as_str()) {
                return Err(cells.bad(format!("{setting:?} is no setting of VideoHallucer's")));
            }
            let pair = format!("{setting}-{at}");
            let mut items = Vec::new();
            for side in ["basic", "hallucination"] {
                let held = cells.get(&[side]).ok_or_else(|| row.missing(side))?;
                let held = inner(path, row.number, held);
                let item = item(&Cells::of(&held)?, format!("{pair}-{side}"))?;
                items.push(item.within("side", side));
            }
            let cluster = items.iter().map(|item| item.cluster.clone()).min().unwrap_or_default();
            let kind = cells.trimmed(&["type"])?;
            for mut item in items {
                if let Some(clip) = &mut item.clip {
                    clip.name = format!("{setting}/videos/{}", clip.name);
                }
                item.cluster.clone_from(&cluster);
                item.more.insert("pair".to_owned(), pair.clone().into());
                let item = item.within("setting", setting.clone()).within("type", kind.clone());
                found.push(Found::new(item, &row));
            }
        }
    }
    Ok(found)
}

/// One side of a pair, about its clip.
fn item(cells: &Cells<'_>, id: String) -> Result<Item, DataError> {
    let answer = cells.trimmed(&["answer"])?.to_lowercase();
    if !["yes", "no"].contains(&answer.as_str()) {
        return Err(cells.bad(format!("the answer is {answer:?}, neither yes nor no")));
    }
    let video = cells.trimmed(&["video"])?;
    let item =
        Item::new(id, cells.trimmed(&["question"])?, Gold::Text(answer)).about(video.clone());
    Ok(Item { clip: Some(ItemClip { name: video, start: None, end: None }), ..item })
}

#[cfg(test)]
mod tests {
    use super::super::tests::{load, refused};

    const ROW: &str = r#"[{"basic":{"video":"k_b.mp4","question":"Is it a cup?","answer":"yes"},"hallucination":{"video":"k_a.mp4","question":"Is it a cup?","answer":"No","explanation":"none"},"type":"subject"}]"#;

    #[test]
    fn pairs_and_what_is_wrong_with_them() {
        let items = load("videohallucer", "test", &[("temporal/temporal.json", ROW)]);
        assert_eq!(
            (items[0].id.as_str(), items[1].id.as_str()),
            ("temporal-0-basic", "temporal-0-hallucination")
        );
        assert!(
            items.iter().all(|item| item.cluster == "k_a.mp4" && item.more["pair"] == "temporal-0")
        );
        assert_eq!(items[0].clip.as_ref().unwrap().name, "temporal/videos/k_b.mp4");
        assert_eq!(
            (items[1].target(), items[1].categories["side"].as_str()),
            ("no".to_owned(), "hallucination")
        );
        for (row, message) in [
            (ROW.replace("\"yes\"", "\"both\""), "row 1: the answer is \"both\""),
            (ROW.replace("hallucination", "other"), "row 1: missing key \"hallucination\""),
            (ROW.replace("\"video\":\"k_a.mp4\",", ""), "row 1: missing key \"video\""),
            (ROW.replace("}]", "}"), "row 2: the file ends inside its array"),
        ] {
            refused("videohallucer", "test", &[("temporal.json", &row)], message);
        }
        refused("videohallucer", "test", &[("interaction.json", ROW)], "is no setting");
    }
}
