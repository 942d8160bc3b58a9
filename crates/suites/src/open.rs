//! Opening a suite: its manifest, its files, its rows, and whether they are the published ones.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use savi_data::DataError;
use serde::Deserialize;
use thiserror::Error;

use crate::Item;
use crate::suite::{Found, Suite};

/// `datasets/<name>/manifest.toml` of a benchmark.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuiteManifest {
    /// The suite's name, its folder's.
    pub name: String,
    /// One sentence on what it asks.
    pub description: String,
    /// SPDX expression, or what the authors say, or `not stated`.
    pub license: String,
    /// The page that describes it.
    pub page: String,
    /// Who made it, where it was published.
    pub paper: String,
    /// `organisation/name` of a data set on the Hugging Face hub, where there is one.
    #[serde(default)]
    pub hub: Option<String>,
    /// The split that is asked when none is named.
    pub split: String,
    /// Splits by name.
    pub splits: BTreeMap<String, SuiteSplit>,
}

/// One split of a benchmark.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SuiteSplit {
    /// Carriers: lists of paths below the data folder, the last part of a path with at most one `*`. The first list
    /// of which everything is there is read.
    pub files: Vec<Vec<String>>,
    /// Number of published items.
    #[serde(default)]
    pub rows: Option<usize>,
    /// Names all published items; `savi eval check` says it.
    #[serde(default)]
    pub hash: Option<String>,
}

impl SuiteSplit {
    /// Whether a carrier lies below a folder.
    pub fn is_below(&self, dir: &Path) -> bool {
        self.files.iter().any(|carrier| carrier_below(dir, carrier).is_some())
    }

    /// The files of the first carrier that is whole among these paths; none where no carrier is.
    pub fn wanted(&self, paths: &[String]) -> Vec<String> {
        let of_pattern = |pattern: &String| -> Vec<String> {
            let fits = |path: &&String| match pattern.split_once('*') {
                None => *path == pattern,
                Some((before, after)) => {
                    let between = path.strip_prefix(before).and_then(|p| p.strip_suffix(after));
                    between.is_some_and(|between| !between.contains('/'))
                }
            };
            paths.iter().filter(fits).cloned().collect()
        };
        let whole = self.files.iter().find_map(|carrier| {
            let found: Vec<Vec<String>> = carrier.iter().map(of_pattern).collect();
            (!found.iter().any(Vec::is_empty)).then(|| found.concat())
        });
        whole.unwrap_or_default()
    }
}

/// Why a suite cannot be opened.
#[derive(Debug, Error)]
pub enum OpenError {
    /// The manifest that is compiled in does not parse; a test holds all of them.
    #[error("manifest of {suite}: {reason}")]
    Manifest {
        /// Which suite.
        suite: &'static str,
        /// What is wrong.
        reason: String,
    },
    /// The suite has no such split.
    #[error("{suite} has no split {split:?}, only {known}")]
    Split {
        /// Which suite.
        suite: &'static str,
        /// What was asked for.
        split: String,
        /// What there is.
        known: String,
    },
    /// None of the carriers is whole.
    #[error("{dir} holds no {suite} ({split}): expected {expected}; {page} says where they are", dir = dir.display())]
    Files {
        /// Which suite.
        suite: &'static str,
        /// Which split.
        split: String,
        /// Where was looked.
        dir: PathBuf,
        /// What would do.
        expected: String,
        /// Where it can be had.
        page: String,
    },
    /// A file cannot be read, or a row of it is not as it should be.
    #[error(transparent)]
    Data(#[from] DataError),
    /// Rows are missing, too many, or not the published ones.
    #[error("{suite} ({split}): {reason}; --any-rows takes them as they are")]
    Unpublished {
        /// Which suite.
        suite: &'static str,
        /// Which split.
        split: String,
        /// Which row, and what is wrong.
        reason: String,
    },
}

/// A split's items.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenSuite {
    /// In the order of the files.
    pub items: Vec<Item>,
    /// The files they came from.
    pub files: Vec<PathBuf>,
    /// Names all of them, whatever their order.
    pub hash: String,
    /// `Some(true)`: the published items; `Some(false)`: others, which was allowed; `None`: the manifest does
    /// not say which are published.
    pub published: Option<bool>,
    /// Marks of the rows, in the order of the files: what a manifest's folder keeps to tell an altered row.
    pub marks: String,
}

impl Suite {
    /// The manifest, parsed.
    pub fn manifest(&self) -> Result<SuiteManifest, OpenError> {
        let bad = |reason: String| OpenError::Manifest { suite: self.name, reason };
        let manifest: SuiteManifest =
            toml::from_str(self.manifest).map_err(|error| bad(error.to_string()))?;
        if manifest.name != self.name {
            return Err(bad(format!("it is {:?}'s", manifest.name)));
        }
        if !manifest.splits.contains_key(&manifest.split) {
            return Err(bad(format!("split {:?} is none of its splits", manifest.split)));
        }
        Ok(manifest)
    }

    /// Reads a split below `dir` (the manifest's own where `split` is `None`) and checks every row. Items that are
    /// not those that were published are refused, unless `any_rows`.
    pub fn open(
        &self,
        split: Option<&str>,
        dir: &Path,
        any_rows: bool,
    ) -> Result<OpenSuite, OpenError> {
        let manifest = self.manifest()?;
        let name = split.unwrap_or(&manifest.split);
        let Some(split) = manifest.splits.get(name) else {
            let known: Vec<&str> = manifest.splits.keys().map(String::as_str).collect();
            let (split, known) = (name.to_owned(), known.join(", "));
            return Err(OpenError::Split { suite: self.name, split, known });
        };
        let Some(files) = split.files.iter().find_map(|carrier| carrier_below(dir, carrier)) else {
            let lists: Vec<String> = split.files.iter().map(|list| list.join(" and ")).collect();
            return Err(OpenError::Files {
                suite: self.name,
                split: name.to_owned(),
                dir: dir.to_owned(),
                expected: lists.join(", or "),
                page: manifest.page,
            });
        };
        let found = (self.load)(&files, name)?;
        self.check(found, files, name, split, any_rows)
    }

    pub(crate) fn check(
        &self,
        found: Vec<Found>,
        files: Vec<PathBuf>,
        name: &str,
        split: &SuiteSplit,
        any_rows: bool,
    ) -> Result<OpenSuite, OpenError> {
        let mut rows: HashMap<&str, u64> = HashMap::new();
        for Found { item, path, row } in &found {
            let bad = |reason| DataError::Row { path: path.clone(), row: *row, reason };
            if let Some(problem) = item.problem() {
                return Err(bad(problem).into());
            }
            if let Some(first) = rows.insert(&item.id, *row) {
                let (path, row, id) = (path.clone(), *row, item.id.clone());
                return Err(DataError::DuplicateId { path, row, first, id }.into());
            }
        }
        let hashes: Vec<String> = found.iter().map(|found| found.item.hash()).collect();
        let marks: String = hashes.iter().map(|hash| mark(hash)).collect();
        let mut sorted = hashes;
        sorted.sort_unstable();
        let hash = savi_run::Key::new("suite").with("items", &sorted).finish();
        let altered = match &split.hash {
            Some(published) if *published == hash => None,
            Some(_) => Some(self.altered_row(&found, &marks, name, split)),
            None if split.rows.is_some_and(|rows| rows != found.len()) => {
                Some(wrong_count(split.rows, found.len()))
            }
            None => None,
        };
        let published = match (&altered, &split.hash) {
            (Some(_), _) => Some(false),
            (None, Some(_)) => Some(true),
            (None, None) => None,
        };
        match altered {
            Some(reason) if !any_rows => {
                Err(OpenError::Unpublished { suite: self.name, split: name.to_owned(), reason })
            }
            _ => {
                let items = found.into_iter().map(|found| found.item).collect();
                Ok(OpenSuite { items, files, hash, published, marks })
            }
        }
    }

    /// The first row that is not the published one, by its mark.
    fn altered_row(&self, found: &[Found], marks: &str, name: &str, split: &SuiteSplit) -> String {
        let published =
            self.marks.iter().find(|(of, _)| *of == name).map_or("", |(_, marks)| *marks);
        let pairs = |text: &str| -> Vec<String> {
            let chars: Vec<char> = text.trim().chars().collect();
            chars.chunks(2).map(|pair| pair.iter().collect()).collect()
        };
        let (ours, theirs) = (pairs(marks), pairs(published));
        let different = ours.iter().zip(&theirs).position(|(ours, theirs)| ours != theirs);
        match different {
            Some(at) => {
                let Found { item, path, row } = &found[at];
                format!(
                    "{}, row {row} (item {}) is not the published one, or one before it is missing",
                    path.display(),
                    item.id
                )
            }
            None if found.len() != theirs.len() && !theirs.is_empty() => {
                let last = found.last().map_or(String::new(), |last| {
                    format!(", the last in row {} of {}", last.row, last.path.display())
                });
                format!("{}{last}", wrong_count(Some(theirs.len()), found.len()))
            }
            None if split.rows.is_some_and(|rows| rows != found.len()) => {
                wrong_count(split.rows, found.len())
            }
            None => "the items are not the published ones".to_owned(),
        }
    }
}

fn wrong_count(published: Option<usize>, found: usize) -> String {
    format!("{found} items where {} were published", published.unwrap_or_default())
}

/// Twelve bits of an item's hash in two characters: an altered row keeps its mark once in 4,096 times, and then the
/// suite's hash still tells that something was altered.
fn mark(hash: &str) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let bits = usize::from_str_radix(hash.get(..3).unwrap_or("0"), 16).unwrap_or(0);
    [bits / 64, bits % 64].map(|digit| char::from(DIGITS[digit])).iter().collect()
}

/// The files of a carrier, if all are there; those of a pattern in the order of their names.
fn carrier_below(dir: &Path, carrier: &[String]) -> Option<Vec<PathBuf>> {
    let mut files = Vec::new();
    for pattern in carrier {
        let path = dir.join(pattern);
        let name = path.file_name()?.to_str()?;
        let Some((before, after)) = name.split_once('*') else {
            files.push(path.is_file().then_some(path)?);
            continue;
        };
        let mut matching: Vec<PathBuf> = std::fs::read_dir(path.parent()?)
            .ok()?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| {
                let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                let long_enough = name.len() >= before.len() + after.len();
                long_enough && name.starts_with(before) && name.ends_with(after)
            })
            .collect();
        matching.sort();
        if matching.is_empty() {
            return None;
        }
        files.extend(matching);
    }
    Some(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::suite;

    const HEAD: &str = "video,frame_count,width,height,question,answer,qid,type,a0,a1,a2,a3,a4";
    const ROW: &str =
        "41,9,6,4,why does the dog jump,1,0,CW,tired,to get the ball,afraid,asleep,cold";

    fn open(rows: &[String], any_rows: bool) -> Result<OpenSuite, String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("val.csv"), rows.join("\n")).unwrap();
        let suite = suite("nextqa-mc").unwrap();
        suite.open(Some("val"), dir.path(), any_rows).map_err(|error| error.to_string())
    }

    #[test]
    fn rows_that_were_not_published_are_refused_by_row_unless_allowed() {
        let rows = [HEAD.to_owned(), ROW.to_owned(), ROW.replace(",0,CW", ",1,CW")];
        let refused = open(&rows, false).unwrap_err();
        assert!(
            refused.contains("val.csv, row 1 (item 41-CW-0) is not the published"),
            "{refused}"
        );
        let taken = open(&rows, true).unwrap();
        assert_eq!((taken.items.len(), taken.published), (2, Some(false)));
        let mut reversed = rows.to_vec();
        reversed[1..].reverse();
        assert_eq!(open(&reversed, true).unwrap().hash, taken.hash);
        reversed[1] = reversed[1].replace("dog", "cat");
        assert_ne!(open(&reversed, true).unwrap().hash, taken.hash);
    }

    #[test]
    fn rows_that_cannot_be_are_refused_with_their_row() {
        for (row, message) in [
            (ROW.replace("to get the ball,", ","), "row 1: missing key \"a1\""),
            (ROW.replace(",1,0,CW", ",5,0,CW"), "row 1: the answer is option 6 of 5"),
            (ROW.replace(",1,0,CW", ",x,0,CW"), "row 1: \"answer\" is \"x\", not a whole number"),
            (ROW.replace("CW", "XW"), "row 1: \"XW\" is no type"),
            (ROW.to_owned() + "\n" + ROW, "row 2: id \"41-CW-0\" was used in row 1"),
            (ROW.replace(",cold", ""), "12 cells under 13 columns"),
        ] {
            let refused = open(&[HEAD.to_owned(), row], true).unwrap_err();
            assert!(refused.contains(message), "{refused}");
        }
    }

    #[test]
    fn files_that_are_missing_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let suite = suite("nextqa-mc").unwrap();
        let missing = suite.open(None, dir.path(), false).unwrap_err().to_string();
        assert!(missing.contains("expected test.csv, or MC/test-*.parquet"), "{missing}");
        let split = suite.open(Some("dev"), dir.path(), false).unwrap_err().to_string();
        assert!(split.contains("no split \"dev\", only test, val"), "{split}");
    }

    #[test]
    fn the_first_whole_carrier_is_wanted() {
        let suite = suite("nextqa-mc").unwrap();
        let split = &suite.manifest().unwrap().splits["test"];
        let wanted = |paths: &[&str]| {
            split.wanted(&paths.iter().map(|&path| path.to_owned()).collect::<Vec<_>>())
        };
        let parquet = "MC/test-00000-of-00001.parquet";
        assert_eq!(wanted(&["README.md", parquet]), [parquet]);
        assert_eq!(wanted(&["test.csv", parquet]), ["test.csv"]);
        assert_eq!(wanted(&["MC/test-x/y.parquet", "OE/test-1.parquet"]), [""; 0]);
    }

    #[test]
    fn every_manifest_is_whole() {
        for suite in crate::catalog::SUITES {
            let manifest = suite.manifest().unwrap();
            for (name, split) in &manifest.splits {
                assert!(split.files.iter().all(|carrier| !carrier.is_empty()), "{name}");
                let marks = suite.marks.iter().find(|(of, _)| of == name);
                if let (Some((_, marks)), Some(rows)) = (marks, split.rows) {
                    assert_eq!(marks.trim().len(), 2 * rows, "{} {name}", suite.name);
                    assert!(split.hash.is_some(), "{} {name}", suite.name);
                }
            }
        }
    }
}
