//! Pairs: what a round prefers to what.
//!
//! Judge form: the best-scored candidate is chosen, the worst rejected, if they are a margin apart;
//! where an embedder is given, the pair is swapped when the clip is closer to the rejected one, and
//! the difference may shift the pair's DPO logit (this project's reading of the paper's
//! "CLIP-adjusted" loss, whose formula is not published). Critique form: the revision is chosen,
//! the initial answer rejected.

use std::collections::HashSet;

use rand::Rng;
use savi_judge::critique::Verdict;
use savi_judge::order::seeded_rng;
use savi_judge::{Similarities, clip_check};
use savi_schema::{Example, Message, Pair, Role, SCHEMA_VERSION};
use savi_suites::extract::final_answer;
use serde_json::{Map, Value, json};

use crate::answer::{problem, usable};
use crate::judge::{first_of_each, usable_answers};
use crate::round::{DrawKind, Round};
use crate::text::{length_ratio, normalise};
use crate::{
    Answer, ClipRecord, Config, CritiqueRecord, Decision, Dropped, Error, Judgement, Question,
    Revision, Ties,
};

/// Pairs out of judgements; one list for each clip, one decision for each usable question.
pub(crate) fn pair_judged(
    round: &Round,
    clips: &[&ClipRecord],
    questions: &[&Vec<Question>],
    answers: &[&Vec<Answer>],
    judgements: &[&Vec<Judgement>],
) -> Result<Vec<Vec<Decision>>, Error> {
    let config = round.config;
    let mut decided = Vec::with_capacity(clips.len());
    for (place, clip) in clips.iter().enumerate() {
        let mut of_clip = Vec::new();
        for question in usable(questions[place]) {
            let drawn = usable_answers(question, answers[place]);
            let judgement = judgements[place].iter().find(|j| j.id == question.id);
            let selected = match judgement {
                None if drawn.is_empty() => Err(Dropped::Empty),
                None => Err(Dropped::OneCandidate),
                Some(judgement) => select_judged(judgement, &drawn, config),
            };
            let mut decision = Decision::new(round, question, &question.id);
            // The supervised control learns whatever was answered: any of the answers drawn.
            if !drawn.is_empty() {
                let any =
                    seeded_rng(round.seed, &["initial", &decision.id]).random_range(0..drawn.len());
                decision.keep_initial(round, clip, question, &drawn[any].text)?;
            }
            match selected {
                Err(reason) => decision.dropped = Some(reason),
                Ok([(best, best_score), (worst, worst_score)]) => {
                    decision.offer(round, clip, question, &best.text, &worst.text)?;
                    if let Some(pair) = &mut decision.pair {
                        pair.chosen_score = Some(best_score);
                        pair.rejected_score = Some(worst_score);
                        pair.provenance.insert("chosen".to_owned(), json!(best.id));
                        pair.provenance.insert("rejected".to_owned(), json!(worst.id));
                    }
                    check_with_clip(round, clip, &mut decision)?;
                }
            }
            of_clip.push(decision);
        }
        drop_duplicates(round, &mut of_clip);
        decided.push(of_clip);
    }
    Ok(decided)
}

/// Pairs out of critiques and revisions; one list for each clip, one decision for each answer.
pub(crate) fn pair_revised(
    round: &Round,
    clips: &[&ClipRecord],
    questions: &[&Vec<Question>],
    answers: &[&Vec<Answer>],
    critiques: &[&Vec<CritiqueRecord>],
    revisions: &[&Vec<Revision>],
) -> Result<Vec<Vec<Decision>>, Error> {
    let filters = &round.config.filters;
    let mut decided = Vec::with_capacity(clips.len());
    for (place, clip) in clips.iter().enumerate() {
        let mut of_clip = Vec::new();
        for answer in answers[place] {
            let Some(question) = questions[place].iter().find(|q| q.id == answer.question) else {
                continue;
            };
            let critique = critiques[place].iter().find(|c| c.id == answer.id);
            let verdict = critique.and_then(|c| c.parsed.as_ref()).map(|parsed| parsed.verdict);
            let revision = revisions[place].iter().find(|r| r.id == answer.id);
            let mut decision = Decision::new(round, question, &answer.id);
            if answer.dropped.is_none() {
                decision.keep_initial(round, clip, question, &answer.text)?;
            }
            decision.dropped = match (answer.dropped, verdict, revision) {
                (Some(reason), ..) => Some(reason),
                (None, None, _) => Some(Dropped::Unparsed),
                (None, Some(Verdict::Right), _) if filters.called_right => {
                    Some(Dropped::CalledRight)
                }
                (None, Some(_), None) => Some(Dropped::Empty),
                (None, Some(_), Some(revision)) => problem(&revision.drawn, filters.cut_off)
                    .or_else(|| {
                        let said = |text: &str| normalise(final_answer(text));
                        let same = said(&revision.text) == said(&answer.text);
                        (same && filters.unchanged).then_some(Dropped::Unchanged)
                    }),
            };
            if let (None, Some(revision)) = (decision.dropped, revision) {
                decision.offer(round, clip, question, &revision.text, &answer.text)?;
                if let Some(pair) = &mut decision.pair {
                    pair.provenance.insert("rejected".to_owned(), json!(answer.id));
                    pair.provenance.insert("chosen".to_owned(), json!("revision"));
                }
            }
            of_clip.push(decision);
        }
        drop_duplicates(round, &mut of_clip);
        decided.push(of_clip);
    }
    Ok(decided)
}

/// The best and the worst answer with their scores. Answers in the same words have one score and
/// count as one candidate.
fn select_judged<'a>(
    judgement: &Judgement,
    drawn: &[&'a Answer],
    config: &Config,
) -> Result<[(&'a Answer, f64); 2], Dropped> {
    let scores = judgement.scores.as_ref().ok_or(Dropped::Unparsed)?;
    let by_id = |id: &String| drawn.iter().find(|answer| answer.id == *id).copied();
    let judged: Vec<(&Answer, f64)> = judgement
        .candidates
        .iter()
        .zip(scores)
        .filter_map(|(id, &score)| Some((by_id(id)?, score)))
        .collect();
    let answers: Vec<&Answer> = judged.iter().map(|(answer, _)| *answer).collect();
    let distinct: Vec<(&Answer, f64)> =
        first_of_each(&answers, config).into_iter().map(|place| judged[place]).collect();
    let scores: Vec<f64> = distinct.iter().map(|(_, score)| *score).collect();
    let (best, worst) = select(&scores, config.judge.margin, config.judge.ties)?;
    Ok([distinct[best], distinct[worst]])
}

/// The places of the best and the worst score. Candidates stand in the order of drawing.
pub(crate) fn select(scores: &[f64], margin: f64, ties: Ties) -> Result<(usize, usize), Dropped> {
    let best_score = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let worst_score = scores.iter().copied().fold(f64::INFINITY, f64::min);
    if scores.len() < 2 || best_score <= worst_score || best_score - worst_score < margin {
        return Err(Dropped::Margin);
    }
    let at = |score: f64| scores.iter().enumerate().filter(move |(_, s)| **s == score);
    if ties == Ties::Skip && (at(best_score).count() > 1 || at(worst_score).count() > 1) {
        return Err(Dropped::Tie);
    }
    match (at(best_score).next(), at(worst_score).next()) {
        (Some((best, _)), Some((worst, _))) => Ok((best, worst)),
        _ => Err(Dropped::Margin),
    }
}

impl Decision {
    fn new(round: &Round, question: &Question, id: &str) -> Self {
        Self {
            schema: SCHEMA_VERSION,
            id: format!("round-{}/{id}", round.number),
            clip: question.clip.clone(),
            question: question.id.clone(),
            initial: None,
            dropped: None,
            similarities: None,
            pair: None,
        }
    }

    fn keep_initial(
        &mut self,
        round: &Round,
        clip: &ClipRecord,
        question: &Question,
        answer: &str,
    ) -> Result<(), Error> {
        let mut conversation = round.prompts.answer(&round.subject(clip), &question.text, None)?;
        conversation.push(Message::text(Role::Assistant, answer));
        let (id, conversations) = (self.id.clone(), vec![conversation]);
        self.initial = Some(Example { schema: SCHEMA_VERSION, id, conversations });
        Ok(())
    }

    /// Makes the pair, or drops it for its lengths.
    fn offer(
        &mut self,
        round: &Round,
        clip: &ClipRecord,
        question: &Question,
        chosen: &str,
        rejected: &str,
    ) -> Result<(), Error> {
        let most = round.config.filters.length_ratio;
        if most > 0.0 && length_ratio(chosen, rejected) > most {
            self.dropped = Some(Dropped::LengthRatio);
            return Ok(());
        }
        let mut provenance = Map::new();
        let entries: [(&str, Value); 7] = [
            ("clip", json!(clip.id)),
            ("question", json!(question.id)),
            ("question_text", json!(question.text)),
            ("kind", json!(question.kind)),
            ("round", json!(round.number)),
            ("model", json!(round.drawer(DrawKind::Answer).1)),
            ("prompts", json!(round.prompts.ids())),
        ];
        provenance.extend(entries.map(|(name, value)| (name.to_owned(), value)));
        self.pair = Some(Pair {
            schema: SCHEMA_VERSION,
            id: self.id.clone(),
            prompt: round.prompts.answer(&round.subject(clip), &question.text, None)?,
            chosen: chosen.to_owned(),
            rejected: rejected.to_owned(),
            chosen_score: None,
            rejected_score: None,
            margin: 0.0,
            provenance,
        });
        Ok(())
    }
}

/// The CLIP check of the judge form, where an embedder is given.
fn check_with_clip(round: &Round, clip: &ClipRecord, decision: &mut Decision) -> Result<(), Error> {
    let (Some(space), Some(pair)) = (round.space, &mut decision.pair) else { return Ok(()) };
    let failed = |source| Error::ClipCheck { pair: pair.id.clone(), source };
    let frames = (space.frames)(clip).map_err(|error| failed(error.into()))?;
    let mut similarities =
        clip_check(space.embed, &frames, &pair.chosen, &pair.rejected).map_err(failed)?;
    decision.similarities = Some(similarities);
    if round.config.clip_check.swap && similarities.should_swap() {
        std::mem::swap(&mut pair.chosen, &mut pair.rejected);
        std::mem::swap(&mut pair.chosen_score, &mut pair.rejected_score);
        let [chosen, rejected] = ["chosen", "rejected"].map(|name| pair.provenance.remove(name));
        pair.provenance.insert("chosen".to_owned(), rejected.unwrap_or_default());
        pair.provenance.insert("rejected".to_owned(), chosen.unwrap_or_default());
        pair.provenance.insert("swapped".to_owned(), json!(true));
        similarities = Similarities::swapped(similarities);
    }
    pair.margin = similarities.margin(round.config.clip_check.lambda);
    Ok(())
}

/// Drops pairs that say of one clip what an earlier one says.
fn drop_duplicates(round: &Round, decisions: &mut [Decision]) {
    if !round.config.filters.duplicate_pairs {
        return;
    }
    let mut seen = HashSet::new();
    for decision in decisions {
        let Some(pair) = &decision.pair else { continue };
        let prompt: String = pair.prompt.iter().map(savi_schema::Message::words).collect();
        let said = [&prompt, &pair.chosen, &pair.rejected].map(|text| normalise(text));
        if !seen.insert(said) {
            decision.dropped = Some(Dropped::Duplicate);
            decision.pair = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn best_and_worst_a_margin_apart() {
        let check = |scores: &[f64], margin, ties, expected| {
            assert_eq!(select(scores, margin, ties), expected, "{scores:?}");
        };
        check(&[2.0, 4.5, 1.0], 1.0, Ties::First, Ok((1, 2)));
        check(&[2.0, 2.75], 1.0, Ties::First, Err(Dropped::Margin));
        check(&[2.0, 3.0], 1.0, Ties::First, Ok((1, 0)));
        check(&[5.0, 1.0, 5.0, 1.0], 1.0, Ties::First, Ok((0, 1)));
        check(&[5.0, 1.0, 5.0], 1.0, Ties::Skip, Err(Dropped::Tie));
        check(&[5.0, 1.0, 1.0], 1.0, Ties::Skip, Err(Dropped::Tie));
        check(&[5.0, 1.0, 3.0, 3.0], 1.0, Ties::Skip, Ok((0, 1)));
        check(&[3.0, 3.0], 0.0, Ties::First, Err(Dropped::Margin));
        check(&[3.0], 0.0, Ties::First, Err(Dropped::Margin));
    }
}
