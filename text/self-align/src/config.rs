//! What a run can be told. Defaults are the paper's, or where paper and released scripts differ, the paper's.

use std::path::PathBuf;

use savi_schema::Sampling;
use serde::{Deserialize, Serialize};

use crate::{DataFiles, Persona, PromptFiles};

/// The method's part of a config.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// What is run, in the paper's order.
    pub stages: Vec<StageName>,
    /// Prompts that go to the model together. It changes the speed and nothing else.
    pub requests_at_once: usize,
    /// More queries, one JSON object a line (`instruction`, `input`), beside those that the model writes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queries: Option<PathBuf>,
    /// Rows that an earlier run has made (`data/engrave.json`), where `align` is not among the stages.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<PathBuf>,
    /// How the assistant and its turns are called.
    pub persona: Persona,
    /// Files that replace the built-in seeds, principles, examples and identity.
    pub data: DataFiles,
    /// Files that replace the built-in wording.
    pub prompts: PromptFiles,
    /// What a base learns before anything else that cannot keep the forms (`forms` among the stages).
    pub forms: Forms,
    /// Tasks from seed tasks (stage 1, Self-Instruct).
    pub self_instruct: SelfInstruct,
    /// Topics (stage 1, topic-guided red-teaming).
    pub topics: Topics,
    /// Questions about the topics.
    pub questions: Questions,
    /// Answers under the principles (stage 2).
    pub align: Align,
    /// What becomes of answers that reached the token limit, when rows are taught (stages 3 and 4).
    pub truncated: Truncated,
    /// Answers at length (stage 4).
    pub verbose: Verbose,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            stages: StageName::PAPER.to_vec(),
            requests_at_once: 64,
            queries: None,
            rows: None,
            persona: Persona::default(),
            data: DataFiles::default(),
            prompts: PromptFiles::default(),
            forms: Forms::default(),
            self_instruct: SelfInstruct::default(),
            topics: Topics::default(),
            questions: Questions::default(),
            align: Align::default(),
            truncated: Truncated::default(),
            verbose: Verbose::default(),
        }
    }
}

/// A stage that can be run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StageName {
    /// The base learns the forms of the next stages from the seeds. Not in the paper.
    Forms,
    /// The model writes tasks.
    SelfInstruct,
    /// The model writes topics, and questions about them.
    RedTeam,
    /// The model answers under the principles.
    Align,
    /// The base learns the answers without the principles.
    Engrave,
    /// The engraved model answers at length, and the base learns that.
    Clone,
}

impl StageName {
    /// Those of the paper, in order.
    pub const PAPER: [Self; 5] =
        [Self::SelfInstruct, Self::RedTeam, Self::Align, Self::Engrave, Self::Clone];
}

/// Learning the forms of stages 1 and 2 from what people wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Forms {
    /// How often every seed and every dialogue comes, in lists of other orders.
    pub copies: usize,
    /// Tasks that follow those of the prompt in a list.
    pub listed: usize,
    /// Dialogues to learn thoughts from, laid out as the examples are; the examples themselves where it is not given.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dialogues: Option<PathBuf>,
}

impl Default for Forms {
    fn default() -> Self {
        Self { copies: 8, listed: 4, dialogues: None }
    }
}

/// Writing tasks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SelfInstruct {
    /// Groups that know nothing of each other, each with a pool of its own.
    pub groups: usize,
    /// Each group ends when it has kept this many tasks,
    pub target: usize,
    /// or after this many requests.
    pub most_requests: usize,
    /// Seed tasks shown in a request.
    pub in_context: usize,
    /// Tasks that the list is said to have.
    pub tasks: usize,
    /// Fewest words of an instruction.
    pub least_words: usize,
    /// Most words of an instruction.
    pub most_words: usize,
    /// Words that neither instruction nor input may have, in any case.
    pub blacklist: Vec<String>,
    /// A task is dropped when its ROUGE-L F1 with a seed or a kept task of its group is above this.
    pub most_similar: f64,
    /// The model cannot end its text before the token limit.
    pub forbid_end: bool,
    /// How tasks are drawn.
    pub sampling: Sampling,
}

impl Default for SelfInstruct {
    fn default() -> Self {
        let blacklist = [
            "image",
            "images",
            "graph",
            "graphs",
            "picture",
            "pictures",
            "file",
            "files",
            "map",
            "maps",
            "draw",
            "plot",
            "go to",
            "video",
            "audio",
            "music",
            "flowchart",
            "diagram",
        ];
        Self {
            groups: 32,
            target: 8192,
            most_requests: 100_000,
            in_context: 5,
            tasks: 20,
            least_words: 4,
            most_words: 150,
            blacklist: blacklist.map(str::to_owned).to_vec(),
            most_similar: 0.7,
            forbid_end: true,
            sampling: sampling(1.0, 0.98, 384),
        }
    }
}

/// Writing topics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Topics {
    /// Rounds, each of which asks once for every topic of the round before. The released script runs nine and
    /// uses what the fifth has made.
    pub rounds: u32,
    /// Types are cut to this many topics before each round; 0 leaves them.
    pub most_of_a_type: usize,
    /// A request shows `shown` topics of its type once the type has this many, else its own alone.
    pub show_many_from: usize,
    /// Topics shown then.
    pub shown: usize,
    /// Topics that the list is said to have.
    pub topics: usize,
    /// Lines of a reply that are read.
    pub lines: usize,
    /// Most words of a topic.
    pub most_words: usize,
    /// A topic has to begin with a letter from A to Z.
    pub capital: bool,
    /// The model cannot end its text before the token limit.
    pub forbid_end: bool,
    /// How topics are drawn.
    pub sampling: Sampling,
}

impl Default for Topics {
    fn default() -> Self {
        Self {
            rounds: 5,
            most_of_a_type: 0,
            show_many_from: 10,
            shown: 5,
            topics: 10,
            lines: 20,
            most_words: 3,
            capital: true,
            forbid_end: true,
            sampling: sampling(1.0, 0.98, 128),
        }
    }
}

/// Writing questions about topics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Questions {
    /// Groups that take every n-th topic.
    pub groups: usize,
    /// Topics of a request.
    pub packed: usize,
    /// Solved seeds shown before them.
    pub in_context: usize,
    /// The model cannot end its text before the token limit.
    pub forbid_end: bool,
    /// How questions are drawn. (The released script has a `top_p` of 0.95.)
    pub sampling: Sampling,
}

impl Default for Questions {
    fn default() -> Self {
        let sampling = sampling(1.0, 0.98, 384);
        Self { groups: 8, packed: 5, in_context: 5, forbid_end: true, sampling }
    }
}

/// Answering under the principles.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Align {
    /// Words whose first token is held down, so that answers do not apologise by reflex.
    pub banned_starts: Vec<String>,
    /// Added to the logits of those tokens.
    pub ban: f64,
    /// Shortest whole answer in characters, its terminator included.
    pub least_chars: usize,
    /// An answer that has one of these is dropped, as is one that has a heading, what stands between two examples,
    /// or content of an example.
    pub blacklist: Vec<String>,
    /// An answer that begins with one of these is dropped.
    pub apologies: Vec<String>,
    /// Taken off the beginning of answers.
    pub formulas: Vec<String>,
    /// How answers are drawn. (The released script has a `top_p` of 0.95.)
    pub sampling: Sampling,
}

impl Default for Align {
    fn default() -> Self {
        let list = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        Self {
            banned_starts: list(&["Sorry"]),
            ban: -100.0,
            least_chars: 160,
            blacklist: list(&[
                "could you provide more details",
                "could you please provide more details",
            ]),
            apologies: list(&["Sorry", "I'm sorry", "I am sorry"]),
            formulas: list(&["According to my knowledge, ", "According to what I have read, "]),
            sampling: sampling(0.5, 0.9, 256),
        }
    }
}

/// What becomes of answers that were cut off at the token limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Truncated {
    /// They are kept with a mark and not taught: they would teach to run on.
    #[default]
    LeaveOut,
    /// They are taught as they are, without a terminator, as the paper's scripts do.
    Teach,
}

/// Answering at length.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Verbose {
    /// Shortest answer in characters that counts without its end.
    pub least_chars: usize,
    /// What comes after this many items of a numbered list is cut.
    pub most_items: usize,
    /// An answer that has one of these is dropped, as is one that has the suffix or the self-description of the
    /// prompt.
    pub blacklist: Vec<String>,
    /// Taken off a token's logit for every time that the three tokens which it would complete are in the answer.
    pub trigram_penalty: f64,
    /// The same for four tokens.
    pub fourgram_penalty: f64,
    /// How answers are drawn beside that.
    pub sampling: Sampling,
}

impl Verbose {
    /// How answers are drawn, penalties included.
    pub(crate) fn penalised(&self) -> Sampling {
        let mut sampling = self.sampling.clone();
        let own = [(3, self.trigram_penalty), (4, self.fourgram_penalty)];
        sampling.ngram_penalties.extend(own.into_iter().filter(|(_, penalty)| *penalty != 0.0));
        sampling
    }
}

impl Default for Verbose {
    fn default() -> Self {
        Self {
            least_chars: 128,
            most_items: 12,
            blacklist: vec!["see also".to_owned(), "external links".to_owned()],
            trigram_penalty: 1.0,
            fourgram_penalty: 2.0,
            sampling: sampling(0.3, 0.7, 512),
        }
    }
}

fn sampling(temperature: f64, top_p: f64, max_tokens: usize) -> Sampling {
    Sampling { temperature, top_p, max_tokens, ..Sampling::default() }
}

/// A value that cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigProblem(pub(crate) String);

impl Config {
    /// Whether a stage is run.
    pub fn runs(&self, stage: StageName) -> bool {
        self.stages.contains(&stage)
    }

    /// Refuses what cannot be carried out, naming the key.
    pub fn validate(&self) -> Result<(), ConfigProblem> {
        let bad = |words: String| Err(ConfigProblem(words));
        self.validate_stages()?;
        let (tasks, topics, questions) = (&self.self_instruct, &self.topics, &self.questions);
        for (key, value) in [
            ("requests_at_once", self.requests_at_once),
            ("self_instruct.groups", tasks.groups),
            ("self_instruct.target", tasks.target),
            ("self_instruct.most_requests", tasks.most_requests),
            ("self_instruct.in_context", tasks.in_context),
            ("topics.shown", topics.shown),
            ("topics.lines", topics.lines),
            ("topics.most_words", topics.most_words),
            ("questions.groups", questions.groups),
            ("questions.packed", questions.packed),
            ("questions.in_context", questions.in_context),
            ("verbose.most_items", self.verbose.most_items),
            ("forms.copies", self.forms.copies),
            ("forms.listed", self.forms.listed),
        ] {
            if value == 0 {
                return bad(format!("{key} must be at least 1"));
            }
        }
        if tasks.least_words > tasks.most_words {
            return bad(format!(
                "self_instruct.least_words = {} is more than most_words = {}",
                tasks.least_words, tasks.most_words
            ));
        }
        if !(0.0..=1.0).contains(&tasks.most_similar) {
            return bad(format!(
                "self_instruct.most_similar = {} is not from 0 to 1",
                tasks.most_similar
            ));
        }
        if !self.align.ban.is_finite() {
            return bad("align.ban must be a number".to_owned());
        }
        for (key, words) in [
            ("self_instruct.blacklist", &tasks.blacklist),
            ("align.banned_starts", &self.align.banned_starts),
            ("align.blacklist", &self.align.blacklist),
            ("align.apologies", &self.align.apologies),
            ("align.formulas", &self.align.formulas),
            ("verbose.blacklist", &self.verbose.blacklist),
        ] {
            if words.iter().any(|word| word.trim().is_empty()) {
                return bad(format!("{key} has an empty entry"));
            }
        }
        for (key, text) in [
            ("persona.name", &self.persona.name),
            ("persona.product", &self.persona.product),
            ("persona.user", &self.persona.user),
            ("persona.assistant", &self.persona.assistant),
            ("persona.thoughts", &self.persona.thoughts),
            ("persona.suffix", &self.persona.suffix),
            ("persona.self_identification", &self.persona.self_identification),
        ] {
            if text.trim().is_empty() {
                return bad(format!("{key} is empty"));
            }
        }
        for (key, sampling) in [
            ("self_instruct", &tasks.sampling),
            ("topics", &topics.sampling),
            ("questions", &questions.sampling),
            ("align", &self.align.sampling),
            ("verbose", &self.verbose.penalised()),
        ] {
            sampling.check().map_err(|what| ConfigProblem(format!("{key}.sampling: {what}")))?;
            if sampling.max_tokens == 0 {
                return bad(format!("{key}.sampling.max_tokens must be at least 1"));
            }
        }
        Ok(())
    }

    fn validate_stages(&self) -> Result<(), ConfigProblem> {
        use StageName::{Align, Clone, Engrave, RedTeam, SelfInstruct};
        let bad = |words: &str| Err(ConfigProblem(format!("stages: {words}")));
        if self.stages.is_empty() {
            return bad("there is none");
        }
        if !self.stages.is_sorted_by(|a, b| a < b) {
            return bad(
                "name each once, in the order forms, self-instruct, red-team, align, engrave, clone",
            );
        }
        let has_queries = self.runs(SelfInstruct) || self.runs(RedTeam) || self.queries.is_some();
        if (self.runs(Align) || self.runs(Clone)) && !has_queries {
            return bad(
                "align and clone need queries: add self-instruct or red-team, or set queries to a file",
            );
        }
        if self.runs(Engrave) && !self.runs(Align) && self.rows.is_none() {
            return bad(
                "engrave needs answers: add align, or set rows to the data/engrave.json of a run",
            );
        }
        if self.runs(Align) && self.rows.is_some() {
            return bad("rows is for runs without align, which makes them");
        }
        if self.runs(Clone) && !self.runs(Engrave) {
            return bad("clone needs engrave: its teacher is the engraved model");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
