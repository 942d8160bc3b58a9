//! Questions: the model asks itself about each clip.

use std::collections::{BTreeMap, HashSet};

use savi_schema::SCHEMA_VERSION;

use crate::round::{Draw, DrawKind, Round};
use crate::text::{begins_as, normalise, read_question};
use crate::{ClipRecord, Drawn, Dropped, Error, Question};

/// Asks the questions of some clips; one list for each clip. Where the config says so, the model
/// describes a clip without a caption itself and asks by what it said.
pub(crate) fn ask(round: &Round, clips: &[&ClipRecord]) -> Result<Vec<Vec<Question>>, Error> {
    let config = round.config;
    let kinds = config.questions.draws(config.form);
    let descriptions = describe(round, clips)?;
    let mut draws = Vec::new();
    for (clip, description) in clips.iter().zip(&descriptions) {
        let mut subject = round.subject(clip);
        if let Some(description) = description {
            subject.caption = Some(description.raw.trim().to_owned());
        }
        for (&kind, &count) in &kinds {
            draws.push(Draw {
                id: format!("{}/{}", clip.id, kind.name()),
                messages: round.prompts.ask(&subject, kind)?,
                samplings: vec![config.questions.sampling.clone(); count],
            });
        }
    }
    let mut drawn = round.draw(DrawKind::Ask, draws)?.into_iter();
    let mut asked = Vec::with_capacity(clips.len());
    for (clip, description) in clips.iter().zip(&descriptions) {
        let mut questions = Vec::new();
        for &kind in kinds.keys() {
            for (draw, drawn) in drawn.next().unwrap_or_default().into_iter().enumerate() {
                let read = read_question(&drawn.raw);
                questions.push(Question {
                    schema: SCHEMA_VERSION,
                    id: format!("{}/{}-{draw:02}", clip.id, kind.name()),
                    clip: clip.id.clone(),
                    kind,
                    description: description.clone(),
                    dropped: read.as_ref().err().copied(),
                    text: read.unwrap_or_default(),
                    drawn,
                });
            }
        }
        drop_unusable(&mut questions, round);
        asked.push(questions);
    }
    Ok(asked)
}

/// The model's own descriptions of clips that have no caption, if questions are asked by them.
fn describe(round: &Round, clips: &[&ClipRecord]) -> Result<Vec<Option<Drawn>>, Error> {
    let mut descriptions = vec![None; clips.len()];
    let Some(sampling) = &round.config.questions.describe else { return Ok(descriptions) };
    let places: Vec<usize> = (0..clips.len()).filter(|&at| clips[at].caption.is_none()).collect();
    let draws = places.iter().map(|&at| {
        Ok(Draw {
            id: clips[at].id.clone(),
            messages: round.prompts.describe(&round.subject(clips[at]))?,
            samplings: vec![sampling.clone()],
        })
    });
    let drawn = round.draw(DrawKind::Describe, draws.collect::<Result<_, Error>>()?)?;
    for (at, drawn) in places.into_iter().zip(drawn.into_iter().flatten()) {
        descriptions[at] = Some(drawn);
    }
    Ok(descriptions)
}

/// Marks questions of the wrong kind, and those that repeat an earlier one of the clip.
fn drop_unusable(questions: &mut [Question], round: &Round) {
    let filters = &round.config.filters;
    let mut seen = HashSet::new();
    for question in questions.iter_mut().filter(|question| question.dropped.is_none()) {
        if filters.other_kind && !begins_as(&question.text, question.kind) {
            question.dropped = Some(Dropped::OtherKind);
        } else if !seen.insert(normalise(&question.text)) && filters.duplicate_questions {
            question.dropped = Some(Dropped::Duplicate);
        }
    }
}

/// Yield and rejections of a stage: `made`, `used`, and one counter for each reason.
pub(crate) fn counters(dropped: impl Iterator<Item = Option<Dropped>>) -> BTreeMap<String, u64> {
    let mut counters: BTreeMap<String, u64> =
        [("made".to_owned(), 0), ("used".to_owned(), 0)].into();
    for dropped in dropped {
        let name = match dropped {
            None => "used".to_owned(),
            Some(reason) => format!("dropped/{}", reason.name()),
        };
        for name in ["made".to_owned(), name] {
            *counters.entry(name).or_default() += 1;
        }
    }
    counters
}
