//! What an iteration was like: the columns of the paper's table 2.

use std::collections::BTreeMap;

use savi_run::Record;
use savi_schema::SCHEMA_VERSION;
use serde::{Deserialize, Serialize};

use crate::{Annotation, Candidate, Decision, PairKind, Writer};

/// The figures of an iteration. Its samples were drawn by the iterate before it: those of iteration 1 by the model as it
/// came, which the paper calls iteration 0.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Dynamics {
    /// Record version.
    pub schema: u32,
    /// `dynamics`.
    pub id: String,
    /// Which iteration, from 1.
    pub iteration: u32,
    /// Prompts.
    pub inputs: usize,
    /// Words of a student's sample: mean and standard deviation (of the sample of samples).
    pub words: [f64; 2],
    /// Share of samples that run in circles.
    pub degenerate: f64,
    /// Share of prompts whose best sample has more points than the teacher's answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub best_of_n_win_rate: Option<f64>,
    /// Mean number of a prompt's samples with more points than the teacher's answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mean_wins: Option<f64>,
    /// Mean points of the student's samples.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub student_score: Option<f64>,
    /// Mean points of the teacher's answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher_score: Option<f64>,
    /// New pairs by kind, before caps.
    pub pairs: BTreeMap<PairKind, usize>,
}

impl Record for Dynamics {
    fn id(&self) -> &str {
        &self.id
    }

    fn unit(&self) -> &str {
        &self.id
    }
}

pub(crate) fn dynamics(
    iteration: u32,
    candidates: &[Vec<Candidate>],
    annotations: &[Option<Annotation>],
    decisions: &[Decision],
) -> Dynamics {
    let samples: Vec<&Candidate> =
        candidates.iter().flatten().filter(|one| one.writer == Writer::Student).collect();
    let words: Vec<f64> =
        samples.iter().map(|sample| sample.text.split_whitespace().count() as f64).collect();
    let degenerate: Vec<f64> =
        samples.iter().map(|sample| f64::from(u8::from(sample.degenerate))).collect();
    let (mut students, mut teachers) = (Vec::new(), Vec::new());
    let (mut won, mut wins) = (Vec::new(), Vec::new());
    for (candidates, annotation) in candidates.iter().zip(annotations) {
        let Some(scores) = annotation.as_ref().and_then(|one| one.scores.as_ref()) else {
            continue;
        };
        let of = |writer| {
            let judged = candidates.iter().zip(scores).filter(move |(one, _)| one.writer == writer);
            judged.map(|(_, &score)| score)
        };
        students.extend(of(Writer::Student));
        if let Some(teacher) = of(Writer::Teacher).next() {
            teachers.push(teacher);
            let above = of(Writer::Student).filter(|score| *score > teacher).count();
            wins.push(above as f64);
            won.push(f64::from(u8::from(above > 0)));
        }
    }
    let mut pairs: BTreeMap<PairKind, usize> = PairKind::ALL.map(|kind| (kind, 0)).into();
    for made in decisions.iter().flat_map(|decision| &decision.pairs) {
        *pairs.entry(made.kind).or_default() += 1;
    }
    Dynamics {
        schema: SCHEMA_VERSION,
        id: "dynamics".to_owned(),
        iteration,
        inputs: candidates.len(),
        words: [mean(&words).unwrap_or(0.0), deviation(&words)],
        degenerate: mean(&degenerate).unwrap_or(0.0),
        best_of_n_win_rate: mean(&won),
        mean_wins: mean(&wins),
        student_score: mean(&students),
        teacher_score: mean(&teachers),
        pairs,
    }
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

fn deviation(values: &[f64]) -> f64 {
    let (Some(mean), true) = (mean(values), values.len() > 1) else { return 0.0 };
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / (values.len() - 1) as f64).sqrt()
}

/// The table of all iterations, a line each, as it is printed.
pub fn table(rows: &[Dynamics]) -> String {
    let header = [
        "iteration",
        "inputs",
        "words",
        "circles",
        "best of n",
        "wins",
        "student",
        "teacher",
        "T>S",
        "S>T",
        "S>S",
    ];
    let mut lines = vec![header.map(str::to_owned)];
    for row in rows {
        let figure =
            |value: Option<f64>| value.map_or("-".to_owned(), |value| format!("{value:.2}"));
        let percent = |value: Option<f64>| {
            value.map_or("-".to_owned(), |value| format!("{:.1} %", 100.0 * value))
        };
        let count = |kind| row.pairs.get(&kind).copied().unwrap_or(0).to_string();
        lines.push([
            row.iteration.to_string(),
            row.inputs.to_string(),
            format!("{:.0}±{:.0}", row.words[0], row.words[1]),
            percent(Some(row.degenerate)),
            percent(row.best_of_n_win_rate),
            figure(row.mean_wins),
            figure(row.student_score),
            figure(row.teacher_score),
            count(PairKind::TeacherOverStudent),
            count(PairKind::StudentOverTeacher),
            count(PairKind::StudentOverStudent),
        ]);
    }
    let widths: Vec<usize> = (0..header.len())
        .map(|column| lines.iter().map(|line| line[column].chars().count()).max().unwrap_or(0))
        .collect();
    lines
        .iter()
        .map(|line| {
            let cells = line.iter().zip(&widths).map(|(cell, &width)| format!("{cell:>width$}"));
            format!("{}\n", cells.collect::<Vec<_>>().join("  "))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_by_hand() {
        let candidate = |writer, text: &str| Candidate {
            schema: 1,
            id: String::new(),
            prompt: String::new(),
            writer,
            text: text.to_owned(),
            degenerate: text == "loop",
            finish_reason: None,
            tokens: None,
            logp: None,
            model: None,
        };
        let of = |texts: [&str; 2], teacher: Option<&str>| {
            let students = texts.map(|text| candidate(Writer::Student, text)).to_vec();
            let teacher = teacher.map(|text| candidate(Writer::Teacher, text));
            students.into_iter().chain(teacher).collect::<Vec<_>>()
        };
        let candidates =
            [of(["a b", "loop"], Some("t")), of(["a", "a b c"], Some("t")), of(["a", "a"], None)];
        let annotation = |scores: &[f64]| {
            Some(Annotation {
                schema: 1,
                id: String::new(),
                candidates: Vec::new(),
                scores: Some(scores.to_vec()),
                wins: None,
                readings: Vec::new(),
            })
        };
        let annotations =
            [annotation(&[6.0, 0.0, 4.0]), annotation(&[2.0, 4.0, 4.0]), annotation(&[3.0, 3.0])];
        let told = dynamics(2, &candidates, &annotations, &[]);
        assert_eq!(
            (told.inputs, told.best_of_n_win_rate, told.mean_wins),
            (3, Some(0.5), Some(0.5))
        );
        assert_eq!((told.student_score, told.teacher_score), (Some(3.0), Some(4.0)));
        // Words 2, 1, 1, 3, 1, 1.
        assert_eq!(told.words[0], 1.5);
        assert!((told.words[1] - 0.7f64.sqrt()).abs() < 1e-12);
        let text = table(&[told]);
        assert!(text.starts_with("iteration  inputs") && text.contains("50.0 %"), "{text}");
        let blank = dynamics(1, &[of(["a", "b"], None)], &[None], &[]);
        assert!(blank.student_score.is_none() && table(&[blank]).contains(" - "));
    }
}
