//! Greedy tokens of every case, against transformers' `generate` (`greedy.json`, which `make.py` wrote).

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use candle_core::Result;
use savi_engine::{Engine, EngineOptions, Prompt};
use savi_nn::attention::KvNode;
use savi_nn::check::Drawn;
use savi_nn::layers::Mode;
use savi_nn::{Forest, Weights};
use savi_schema::{FrameSampling, Generate, Media, MediaPolicy, Message, Part, Request, Sampling};
use serde::Deserialize;

use crate::cases::{Case, cases, folder, visual};

/// What the reference went on with.
#[derive(Debug, Deserialize)]
struct Greedy {
    tokens: Vec<u32>,
    /// The smallest lead of a token over the second.
    lead: f64,
}

/// A lead that rounding cannot turn around.
const LEAST_LEAD: f64 = 1e-4;

fn told(case: &Case) -> Vec<u32> {
    let (family, name) = case.name.split_once('/').unwrap();
    let file = std::fs::read(folder(family).join("greedy.json")).unwrap();
    let mut all: BTreeMap<String, Greedy> = serde_json::from_slice(&file).unwrap();
    let told = all.remove(name).unwrap();
    assert_eq!(told.tokens.len(), 24, "{}", case.name);
    assert!(told.lead > LEAST_LEAD, "{}: the reference's choices are nearly ties", case.name);
    told.tokens
}

/// Token by token behind a cached prefix, as the engine does it.
#[test]
fn greedy_tokens_from_the_cache_equal_generate() -> Result<()> {
    for case in cases() {
        let want = told(&case);
        let (model, prompt) = (&case.model, case.prompt());
        let seen = model.encode(&case.pixels(&prompt), Mode::INFER)?;
        let mut node = model.cache_node(None, prompt.ids.len());
        let mut forest = Forest::new();
        prompt.root(&mut forest);
        let mut embeds = model.embed(&prompt.ids, &seen, Mode::INFER)?;
        let mut tokens = Vec::new();
        while tokens.len() < want.len() {
            let rows: &mut [&mut KvNode] = &mut [&mut node];
            let hidden = model.hidden_cached(&embeds, &Arc::new(forest), Mode::INFER, rows)?;
            let last = hidden.narrow(0, hidden.dim(0)? - 1, 1)?;
            let mut logits = model.logits(&last, Mode::INFER)?.squeeze(0)?.to_vec1::<f32>()?;
            for token in model.placeholders() {
                logits[token as usize] = f32::NEG_INFINITY;
            }
            let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap();
            tokens.push(best as u32);
            embeds = model.embed(&[best as u32], &[], Mode::INFER)?;
            forest = Forest::new();
            forest.push(node.after(), 1);
        }
        assert_eq!(tokens, want, "{}", case.name);
    }
    Ok(())
}

/// The media of a case as files: pictures, and clips as folders of their frames, a second apart.
fn messages(case: &Case, dir: &Path) -> Vec<Message> {
    let part = |part: &serde_json::Value| {
        let Some(medium) = part.get("medium") else {
            return Part::Text { text: part["text"].as_str().unwrap().to_owned() };
        };
        let shown = visual(medium);
        let save = |path: &Path, frame: &savi_schema::RgbImage| {
            let (width, height) = (frame.width, frame.height);
            image::RgbImage::from_raw(width, height, frame.data.to_vec())
                .unwrap()
                .save(path)
                .unwrap();
        };
        let name = medium["name"].as_str().unwrap();
        if medium["kind"] == "image" {
            let path = dir.join(format!("{name}.png"));
            save(&path, &shown.frames[0]);
            return Part::Image(Media {
                source: path.to_string_lossy().into_owned(),
                policy: None,
            });
        }
        let path = dir.join(name);
        std::fs::create_dir_all(&path).unwrap();
        for (at, frame) in shown.frames.iter().enumerate() {
            save(&path.join(format!("{at:03}.png")), frame);
        }
        let times = (0..shown.frames.len()).map(|at| at as f64).collect();
        let policy = Some(MediaPolicy::new(FrameSampling::Times { times }));
        Part::Video(Media { source: path.to_string_lossy().into_owned(), policy })
    };
    let turns = case.spec["messages"].as_array().unwrap().iter();
    turns
        .map(|turn| Message {
            role: serde_json::from_value(turn["role"].clone()).unwrap(),
            content: turn["content"].as_array().unwrap().iter().map(part).collect(),
        })
        .collect()
}

/// From files to tokens: all cases but those whose clips say their times to the model and are not of a frame a second.
#[test]
fn the_engines_answers_about_files_equal_generate() {
    let mut compared: BTreeMap<String, usize> = BTreeMap::new();
    for case in cases() {
        let want = told(&case);
        let dir = tempfile::tempdir().unwrap();
        let messages = messages(&case, dir.path());
        let options = EngineOptions { device: "cpu".into(), ..EngineOptions::default() };
        let weights = Weights::Checkpoint(Box::new(Drawn));
        let processors = crate::cases::processors(&case.spec);
        let config = &case.spec["config"];
        let engine =
            Engine::build(config, weights, case.files.clone(), &processors, None, &options);
        let engine = engine.unwrap();
        let (prompt, of_reference): (Prompt, Prompt) =
            (engine.prompt(&messages).unwrap(), case.prompt());
        if (prompt.ids, prompt.coordinates) != (of_reference.ids, of_reference.coordinates) {
            continue;
        }
        let sampling = Sampling { max_tokens: want.len(), ignore_eos: true, ..Sampling::default() };
        let request = Request {
            id: case.name.clone(),
            messages,
            samplings: vec![sampling],
            ..Request::default()
        };
        let completion = engine.generate(&[request]).unwrap().remove(0).remove(0);
        assert_eq!(completion.token_ids, want, "{}", case.name);
        *compared.entry(case.name.split('/').next().unwrap().to_owned()).or_default() += 1;
    }
    let counts: Vec<(&str, usize)> =
        compared.iter().map(|(name, &count)| (name.as_str(), count)).collect();
    assert_eq!(counts, COMPARED);
}

/// How many cases of each family are of this kind: none of Qwen2.5-VL, whose clips all have rates of their own.
const COMPARED: &[(&str, usize)] = &[
    ("internvl", 9),
    ("llava_next_video", 3),
    ("llava_onevision", 4),
    ("qwen2_vl", 5),
    ("smolvlm", 3),
];
