//! Which candidates become pairs (paper, section 4.1): a positive has at least 5 points; a negative has at least 2
//! fewer, or 1 where the positive is a student's sample.

use std::collections::HashSet;

use rand::Rng;
use rand::seq::SliceRandom;
use savi_judge::order::seeded_rng;
use savi_judge::wins::duels;
use savi_schema::{Pair, PromptRecord, SCHEMA_VERSION};
use serde_json::{Map, Value, json};

use crate::config::{Mode, PairRules, Rule, Targets};
use crate::iteration::Iteration;
use crate::{Annotation, Candidate, Decision, Dropped, Made, PairKind, Writer};

/// A candidate as the rules see it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Judged<'a> {
    pub(crate) writer: Writer,
    pub(crate) text: &'a str,
    /// Points from 0 to 6.
    pub(crate) points: f64,
    /// Win rate from 0 to 1.
    pub(crate) rate: f64,
    pub(crate) degenerate: bool,
}

/// Decides on a prompt.
pub(crate) fn pair(
    at: &Iteration,
    record: &PromptRecord,
    candidates: &[Candidate],
    annotation: Option<&Annotation>,
) -> Decision {
    let mut decision = Decision {
        schema: SCHEMA_VERSION,
        id: record.id.clone(),
        pairs: Vec::new(),
        dropped: None,
    };
    let judged = match annotation {
        Some(annotation) => judged(candidates, annotation),
        // Without an annotator nothing is said of them.
        None => Some(unjudged(candidates)),
    };
    let Some(judged) = judged else {
        decision.dropped = Some(Dropped::Unannotated);
        return decision;
    };
    let (config, number) = (at.config, at.number.to_string());
    let mut rng = seeded_rng(at.seed, &["pairs", &number, &record.id]);
    match choose(&judged, &config.pairs, config.mode, &mut rng) {
        Err(dropped) => decision.dropped = Some(dropped),
        Ok(places) => {
            let make = |(chosen, rejected): (usize, usize)| {
                let kind = kind(&judged[chosen], &judged[rejected]);
                let score = |place: usize| match (annotation, config.targets) {
                    (None, _) => None,
                    (Some(_), Targets::Scores) => Some(judged[place].points),
                    (Some(_), Targets::WinRates) => Some(judged[place].rate),
                };
                let mut provenance = provenance(at, record, kind);
                for (name, place) in [("chosen", chosen), ("rejected", rejected)] {
                    provenance.insert(name.to_owned(), json!(candidates[place].id));
                    if annotation.is_some() {
                        provenance.insert(format!("{name}_points"), json!(judged[place].points));
                    }
                }
                let pair = Pair {
                    schema: SCHEMA_VERSION,
                    id: format!("{number}/{}/{chosen}-{rejected}", record.id),
                    prompt: record.prompt.clone(),
                    chosen: judged[chosen].text.to_owned(),
                    rejected: judged[rejected].text.to_owned(),
                    chosen_score: score(chosen),
                    rejected_score: score(rejected),
                    margin: 0.0,
                    provenance,
                };
                Made { kind, pair }
            };
            decision.pairs = places.into_iter().map(make).collect();
        }
    }
    decision
}

fn provenance(at: &Iteration, record: &PromptRecord, kind: PairKind) -> Map<String, Value> {
    let entries: [(&str, Value); 4] = [
        ("prompt", json!(record.id)),
        ("iteration", json!(at.number)),
        ("kind", json!(kind)),
        ("model", json!(at.fingerprint)),
    ];
    entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

fn judged<'a>(candidates: &'a [Candidate], annotation: &Annotation) -> Option<Vec<Judged<'a>>> {
    let (scores, wins) = (annotation.scores.as_ref()?, annotation.wins.as_ref()?);
    let rates = wins.rates();
    let all = candidates.iter().zip(scores.iter().zip(rates));
    Some(
        all.map(|(candidate, (&points, rate))| Judged {
            writer: candidate.writer,
            text: &candidate.text,
            points,
            rate,
            degenerate: candidate.degenerate,
        })
        .collect(),
    )
}

fn unjudged(candidates: &[Candidate]) -> Vec<Judged<'_>> {
    let of = |candidate: &'_ Candidate| (candidate.writer, candidate.degenerate);
    candidates
        .iter()
        .map(|candidate| {
            let (writer, degenerate) = of(candidate);
            Judged { writer, text: &candidate.text, points: 0.0, rate: 0.5, degenerate }
        })
        .collect()
}

/// Who is preferred to whom; a teacher to itself does not come.
fn kind(chosen: &Judged, rejected: &Judged) -> PairKind {
    match (chosen.writer, rejected.writer) {
        (Writer::Teacher, _) => PairKind::TeacherOverStudent,
        (Writer::Student, Writer::Teacher) => PairKind::StudentOverTeacher,
        (Writer::Student, Writer::Student) => PairKind::StudentOverStudent,
    }
}

/// Places of chosen and rejected candidates; why there are none, if so.
pub(crate) fn choose(
    judged: &[Judged],
    rules: &PairRules,
    mode: Mode,
    rng: &mut impl Rng,
) -> Result<Vec<(usize, usize)>, Dropped> {
    let teacher = judged.iter().position(|one| one.writer == Writer::Teacher && !one.degenerate);
    if matches!(mode, Mode::Restrictive | Mode::Spin) && teacher.is_none() {
        return Err(Dropped::NoTeacher);
    }
    let students = || (0..judged.len()).filter(|&at| judged[at].writer == Writer::Student);
    let mut pairs = match (mode, rules.rule) {
        (Mode::Spin, _) => {
            teacher.into_iter().flat_map(|t| students().map(move |s| (t, s))).collect()
        }
        (_, Rule::Margin) => by_margin(judged, rules)?,
        (_, Rule::BestVsWorst) => best_and_worst(judged),
        (_, Rule::MaxRandom) => best_and_random(judged, rules, rng)?,
        (_, Rule::All) => all(judged),
    };
    if mode == Mode::Restrictive {
        pairs.retain(|&(chosen, rejected)| {
            kind(&judged[chosen], &judged[rejected]) == PairKind::TeacherOverStudent
        });
    }
    // Two answers in the same words teach nothing, and an empty one is no answer to learn from or against.
    pairs.retain(|&(chosen, rejected)| {
        let (chosen, rejected) = (judged[chosen].text, judged[rejected].text);
        chosen != rejected && !rejected.trim().is_empty()
    });
    if rules.distinct {
        let mut seen = HashSet::new();
        pairs.retain(|&(chosen, rejected)| {
            seen.insert((judged[chosen].text, judged[rejected].text))
        });
    }
    if rules.most_per_prompt > 0 && pairs.len() > rules.most_per_prompt {
        pairs.shuffle(rng);
        pairs.truncate(rules.most_per_prompt);
        pairs.sort_unstable();
    }
    if pairs.is_empty() { Err(Dropped::NoNegative) } else { Ok(pairs) }
}

/// Every positive over every negative that is far enough below it.
fn by_margin(judged: &[Judged], rules: &PairRules) -> Result<Vec<(usize, usize)>, Dropped> {
    let positives: Vec<usize> =
        (0..judged.len()).filter(|&at| is_positive(&judged[at], rules)).collect();
    if positives.is_empty() {
        return Err(Dropped::NoPositive);
    }
    let negatives = |chosen: usize| {
        let margin = match judged[chosen].writer {
            Writer::Teacher => rules.margin,
            Writer::Student => rules.student_margin,
        };
        let most = judged[chosen].points - margin;
        (0..judged.len()).filter(move |&at| at != chosen && judged[at].points <= most)
    };
    Ok(positives
        .into_iter()
        .flat_map(|chosen| negatives(chosen).map(move |rejected| (chosen, rejected)))
        .collect())
}

fn is_positive(one: &Judged, rules: &PairRules) -> bool {
    !one.degenerate && one.points >= rules.positive
}

/// The best by win rate over the worst; none where they are even.
fn best_and_worst(judged: &[Judged]) -> Vec<(usize, usize)> {
    let best = best_of(judged, |one| !one.degenerate, |one| one.rate);
    let worst = best_of(judged, |_| true, |one| -one.rate);
    let pair = best.zip(worst).filter(|&(best, worst)| judged[best].rate > judged[worst].rate);
    pair.into_iter().collect()
}

/// The best by points over another one that has fewer.
fn best_and_random(
    judged: &[Judged],
    rules: &PairRules,
    rng: &mut impl Rng,
) -> Result<Vec<(usize, usize)>, Dropped> {
    let best = best_of(judged, |one| is_positive(one, rules), |one| one.points);
    let Some(best) = best else { return Err(Dropped::NoPositive) };
    let lower: Vec<usize> =
        (0..judged.len()).filter(|&at| judged[at].points < judged[best].points).collect();
    match lower.is_empty() {
        true => Err(Dropped::NoNegative),
        false => Ok(vec![(best, lower[rng.random_range(0..lower.len())])]),
    }
}

/// Every two candidates, the one that wins more often first; of equals the one that was drawn first.
fn all(judged: &[Judged]) -> Vec<(usize, usize)> {
    duels(judged.len())
        .filter_map(|(i, j)| {
            let (one, other) = (&judged[i], &judged[j]);
            let turned = one.degenerate || (!other.degenerate && other.rate > one.rate);
            let (chosen, rejected) = if turned { (j, i) } else { (i, j) };
            (!judged[chosen].degenerate).then_some((chosen, rejected))
        })
        .collect()
}

/// The first of the candidates that may be taken with the greatest figure.
fn best_of(
    judged: &[Judged],
    may: impl Fn(&Judged) -> bool,
    figure: impl Fn(&Judged) -> f64,
) -> Option<usize> {
    let places = (0..judged.len()).filter(|&at| may(&judged[at]));
    places.reduce(|best, at| if figure(&judged[at]) > figure(&judged[best]) { at } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The teacher comes last, as among candidates; points of -1 mark what runs in circles.
    fn candidates<'a>(points: &[f64], texts: &[&'a str]) -> Vec<Judged<'a>> {
        let rates = savi_judge::wins::Wins::of_scores(points).rates();
        let last = points.len() - 1;
        points
            .iter()
            .zip(texts)
            .zip(rates)
            .enumerate()
            .map(|(at, ((&points, &text), rate))| Judged {
                writer: if at == last { Writer::Teacher } else { Writer::Student },
                text,
                points: points.max(0.0),
                rate,
                degenerate: points < 0.0,
            })
            .collect()
    }

    const TEXTS: [&str; 4] = ["a", "b", "c", "t"];

    fn chosen(
        points: &[f64],
        rules: &PairRules,
        mode: Mode,
    ) -> Result<Vec<(usize, usize)>, Dropped> {
        choose(&candidates(points, &TEXTS), rules, mode, &mut seeded_rng(0, &["test"]))
    }

    #[test]
    fn margins_of_teacher_and_student() {
        let rules = PairRules::default();
        let check = |points: [f64; 4], mode, expected: Result<&[(usize, usize)], Dropped>| {
            assert_eq!(chosen(&points, &rules, mode), expected.map(<[_]>::to_vec), "{points:?}");
        };
        // A student's margin is 1, the teacher's 2.
        check([5.0, 4.0, 3.0, 5.0], Mode::Dno, Ok(&[(0, 1), (0, 2), (3, 2)]));
        check([6.0, 5.0, 4.0, 5.0], Mode::Dno, Ok(&[(0, 1), (0, 2), (0, 3), (1, 2)]));
        check([6.0, 5.0, 3.0, 5.0], Mode::Restrictive, Ok(&[(3, 2)]));
        check([4.0, 4.0, 0.0, 4.0], Mode::Dno, Err(Dropped::NoPositive));
        check([5.0, 5.0, 5.0, 6.0], Mode::Dno, Err(Dropped::NoNegative));
        check([6.0, 1.0, 1.0, 1.0], Mode::Restrictive, Err(Dropped::NoNegative));
        // What runs in circles is a negative of every positive, and no positive.
        check([-1.0, 4.0, 4.0, 5.0], Mode::Dno, Ok(&[(3, 0)]));
        check([-1.0, 0.0, 0.0, -1.0], Mode::Spin, Err(Dropped::NoTeacher));
        check([6.0, 6.0, -1.0, 0.0], Mode::Spin, Ok(&[(3, 0), (3, 1), (3, 2)]));
    }

    #[test]
    fn other_rules() {
        let with = |rule| PairRules { rule, ..PairRules::default() };
        let check = |points: [f64; 4], rule, expected: Result<&[(usize, usize)], Dropped>| {
            let got = chosen(&points, &with(rule), Mode::Dno);
            assert_eq!(got, expected.map(<[_]>::to_vec), "{rule:?} {points:?}");
        };
        check([1.0, 3.0, 0.0, 2.0], Rule::BestVsWorst, Ok(&[(1, 2)]));
        check([2.0, 2.0, 2.0, 2.0], Rule::BestVsWorst, Err(Dropped::NoNegative));
        check([5.0, 3.0, 5.0, 5.0], Rule::MaxRandom, Ok(&[(0, 1)]));
        check([4.0, 3.0, 2.0, 1.0], Rule::MaxRandom, Err(Dropped::NoPositive));
        check([5.0, 5.0, 5.0, 5.0], Rule::MaxRandom, Err(Dropped::NoNegative));
        let every = [(1, 0), (0, 2), (3, 0), (1, 2), (1, 3), (3, 2)];
        check([1.0, 3.0, -1.0, 2.0], Rule::All, Ok(&every));
        let random: HashSet<usize> = (0..40)
            .map(|seed| {
                let judged = candidates(&[6.0, 1.0, 2.0, 3.0], &TEXTS);
                let rng = &mut seeded_rng(seed, &["test"]);
                choose(&judged, &with(Rule::MaxRandom), Mode::Dno, rng).unwrap()[0].1
            })
            .collect();
        assert_eq!(random.len(), 3);
    }

    #[test]
    fn words_that_come_again_are_paired_once_and_caps_hold() {
        let judged = candidates(&[6.0, 1.0, 1.0, 6.0], &["right", "wrong", "wrong", "right"]);
        let count = |rules: &PairRules| {
            choose(&judged, rules, Mode::Dno, &mut seeded_rng(1, &["test"])).unwrap().len()
        };
        assert_eq!(count(&PairRules::default()), 1);
        assert_eq!(count(&PairRules { distinct: false, ..PairRules::default() }), 4);
        let capped = PairRules { distinct: false, most_per_prompt: 3, ..PairRules::default() };
        assert_eq!(count(&capped), 3);
        let empty = candidates(&[6.0, -1.0, 6.0, 6.0], &["right", " ", "right", "right"]);
        let got = choose(&empty, &PairRules::default(), Mode::Dno, &mut seeded_rng(1, &["test"]));
        assert_eq!(got, Err(Dropped::NoNegative));
    }
}
