//! `evaluations.json`: what was measured, round by round.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::{RunError, write_json_atomic};

/// One figure of one round; round 0 is the base model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evaluation {
    /// The round after which it was measured.
    pub round: u32,
    /// The suite.
    pub suite: String,
    /// What was measured, for example `accuracy`.
    pub metric: String,
    /// The figure.
    pub value: f64,
    /// Its 95 % interval.
    pub ci95: [f64; 2],
    /// Number of questions.
    pub n: usize,
    /// The same for each part, by the part's name.
    #[serde(default)]
    pub by: BTreeMap<String, Slice>,
}

impl Evaluation {
    /// Whether the figure is a share, from 0 to 1, and not a length or a score.
    pub fn is_share(&self) -> bool {
        !self.metric.starts_with("mean_") && !self.metric.ends_with("_score")
    }
}

/// The figure of one part of a suite.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Slice {
    /// The figure.
    pub value: f64,
    /// Its 95 % interval.
    pub ci95: [f64; 2],
    /// Number of questions.
    pub n: usize,
}

/// Writes `evaluations.json` into a run folder.
pub fn write_evaluations(run_dir: &Path, evaluations: &[Evaluation]) -> Result<(), RunError> {
    write_json_atomic(&run_dir.join("evaluations.json"), evaluations)
}

/// Reads `evaluations.json` of a run folder.
pub fn read_evaluations(run_dir: &Path) -> Result<Vec<Evaluation>, RunError> {
    let path = run_dir.join("evaluations.json");
    let text = fs::read_to_string(&path).map_err(RunError::io(&path))?;
    serde_json::from_str(&text).map_err(|error| RunError::Malformed {
        path,
        line: None,
        reason: error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let slice = Slice { value: 0.5, ci95: [0.25, 0.75], n: 8 };
        let evaluation = Evaluation {
            round: 1,
            suite: "moving-shapes".to_owned(),
            metric: "accuracy".to_owned(),
            value: 0.1 + 0.2,
            ci95: [0.0, 1.0],
            n: 10,
            by: [("direction".to_owned(), slice)].into(),
        };
        write_evaluations(dir.path(), std::slice::from_ref(&evaluation)).unwrap();
        assert_eq!(read_evaluations(dir.path()).unwrap(), [evaluation]);
    }
}
