//! TempCompass (Liu et al., Findings of ACL 2024): the judge behind its rules.
//!
//! Replies that no rule matches ([`Judged::TempCompassReply`]) are called `Correct` or `Incorrect`, wherever in the
//! judge's words, the first word deciding where both occur. Captions ([`Judged::TempCompassCaption`]) are never
//! matched by rules: the judge answers the multiple-choice question (`mc_question` of the row) from the caption alone,
//! on its last line with `Answer`, and is right where it names the right option (`mc_answer`) and no other letter.
//! What cannot be read is wrong; the published code asks again up to ten times and then counts the same.
//!
//! [`Judged::TempCompassReply`]: super::Judged::TempCompassReply
//! [`Judged::TempCompassCaption`]: super::Judged::TempCompassCaption

use serde_json::Value;

use super::{Figures, JudgedError, Judgement, Opinion, Seen};
use crate::Item;
use crate::prompt::fill;
use crate::readers::{captioning_verdict, verdict};

const SYSTEM: &str = "You check answers to questions about videos.";

const REPLY: &str = "Below are a question about a video, its right answer and a model's prediction. Say whether the \
    prediction comes down to the right answer. Reply with one word: \"Correct\" if it does, \"Incorrect\" if it does \
    not.\n\n\
    Question:\n{question}\nRight answer: {answer}\nPrediction: {reply}";

const CAPTION: &str = "Somebody described a video. Answer the question below from this description alone, by \
    choosing one of its options. If the description does not say enough, or says something that no \
    option says, choose none of them.\n\n\
    Description: {caption}\n\nQuestion:\n{question}\n\nReply in two lines of this form:\nReasoning: <what in the \
    description decides>\nAnswer: <letter. text of the option, or: None of the options>";

pub(super) fn reply_prompt(seen: &Seen<'_>) -> Result<(String, String), JudgedError> {
    let (question, answer) = (seen.question(), seen.answer()?);
    let values =
        [("{question}", question.as_str()), ("{answer}", &answer), ("{reply}", seen.reply(0)?)];
    Ok((SYSTEM.to_owned(), fill(REPLY, &values)))
}

pub(super) fn caption_prompt(seen: &Seen<'_>) -> Result<(String, String), JudgedError> {
    let question = column(seen.item, "mc_question").ok_or_else(|| seen.missing("mc_question"))?;
    column(seen.item, "mc_answer").ok_or_else(|| seen.missing("mc_answer"))?;
    let values = [("{caption}", seen.reply(0)?), ("{question}", question)];
    Ok((SYSTEM.to_owned(), fill(CAPTION, &values)))
}

fn column<'a>(item: &'a Item, name: &str) -> Option<&'a str> {
    item.more.get(name).and_then(Value::as_str)
}

pub(super) fn read_reply(words: &str) -> Opinion {
    opinion(verdict(words.trim()))
}

pub(super) fn read_caption(item: &Item, words: &str) -> Opinion {
    opinion(column(item, "mc_answer").and_then(|right| captioning_verdict(right, words.trim())))
}

/// What cannot be read is wrong.
fn opinion(right: Option<bool>) -> Opinion {
    match right {
        Some(true) => Opinion::of(1.0, "correct"),
        Some(false) => Opinion::of(0.0, "incorrect"),
        None => Opinion::unparsed(Some(0.0)),
    }
}

/// `accuracy`, `accuracy/<category>` and `unparsed` of verdicts of TempCompass.
pub fn temp_compass(judgements: &[Judgement]) -> Figures {
    let mut figures = Figures::default();
    figures.mean("accuracy", judgements, |j| j.opinion.score);
    figures.by_category("accuracy", judgements, |j| j.opinion.score);
    figures.share("unparsed", judgements, |j| Some(j.opinion.unparsed));
    figures
}
