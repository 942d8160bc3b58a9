//! Answers: the model answers each question from the clip alone, once at each temperature.

use savi_schema::SCHEMA_VERSION;

use crate::round::{Draw, DrawKind, Round};
use crate::{Answer, ClipRecord, Drawn, Dropped, Error, Question};

/// Answers the usable questions of some clips; one list for each clip.
pub(crate) fn answer(
    round: &Round,
    clips: &[&ClipRecord],
    questions: &[&Vec<Question>],
) -> Result<Vec<Vec<Answer>>, Error> {
    let config = round.config;
    let mut draws = Vec::new();
    for (clip, questions) in clips.iter().zip(questions) {
        for question in usable(questions) {
            draws.push(Draw {
                id: question.id.clone(),
                messages: round.prompts.answer(&round.subject(clip), &question.text, None)?,
                samplings: config.answers.samplings(config.form),
            });
        }
    }
    let mut drawn = round.draw(DrawKind::Answer, draws)?.into_iter();
    let mut answered = Vec::with_capacity(clips.len());
    for questions in questions {
        let mut answers = Vec::new();
        for question in usable(questions) {
            for (draw, drawn) in drawn.next().unwrap_or_default().into_iter().enumerate() {
                answers.push(Answer {
                    schema: SCHEMA_VERSION,
                    id: format!("{}/a{draw:02}", question.id),
                    clip: question.clip.clone(),
                    question: question.id.clone(),
                    text: drawn.raw.trim().to_owned(),
                    dropped: problem(&drawn, config.filters.cut_off),
                    drawn,
                });
            }
        }
        answered.push(answers);
    }
    Ok(answered)
}

/// The questions that may be answered.
pub(crate) fn usable(questions: &[Question]) -> impl Iterator<Item = &Question> {
    questions.iter().filter(|question| question.dropped.is_none())
}

/// Why a drawn answer or revision cannot be used.
pub(crate) fn problem(drawn: &Drawn, refuse_cut_off: bool) -> Option<Dropped> {
    if !drawn.raw.chars().any(char::is_alphanumeric) {
        Some(Dropped::Empty)
    } else if refuse_cut_off && drawn.is_cut_off() {
        Some(Dropped::CutOff)
    } else {
        None
    }
}
