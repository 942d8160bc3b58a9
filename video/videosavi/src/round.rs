//! One turn of the loop: the model as it is now, the clips of the turn, and drawing from the one
//! about the other.

use savi_judge::order::seeded_rng;
use savi_run::{Interrupt, Key, Record, RunFolder, Stage};
use savi_schema::{Embed, Generate, GenerateError, Media, Message, Request, RgbImage, Sampling};

use rand::Rng;

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
        Key::new(stage)
            .with("round", &self.number)
            .with("seed", &self.seed)
            .with("model", &self.fingerprint)
            .with("clips", &self.clips)
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

    /// Draws all completions of a stage's prompts in one call, so that the model can share what the
    /// prompts share. One list for each prompt, in order.
    pub(crate) fn draw(
        &self,
        stage: &'static str,
        prompt: &'static str,
        draws: Vec<Draw>,
    ) -> Result<Vec<Vec<Drawn>>, Error> {
        if draws.is_empty() {
            return Ok(Vec::new());
        }
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
        let completions = self.model.generate(&requests).map_err(|source| match source {
            GenerateError::Interrupted => Error::Interrupted,
            source => Error::Generate { round, stage, source },
        })?;
        let wrong = |asked, got| Error::WrongCount { round, stage, asked, got };
        if completions.len() != requests.len() {
            return Err(wrong(requests.len(), completions.len()));
        }
        let id = self.prompts.id(prompt);
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
                    .map(|(c, sampling)| {
                        Drawn::new(c, id, &self.fingerprint, &request.id, sampling)
                    })
                    .collect())
            })
            .collect()
    }
}

/// `<round><place>-<name>`: the number orders the stages of a run.
pub(crate) fn stage_name(round: u32, place: u32, name: &str) -> String {
    format!("{round}{place}-{name}")
}

/// The entries of `items` at `places`.
pub(crate) fn pick<'a, T>(items: &'a [T], places: &[usize]) -> Vec<&'a T> {
    places.iter().map(|&place| &items[place]).collect()
}
