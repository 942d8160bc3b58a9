//! Self-critique and self-revision (critique form): the model checks its own answer against the
//! clip, evidence first and verdict after, and answers again in the light of that.

use savi_judge::critique;
use savi_schema::SCHEMA_VERSION;

use crate::round::{Draw, DrawKind, Round};
use crate::{Answer, ClipRecord, CritiqueRecord, Drawn, Error, Question, Revision};

/// An answer that is being criticised or revised.
struct Open<'a> {
    place: usize,
    clip: &'a ClipRecord,
    question: &'a Question,
    answer: &'a Answer,
}

/// Criticises the usable answers of some clips; one list for each clip.
pub(crate) fn criticise(
    round: &Round,
    clips: &[&ClipRecord],
    questions: &[&Vec<Question>],
    answers: &[&Vec<Answer>],
) -> Result<Vec<Vec<CritiqueRecord>>, Error> {
    let config = &round.config.critique;
    let open = open(clips, questions, answers);
    let mut drawn: Vec<Vec<Drawn>> = vec![Vec::new(); open.len()];
    let mut pending: Vec<usize> = (0..open.len()).collect();
    for attempt in 0..=config.retries {
        let mut draws = Vec::new();
        for &place in &pending {
            let Open { clip, question, answer, .. } = open[place];
            let (subject, _) = round.judged_subject(clip);
            let shown = round.config.judged_text(&answer.text);
            draws.push(Draw {
                id: format!("{}/{attempt}", answer.id),
                messages: round.prompts.critique(&subject, &question.text, shown)?,
                samplings: vec![config.sampling.clone()],
            });
        }
        let made = round.draw(DrawKind::Critique, draws)?;
        for (&place, made) in pending.iter().zip(made) {
            drawn[place].extend(made);
        }
        pending.retain(|&place| parse(&drawn[place]).is_none());
    }
    let mut critiques = vec![Vec::new(); clips.len()];
    for (open, drawn) in open.iter().zip(drawn) {
        critiques[open.place].push(CritiqueRecord {
            schema: SCHEMA_VERSION,
            id: open.answer.id.clone(),
            clip: open.clip.id.clone(),
            shown: round.judged_subject(open.clip).1,
            question: open.question.id.clone(),
            parsed: parse(&drawn),
            drawn,
        });
    }
    Ok(critiques)
}

/// Revises the answers whose critique could be read and may give a pair (all whose critique could
/// be read, if the config says so); one list for each clip.
pub(crate) fn revise(
    round: &Round,
    clips: &[&ClipRecord],
    questions: &[&Vec<Question>],
    answers: &[&Vec<Answer>],
    critiques: &[&Vec<CritiqueRecord>],
) -> Result<Vec<Vec<Revision>>, Error> {
    let mut open = open(clips, questions, answers);
    let skip_right = round.config.filters.called_right && !round.config.revise.all;
    let worth_revising = |open: &Open| {
        let critique = critiques[open.place].iter().find(|c| c.id == open.answer.id)?;
        let called_right = critique.parsed.as_ref()?.verdict == critique::Verdict::Right;
        let text = critique.drawn.last().map(|drawn| drawn.raw.trim());
        text.filter(|_| !(called_right && skip_right))
    };
    open.retain(|open| worth_revising(open).is_some());
    let mut draws = Vec::new();
    for open in &open {
        let Open { clip, question, answer, .. } = open;
        let critique = worth_revising(open).unwrap_or_default();
        let subject = round.subject(clip);
        let shown = round.config.judged_text(&answer.text);
        draws.push(Draw {
            id: answer.id.clone(),
            messages: round.prompts.revise(&subject, &question.text, shown, critique)?,
            samplings: vec![round.config.revise.sampling.clone()],
        });
    }
    let drawn = round.draw(DrawKind::Revise, draws)?.into_iter().flatten();
    let mut revisions = vec![Vec::new(); clips.len()];
    for (open, drawn) in open.iter().zip(drawn) {
        revisions[open.place].push(Revision {
            schema: SCHEMA_VERSION,
            id: open.answer.id.clone(),
            clip: open.clip.id.clone(),
            question: open.question.id.clone(),
            text: drawn.raw.trim().to_owned(),
            drawn,
        });
    }
    Ok(revisions)
}

fn open<'a>(
    clips: &[&'a ClipRecord],
    questions: &[&'a Vec<Question>],
    answers: &[&'a Vec<Answer>],
) -> Vec<Open<'a>> {
    let mut open = Vec::new();
    for (place, (clip, answers)) in clips.iter().zip(answers).enumerate() {
        for answer in answers.iter().filter(|answer| answer.dropped.is_none()) {
            if let Some(question) = questions[place].iter().find(|q| q.id == answer.question) {
                open.push(Open { place, clip, question, answer });
            }
        }
    }
    open
}

fn parse(drawn: &[Drawn]) -> Option<critique::Critique> {
    critique::parse(&drawn.last()?.raw).ok()
}
