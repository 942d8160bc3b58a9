//! A model that keeps all forms, more or less, and its learner.

use std::cell::Cell;
use std::rc::Rc;

use rand::Rng;
use savi_judge::order::seeded_rng;
use savi_run::write_atomic;
use savi_schema::{
    Completion, Demonstration, FinishReason, Generate, GenerateError, RawPrompt, Request, Score,
};
use savi_train::{LearnError, Learner, Learnt, Material, Training};

/// Calls that may still be made before the process "dies".
#[derive(Clone)]
pub(super) struct Fuse {
    left: Rc<Cell<u32>>,
    burnt: Rc<Cell<u32>>,
}

impl Fuse {
    pub(super) fn new(length: u32) -> Self {
        Self { left: Rc::new(Cell::new(length)), burnt: Rc::default() }
    }

    pub(super) fn burnt(&self) -> u32 {
        self.burnt.get()
    }

    fn burn(&self) -> Result<(), String> {
        let left = self.left.get().checked_sub(1).ok_or("killed")?;
        self.left.set(left);
        self.burnt.set(self.burnt.get() + 1);
        Ok(())
    }
}

pub(super) struct Scripted {
    name: String,
    fuse: Fuse,
}

const WORDS: [&str; 12] = [
    "apple", "bridge", "candle", "desert", "engine", "forest", "garden", "harbour", "island",
    "jungle", "kettle", "ladder",
];

/// Text and whether it reached the limit.
fn write(request: &Request) -> (String, bool) {
    let mut rng = seeded_rng(request.seed, &[&request.id]);
    let Some(RawPrompt::Text(prompt)) = &request.raw else { panic!("a raw prompt") };
    let word = |rng: &mut rand_chacha::ChaCha8Rng| WORDS[rng.random_range(0..WORDS.len())];
    let number = |prompt: &str, mark: &str| -> usize {
        prompt
            .rsplit_once('\n')
            .and_then(|(_, last)| last.split(mark).next()?.parse().ok())
            .unwrap()
    };
    if prompt.contains("for a text-only assistant") {
        let first = number(prompt, ". Instruction:");
        let tasks = (first..first + 6).map(|n| {
            let (a, b, c) = (word(&mut rng), word(&mut rng), word(&mut rng));
            let said = match rng.random_range(0..10) {
                0 => format!("Describe {a}."),
                1 => format!("Show an image of {a} and {b}."),
                2 => format!("- tell {a} about {b} and {c}"),
                3 => "Explain why the sky looks red at sunset to a child of eight.".to_owned(),
                _ => format!("{a} {b} {c} {} {}?", word(&mut rng), rng.random_range(0..99)),
            };
            let input = if rng.random_bool(0.7) { "<noinput>" } else { "b, c, a" };
            match n == first {
                true => format!(" {said}\n{n}. Input:\n{input}\n"),
                false if rng.random_bool(0.1) => format!("###\n{}. Instruction: {said}\n", n + 30),
                false => format!("###\n{n}. Instruction: {said}\n{n}. Input:\n{input}\n"),
            }
        });
        return (tasks.collect::<String>() + "###\n99. Instr", true);
    }
    if prompt.contains("different topics for") {
        let first = number(prompt, ".");
        let topics = (first..first + 5).map(|n| {
            let start = if n == first { String::new() } else { format!("{n}.") };
            let word = word(&mut rng);
            let capital = word[..1].to_uppercase() + &word[1..];
            format!("{start} {capital} {}\n", rng.random_range(0..9))
        });
        return (topics.collect::<String>() + "12. Half", true);
    }
    if prompt.contains("Types and topics") {
        let open: Vec<&str> = prompt
            .split("Instructions:\n")
            .next()
            .into_iter()
            .flat_map(|hints| hints.lines().filter(|line| line.contains(". type: ")))
            .skip(5)
            .collect();
        let lines = open.iter().enumerate().map(|(place, hint)| {
            let start = if place == 0 { String::new() } else { format!("{hint}, instruction:") };
            format!("{start} What about {}?\n", word(&mut rng))
        });
        return (lines.collect::<String>() + "11. ty", true);
    }
    if prompt.contains("(extensive)") {
        let (a, b) = (word(&mut rng), word(&mut rng));
        return match rng.random_range(0..6) {
            0 => (format!("Aide (extensive) knows about {a}."), false),
            _ => (format!("This is told at length by Aide: {a}, then {b}, and so on. "), false),
        };
    }
    let (a, b) = (word(&mut rng), word(&mut rng));
    let thoughts = "I am Aide, and I think before I answer. It is about things. The rules that matter are 3 (helpful), 7 \
                    (candor).";
    let long = format!(
        "Aide says that the {a} came before the {b}, as far as anybody knows; the older books do not agree on this, \
         and some of the newer ones leave the matter open for want of any sources"
    );
    match rng.random_range(0..12) {
        0 => (format!("Well. {thoughts}\n\n### Aide\n{long}"), false),
        1 => (thoughts.to_owned(), true),
        2 => (format!("{thoughts}\n\n### Aide\nYes."), false),
        3 => (format!("{thoughts}\n\n### Aide\n{long}. Hedgehogs, too."), false),
        4 => (format!("{thoughts}\n\n### Aide\nI'm sorry, {long}"), false),
        5 => (format!("{thoughts}\n\n### Aide\n{long} and mo"), true),
        6 => (format!("{thoughts}\n\n### Aide\nYes. No. Yes. {long}"), false),
        _ => (format!("{thoughts}\n\n### Aide\n{long}\n\n"), false),
    }
}

impl Generate for Scripted {
    fn generate(&self, requests: &[Request]) -> Result<Vec<Vec<Completion>>, GenerateError> {
        self.fuse.burn().map_err(GenerateError::Backend)?;
        let complete = |request: &Request| {
            let sampling = &request.samplings[0];
            sampling.check().unwrap();
            let banned = sampling.logit_bias.get(&17) == Some(&-100.0);
            assert_eq!(banned, request.id.starts_with("align/"));
            let (text, cut) = write(request);
            vec![Completion {
                text,
                token_ids: vec![1, 2],
                logps: vec![-0.5, -0.25],
                sampling_logps: Vec::new(),
                top_logps: Vec::new(),
                finish_reason: if cut { FinishReason::Length } else { FinishReason::Stop },
            }]
        };
        Ok(requests.iter().map(complete).collect())
    }

    fn fingerprint(&self) -> String {
        self.name.clone()
    }
}

/// What was taught, and to which model.
pub(super) struct Lesson {
    pub(super) base: String,
    pub(super) shown: Vec<Demonstration>,
}

pub(super) struct ScriptedLearner {
    model: Scripted,
    pub(super) fuse: Fuse,
    pub(super) lessons: Vec<Lesson>,
}

impl ScriptedLearner {
    pub(super) fn new(fuse: Fuse) -> Self {
        let model = Scripted { name: "base".to_owned(), fuse: fuse.clone() };
        Self { model, fuse, lessons: Vec::new() }
    }
}

const STEPS: u64 = 2;

impl Learner for ScriptedLearner {
    fn scorer(&self) -> &dyn Score {
        unreachable!("the method scores nothing")
    }

    fn restart(&mut self) -> Result<(), LearnError> {
        self.model.name = "base".to_owned();
        Ok(())
    }

    fn generator(&self) -> &dyn Generate {
        &self.model
    }

    fn key(&self) -> String {
        "scripted".to_owned()
    }

    fn learn(&mut self, material: Material<'_>, at: &Training<'_>) -> Result<Learnt, LearnError> {
        let Material::Demonstrations(shown) = material else {
            unreachable!("the method shows texts")
        };
        let path = at.dir.join("checkpoint");
        let done = std::fs::read_to_string(&path).map_or(0, |text| text.parse::<u64>().unwrap());
        at.metrics.cut_after(done)?;
        for step in done + 1..=STEPS {
            self.fuse.burn().map_err(|error| LearnError::Failed(error.into()))?;
            let values = [("loss".to_owned(), (1.0 / step as f64).into())].into_iter().collect();
            at.metrics.log(step, &values)?;
            write_atomic(&path, step.to_string().as_bytes())?;
        }
        self.lessons.push(Lesson { base: self.model.name.clone(), shown: shown.to_vec() });
        self.model.name = format!("{} with {} rows", self.model.name, shown.len());
        Ok(Learnt { steps: STEPS })
    }
}
