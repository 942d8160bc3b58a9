//! Rewards that follow from the words alone: an answer held against the known one, a form, a length.
//!
//! They are what online training can be told by name ([`RewardFunction`]). A prompt's known answer comes
//! from a column of the data; where a prompt has none, the reward gives no verdict.

mod answers;
mod form;
pub mod math;

use fancy_regex::Regex;
use savi_schema::{
    Completed, Completion, GenerateError, PromptRecord, Reward, Score, Verdict, judge_each,
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use thiserror::Error;

/// A reward that cannot be made as it is told.
#[derive(Debug, Error)]
#[error("{key} = {value}: {reason}")]
pub struct RewardError {
    key: &'static str,
    value: String,
    reason: String,
}

/// A reward by its name, with its settings.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "func", rename_all = "snake_case", deny_unknown_fields)]
pub enum RewardFunction {
    /// 1 where the completion is the known answer, spaces around them aside, else 0.
    ExactMatch {
        /// The column with the answer, a dot between a column and a key in it. Where it is not given, `answer` or verl's
        /// `reward_model.ground_truth`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        column: Option<String>,
    },
    /// 1 where the last number of the completion is the last number of the known answer, else 0. Separators of
    /// thousands are passed over.
    NumberMatch {
        /// The column with the answer, a dot between a column and a key in it. Where it is not given, `answer` or verl's
        /// `reward_model.ground_truth`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        column: Option<String>,
    },
    /// 1 where the completion's answer is the known one, else 0: numbers, fractions, percentages and texts, bare or in
    /// LaTeX ([`math`]).
    MathMatch {
        /// The column with the answer, a dot between a column and a key in it. Where it is not given, `answer` or verl's
        /// `reward_model.ground_truth`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        column: Option<String>,
        /// Where the answer is looked for.
        #[serde(default)]
        find: math::Find,
    },
    /// 1 where the completion chooses the known letter, else 0.
    ChoiceMatch {
        /// The column with the letter, a dot between a column and a key in it. Where it is not given, `answer` or
        /// verl's `reward_model.ground_truth`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        column: Option<String>,
        /// The letters that can be chosen.
        #[serde(default = "letters")]
        letters: String,
    },
    /// 1 where the expression is found in the completion, else 0. `^` and `$` are the whole text's ends.
    Format {
        /// A regular expression, look-around included; `(?s)` lets a dot match line breaks.
        pattern: String,
    },
    /// DAPO's soft punishment of length (Yu et al., arXiv 2503.14476, equation 13).
    Overlong {
        /// The most tokens that a completion may have.
        max_length: usize,
        /// Over how many of its last tokens the punishment grows.
        buffer: usize,
        /// The punishment at the end.
        #[serde(default = "one")]
        penalty_factor: f64,
    },
}

/// Where known answers are looked for, unless it is said.
const ANSWERS: [&str; 2] = ["answer", "reward_model.ground_truth"];

fn one() -> f64 {
    1.0
}

fn letters() -> String {
    "ABCDE".to_owned()
}

impl RewardFunction {
    /// Its name in configs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::ExactMatch { .. } => "exact_match",
            Self::NumberMatch { .. } => "number_match",
            Self::MathMatch { .. } => "math_match",
            Self::ChoiceMatch { .. } => "choice_match",
            Self::Format { .. } => "format",
            Self::Overlong { .. } => "overlong",
        }
    }

    /// The columns in which it looks for a known answer; none where it needs none.
    pub fn columns(&self) -> Vec<&str> {
        match self {
            Self::ExactMatch { column }
            | Self::NumberMatch { column }
            | Self::MathMatch { column, .. }
            | Self::ChoiceMatch { column, .. } => match column {
                Some(column) => vec![column],
                None => ANSWERS.to_vec(),
            },
            Self::Format { .. } | Self::Overlong { .. } => Vec::new(),
        }
    }

    /// Whether a prompt has what it needs to judge.
    pub fn can_judge(&self, prompt: &PromptRecord) -> bool {
        let columns = self.columns();
        columns.is_empty() || answers::known(prompt, &columns).is_some()
    }

    /// The reward, ready to judge.
    pub fn build(&self) -> Result<Ready, RewardError> {
        let bad = |key, value: String, reason: String| RewardError { key, value, reason };
        let pattern = match self {
            Self::Format { pattern } => Some(
                Regex::new(pattern)
                    .map_err(|error| bad("pattern", format!("{pattern:?}"), error.to_string()))?,
            ),
            _ => None,
        };
        if let Self::Overlong { max_length, buffer, penalty_factor } = self {
            if *buffer == 0 || buffer > max_length {
                let reason = format!("from 1 to max_length = {max_length}");
                return Err(bad("buffer", buffer.to_string(), reason));
            }
            if !(penalty_factor.is_finite() && *penalty_factor >= 0.0) {
                let reason = "a number from 0 up".to_owned();
                return Err(bad("penalty_factor", penalty_factor.to_string(), reason));
            }
        }
        Ok(Ready { function: self.clone(), pattern })
    }
}

/// A reward with its settings checked.
#[derive(Debug, Clone)]
pub struct Ready {
    function: RewardFunction,
    pattern: Option<Regex>,
}

impl Ready {
    fn score(&self, prompt: &PromptRecord, completion: &Completion) -> Option<f64> {
        match &self.function {
            RewardFunction::ExactMatch { .. } => {
                let known = answers::known(prompt, &self.function.columns())?;
                Some(f64::from(answers::same_text(&completion.text, &known)))
            }
            RewardFunction::NumberMatch { .. } => {
                let known = answers::known(prompt, &self.function.columns())?;
                let known = answers::last_number(&known)?;
                let given = answers::last_number(&completion.text);
                Some(f64::from(given.is_some_and(|given| answers::same_number(given, known))))
            }
            RewardFunction::MathMatch { find, .. } => {
                let known = math::Answer::known(&answers::known(prompt, &self.function.columns())?);
                let given = math::Answer::find(&completion.text, *find);
                Some(f64::from(given.is_some_and(|given| given.is_same(&known))))
            }
            RewardFunction::ChoiceMatch { letters, .. } => {
                let letters: Vec<char> = letters.chars().collect();
                let known = answers::known(prompt, &self.function.columns())?;
                let known = math::choice(&known, &letters)?;
                Some(f64::from(math::choice(&completion.text, &letters) == Some(known)))
            }
            RewardFunction::Format { .. } => {
                let found = self.pattern.as_ref()?.is_match(&completion.text);
                // An expression that gives up on a text has not found it.
                Some(f64::from(found.unwrap_or(false)))
            }
            RewardFunction::Overlong { max_length, buffer, penalty_factor } => {
                let length = completion.token_ids.len();
                Some(form::overlong(length, *max_length, *buffer, *penalty_factor))
            }
        }
    }
}

impl Reward for Ready {
    fn judge(
        &self,
        groups: &[Completed<'_>],
        _: &dyn Score,
    ) -> Result<Vec<Vec<Option<Verdict>>>, GenerateError> {
        let verdict =
            |score| Verdict { score, criteria: Map::<String, Value>::new(), raw: String::new() };
        Ok(judge_each(groups, |prompt, completion| self.score(prompt, completion).map(verdict)))
    }
}

#[cfg(test)]
mod tests {
    use savi_schema::FinishReason;
    use serde_json::json;

    use super::*;

    fn scores(function: Value, answer: Value, texts: &[&str]) -> Vec<Option<f64>> {
        let function: RewardFunction = serde_json::from_value(function).unwrap();
        let columns = Map::from_iter([("answer".to_owned(), answer)]);
        let prompt = PromptRecord { id: "p".to_owned(), prompt: Vec::new(), columns };
        let completion = |text: &&str| Completion {
            text: (*text).to_owned(),
            token_ids: vec![0; text.len()],
            logps: Vec::new(),
            sampling_logps: Vec::new(),
            top_logps: Vec::new(),
            finish_reason: FinishReason::Stop,
        };
        let ready = function.build().unwrap();
        texts.iter().map(|text| ready.score(&prompt, &completion(text))).collect()
    }

    #[test]
    fn answers_are_held_against_known_ones() {
        let exact = json!({"func": "exact_match"});
        assert_eq!(
            scores(exact.clone(), json!("up"), &[" up\n", "Up", "up."]),
            [1.0, 0.0, 0.0].map(Some)
        );
        assert_eq!(scores(exact.clone(), json!(7), &["7", "8"]), [1.0, 0.0].map(Some));
        assert_eq!(scores(exact.clone(), Value::Null, &["7"]), [None]);
        let verl = json!({"answer": null, "reward_model": {"ground_truth": "7"}});
        let columns = verl.as_object().unwrap().clone();
        let verl = PromptRecord { id: "p".to_owned(), prompt: Vec::new(), columns };
        let function: RewardFunction = serde_json::from_value(exact).unwrap();
        assert!(function.can_judge(&verl));
        assert_eq!(answers::known(&verl, &["reward_model.style"]), None);
        let number = json!({"func": "number_match"});
        let texts = ["5 and 3 make 8, so 1,234.", "It is 1234.0", "1234 of 2", "none", "-1234"];
        let want = [1.0, 1.0, 0.0, 0.0, 0.0].map(Some);
        assert_eq!(scores(number.clone(), json!("they add up to #### 1,234"), &texts), want);
        assert_eq!(
            scores(number.clone(), json!(-0.5), &["x = -.5", "10-0.5", "0.5"]),
            [1.0, 0.0, 0.0].map(Some)
        );
        assert_eq!(scores(number, json!("nothing"), &["1"]), [None]);
    }

    #[test]
    fn mathematics_and_letters_are_held_against_known_ones() {
        let math = json!({"func": "math_match"});
        let texts = ["\\boxed{\\frac{1}{2}}", "half", "The answer is 50%"];
        assert_eq!(scores(math, json!("0.5"), &texts), [1.0, 0.0, 1.0].map(Some));
        let marked = json!({"func": "math_match", "find": "marked"});
        assert_eq!(scores(marked, json!(8), &["#### 8", "8"]), [1.0, 0.0].map(Some));
        let choice = json!({"func": "choice_match", "letters": "ABCD"});
        assert_eq!(scores(choice.clone(), json!("B"), &["(B)", "E"]), [1.0, 0.0].map(Some));
        assert_eq!(scores(choice, json!("E"), &["E"]), [None]);
    }

    #[test]
    fn forms_and_lengths_are_seen() {
        let form = json!({"func": "format", "pattern": "(?s)^<think>.*</think>\\s*\\S"});
        assert_eq!(
            scores(
                form,
                Value::Null,
                &["<think>a\nb</think> 3", "<think>a", "so <think></think>3"]
            ),
            [1.0, 0.0, 0.0].map(Some)
        );
        let long = json!({"func": "overlong", "max_length": 8, "buffer": 4, "penalty_factor": 0.5});
        let got = scores(long, Value::Null, &["1234", "123456", "12345678", "1234567890"]);
        let want = [0.0, -0.25, -0.5, -0.5].map(Some);
        assert_eq!(got, want);
    }

    #[test]
    fn settings_that_make_no_sense_are_named() {
        let refused = |function: Value| {
            let function: RewardFunction = serde_json::from_value(function).unwrap();
            function.build().unwrap_err().to_string()
        };
        assert!(refused(json!({"func": "format", "pattern": "(a"})).contains("pattern = \"(a\""));
        let long = refused(json!({"func": "overlong", "max_length": 2, "buffer": 4}));
        assert!(long.contains("buffer = 4"), "{long}");
        let unknown =
            serde_json::from_value::<RewardFunction>(json!({"func": "exact_match", "colum": "a"}));
        assert!(unknown.unwrap_err().to_string().contains("colum"));
    }
}
