//! One turn of the loop: the model as it is now, the clips of the turn, and drawing from the one
//! about the other.

use savi_judge::order::seeded_rng;
use savi_run::{Interrupt, Key, Record, RunFolder, Stage, stage_name};
use savi_schema::{Embed, Generate, GenerateError, Media, Message, Request, RgbImage, Sampling};

use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::{ClipRecord, Config, Drawn, Error, JudgeVideo, Prompts, Subject};

/// A space in which pictures and texts are compared, and the way to a clip's frames.
pub struct ClipSpace<'a> {
    /// The embedder.
    pub embed: &'a dyn Embed,
    /// Names the embedder and its weights.
    pub fingerprint: &'a str,
    /// The frames of a clip under its policy.
    pub frames: &'a dyn Fn(&ClipRecord) -> Result<Vec<RgbImage>, GenerateError>,
}

/// What of a round is drawn from a prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DrawKind {
    /// Descriptions of clips.
    Describe,
    /// Questions.
    Ask,
    /// Answers.
    Answer,
    /// Scores of answers.
    Judge,
    /// Critiques of answers.
    Critique,
    /// Revisions of answers.
    Revise,
}

impl DrawKind {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Describe, Self::Ask, Self::Answer, Self::Judge, Self::Critique, Self::Revise];

    /// Its name, which is that of its prompt too.
    pub fn name(self) -> &'static str {
        match self {
            Self::Describe => "describe",
            Self::Ask => "ask",
            Self::Answer => "answer",
            Self::Judge => "judge",
            Self::Critique => "critique",
            Self::Revise => "revise",
        }
    }

    /// Whether pairs are made of it: then it has to come from the model that learns.
    pub fn is_learnt_from(self) -> bool {
        matches!(self, Self::Answer | Self::Revise)
    }
}

/// A model elsewhere that draws in place of the one that learns. It stays as it is while that one learns.
pub struct Served<'a> {
    /// The model.
    pub model: &'a dyn Generate,
    /// Names the model and where it is.
    pub fingerprint: &'a str,
    /// What it draws.
    pub draws: &'a [DrawKind],
}

/// Refuses to let a model that stays as it is draw what a later round learns from.
pub fn check_served(draws: &[DrawKind], rounds: u32) -> Result<(), String> {
    match draws.iter().find(|draws| draws.is_learnt_from()) {
        Some(draws) if rounds > 1 => Err(format!(
            "{:?} is what the model learns from, and from round 2 on that model is another than the \
             served one: set rounds = 1 and serve the result for the next run, or let the served model \
             draw only describe, ask, judge and critique",
            draws.name()
        )),
        _ => Ok(()),
    }
}

/// What the stages of one round share.
pub(crate) struct Round<'a> {
    pub(crate) number: u32,
    pub(crate) seed: u64,
    pub(crate) config: &'a Config,
    pub(crate) prompts: &'a Prompts,
    /// The clips of this round.
    pub(crate) clips: Vec<&'a ClipRecord>,
    /// All clips of the run, from which the control with another clip draws.
    pub(crate) all_clips: &'a [ClipRecord],
    pub(crate) model: &'a dyn Generate,
    pub(crate) fingerprint: String,
    pub(crate) served: Option<&'a Served<'a>>,
    pub(crate) space: Option<&'a ClipSpace<'a>>,
    pub(crate) folder: &'a RunFolder,
    pub(crate) interrupt: &'a Interrupt,
}

/// One prompt and what is to be drawn from it.
pub(crate) struct Draw {
    /// Unique within the stage.
    pub(crate) id: String,
    pub(crate) messages: Vec<Message>,
    pub(crate) samplings: Vec<Sampling>,
}

impl Round<'_> {
    /// Opens stage `place` of this round. Its key chains that of the stage before it, so that a
    /// change anywhere makes everything after it again.
    pub(crate) fn stage<R: Record>(
        &self,
        place: u32,
        name: &str,
        key: &Key,
    ) -> Result<Stage<R>, Error> {
        Ok(Stage::open(self.folder, &stage_name(self.number, place, name), &key.finish())?)
    }

    /// The key on which the first stage of the round builds: model, clips, seed and round.
    pub(crate) fn key(&self, stage: &str) -> Key {
        let key = Key::new(stage)
            .with("round", &self.number)
            .with("seed", &self.seed)
            .with("model", &self.fingerprint)
            .with("clips", &self.clips);
        match self.served {
            Some(served) => key.with("served", &(served.fingerprint, served.draws)),
            None => key,
        }
    }

    /// The subject of asking and answering.
    pub(crate) fn subject(&self, clip: &ClipRecord) -> Subject {
        let media = Media { source: clip.source.clone(), policy: Some(clip.policy.clone()) };
        Subject { video: Some(media), caption: clip.caption.clone() }
    }

    /// The subject that a judge or critic sees, and the id of its clip: the clip itself, or what a
    /// control puts in its place.
    pub(crate) fn judged_subject(&self, clip: &ClipRecord) -> (Subject, Option<String>) {
        match self.config.judge_video {
            JudgeVideo::Own => (self.subject(clip), Some(clip.id.clone())),
            JudgeVideo::None => (Subject::default(), None),
            JudgeVideo::Other => {
                let others: Vec<&ClipRecord> =
                    self.all_clips.iter().filter(|other| other.id != clip.id).collect();
                // The driver has refused a run of one clip under this control.
                let draw = seeded_rng(self.seed, &["other-clip", &clip.id])
                    .random_range(0..others.len().max(1));
                match others.get(draw) {
                    Some(other) => (self.subject(other), Some(other.id.clone())),
                    None => (Subject::default(), None),
                }
            }
        }
    }

    /// Who draws something, and its name.
    pub(crate) fn drawer(&self, draws: DrawKind) -> (&dyn Generate, &str) {
        match self.served.filter(|served| served.draws.contains(&draws)) {
            Some(served) => (served.model, served.fingerprint),
            None => (self.model, &self.fingerprint),
        }
    }

    /// Draws all completions of a stage's prompts in one call, so that the model can share what the
    /// prompts share. One list for each prompt, in order.
    pub(crate) fn draw(&self, stage: DrawKind, draws: Vec<Draw>) -> Result<Vec<Vec<Drawn>>, Error> {
        if draws.is_empty() {
            return Ok(Vec::new());
        }
        let (model, fingerprint) = self.drawer(stage);
        let stage = stage.name();
        let requests: Vec<Request> = draws
            .into_iter()
            .map(|draw| Request {
                id: format!("round-{}/{stage}/{}", self.number, draw.id),
                messages: draw.messages,
                raw: None,
                samplings: draw.samplings,
                seed: self.seed,
            })
            .collect();
        let round = self.number;
        let completions = model.generate(&requests).map_err(|source| match source {
            GenerateError::Interrupted => Error::Interrupted,
            source => Error::Generate { round, stage, source },
        })?;
        let wrong = |asked, got| Error::WrongCount { round, stage, asked, got };
        if completions.len() != requests.len() {
            return Err(wrong(requests.len(), completions.len()));
        }
        let id = self.prompts.id(stage);
        requests
            .iter()
            .zip(completions)
            .map(|(request, completions)| {
                let (asked, got) = (request.samplings.len(), completions.len());
                if asked != got {
                    return Err(wrong(asked, got));
                }
                let drawn = completions.iter().zip(&request.samplings);
                Ok(drawn
                    .map(|(c, sampling)| Drawn::new(c, id, fingerprint, &request.id, sampling))
                    .collect())
            })
            .collect()
    }
}

/// The entries of `items` at `places`.
pub(crate) fn pick<'a, T>(items: &'a [T], places: &[usize]) -> Vec<&'a T> {
    places.iter().map(|&place| &items[place]).collect()
}
