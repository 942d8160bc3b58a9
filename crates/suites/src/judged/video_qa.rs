//! Short answers about clips, judged against the right one: MSVD-QA, MSRVTT-QA, TGIF-FrameQA, ActivityNet-QA
//! by the protocol of Video-ChatGPT (Maaz et al., ACL 2024), read as lmms-eval's `activitynetqa` reads.
//!
//! The judge gives `{'pred': 'yes' | 'no', 'score': 0..5}`. Accuracy is yes / (yes + no), the score the mean of
//! whole numbers (4.8 counts as 4). Where `pred` says neither, the item has a score and no part in the accuracy. A
//! verdict that cannot be read is no and 0, as lmms-eval counts failed calls; a score off the scale, which lmms-eval
//! would add as it is, is such a verdict here.

use super::{Figures, JudgedError, Judgement, Opinion, Seen};
use crate::prompt::fill;
use crate::readers::{braces, yes_no_and_score};

const SYSTEM: &str = "You grade answers to questions about videos. You do not see the video: the reference answer says \
    what is true. An answer is right when it means the same as the reference, in whatever words; synonyms, other \
    forms of a word and harmless detail do not matter, a different thing, action, number or colour does.";

const WORDS: &str = "Question: {question}\nReference answer: {answer}\nAnswer to grade: {reply}\n\nWrite one Python \
    dictionary on a single line and nothing else. Its key 'pred' holds 'yes' if the answer to grade is right and \
    'no' if it is not; its key 'score' holds a whole number from 0 (unrelated) to 5 (the same meaning). An example \
    of the form: {'pred': 'no', 'score': 1}";

pub(super) fn prompt(seen: &Seen<'_>) -> Result<(String, String), JudgedError> {
    let answer = seen.answer()?;
    let values = [
        ("{question}", seen.item.question.as_str()),
        ("{answer}", &answer),
        ("{reply}", seen.reply(0)?),
    ];
    Ok((SYSTEM.to_owned(), fill(WORDS, &values)))
}

pub(super) fn read(words: &str) -> Opinion {
    let said = braces(words).as_deref().and_then(yes_no_and_score);
    match said.filter(|(_, score)| (0..=5).contains(score)) {
        Some((pred, score)) => Opinion {
            score: Some(score as f64),
            label: Some(pred).filter(|pred| pred == "yes" || pred == "no"),
            ..Opinion::default()
        },
        None => Opinion { label: Some("no".to_owned()), ..Opinion::unparsed(Some(0.0)) },
    }
}

/// `accuracy`, `score` and `unparsed` of verdicts of [`super::Judged::VideoQa`].
pub fn video_qa(judgements: &[Judgement]) -> Figures {
    let mut figures = Figures::default();
    figures.share("accuracy", judgements, |j| j.opinion.label.as_deref().map(|l| l == "yes"));
    figures.mean("score", judgements, |j| j.opinion.score);
    figures.share("unparsed", judgements, |j| Some(j.opinion.unparsed));
    figures
}
