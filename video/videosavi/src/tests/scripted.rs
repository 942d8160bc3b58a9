//! The scripted model and its learner.

use savi_schema::Score;
use savi_train::{LearnError, Learner, Learnt, Material, Training};

use super::*;

const WORDS: [&str; 4] = ["left", "right", "up", "down"];

/// A model that knows the truth about every clip and tells it as often as its skill allows.
pub(super) struct Scripted {
    pub(super) skill: f64,
    pub(super) name: String,
    /// Gives a reason before every second answer.
    pub(super) reasons: bool,
    /// Calls that may still be made before the process "dies".
    pub(super) fuse: Rc<Cell<u32>>,
}

pub(super) fn truth(clip: &str, question: &str) -> &'static str {
    WORDS[seeded_rng(0, &["truth", clip, question]).random_range(0..WORDS.len())]
}

impl Scripted {
    fn write(&self, request: &Request, sample: usize) -> String {
        let mut rng = seeded_rng(request.seed, &[&request.id, &sample.to_string()]);
        let mut often = |share: f64| rng.random_bool(share);
        let words = request.messages[0].words();
        let clip = request.messages[0].content.iter().find_map(|part| match part {
            Part::Video(media) => Path::new(&media.source).file_stem()?.to_str(),
            _ => None,
        });
        let field = |name: &str| {
            words.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned()
        };
        if words.starts_with("Describe the video.") {
            return format!("There is a hexagon in {}.", clip.unwrap_or("nothing"));
        }
        if words.contains("Ask one question") {
            let thing = match words.contains("hexagon") {
                true => "hexagon",
                false => {
                    ["disc", "square", "star"][usize::from(often(0.4)) + usize::from(often(0.4))]
                }
            };
            let start = ["What", "Why", "How"].into_iter().find(|w| words.contains(w));
            return match often(0.1) {
                true => "The disc moves.".to_owned(),
                false => format!("{} way does the {thing} go?", start.unwrap_or("Which")),
            };
        }
        // Without its clip nobody knows better than chance.
        let seen = |question: &str, rng_share: bool| match clip {
            Some(clip) if rng_share => truth(clip, question).to_owned(),
            _ => String::new(),
        };
        if words.contains("then rate each answer") || words.contains("Then rate each answer") {
            let right = seen(&field("Question: "), often(0.9));
            let lines = words.lines().filter_map(|line| {
                let (label, text) = line.split_once(": ")?;
                (label.len() == 1).then(|| {
                    let accuracy = if text == right { 5 } else { 1 };
                    format!("\n{label}: relevance 5, accuracy {accuracy}, temporal grounding {accuracy}, clarity 5")
                })
            });
            let lines: String = lines.collect();
            return if often(0.2) {
                "I like A.".to_owned()
            } else {
                format!("Evidence: it moves.{lines}")
            };
        }
        if words.contains("Check the answer") {
            let right = seen(&field("Question: "), often(0.9)) == field("Answer: ");
            let verdict = if right { "right" } else { "wrong" };
            return match often(0.2) {
                true => "It is fine.".to_owned(),
                false => format!("Evidence: it moves. Verdict: {verdict}."),
            };
        }
        if words.contains("Answer the question again") {
            return seen(&field("Question: "), often(0.9));
        }
        let question = words.lines().next().unwrap_or_default();
        let skill = self.skill;
        let answer = match often(skill) {
            true => seen(question, true),
            false => WORDS[rng.random_range(0..WORDS.len())].to_owned(),
        };
        match self.reasons && rng.random_bool(0.5) {
            true => format!("It moves. Answer: {answer}"),
            false => answer,
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
        Ok(requests.iter().map(complete).collect())
    }

    fn fingerprint(&self) -> String {
        self.name.clone()
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

/// A learner whose skill grows with the share of right among chosen; it checkpoints every step.
pub(super) struct ScriptedLearner {
    pub(super) model: Scripted,
}

const STEPS: u64 = 3;

impl Learner for ScriptedLearner {
    fn scorer(&self) -> &dyn Score {
        unreachable!("the method scores nothing")
    }

    fn restart(&mut self) -> Result<(), LearnError> {
        unreachable!("the method never goes back to the base")
    }

    fn generator(&self) -> &dyn Generate {
        &self.model
    }

    fn key(&self) -> String {
        "scripted".to_owned()
    }

    fn learn(&mut self, material: Material<'_>, at: &Training<'_>) -> Result<Learnt, LearnError> {
        let said: Vec<(String, String)> = match material {
            Material::Pairs(pairs) => {
                pairs.iter().map(|p| (p.prompt[0].words(), p.chosen.clone())).collect()
            }
            Material::Demonstrations(_) => unreachable!("the method shows conversations"),
            Material::Examples(examples) => examples
                .iter()
                .map(|e| (e.conversations[0][0].words(), e.conversations[0][1].words()))
                .collect(),
        };
        let path = at.dir.join("checkpoint");
        let done = fs::read_to_string(&path).map_or(0, |text| text.parse::<u64>().unwrap());
        at.metrics.cut_after(done).unwrap();
        for step in done + 1..=STEPS {
            burn(&self.model.fuse).map_err(|e| LearnError::Failed(e.into()))?;
            let values = [("loss".to_owned(), (1.0 / step as f64).into())].into_iter().collect();
            at.metrics.log(step, &values).unwrap();
            write_atomic(&path, step.to_string().as_bytes()).unwrap();
            at.interrupt.check().map_err(|_| LearnError::Interrupted)?;
        }
        let text = format!("{} {said:?}", self.model.name);
        self.model.name = blake3::hash(text.as_bytes()).to_hex()[..16].to_owned();
        self.model.skill = (self.model.skill + 0.2).min(1.0);
        write_atomic(&at.dir.join("adapter"), self.model.name.as_bytes()).unwrap();
        Ok(Learnt { steps: STEPS })
    }
}
