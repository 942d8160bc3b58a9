//! Judges of replies: the model itself by probabilities of labels, any reward, or several judges with weights.

use rand::Rng;
use savi_judge::labels::probabilities;
use savi_judge::order::seeded_rng;
use savi_schema::{
    Completed, Completion, Continuation, FinishReason, Message, PromptRecord, Reward, Score,
};
use serde_json::Map;

use crate::{Error, JudgeConfig, JudgeForm, Judgement, Prompts, ScoreKind};

/// Anything that scores replies from -1 (bad) to 1 (good).
pub trait Judge {
    /// One judgement for each of the replies to a question; `id` names it in errors.
    fn judge(
        &self,
        id: &str,
        question: &[Message],
        replies: &[String],
    ) -> Result<Vec<Judgement>, Error>;

    /// Names the judge: equal names mean equal judgements.
    fn fingerprint(&self) -> String;
}

/// A model that judges replies by itself, the probabilities of two labels after a question about the reply.
#[derive(Clone, Copy)]
pub struct SelfJudge<'a> {
    /// The model.
    pub scorer: &'a dyn Score,
    /// The wording.
    pub prompts: &'a Prompts,
    /// What is asked.
    pub config: &'a JudgeConfig,
}

impl std::fmt::Debug for SelfJudge<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SelfJudge").field("config", &self.config).finish()
    }
}

/// The score of a reply from the probabilities of the good and the bad label in each prompt. Hard: each prompt
/// says good where that label is the likelier one, bad otherwise; two prompts give 1, 0 or -1.
pub fn score(asked: &[[f64; 2]], kind: ScoreKind) -> f64 {
    let of = |&[good, bad]: &[f64; 2]| match kind {
        ScoreKind::Hard if good > bad => 1.0,
        ScoreKind::Hard => -1.0,
        ScoreKind::Soft => good - bad,
    };
    asked.iter().map(of).sum::<f64>() / asked.len().max(1) as f64
}

impl SelfJudge<'_> {
    /// The spellings of the two labels, each with and without a leading blank, the first label's first.
    fn spellings(&self) -> (Vec<Continuation>, usize) {
        let JudgeConfig { letters, yes, no, .. } = self.config;
        let [first, second]: [&[String]; 2] = match self.config.form {
            JudgeForm::Letters => [&letters[..1], &letters[1..]],
            JudgeForm::YesNo => [yes, no],
        };
        let spelt = |words: &[String]| -> Vec<Continuation> {
            words.iter().flat_map(|word| [word.clone().into(), format!(" {word}").into()]).collect()
        };
        let count = 2 * first.len();
        ([spelt(first), spelt(second)].concat(), count)
    }
}

impl Judge for SelfJudge<'_> {
    fn judge(
        &self,
        id: &str,
        question: &[Message],
        replies: &[String],
    ) -> Result<Vec<Judgement>, Error> {
        let (spellings, of_first) = self.spellings();
        let mut requests = Vec::new();
        for reply in replies {
            requests.extend(self.prompts.judge_requests(question, reply, &spellings)?);
        }
        let told = probabilities(self.scorer, &requests)
            .map_err(|source| Error::model("judging", id, source))?;
        let each = requests.len() / replies.len().max(1);
        let wrong = |got: usize, asked: usize| Error::Answer {
            what: "judging",
            id: id.to_owned(),
            reason: format!("{got} scores where {asked} were asked for"),
        };
        if told.len() != requests.len() {
            return Err(wrong(told.len(), requests.len()));
        }
        let judgement = |told: &[Vec<f64>]| {
            let asked = told.iter().enumerate().map(|(order, probabilities)| {
                if probabilities.len() != spellings.len() {
                    return Err(wrong(probabilities.len(), spellings.len()));
                }
                let best = |of: &[f64]| of.iter().copied().fold(0.0, f64::max);
                let (first, second) = probabilities.split_at(of_first);
                let (first, second) = (best(first), best(second));
                let total = first + second;
                let pair = [first / total, second / total];
                // In the second order the first letter stands for the bad description.
                Ok(if order == 1 { [pair[1], pair[0]] } else { pair })
            });
            let asked = asked.collect::<Result<Vec<_>, Error>>()?;
            Ok(Judgement { score: score(&asked, self.config.score), asked })
        };
        told.chunks(each.max(1)).map(judgement).collect()
    }

    fn fingerprint(&self) -> String {
        let config = serde_json::to_string(self.config).unwrap_or_default();
        format!("self:{}:{config}", self.prompts.hash())
    }
}

/// Scores by a reward, cut to the range from -1 to 1.
pub struct RewardJudge<'a> {
    /// The reward.
    pub reward: &'a dyn Reward,
    /// The model that writes the replies, which some rewards ask.
    pub policy: &'a dyn Score,
    /// Its name.
    pub name: String,
}

impl std::fmt::Debug for RewardJudge<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RewardJudge").field("name", &self.name).finish()
    }
}

impl Judge for RewardJudge<'_> {
    fn judge(
        &self,
        id: &str,
        question: &[Message],
        replies: &[String],
    ) -> Result<Vec<Judgement>, Error> {
        let prompt =
            PromptRecord { id: id.to_owned(), prompt: question.to_vec(), columns: Map::new() };
        let completions: Vec<Completion> = replies.iter().map(|reply| written(reply)).collect();
        let group = Completed { prompt: &prompt, completions: &completions };
        let verdicts = self
            .reward
            .judge(&[group], self.policy)
            .map_err(|source| Error::model("judging", id, source))?;
        let read = |verdict: Option<savi_schema::Verdict>| {
            let score = verdict.map(|verdict| verdict.score).filter(|score| !score.is_nan());
            score.map(|score| Judgement { score: score.clamp(-1.0, 1.0), asked: Vec::new() })
        };
        let read: Option<Vec<Judgement>> = verdicts.into_iter().flatten().map(read).collect();
        read.filter(|read| read.len() == replies.len()).ok_or_else(|| Error::Answer {
            what: "judging",
            id: id.to_owned(),
            reason: format!("{} gave no score", self.name),
        })
    }

    fn fingerprint(&self) -> String {
        format!("reward:{}", self.name)
    }
}

/// A judge that is right as often as it is told, for measuring what a search makes of better and worse judges: a
/// verifier that knows the answer, whose word is turned around now and then. The same reply gets the same word.
#[derive(Clone, Copy)]
pub struct Graded<'a> {
    /// Knows which replies are right: above a half.
    pub verifier: &'a dyn Reward,
    /// The model that writes the replies, which some verifiers ask.
    pub policy: &'a dyn Score,
    /// The prompts, with what the verifier needs to know.
    pub prompts: &'a [PromptRecord],
    /// How often the judge is right, from 0 to 1.
    pub accuracy: f64,
    /// Seed of its errors.
    pub seed: u64,
}

impl std::fmt::Debug for Graded<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Graded").field("accuracy", &self.accuracy).finish()
    }
}

impl Judge for Graded<'_> {
    fn judge(&self, id: &str, _: &[Message], replies: &[String]) -> Result<Vec<Judgement>, Error> {
        let unknown = |reason: &str| Error::Answer {
            what: "judging",
            id: id.to_owned(),
            reason: reason.to_owned(),
        };
        let prompt = self.prompts.iter().find(|prompt| prompt.id == id);
        let prompt = prompt.ok_or_else(|| unknown("there is no such prompt"))?;
        let completions: Vec<Completion> = replies.iter().map(|reply| written(reply)).collect();
        let group = Completed { prompt, completions: &completions };
        let verdicts = self
            .verifier
            .judge(&[group], self.policy)
            .map_err(|source| Error::model("judging", id, source))?;
        let judgement = |(reply, verdict): (&String, Option<savi_schema::Verdict>)| {
            let verdict = verdict.ok_or_else(|| unknown("its answer is not known"))?;
            let mut errors = seeded_rng(self.seed, &["graded-judge", id, reply]);
            let says_right = (verdict.score > 0.5) == errors.random_bool(self.accuracy);
            Ok(Judgement { score: if says_right { 1.0 } else { -1.0 }, asked: Vec::new() })
        };
        replies.iter().zip(verdicts.into_iter().flatten()).map(judgement).collect()
    }

    fn fingerprint(&self) -> String {
        format!("graded:{}:{}", self.accuracy, self.seed)
    }
}

/// A reply as the completion that it was.
fn written(text: &str) -> Completion {
    Completion {
        text: text.to_owned(),
        token_ids: Vec::new(),
        logps: Vec::new(),
        sampling_logps: Vec::new(),
        top_logps: Vec::new(),
        finish_reason: FinishReason::Stop,
    }
}

/// Several judges: the mean of their scores by weight.
#[derive(Default)]
pub struct Weighted<'a> {
    /// Weights, which are to be above 0, and judges.
    pub judges: Vec<(f64, &'a dyn Judge)>,
}

impl std::fmt::Debug for Weighted<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Weighted").field("judges", &self.judges.len()).finish()
    }
}

impl Judge for Weighted<'_> {
    fn judge(
        &self,
        id: &str,
        question: &[Message],
        replies: &[String],
    ) -> Result<Vec<Judgement>, Error> {
        let nothing = Judgement { score: 0.0, asked: Vec::new() };
        let mut all = vec![nothing; replies.len()];
        let total: f64 = self.judges.iter().map(|(weight, _)| weight).sum();
        for (weight, judge) in &self.judges {
            for (sum, one) in all.iter_mut().zip(judge.judge(id, question, replies)?) {
                sum.score += weight / total * one.score;
                sum.asked.extend(one.asked);
            }
        }
        Ok(all)
    }

    fn fingerprint(&self) -> String {
        let each = self.judges.iter().map(|(weight, judge)| (weight, judge.fingerprint()));
        format!("weighted:{:?}", each.collect::<Vec<_>>())
    }
}
