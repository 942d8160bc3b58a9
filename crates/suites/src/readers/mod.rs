//! The rules by which the field's harnesses read replies, one by one.
//!
//! The same stored replies give other scores under other harnesses: one draws at random where it
//! finds no letter, one takes the article in "A person" for option A, one counts an empty reply as
//! right. A [`Rule`] is what one of them does for one suite, defects included; each is documented
//! with the file and commit it follows, and where a paper and the code differ the code is followed.
//! Commits are lmms-eval 75571cfe (2026-08-06; the rules are those of release 0.7.3, too),
//! VLMEvalKit e8e78f05 (2026-08-18) and ml-slowfast-llava 6551895d (2024-08-26).
//!
//! A rule gets a reply without thoughts: what lmms-eval takes off between `--reasoning_tags`, and
//! VLMEvalKit where `SPLIT_THINK` is set, is the caller's part. What becomes of replies that are left
//! out of the count is in [`Reading::credit`].

mod judged;
mod lmms_eval;
mod mcq_extract;
mod python;
mod slowfast;
mod strict;
mod tempcompass;
mod vlmevalkit;

#[cfg(test)]
mod golden_tests;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use rand::Rng;
use savi_judge::order::seeded_rng;
use serde::{Deserialize, Serialize};

pub use judged::{braces, captioning_verdict, verdict, yes_no_and_score};

/// Whose rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Scorer {
    /// lmms-eval, with a judge where it has one.
    #[serde(rename = "lmms-eval")]
    LmmsEval,
    /// VLMEvalKit without a judge (its `exact_matching`).
    #[serde(rename = "vlmevalkit")]
    VlmEvalKit,
    /// Our own: what cannot be read is wrong ([`crate::extract`]).
    #[serde(rename = "strict")]
    Strict,
    /// SlowFast-LLaVA's evaluation scripts, which IG-VLM's data come with.
    #[serde(rename = "slowfast-llava")]
    SlowFast,
}

impl Scorer {
    /// All, in the order in which tables show them.
    pub const ALL: [Self; 4] = [Self::LmmsEval, Self::VlmEvalKit, Self::Strict, Self::SlowFast];

    /// Its name on the command line and in records.
    pub fn name(self) -> &'static str {
        match self {
            Self::LmmsEval => "lmms-eval",
            Self::VlmEvalKit => "vlmevalkit",
            Self::Strict => "strict",
            Self::SlowFast => "slowfast-llava",
        }
    }
}

impl fmt::Display for Scorer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Scorer {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|scorer| scorer.name() == name).ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            format!("{name:?} is no scorer; there are {names}")
        })
    }
}

/// What one harness does with the replies of one suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// lmms-eval's `mcq_acc`: a leading `B.`, else the first letter that stands alone, in any case.
    LmmsMvbench,
    /// lmms-eval's TVBench: the first letter that stands alone, else the first letter of all.
    LmmsTvbench,
    /// lmms-eval's PerceptionTest: the first capital A to D that stands alone.
    LmmsPerceptionTest,
    /// lmms-eval's NExT-QA, as in MMMU: the last letter of the best form, a random one for none.
    LmmsNextQa,
    /// lmms-eval's EgoSchema: the first letter of all forms, a random one for none.
    LmmsEgoSchema,
    /// lmms-eval's LongVideoBench: the first capital A to E, a random letter for none.
    LmmsLongVideoBench,
    /// lmms-eval's Video-MME since 2026-04-11 (commit 9ca4445d): ranked forms.
    LmmsVideoMme,
    /// lmms-eval's Video-MME before that: the first capital A to D.
    LmmsVideoMmeUntil2026,
    /// TempCompass multi-choice; what does not match waits for a judge.
    TempCompassChoice,
    /// TempCompass yes/no; what does not match waits for a judge.
    TempCompassYesNo,
    /// TempCompass caption matching; what does not match waits for a judge.
    TempCompassCaptions,
    /// TempCompass captioning: a judge answers the question from the caption.
    TempCompassCaptioning,
    /// TempCompass multi-choice; what does not match is wrong.
    TempCompassChoiceExact,
    /// TempCompass yes/no; what does not match is wrong.
    TempCompassYesNoExact,
    /// TempCompass caption matching; what does not match is wrong.
    TempCompassCaptionsExact,
    /// VLMEvalKit's MVBench: the reply's first word in the right option's mark, or the reverse.
    VlmMvbench,
    /// VLMEvalKit's Video-MME: the first capital A to D.
    VlmVideoMme,
    /// VLMEvalKit's LongVideoBench: the first capital A to E.
    VlmLongVideoBench,
    /// SlowFast-LLaVA's multiple choice: the reply's first character, overridden by `A:` or `A)`.
    SlowFastChoice,
    /// A judge says yes or no and a score, lmms-eval's ActivityNet-QA.
    LmmsYesNoAndScore,
    /// A judge says yes or no and a score, Video-ChatGPT's protocol in SlowFast-LLaVA.
    YesNoAndScore,
    /// [`crate::extract`]: `choice` where there are options, `open` where there are none.
    Strict,
    /// [`crate::extract`] with the options yes and no.
    StrictYesNo,
    /// A caption by its mark (`Caption A`, `1`) or, by [`crate::extract`], by its words.
    StrictCaptions,
}

/// The suites that rules are known for, as the command line names them.
pub const SUITES: [&str; 20] = [
    "mvbench",
    "tvbench",
    "tempcompass-mc",
    "tempcompass-yn",
    "tempcompass-cm",
    "tempcompass-cap",
    "perceptiontest",
    "nextqa-mc",
    "nextqa-oe",
    "egoschema",
    "longvideobench",
    "videomme",
    "intentqa",
    "star",
    "msvd-qa",
    "msrvtt-qa",
    "tgif-frameqa",
    "activitynet-qa",
    "videohallucer",
    "moving-shapes",
];

/// A question as a rule needs it.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The question, without its options. VLMEvalKit looks for options in it.
    pub question: &'a str,
    /// The options without letters; empty where there are none. Of TempCompass's caption matching
    /// the whole lines, mark and all (`Caption A: ...`, `Option 1: ...`).
    pub options: &'a [String],
    /// The right option's letter where there are options, `yes` or `no`, or the right text.
    pub gold: &'a str,
}

impl Asked<'_> {
    /// The place of the right option; `None` where gold is not the letter of one.
    fn gold_index(&self) -> Option<usize> {
        let mut letters = self.gold.chars();
        let (Some(letter @ 'A'..='Z'), None) = (letters.next(), letters.next()) else {
            return None;
        };
        Some(letter as usize - 'A' as usize).filter(|&index| index < self.options.len())
    }

    fn gold_text(&self) -> &str {
        self.gold_index().map_or(self.gold, |index| &self.options[index])
    }

    fn letters(&self) -> impl Iterator<Item = char> + use<> {
        (0..self.options.len().min(26)).map(letter)
    }
}

fn letter(index: usize) -> char {
    char::from(b'A' + index as u8)
}

/// What a rule made of a reply.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reading {
    /// What was taken for the answer: an option's letter, yes or no, a text. `None` where nothing
    /// was read.
    pub answer: Option<String>,
    /// 1 for right and 0 for wrong. `None` where the harness leaves the reply out of the count
    /// (empty replies to MVBench in lmms-eval) or waits for a judge.
    pub credit: Option<f64>,
    /// Whether a random letter stood in for an answer.
    pub guessed: bool,
    /// Whether a judge decides ([`crate::judged`]).
    pub needs_judge: bool,
}

impl Reading {
    /// An answer that was read, or none, and whether it is right.
    pub fn graded(answer: Option<String>, right: bool) -> Self {
        Self { answer, credit: Some(f64::from(right)), guessed: false, needs_judge: false }
    }

    fn letter(asked: &Asked, read: Option<char>) -> Self {
        let answer = read.map(String::from);
        let right = answer.as_deref() == Some(asked.gold);
        Self::graded(answer, right)
    }

    fn waits_for_judge() -> Self {
        Self { answer: None, credit: None, guessed: false, needs_judge: true }
    }
}

impl Rule {
    /// What `scorer` does for `suite`; `None` where it does not have the suite, or scores it by
    /// what is not here (WordNet for open-ended NExT-QA).
    pub fn of(suite: &str, scorer: Scorer) -> Option<Self> {
        Some(match (scorer, suite) {
            (Scorer::LmmsEval, "mvbench") => Self::LmmsMvbench,
            (Scorer::LmmsEval, "tvbench") => Self::LmmsTvbench,
            (Scorer::LmmsEval, "tempcompass-mc") => Self::TempCompassChoice,
            (Scorer::LmmsEval, "tempcompass-yn") => Self::TempCompassYesNo,
            (Scorer::LmmsEval, "tempcompass-cm") => Self::TempCompassCaptions,
            (Scorer::LmmsEval, "perceptiontest") => Self::LmmsPerceptionTest,
            (Scorer::LmmsEval, "nextqa-mc") => Self::LmmsNextQa,
            (Scorer::LmmsEval, "egoschema") => Self::LmmsEgoSchema,
            (Scorer::LmmsEval, "longvideobench") => Self::LmmsLongVideoBench,
            (Scorer::LmmsEval, "videomme") => Self::LmmsVideoMme,
            (Scorer::LmmsEval, "activitynet-qa") => Self::LmmsYesNoAndScore,
            (Scorer::LmmsEval | Scorer::VlmEvalKit, "tempcompass-cap") => {
                Self::TempCompassCaptioning
            }
            (Scorer::VlmEvalKit, "mvbench") => Self::VlmMvbench,
            (Scorer::VlmEvalKit, "tempcompass-mc") => Self::TempCompassChoiceExact,
            (Scorer::VlmEvalKit, "tempcompass-yn") => Self::TempCompassYesNoExact,
            (Scorer::VlmEvalKit, "tempcompass-cm") => Self::TempCompassCaptionsExact,
            (Scorer::VlmEvalKit, "longvideobench") => Self::VlmLongVideoBench,
            (Scorer::VlmEvalKit, "videomme") => Self::VlmVideoMme,
            (Scorer::SlowFast, "nextqa-mc" | "egoschema" | "intentqa") => Self::SlowFastChoice,
            (Scorer::SlowFast, "msvd-qa" | "msrvtt-qa" | "tgif-frameqa" | "activitynet-qa") => {
                Self::YesNoAndScore
            }
            (Scorer::Strict, "tempcompass-cap") => return None,
            (Scorer::Strict, "tempcompass-yn" | "videohallucer") => Self::StrictYesNo,
            (Scorer::Strict, "tempcompass-cm") => Self::StrictCaptions,
            (Scorer::Strict, suite) if SUITES.contains(&suite) => Self::Strict,
            _ => return None,
        })
    }

    /// Reads one reply. A random letter depends on `seed`, the suite and the item's `id` only.
    pub fn read(self, asked: &Asked, reply: &str, seed: u64, id: &str) -> Reading {
        let or_random = |read: Option<char>, suite: &str| match read {
            Some(read) => Reading::letter(asked, Some(read)),
            None => guess(asked, seed, suite, id),
        };
        match self {
            Self::LmmsMvbench => lmms_eval::mvbench(asked, reply),
            Self::LmmsTvbench => Reading::letter(asked, lmms_eval::tvbench(asked, reply)),
            Self::LmmsPerceptionTest => Reading::letter(asked, lmms_eval::perceptiontest(reply)),
            Self::LmmsNextQa => or_random(lmms_eval::nextqa(asked, reply), "nextqa-mc"),
            Self::LmmsEgoSchema => or_random(lmms_eval::egoschema(asked, reply), "egoschema"),
            Self::LmmsLongVideoBench => {
                or_random(lmms_eval::longvideobench(reply), "longvideobench")
            }
            Self::LmmsVideoMme => Reading::letter(asked, mcq_extract::extract(reply, "ABCD")),
            Self::LmmsVideoMmeUntil2026 => {
                Reading::letter(asked, lmms_eval::videomme_until_2026(reply))
            }
            Self::TempCompassChoice => tempcompass::choice(asked, reply),
            Self::TempCompassYesNo => tempcompass::yes_no(asked, reply),
            Self::TempCompassCaptions => tempcompass::captions(asked, reply),
            Self::TempCompassChoiceExact => {
                tempcompass::without_judge(tempcompass::choice(asked, reply))
            }
            Self::TempCompassYesNoExact => {
                tempcompass::without_judge(tempcompass::yes_no(asked, reply))
            }
            Self::TempCompassCaptionsExact => {
                tempcompass::without_judge(tempcompass::captions(asked, reply))
            }
            Self::VlmMvbench => vlmevalkit::mvbench(asked, reply),
            Self::VlmVideoMme => Reading::letter(asked, vlmevalkit::capital(asked, reply, "ABCD")),
            Self::VlmLongVideoBench => {
                Reading::letter(asked, vlmevalkit::capital(asked, reply, "ABCDE"))
            }
            Self::SlowFastChoice => Reading::letter(asked, slowfast::choice(reply)),
            Self::TempCompassCaptioning | Self::LmmsYesNoAndScore | Self::YesNoAndScore => {
                Reading::waits_for_judge()
            }
            Self::Strict => strict::choice_or_text(asked, reply),
            Self::StrictYesNo => strict::yes_no(asked, reply),
            Self::StrictCaptions => strict::captions(asked, reply),
        }
    }
}

fn guess(asked: &Asked, seed: u64, suite: &str, id: &str) -> Reading {
    let options = asked.options.len().min(26);
    if options == 0 {
        return Reading::graded(None, false);
    }
    let drawn = letter(seeded_rng(seed, &[suite, id]).random_range(0..options));
    Reading { guessed: true, ..Reading::letter(asked, Some(drawn)) }
}

/// How often each letter was chosen and how often it was right, letter by letter: a model that
/// favours a letter, or a rule that reads articles as option A, shows here. Takes readings, each
/// with its gold letter; random letters are left out.
pub fn letter_counts<'a>(
    readings: impl IntoIterator<Item = (&'a Reading, &'a str)>,
) -> BTreeMap<char, [usize; 2]> {
    let mut counts: BTreeMap<char, [usize; 2]> = BTreeMap::new();
    let mut count = |text: &str, which: usize| {
        let mut letters = text.chars();
        if let (Some(letter @ 'A'..='Z'), None) = (letters.next(), letters.next()) {
            counts.entry(letter).or_default()[which] += 1;
        }
    };
    for (reading, gold) in readings {
        if let Some(answer) = reading.answer.as_deref().filter(|_| !reading.guessed) {
            count(answer, 0);
        }
        count(gold, 1);
    }
    counts
}
