//! From graded answers to the rows of `evaluations.json`.

use std::collections::{BTreeMap, BTreeSet};

use savi_run::{Evaluation, Slice};

use crate::Answered;
use crate::stats::{Bootstrap, Estimate, Outcome, mean};

/// What the statistics need of graded answers.
pub fn outcomes(answered: &[Answered]) -> Vec<Outcome> {
    answered.iter().map(|a| outcome(a, a.correct)).collect()
}

/// The rows of one round: `accuracy` overall and by family, `accuracy/temporal` and
/// `accuracy/novel` over those questions alone where there are any, and `unparsed`, the share of
/// questions whose reply held no answer (they count as wrong in the accuracies).
pub fn evaluations(
    round: u32,
    suite: &str,
    answered: &[Answered],
    bootstrap: &Bootstrap,
) -> Vec<Evaluation> {
    let correct = |a: &Answered| a.correct;
    let rows = [
        ("accuracy", row(answered, |_| true, correct, bootstrap)),
        ("accuracy/temporal", row(answered, |a| a.temporal, correct, bootstrap)),
        ("accuracy/novel", row(answered, |a| a.novel, correct, bootstrap)),
        ("unparsed", row(answered, |_| true, |a| a.unparsed.is_some(), bootstrap)),
    ];
    rows.into_iter()
        .filter_map(|(metric, row)| {
            let (overall, by) = row?;
            Some(Evaluation {
                round,
                suite: suite.to_owned(),
                metric: metric.to_owned(),
                value: overall.value,
                ci95: overall.ci95,
                n: overall.n,
                by,
            })
        })
        .collect()
}

fn row(
    answered: &[Answered],
    keep: impl Fn(&Answered) -> bool,
    value: impl Fn(&Answered) -> bool,
    bootstrap: &Bootstrap,
) -> Option<(Estimate, BTreeMap<String, Slice>)> {
    let kept: Vec<&Answered> = answered.iter().filter(|a| keep(a)).collect();
    let estimate = |answered: &[&Answered]| {
        let outcomes: Vec<Outcome> = answered.iter().map(|a| outcome(a, value(a))).collect();
        mean(&outcomes, bootstrap)
    };
    let overall = estimate(&kept)?;
    let families: BTreeSet<&str> = kept.iter().map(|a| a.family.as_str()).collect();
    let by = families
        .into_iter()
        .filter_map(|family| {
            let of_family: Vec<&Answered> =
                kept.iter().copied().filter(|a| a.family == family).collect();
            let Estimate { value, ci95, n, .. } = estimate(&of_family)?;
            Some((family.to_owned(), Slice { value, ci95, n }))
        })
        .collect();
    Some((overall, by))
}

fn outcome(answered: &Answered, value: bool) -> Outcome {
    Outcome {
        id: answered.id.clone(),
        cluster: answered.clip_id.clone(),
        value: f64::from(u8::from(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::question::tests::question;

    #[test]
    fn rows_by_hand() {
        let mut answered = Vec::new();
        for (id, clip, family, reply) in [
            ("1", "a", "count", "2"),
            ("2", "a", "count", ""),
            ("3", "b", "count", "2"),
            ("4", "b", "shape", "disc"),
        ] {
            let asked = question(id, clip, family, "2");
            answered.push(Answered::new(&asked, None, vec![reply.to_owned()]));
        }
        answered[3].temporal = true;
        let rows = evaluations(1, "s", &answered, &Bootstrap::default());
        let figures: Vec<(&str, f64, usize)> =
            rows.iter().map(|row| (row.metric.as_str(), row.value, row.n)).collect();
        assert_eq!(
            figures,
            [("accuracy", 0.5, 4), ("accuracy/temporal", 0.0, 1), ("unparsed", 0.25, 4)]
        );
        assert_eq!(rows[0].by["count"].n, 3);
        assert_eq!(rows[0].by["count"].value, 2.0 / 3.0);
        assert_eq!(rows[0].by["shape"].value, 0.0);
        // Both clips have 1 right of 2: every resample of clips gives 0.5.
        assert_eq!(rows[0].ci95, [0.5, 0.5]);
    }

    #[test]
    fn nothing_asked_is_no_row() {
        assert!(evaluations(0, "s", &[], &Bootstrap::default()).is_empty());
    }
}
