//! Reading a run folder: all there is, and a note for what there is not.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use savi_run::{Done, Evaluation, Manifest};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::ReportError;

/// What a run folder holds.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub(crate) dir: PathBuf,
    pub(crate) manifest: Option<Manifest>,
    /// The resolved config as it was written.
    pub(crate) config: Option<String>,
    pub(crate) evaluations: Vec<Evaluation>,
    /// Lines of `metrics.jsonl`.
    pub(crate) metrics: Vec<Map<String, Value>>,
    /// In the order of the run.
    pub(crate) stages: Vec<Stage>,
    /// What is missing or cannot be read.
    pub(crate) notes: Vec<String>,
}

/// A stage as it lies in the folder.
#[derive(Debug, Default)]
pub(crate) struct Stage {
    /// `<round><place>-<title>`, the name of its folder.
    pub(crate) name: String,
    pub(crate) round: u32,
    pub(crate) title: String,
    /// `None` while it is not finished.
    pub(crate) done: Option<Done>,
    pub(crate) records: Vec<Value>,
}

impl Run {
    /// The records of a stage of a round, by the stage's title.
    pub(crate) fn records(&self, round: u32, title: &str) -> &[Value] {
        self.stages
            .iter()
            .find(|stage| stage.round == round && stage.title == title)
            .map_or(&[], |stage| &stage.records)
    }

    /// The name under which the page speaks of the run.
    pub(crate) fn name(&self) -> String {
        let full = fs::canonicalize(&self.dir).unwrap_or_else(|_| self.dir.clone());
        full.file_name().map_or_else(|| "run".to_owned(), |name| name.to_string_lossy().into())
    }
}

/// Reads `dir`. Only a folder that no run can have made is refused.
pub(crate) fn load(dir: &Path) -> Result<Run, ReportError> {
    if !dir.join("manifest.json").exists() && !dir.join("stages").is_dir() {
        return Err(ReportError::NotARun(dir.to_owned()));
    }
    let mut run = Run { dir: dir.to_owned(), ..Run::default() };
    let mut notes = Vec::new();
    run.manifest = json_file(&dir.join("manifest.json"), &mut notes);
    run.config = fs::read_to_string(dir.join("config.toml")).ok();
    if run.config.is_none() {
        notes.push("config.toml is missing or is not text.".to_owned());
    }
    run.evaluations = json_file(&dir.join("evaluations.json"), &mut notes).unwrap_or_default();
    run.metrics = metrics(&dir.join("metrics.jsonl"), &mut notes);
    run.stages = stages(&dir.join("stages"), &mut notes);
    run.notes = notes;
    Ok(run)
}

fn json_file<T: DeserializeOwned>(path: &Path, notes: &mut Vec<String>) -> Option<T> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let Ok(text) = fs::read_to_string(path) else {
        notes.push(format!("{name} is missing."));
        return None;
    };
    serde_json::from_str(&text)
        .map_err(|error| notes.push(format!("{name} cannot be read: {error}.")))
        .ok()
}

fn metrics(path: &Path, notes: &mut Vec<String>) -> Vec<Map<String, Value>> {
    let Ok(text) = fs::read_to_string(path) else {
        notes.push("metrics.jsonl is missing: nothing has been trained.".to_owned());
        return Vec::new();
    };
    let lines: Vec<Option<Map<String, Value>>> =
        text.lines().map(|line| serde_json::from_str(line).ok()).collect();
    let bad = lines.iter().filter(|line| line.is_none()).count();
    if bad > 0 {
        notes.push(format!("{bad} lines of metrics.jsonl cannot be read and are left out."));
    }
    lines.into_iter().flatten().collect()
}

fn stages(dir: &Path, notes: &mut Vec<String>) -> Vec<Stage> {
    let Ok(entries) = fs::read_dir(dir) else {
        notes.push("The folder of stages is missing.".to_owned());
        return Vec::new();
    };
    let mut stages = BTreeMap::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some((round, place, title)) = parse_name(&name) else { continue };
        let title = title.to_owned();
        let records = records(&entry.path(), &name, notes);
        let done_path = entry.path().join("done.json");
        let done = if done_path.exists() {
            json_file(&done_path, notes)
        } else {
            notes.push(format!("Stage {name} is not finished."));
            None
        };
        stages.insert((round, place, name.clone()), Stage { name, round, title, done, records });
    }
    stages.into_values().collect()
}

/// `12-answer` is place 2 of round 1.
fn parse_name(name: &str) -> Option<(u32, u32, &str)> {
    let (number, title) = name.split_once('-')?;
    let number: u32 = number.parse().ok()?;
    Some((number / 10, number % 10, title))
}

fn records(dir: &Path, name: &str, notes: &mut Vec<String>) -> Vec<Value> {
    let Ok(text) = fs::read_to_string(dir.join("records.jsonl")) else { return Vec::new() };
    let lines: Vec<Option<Value>> =
        text.lines().map(|line| serde_json::from_str(line).ok()).collect();
    let bad = lines.iter().filter(|line| line.is_none()).count();
    if bad > 0 {
        notes.push(format!("{bad} records of stage {name} cannot be read and are left out."));
    }
    lines.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_stages() {
        assert_eq!(parse_name("00-clips"), Some((0, 0, "clips")));
        assert_eq!(parse_name("129-evaluate"), Some((12, 9, "evaluate")));
        assert_eq!(parse_name("thumbnails"), None);
        assert_eq!(parse_name("a-b"), None);
    }

    #[test]
    fn an_empty_run_is_all_notes() {
        let dir = tempfile::tempdir().unwrap();
        assert!(matches!(load(dir.path()), Err(ReportError::NotARun(_))));
        fs::create_dir(dir.path().join("stages")).unwrap();
        fs::create_dir(dir.path().join("stages/11-ask")).unwrap();
        fs::write(dir.path().join("metrics.jsonl"), "{\"step\":1}\n{\"st").unwrap();
        let run = load(dir.path()).unwrap();
        assert_eq!(run.metrics.len(), 1);
        let notes = run.notes.join(" ");
        for said in ["manifest.json is missing", "1 lines of metrics", "11-ask is not finished"] {
            assert!(notes.contains(said), "{notes}");
        }
    }
}
