//! What a world that knows the truth says about what the loop made: are its questions answerable,
//! its answers, critiques and revisions right, its pairs the right way round?
//!
//! It runs when everything is learnt and nothing reads its records again: the method never sees a
//! label of the clips it learns from.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::Context;
use savi_judge::audit::VerdictAudit;
use savi_judge::critique::Verdict;
use savi_run::{Key, Record, RunFolder, Stage, read_records};
use savi_schema::{MediaPolicy, SCHEMA_VERSION};
use savi_suites::stats::{Bootstrap, Estimate, Outcome, mean};
use savi_videosavi::{
    Answer, Config, CritiqueRecord, Decision, Form, Question, Revision, read_decisions,
};
use savi_worlds::moving_shapes::{Observed, Qa, Scene, conclusion, is_correct, open_audit, oracle};
use serde::{Deserialize, Serialize};

/// What the world says about one question that the model asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Audited {
    schema: u32,
    /// Id of the question.
    id: String,
    clip: String,
    question: String,
    /// Why the method did not use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    dropped: Option<String>,
    /// Family and true answer, where the scene answers the question.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    family: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    truth: Option<String>,
    /// Whether each answer is right, in the order of drawing.
    answers: Vec<bool>,
    /// What became of those that were criticised: initial answer, verdict, revision.
    corrections: Vec<Correction>,
    /// Number of the question's pairs.
    pairs_made: usize,
    /// Of each pair, where the scene answers the question: whether chosen and rejected are right.
    pairs: Vec<(bool, bool)>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Correction {
    initial_right: bool,
    /// Whether the critique calls the answer right; `None` where it could not be read.
    called_right: Option<bool>,
    /// Whether its evidence is what the frames show, word for word in this world's words.
    evidence_true: Option<bool>,
    /// Whether what it concludes from its evidence is the true answer, where it says so in these words.
    conclusion_right: Option<bool>,
    revision_right: Option<bool>,
}

impl Record for Audited {
    fn id(&self) -> &str {
        &self.id
    }

    fn unit(&self) -> &str {
        &self.clip
    }
}

/// What the verdicts and revisions of one round are worth: a row of `audit.json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
struct Figures {
    round: u32,
    verdicts: VerdictAudit,
    /// Mean share of right answers called right and of wrong ones called wrong.
    balanced_verdict_accuracy: Option<f64>,
    /// Share of right answers among those that were criticised.
    answer_accuracy: Option<f64>,
    /// P(revision right) - P(initial answer right), clustered by clip, over all revised answers.
    revision_gain: Option<Estimate>,
    /// P(chosen right) - P(rejected right) over the pairs that the scene answers.
    pair_gain: Option<Estimate>,
    /// Where critiques and revisions go right and wrong, by family of the question.
    families: BTreeMap<String, Shares>,
}

/// Shares of the criticised answers of one family; of those of which it is known.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
struct Shares {
    n: usize,
    answer_right: Option<f64>,
    evidence_true: Option<f64>,
    conclusion_right: Option<f64>,
    revision_right: Option<f64>,
    /// Right answers called right, and wrong ones called wrong.
    sensitivity: Option<f64>,
    specificity: Option<f64>,
}

impl Shares {
    fn of(corrections: &[&Correction]) -> Self {
        let share = |known: &dyn Fn(&Correction) -> Option<bool>| {
            let known: Vec<bool> = corrections.iter().filter_map(|c| known(c)).collect();
            let holding = known.iter().filter(|&&holds| holds).count();
            (!known.is_empty()).then(|| holding as f64 / known.len() as f64)
        };
        let called = |right: bool| {
            share(&|c| c.called_right.filter(|_| c.initial_right == right).map(|is| is == right))
        };
        Self {
            n: corrections.len(),
            answer_right: share(&|c| Some(c.initial_right)),
            evidence_true: share(&|c| c.evidence_true),
            conclusion_right: share(&|c| c.conclusion_right),
            revision_right: share(&|c| c.revision_right),
            sensitivity: called(true),
            specificity: called(false),
        }
    }
}

impl Figures {
    fn of(round: u32, audited: &[Audited], bootstrap: &Bootstrap) -> Self {
        let mut verdicts = VerdictAudit::default();
        let (mut right, mut revisions, mut pairs) = (Vec::new(), Vec::new(), Vec::new());
        let mut families: BTreeMap<String, Vec<&Correction>> = BTreeMap::new();
        for question in audited {
            if let Some(family) = &question.family {
                families.entry(family.clone()).or_default().extend(&question.corrections);
            }
            let outcome = |value: f64| Outcome {
                id: question.id.clone(),
                cluster: question.clip.clone(),
                value,
            };
            let gain = |after: bool, before: bool| f64::from(after) - f64::from(before);
            for correction in &question.corrections {
                let Correction { initial_right, called_right, revision_right, .. } = correction;
                let verdict = |right| if right { Verdict::Right } else { Verdict::Wrong };
                verdicts.add(*initial_right, called_right.map(verdict));
                right.push(f64::from(*initial_right));
                revisions.extend(revision_right.map(|after| outcome(gain(after, *initial_right))));
            }
            pairs
                .extend(question.pairs.iter().map(|&(chosen, other)| outcome(gain(chosen, other))));
        }
        Self {
            round,
            verdicts,
            balanced_verdict_accuracy: verdicts.balanced_accuracy(),
            answer_accuracy: (!right.is_empty())
                .then(|| right.iter().sum::<f64>() / right.len() as f64),
            revision_gain: mean(&revisions, bootstrap),
            pair_gain: mean(&pairs, bootstrap),
            families: families
                .into_iter()
                .filter(|(_, corrections)| !corrections.is_empty())
                .map(|(family, corrections)| (family, Shares::of(&corrections)))
                .collect(),
        }
    }
}

/// Audits every round of a finished run.
pub(crate) fn audit(
    folder: &RunFolder,
    config: &Config,
    world: &Path,
    policy: &MediaPolicy,
    bootstrap: &Bootstrap,
) -> anyhow::Result<()> {
    if config.rounds == 0 {
        return Ok(());
    }
    let scenes: HashMap<String, Scene> =
        open_audit(world)?.into_iter().map(|scene| (scene.id.clone(), scene)).collect();
    let mut figures = Vec::new();
    for round in 1..=config.rounds {
        let Some(made) = Made::read(folder, config, round)? else { continue };
        let key = Key::new("audit 3")
            .with("questions", &made.questions)
            .with("decisions", &made.decisions);
        let name = format!("{round}8-audit");
        let mut stage: Stage<Audited> = Stage::open(folder, &name, &key.finish())?;
        let mut clips: Vec<&str> = made.questions.iter().map(|q| q.clip.as_str()).collect();
        clips.dedup();
        stage.run(&clips, |missing| {
            let audited = missing.iter().map(|&at| {
                let of_clip = made.questions.iter().filter(|q| q.clip == clips[at]);
                let scene = scenes.get(clips[at]);
                of_clip.map(|question| made.audit(question, scene, policy)).collect()
            });
            Ok::<_, savi_run::RunError>(audited.collect())
        })?;
        let audited = stage.finish(count)?;
        tracing::info!("round {round}, audit: {}", summary(&count(&audited)));
        figures.push(Figures::of(round, &audited, bootstrap));
    }
    if !figures.is_empty() {
        savi_run::write_json_atomic(&folder.path("audit.json"), &figures)?;
    }
    Ok(())
}

/// What the stages of a round made.
struct Made {
    questions: Vec<Question>,
    answers: Vec<Answer>,
    critiques: Vec<CritiqueRecord>,
    revisions: Vec<Revision>,
    decisions: Vec<Decision>,
}

impl Made {
    /// Reads the records; `None` for a round that generated nothing.
    fn read(folder: &RunFolder, config: &Config, round: u32) -> anyhow::Result<Option<Self>> {
        let path = |stage: &str| {
            folder.path("stages").join(format!("{round}{stage}")).join("records.jsonl")
        };
        if !path("1-ask").exists() {
            return Ok(None);
        }
        let of_critique_form = config.form == Form::Critique;
        Ok(Some(Self {
            questions: read_records(&path("1-ask"))?,
            answers: read_records(&path("2-answer"))?,
            critiques: match of_critique_form {
                true => read_records(&path("3-critique"))?,
                false => Vec::new(),
            },
            revisions: match of_critique_form {
                true => read_records(&path("4-revise"))?,
                false => Vec::new(),
            },
            decisions: read_decisions(folder.dir(), round, config.form).context("decisions")?,
        }))
    }

    fn audit(&self, question: &Question, scene: Option<&Scene>, policy: &MediaPolicy) -> Audited {
        let truth: Option<Qa> = scene.and_then(|scene| oracle(scene, &question.text));
        let right = |text: &str| truth.as_ref().is_some_and(|qa| is_correct(qa, text));
        let seen = scene
            .zip(truth.as_ref())
            .and_then(|(scene, qa)| Observed::new(scene, policy).seen(&qa.query));
        let mut audited = Audited {
            schema: SCHEMA_VERSION,
            id: question.id.clone(),
            clip: question.clip.clone(),
            question: question.text.clone(),
            dropped: question.dropped.map(|reason| reason.name().to_owned()),
            family: truth.as_ref().map(|qa| qa.family.name().to_owned()),
            truth: truth.as_ref().map(|qa| qa.answer.clone()),
            answers: Vec::new(),
            corrections: Vec::new(),
            pairs_made: 0,
            pairs: Vec::new(),
        };
        let pairs = || {
            let of_question = self.decisions.iter().filter(|d| d.question == question.id);
            of_question.filter_map(|decision| decision.pair.as_ref())
        };
        audited.pairs_made = pairs().count();
        if truth.is_none() {
            return audited;
        }
        let answers = self.answers.iter().filter(|answer| answer.question == question.id);
        for answer in answers {
            audited.answers.push(right(&answer.text));
            if let Some(critique) = self.critiques.iter().find(|c| c.id == answer.id) {
                let revision = self.revisions.iter().find(|r| r.id == answer.id);
                let evidence = critique.parsed.as_ref().map(|c| c.evidence.as_str());
                audited.corrections.push(Correction {
                    initial_right: right(&answer.text),
                    called_right: critique.parsed.as_ref().map(|c| c.verdict == Verdict::Right),
                    evidence_true: evidence
                        .zip(seen.as_deref())
                        .map(|(evidence, seen)| evidence.starts_with(seen)),
                    conclusion_right: evidence.and_then(conclusion).map(right),
                    revision_right: revision.map(|revision| right(&revision.text)),
                });
            }
        }
        audited.pairs = pairs().map(|pair| (right(&pair.chosen), right(&pair.rejected))).collect();
        audited
    }
}

/// Counts, each with what it is a share of: `pairs` and `pairs/chosen-right`, and so on.
fn count(audited: &[Audited]) -> BTreeMap<String, u64> {
    let mut counters: BTreeMap<String, u64> = BTreeMap::new();
    let mut add = |name: &str, holds: bool| {
        *counters.entry(name.to_owned()).or_default() += u64::from(holds);
    };
    for question in audited {
        let used = question.dropped.is_none();
        add("questions", true);
        add("questions/used", used);
        add("questions/used-and-answerable", used && question.truth.is_some());
        for &right in &question.answers {
            add("answers", true);
            add("answers/right", right);
        }
        for correction in &question.corrections {
            let Correction { initial_right, called_right, revision_right, .. } = correction;
            if let Some(called_right) = called_right {
                let side = if *initial_right { "right" } else { "wrong" };
                add(&format!("verdicts/on-{side}"), true);
                add(&format!("verdicts/on-{side}/true"), called_right == initial_right);
            }
            if let Some(revision_right) = revision_right {
                add("revisions", true);
                add("revisions/initial-right", *initial_right);
                add("revisions/right", *revision_right);
            }
        }
        for at in 0..question.pairs_made {
            add("pairs", true);
            add("pairs/answerable", at < question.pairs.len());
        }
        for &(chosen, rejected) in &question.pairs {
            add("pairs/chosen-right", chosen);
            add("pairs/rejected-right", rejected);
            add("pairs/right-over-wrong", chosen && !rejected);
            add("pairs/wrong-over-right", rejected && !chosen);
        }
    }
    counters
}

fn summary(counters: &BTreeMap<String, u64>) -> String {
    let share = |part: &str, whole: &str| {
        let of = |name: &str| counters.get(name).copied().unwrap_or(0);
        match of(whole) {
            0 => "-".to_owned(),
            whole => format!("{:.0} %", 100.0 * of(part) as f64 / whole as f64),
        }
    };
    format!(
        "questions answerable {}, answers right {}, chosen right {}, rejected right {}",
        share("questions/used-and-answerable", "questions/used"),
        share("answers/right", "answers"),
        share("pairs/chosen-right", "pairs/answerable"),
        share("pairs/rejected-right", "pairs/answerable"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_by_hand() {
        let question = |dropped: Option<&str>, truth: Option<&str>| Audited {
            schema: 1,
            id: String::new(),
            clip: String::new(),
            question: String::new(),
            dropped: dropped.map(str::to_owned),
            family: truth.map(|_| "direction".to_owned()),
            truth: truth.map(str::to_owned),
            answers: Vec::new(),
            corrections: Vec::new(),
            pairs_made: 1,
            pairs: Vec::new(),
        };
        let mut answered = question(None, Some("left"));
        answered.answers = vec![true, false, false];
        answered.corrections = vec![Correction {
            initial_right: false,
            called_right: Some(false),
            evidence_true: Some(false),
            conclusion_right: None,
            revision_right: Some(true),
        }];
        (answered.pairs_made, answered.pairs) = (2, vec![(true, false), (false, false)]);
        let questions = [answered, question(None, None), question(Some("duplicate"), Some("up"))];
        let figures = Figures::of(1, &questions, &Bootstrap::default());
        assert_eq!((figures.verdicts.wrong_called_wrong, figures.answer_accuracy), (1, Some(0.0)));
        assert_eq!(figures.revision_gain.map(|gain| (gain.value, gain.n)), Some((1.0, 1)));
        assert_eq!(figures.pair_gain.map(|gain| (gain.value, gain.n)), Some((0.5, 2)));
        let shares = Shares {
            n: 1,
            answer_right: Some(0.0),
            evidence_true: Some(0.0),
            revision_right: Some(1.0),
            specificity: Some(1.0),
            ..Shares::default()
        };
        assert_eq!(figures.families, [("direction".to_owned(), shares)].into());
        let counters = count(&questions);
        let expected = [
            ("questions", 3),
            ("questions/used", 2),
            ("questions/used-and-answerable", 1),
            ("answers", 3),
            ("answers/right", 1),
            ("verdicts/on-wrong", 1),
            ("verdicts/on-wrong/true", 1),
            ("revisions", 1),
            ("revisions/initial-right", 0),
            ("revisions/right", 1),
            ("pairs", 4),
            ("pairs/answerable", 2),
            ("pairs/chosen-right", 1),
            ("pairs/rejected-right", 0),
            ("pairs/right-over-wrong", 1),
            ("pairs/wrong-over-right", 0),
        ];
        assert_eq!(counters, expected.map(|(name, n)| (name.to_owned(), n)).into());
        let summary = summary(&counters);
        assert!(summary.contains("answerable 50 %") && summary.contains("chosen right 50 %"));
    }
}
