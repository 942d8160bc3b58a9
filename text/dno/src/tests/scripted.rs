//! A scripted model that adds as well as its skill lets it, judges what is added, and learns to add.

use std::cell::{Cell, RefCell};
use std::fs;
use std::rc::Rc;

use rand::Rng;
use savi_judge::order::seeded_rng;
use savi_run::write_atomic;
use savi_schema::{
    Completion, Continuation, FinishReason, Generate, GenerateError, Request, Score, ScoreRequest,
    TokenScore,
};
use savi_train::{LearnError, Learner, Learnt, Material, Training};

/// The right answer to `What is 3 + 4?`, wherever that stands.
pub(super) fn truth(words: &str) -> Option<u64> {
    let sum = words.split_once("What is ")?.1.split_once('?')?.0;
    let (a, b) = sum.split_once(" + ")?;
    Some(a.parse::<u64>().ok()? + b.parse::<u64>().ok()?)
}

pub(super) struct Scripted {
    pub(super) skill: f64,
    pub(super) name: String,
    /// Calls that may still be made before the process "dies".
    pub(super) fuse: Rc<Cell<u32>>,
    /// Ids of requests that were answered.
    pub(super) answered: Rc<RefCell<Vec<String>>>,
}

impl Scripted {
    fn write(&self, request: &Request, sample: usize) -> String {
        let mut rng = seeded_rng(request.seed, &[&request.id, &sample.to_string()]);
        let words = request.messages[0].words();
        if words.contains("[Reply 1]") {
            return self.grade(&words, request.messages.len() > 1, &mut rng);
        }
        let right = truth(&words).unwrap_or_default();
        if rng.random_bool(0.05) {
            return "so it is so ".repeat(20);
        }
        match rng.random_bool(self.skill) {
            true => format!("It is {right}."),
            false => format!("It is {}.", right + rng.random_range(1..4)),
        }
    }

    /// Six points for what is right, as JSON that is damaged now and then.
    fn grade(&self, words: &str, begun: bool, rng: &mut impl Rng) -> String {
        let right = format!("It is {}.", truth(words).unwrap_or_default());
        let replies = words.split("[Reply ").skip(1);
        let entries = replies.map(|reply| {
            let (id, text) = reply.split_once("]\n").unwrap();
            let score = if text.starts_with(&right) { 6 } else { 1 };
            format!("\"{id}\": {{\"justification\": \"seen\", \"score\": {score}}}")
        });
        let whole = format!("{{{}}}", entries.collect::<Vec<_>>().join(", "));
        let whole = match rng.random_range(0..10) {
            0 => return "I like them all.".to_owned(),
            1 => format!("{whole}\nThat is all."),
            2 => whole[..whole.len() - 1].to_owned(),
            _ => whole,
        };
        match begun {
            true => whole.strip_prefix("{\"1\": {\"justification\": \"").unwrap().to_owned(),
            false => whole,
        }
    }
}

impl Generate for Scripted {
    fn generate(&self, requests: &[Request]) -> Result<Vec<Vec<Completion>>, GenerateError> {
        burn(&self.fuse).map_err(GenerateError::Backend)?;
        let complete = |request: &Request| {
            (0..request.samplings.len())
                .map(|sample| Completion {
                    text: self.write(request, sample),
                    token_ids: vec![1, 2],
                    logps: vec![-0.5, -0.25],
                    sampling_logps: Vec::new(),
                    top_logps: Vec::new(),
                    finish_reason: FinishReason::Stop,
                })
                .collect()
        };
        self.answered.borrow_mut().extend(requests.iter().map(|request| request.id.clone()));
        Ok(requests.iter().map(complete).collect())
    }

    fn fingerprint(&self) -> String {
        self.name.clone()
    }
}

impl Score for Scripted {
    /// Names the reply that is right, and has a liking for the label A.
    fn score(&self, requests: &[ScoreRequest]) -> Result<Vec<Vec<TokenScore>>, GenerateError> {
        burn(&self.fuse).map_err(GenerateError::Backend)?;
        let score = |request: &ScoreRequest, label: &Continuation| {
            let words = request.messages[0].words();
            let right = format!("It is {}.", truth(&words).unwrap_or_default());
            let Continuation::Text(label) = label else { unreachable!("labels are words") };
            let reply = words.split_once(&format!("[Reply {label}]\n")).unwrap().1;
            let good = if reply.starts_with(&right) { 2.0 } else { 0.0 };
            let liked = if label == "A" { 0.5 } else { 0.0 };
            TokenScore { token_ids: vec![0], logps: vec![good + liked - 4.0] }
        };
        let all = |request: &ScoreRequest| {
            request.continuations.iter().map(|label| score(request, label)).collect()
        };
        Ok(requests.iter().map(all).collect())
    }
}

fn burn(fuse: &Cell<u32>) -> Result<(), String> {
    match fuse.get() {
        0 => Err("killed".to_owned()),
        left => {
            fuse.set(left - 1);
            Ok(())
        }
    }
}

/// A learner whose skill grows with every round.
pub(super) struct ScriptedLearner {
    pub(super) model: Scripted,
    pub(super) start: f64,
}

impl Learner for ScriptedLearner {
    fn generator(&self) -> &dyn Generate {
        &self.model
    }

    fn scorer(&self) -> &dyn Score {
        &self.model
    }

    fn key(&self) -> String {
        "scripted".to_owned()
    }

    fn learn(&mut self, material: Material<'_>, at: &Training<'_>) -> Result<Learnt, LearnError> {
        burn(&self.model.fuse).map_err(|error| LearnError::Failed(error.into()))?;
        let said = match material {
            Material::Pairs(pairs) => format!("{pairs:?}"),
            Material::Examples(examples) => format!("{examples:?}"),
            Material::Demonstrations(_) => unreachable!("the method shows conversations"),
        };
        let text = format!("{} {said}", self.model.name);
        self.model.name = blake3::hash(text.as_bytes()).to_hex()[..16].to_owned();
        self.model.skill = (self.model.skill + 0.2).min(1.0);
        fs::create_dir_all(at.dir.join("adapter")).unwrap();
        write_atomic(&at.dir.join("adapter/name"), self.model.name.as_bytes()).unwrap();
        Ok(Learnt { steps: 3 })
    }

    fn restart(&mut self) -> Result<(), LearnError> {
        (self.model.skill, self.model.name) = (self.start, "base".to_owned());
        Ok(())
    }
}
