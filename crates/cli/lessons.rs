//! Renders a world's lessons through a method's prompts into training examples. Here, because
//! worlds know no method and methods know no world.

use anyhow::Context;
use savi_schema::{Example, Media, Message, Role, SCHEMA_VERSION};
use savi_videosavi::{Prompts, QuestionKind, Subject};
use savi_worlds::moving_shapes::{self, Lesson};

/// One clip's lessons as the conversations of one example.
pub(crate) fn example(
    prompts: &Prompts,
    id: &str,
    media: Media,
    lessons: &[Lesson],
) -> anyhow::Result<Example> {
    let subject = Subject::video(media);
    let conversations = lessons
        .iter()
        .map(|lesson| {
            let (mut messages, target) = turn(prompts, &subject, lesson)?;
            messages.push(Message::text(Role::Assistant, target));
            Ok(messages)
        })
        .collect::<anyhow::Result<_>>()
        .with_context(|| format!("clip {id}"))?;
    Ok(Example { schema: SCHEMA_VERSION, id: id.to_owned(), conversations })
}

/// The name of a lesson's loss in metrics.
pub(crate) fn kind(lesson: &Lesson) -> &'static str {
    match lesson {
        Lesson::Describe { .. } => "loss/describe",
        Lesson::Locate { .. } => "loss/locate",
        Lesson::Track { .. } => "loss/track",
        Lesson::Ask { .. } => "loss/ask",
        Lesson::Answer { .. } => "loss/answer",
        Lesson::Critique { .. } => "loss/critique",
        Lesson::Revise { .. } => "loss/revise",
        Lesson::Judge { .. } => "loss/judge",
    }
}

fn turn(
    prompts: &Prompts,
    subject: &Subject,
    lesson: &Lesson,
) -> anyhow::Result<(Vec<Message>, String)> {
    Ok(match lesson {
        Lesson::Describe { target } => (prompts.describe(subject)?, target.clone()),
        Lesson::Locate { question, answer } | Lesson::Track { question, answer } => {
            (prompts.answer(subject, question, None)?, answer.clone())
        }
        Lesson::Ask { kind, caption, target } => {
            let subject = Subject { caption: caption.clone(), ..subject.clone() };
            (prompts.ask(&subject, question_kind(*kind))?, target.clone())
        }
        Lesson::Answer { qa, target } => {
            (prompts.answer(subject, &qa.question, qa.options.as_deref())?, target.clone())
        }
        Lesson::Critique { qa, answer, target } => {
            (prompts.critique(subject, &qa.question, answer)?, target.clone())
        }
        Lesson::Revise { qa, answer, critique, target } => {
            (prompts.revise(subject, &qa.question, answer, critique)?, target.clone())
        }
        Lesson::Judge { qa, candidates, target } => {
            (prompts.judge(subject, &qa.question, candidates)?, target.clone())
        }
    })
}

fn question_kind(kind: moving_shapes::QuestionKind) -> QuestionKind {
    match kind {
        moving_shapes::QuestionKind::What => QuestionKind::What,
        moving_shapes::QuestionKind::Why => QuestionKind::Why,
        moving_shapes::QuestionKind::How => QuestionKind::How,
        moving_shapes::QuestionKind::Spatial => QuestionKind::Spatial,
        moving_shapes::QuestionKind::Temporal => QuestionKind::Temporal,
    }
}
