//! Opens the splits of a data set. The test split is sealed: each opening leaves a line in its log.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use savi_data::Rows;
use savi_schema::SCHEMA_VERSION;
use savi_suites::QuestionRecord;
use serde::Serialize;

use super::scene::Scene;
use super::split::Split;
use crate::WorldError;

/// The log of the sealed split, in its folder: one JSON object for each opening.
pub const OPENED_LOG: &str = "OPENED.log";

/// A split that was opened.
#[derive(Debug, Clone, PartialEq)]
pub struct OpenSplit {
    /// Its clips, in order.
    pub clips: Vec<PathBuf>,
    /// Its questions; none for the unlabelled split.
    pub questions: Vec<QuestionRecord>,
    /// Its scenes; none for the unlabelled split, whose truth is for [`open_audit`].
    pub scenes: Vec<Scene>,
}

#[derive(Serialize)]
struct Opening<'a> {
    schema: u32,
    /// Seconds since 1970, UTC.
    time: u64,
    config: &'a str,
}

/// Opens a split below `dir`. `config` is the hash of the configuration that asks for it; for the
/// sealed split it is logged, with the time, before anything is read.
pub fn open_split(dir: &Path, split: Split, config: &str) -> Result<OpenSplit, WorldError> {
    let folder = dir.join(split.name());
    if split == Split::Test {
        log_opening(&folder.join(OPENED_LOG), config)?;
    }
    let (questions, scenes) = if split == Split::Unlabelled {
        (Vec::new(), Vec::new())
    } else {
        (rows(&folder.join("questions.jsonl"))?, rows(&folder.join("scenes.jsonl"))?)
    };
    Ok(OpenSplit { clips: clips(&folder.join("clips"))?, questions, scenes })
}

/// The data set whose sealed split `questions` is a file of, so that nobody opens it by its path.
pub fn sealed(questions: &Path) -> Option<PathBuf> {
    let questions = questions.canonicalize().ok()?;
    let split = questions.parent()?;
    let dir = split.parent()?;
    let inside = split.file_name()? == Split::Test.name() && split.join("scenes.jsonl").exists();
    (inside && dir.join("manifest.json").exists()).then(|| dir.to_owned())
}

/// The scenes behind the unlabelled clips: only for audits of what a method wrote about them.
pub fn open_audit(dir: &Path) -> Result<Vec<Scene>, WorldError> {
    rows(&dir.join("audit").join("unlabelled-scenes.jsonl"))
}

fn log_opening(path: &Path, config: &str) -> Result<(), WorldError> {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_secs());
    let opening = Opening { schema: SCHEMA_VERSION, time, config };
    let line = serde_json::to_string(&opening).map_err(|error| WorldError::Damaged {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    // One write of a whole line, so that openings at the same time do not mix.
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()))
        .map_err(WorldError::io(path))
}

fn rows<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Vec<T>, WorldError> {
    Rows::open(path)?.map(|row| Ok(row?.parse()?)).collect()
}

fn clips(folder: &Path) -> Result<Vec<PathBuf>, WorldError> {
    let mut clips = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(WorldError::io(folder))? {
        let path = entry.map_err(WorldError::io(folder))?.path();
        if path.extension().is_some_and(|extension| extension == "mp4") {
            clips.push(path);
        }
    }
    clips.sort();
    Ok(clips)
}
