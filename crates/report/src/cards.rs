//! Records for reading: a clip's frames with the question, the answers, the judgement or critique
//! and revision, and the pair that came of it.
//!
//! Records are read by their field names, not through the types of a method, so that a field that
//! is missing leaves a gap on the page and nothing else.

use serde::Serialize;
use serde_json::Value;

use crate::ReportError;
use crate::load::Run;
use crate::results::round_name;
use crate::thumbnails::data_uris;
use crate::words::{number, reason};

/// Records in the sample.
const SAMPLE: usize = 12;
/// Records shown when one clip, question or answer is asked for.
const MOST_ASKED_FOR: usize = 60;
/// Longest text shown of one field, in characters.
const LONGEST_TEXT: usize = 4000;

/// One decision with everything that led to it.
#[derive(Debug, Serialize)]
pub(crate) struct Card {
    id: String,
    round: String,
    clip: String,
    source: Option<String>,
    frames: Vec<FrameView>,
    kind: Option<String>,
    question: String,
    /// The true answer, where an audit by a world that knows it is stored.
    truth: Option<String>,
    answers: Vec<AnswerView>,
    judgement: Option<JudgementView>,
    critique: Option<CritiqueView>,
    revision: Option<String>,
    pair: Option<PairView>,
    dropped: Option<String>,
}

#[derive(Debug, Serialize)]
struct FrameView {
    uri: String,
    time: Option<String>,
}

#[derive(Debug, Serialize)]
struct AnswerView {
    text: String,
    temperature: Option<String>,
    score: Option<String>,
    /// The four criteria in words.
    criteria: Option<String>,
    /// `chosen`, `rejected` or nothing.
    role: Option<&'static str>,
    dropped: Option<String>,
    /// It says what an earlier answer says, so the judge did not see it.
    repeats: bool,
    /// Whether it is right, by the audit.
    right: Option<bool>,
}

#[derive(Debug, Serialize)]
struct JudgementView {
    evidence: Option<String>,
    shown: Option<String>,
    raw: Vec<String>,
    problem: Option<String>,
}

#[derive(Debug, Serialize)]
struct CritiqueView {
    evidence: Option<String>,
    verdict: Option<String>,
    shown: Option<String>,
    raw: Vec<String>,
}

#[derive(Debug, Serialize)]
struct PairView {
    chosen: String,
    rejected: String,
    chosen_score: Option<String>,
    rejected_score: Option<String>,
    similarities: Option<String>,
    swapped: bool,
}

/// The sample of the run, or the records that belong to `record`.
pub(crate) fn cards(run: &Run, record: Option<&str>) -> Result<Vec<Card>, ReportError> {
    let decisions: Vec<(u32, &Value)> = run
        .stages
        .iter()
        .filter(|stage| stage.title == "pair")
        .flat_map(|stage| stage.records.iter().map(|record| (stage.round, record)))
        .collect();
    let picked = match record {
        None => sample(run, &decisions),
        Some(id) => {
            let found: Vec<(u32, &Value)> =
                decisions.into_iter().filter(|(_, decision)| belongs(decision, id)).collect();
            if found.is_empty() {
                return Err(ReportError::NoSuchRecord(id.to_owned()));
            }
            found.into_iter().take(MOST_ASKED_FOR).collect()
        }
    };
    Ok(picked.into_iter().map(|(round, decision)| card(run, round, decision)).collect())
}

fn belongs(decision: &Value, id: &str) -> bool {
    let own = str_of(decision, "id");
    // A decision's id is that of its question or answer behind the round's name.
    own == id
        || own.split_once('/').is_some_and(|(_, rest)| rest == id)
        || str_of(decision, "question") == id
        || str_of(decision, "clip") == id
}

/// Two of three places for pairs, the others for what was left out; evenly over all decisions, and
/// those with stored frames first.
fn sample<'a>(run: &Run, decisions: &[(u32, &'a Value)]) -> Vec<(u32, &'a Value)> {
    let has_frames = |decision: &Value| !data_uris(&run.dir, str_of(decision, "clip")).is_empty();
    let (paired, dropped): (Vec<_>, Vec<_>) =
        decisions.iter().copied().partition(|(_, decision)| decision.get("pair").is_some());
    let choose = |from: Vec<(u32, &'a Value)>, count: usize| {
        let (shown, others): (Vec<_>, Vec<_>) =
            from.into_iter().partition(|(_, decision)| has_frames(decision));
        let mut chosen = evenly(shown, count);
        let left = count - chosen.len();
        chosen.extend(evenly(others, left));
        chosen
    };
    let dropped_count = dropped.len().min(SAMPLE / 3);
    let paired = choose(paired, SAMPLE - dropped_count);
    let left = SAMPLE - paired.len();
    let mut picked = paired;
    picked.extend(choose(dropped, left));
    picked.sort_by_key(|(round, decision)| (*round, str_of(decision, "id").to_owned()));
    picked
}

/// `count` items at equal distances.
fn evenly<T: Copy>(items: Vec<T>, count: usize) -> Vec<T> {
    let count = count.min(items.len());
    (0..count).map(|k| items[k * items.len() / count]).collect()
}

fn card(run: &Run, round: u32, decision: &Value) -> Card {
    let clip_id = str_of(decision, "clip");
    let question_id = str_of(decision, "question");
    let clip = by_id(run.records(0, "clips"), clip_id);
    let question = by_id(run.records(round, "ask"), question_id);
    let pair = decision.get("pair").filter(|pair| !pair.is_null());
    let provenance = |name: &str| Some(pair?.get("provenance")?.get(name)?.as_str()?.to_owned());
    let answer_id = str_of(decision, "id").split_once('/').map_or("", |(_, rest)| rest);
    let judgement = by_id(run.records(round, "judge"), question_id);
    let critique = by_id(run.records(round, "critique"), answer_id);
    let revision = by_id(run.records(round, "revise"), answer_id);

    let audit = by_id(run.records(round, "audit"), question_id);
    let chosen = provenance("chosen");
    let rejected = provenance("rejected");
    let answers = run
        .records(round, "answer")
        .iter()
        .filter(|answer| str_of(answer, "question") == question_id)
        // In the critique form a decision is about one of the answers.
        .filter(|answer| critique.is_none() || str_of(answer, "id") == answer_id)
        .map(|answer| {
            let id = str_of(answer, "id");
            let role = if chosen.as_deref() == Some(id) {
                Some("chosen")
            } else if rejected.as_deref() == Some(id) {
                Some("rejected")
            } else {
                None
            };
            answer_view(answer, judgement, audit, role)
        })
        .collect();

    Card {
        id: str_of(decision, "id").to_owned(),
        round: round_name(round),
        clip: clip_id.to_owned(),
        source: clip.map(|clip| file_name(str_of(clip, "source"))),
        frames: frames(run, clip_id, clip),
        kind: question.map(|question| str_of(question, "kind").to_owned()),
        question: question
            .map(|question| text(question, "text"))
            .or_else(|| provenance("question_text"))
            .unwrap_or_else(|| "(the question is not in the folder)".to_owned()),
        truth: audit.map(|audit| text(audit, "truth")).filter(|truth| !truth.is_empty()),
        answers,
        judgement: judgement.map(|judgement| judgement_view(judgement, clip_id)),
        critique: critique.map(|critique| critique_view(critique, clip_id)),
        revision: revision.map(|revision| text(revision, "text")),
        pair: pair.map(|pair| pair_view(pair, decision)),
        dropped: decision.get("dropped").and_then(Value::as_str).map(reason),
    }
}

fn frames(run: &Run, clip_id: &str, clip: Option<&Value>) -> Vec<FrameView> {
    let times: Vec<f64> = clip
        .and_then(|clip| clip.get("frame_times")?.as_array())
        .map(|times| times.iter().filter_map(Value::as_f64).collect())
        .unwrap_or_default();
    data_uris(&run.dir, clip_id)
        .into_iter()
        .enumerate()
        .map(|(place, uri)| FrameView {
            uri,
            time: times.get(place).map(|time| format!("{time:.2}")),
        })
        .collect()
}

fn answer_view(
    answer: &Value,
    judgement: Option<&Value>,
    audit: Option<&Value>,
    role: Option<&'static str>,
) -> AnswerView {
    // Scores are kept by candidate; answers that repeat another are no candidates.
    let candidate = judgement.and_then(|judgement| {
        let candidates = judgement.get("candidates")?.as_array()?;
        candidates.iter().position(|id| id.as_str() == Some(str_of(answer, "id")))
    });
    let score = judgement
        .zip(candidate)
        .and_then(|(judgement, place)| judgement.get("scores")?.get(place)?.as_f64());
    let criteria = judgement.zip(candidate).and_then(|(judgement, candidate)| {
        let reading = last_parsed(judgement)?;
        let order = reading.get("order")?.as_array()?;
        let place = order.iter().position(|at| at.as_u64() == Some(candidate as u64))?;
        let scores = reading.get("parsed")?.get("scores")?.get(place)?.as_object()?;
        let scores: Vec<String> = scores
            .iter()
            .map(|(name, score)| format!("{} {score}", name.replace('_', " ")))
            .collect();
        Some(scores.join(", "))
    });
    let temperature = answer
        .pointer("/drawn/sampling/temperature")
        .and_then(Value::as_f64)
        .map(|t| t.to_string());
    let dropped = answer.get("dropped").and_then(Value::as_str).map(reason);
    // An audit holds one verdict for each answer in the order of drawing, where there is a truth.
    let right = audit.filter(|audit| audit.get("truth").is_some()).and_then(|audit| {
        let draw: usize = str_of(answer, "id").rsplit_once("/a")?.1.parse().ok()?;
        audit.get("answers")?.get(draw)?.as_bool()
    });
    AnswerView {
        right,
        repeats: judgement.is_some() && candidate.is_none() && dropped.is_none(),
        text: text(answer, "text"),
        temperature,
        score: score.map(|score| format!("{score:.2}")),
        criteria,
        role,
        dropped,
    }
}

fn last_parsed(judgement: &Value) -> Option<&Value> {
    judgement
        .get("readings")?
        .as_array()?
        .iter()
        .rev()
        .find(|reading| reading.get("parsed").is_some_and(|parsed| !parsed.is_null()))
}

fn judgement_view(judgement: &Value, clip: &str) -> JudgementView {
    let readings = judgement.get("readings").and_then(Value::as_array);
    let readings = readings.map_or(&[][..], Vec::as_slice);
    let parsed = last_parsed(judgement);
    let problem = match parsed {
        Some(_) => None,
        None => readings.last().map(|reading| text(reading, "problem")),
    };
    JudgementView {
        evidence: parsed.and_then(|reading| reading.get("parsed")).map(|p| text(p, "evidence")),
        shown: other_clip(judgement, clip),
        raw: readings
            .iter()
            .filter_map(|reading| reading.get("drawn"))
            .map(|drawn| text(drawn, "raw"))
            .collect(),
        problem,
    }
}

fn critique_view(critique: &Value, clip: &str) -> CritiqueView {
    let parsed = critique.get("parsed").filter(|parsed| !parsed.is_null());
    let drawn = critique.get("drawn").and_then(Value::as_array);
    CritiqueView {
        evidence: parsed.map(|parsed| text(parsed, "evidence")),
        verdict: parsed.map(|parsed| text(parsed, "verdict")),
        shown: other_clip(critique, clip),
        raw: drawn.map_or(&[][..], Vec::as_slice).iter().map(|drawn| text(drawn, "raw")).collect(),
    }
}

/// What the judge saw, where that was not the clip itself.
fn other_clip(judged: &Value, clip: &str) -> Option<String> {
    match judged.get("shown")? {
        Value::Null => Some("no clip".to_owned()),
        Value::String(shown) if shown != clip => Some(format!("clip {shown}")),
        _ => None,
    }
}

fn pair_view(pair: &Value, decision: &Value) -> PairView {
    let score = |name: &str| pair.get(name).and_then(Value::as_f64).map(number);
    let cosine = |name: &str| decision.get("similarities")?.get(name)?.as_f64();
    PairView {
        chosen: text(pair, "chosen"),
        rejected: text(pair, "rejected"),
        chosen_score: score("chosen_score"),
        rejected_score: score("rejected_score"),
        similarities: cosine("chosen")
            .zip(cosine("rejected"))
            .map(|(chosen, rejected)| format!("{} and {}", number(chosen), number(rejected))),
        swapped: pair.pointer("/provenance/swapped").is_some(),
    }
}

fn by_id<'a>(records: &'a [Value], id: &str) -> Option<&'a Value> {
    records.iter().find(|record| str_of(record, "id") == id)
}

fn str_of<'a>(value: &'a Value, name: &str) -> &'a str {
    value.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn text(value: &Value, name: &str) -> String {
    let text = str_of(value, name).trim();
    let mut short: String = text.chars().take(LONGEST_TEXT).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// The last part of a path: reports are passed on, and folders of a machine are nobody's business.
fn file_name(source: &str) -> String {
    source.rsplit(['/', '\\']).next().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_sample_is_spread_evenly() {
        assert_eq!(evenly((0..100).collect(), 4), [0, 25, 50, 75]);
        assert_eq!(evenly(vec![1, 2], 5), [1, 2]);
        assert_eq!(evenly(Vec::<u8>::new(), 5), [0u8; 0]);
    }

    #[test]
    fn records_are_found_by_any_of_their_ids() {
        let decision = json!({"id": "round-1/c1/why-0", "question": "c1/why-0", "clip": "c1"});
        for id in ["round-1/c1/why-0", "c1/why-0", "c1"] {
            assert!(belongs(&decision, id), "{id}");
        }
        assert!(!belongs(&decision, "c2") && !belongs(&decision, "why-0"));
    }

    #[test]
    fn empty_records_leave_gaps() {
        let card = card(&Run::default(), 1, &json!({}));
        assert!(card.pair.is_none() && card.answers.is_empty() && card.frames.is_empty());
        assert!(card.question.contains("not in the folder"));
    }

    #[test]
    fn criteria_follow_the_order_of_showing() {
        let scores = |accuracy: u8| json!({"relevance": 5, "accuracy": accuracy, "temporal_grounding": 1, "clarity": 5});
        let judgement = json!({
            "candidates": ["q/a0", "q/a1"],
            "scores": [2.0, 4.0],
            "readings": [
                {"order": [1, 0], "parsed": {"evidence": "e", "scores": [scores(4), scores(2)]}},
                {"order": [0, 1], "parsed": null, "problem": "unreadable"},
            ],
        });
        let audit = json!({"id": "q", "truth": "up", "answers": [false, true]});
        let view =
            answer_view(&json!({"id": "q/a1", "text": "up"}), Some(&judgement), Some(&audit), None);
        assert_eq!(view.score.as_deref(), Some("4.00"));
        assert_eq!(view.right, Some(true));
        let criteria = view.criteria.unwrap();
        assert!(
            criteria.starts_with("relevance 5, accuracy 4, temporal grounding 1"),
            "{criteria}"
        );
    }
}
