use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{dno, rain, sar, self_align};

/// A config of the wing loads, is valid, is saved as what was loaded, and says how it is run.
fn holds<T>(method: &str, path: &Path, valid: impl Fn(&T) -> anyhow::Result<()>)
where
    T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug,
{
    let loaded = savi_run::load::<T>(path, &[]).unwrap();
    valid(&loaded.value).unwrap_or_else(|e| panic!("{}: {e:#}", path.display()));
    let saved = toml::to_string(&loaded.resolved).unwrap();
    let again = savi_run::load_str::<T>(&saved, path, &[]).unwrap();
    assert_eq!(again.value, loaded.value);
    let header = std::fs::read_to_string(path).unwrap();
    let command = format!("savi text {method} --config configs/text/{}", loaded.name);
    assert!(header.starts_with('#') && header.contains(&command), "{}", path.display());
}

#[test]
fn every_config_of_the_wing_loads() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/text");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        let method = name.trim_end_matches("-paper").trim_end_matches("-proof");
        match method {
            "dno" => holds(method, &path, dno::RunConfig::validate),
            "rain" => holds(method, &path, rain::RunConfig::validate),
            "sar" => holds(method, &path, sar::RunConfig::validate),
            "self-align" => holds(method, &path, self_align::RunConfig::validate),
            other => panic!("{other}: no such method"),
        }
        seen += 1;
    }
    assert!(seen >= 8);
}

fn refused(text: &str) -> String {
    let path = Path::new("x.toml");
    let loaded = savi_run::load_str::<sar::RunConfig>(text, path, &[]).map_err(anyhow::Error::from);
    let found = loaded.and_then(|loaded| loaded.value.validate());
    format!("{:#}", found.unwrap_err())
}

#[test]
fn mistakes_of_a_search_are_refused_by_key() {
    for (text, expected) in [
        ("model = 'm'", "[world] or questions"),
        ("model = 'm'\nquestions = ['q']\nprompts = { data = 'x.jsonl' }", "exclude each other"),
        ("model = 'm'\nquestions = ['q']\nmethod.search.draws = 1", "method.search.draws"),
        ("model = 'm'\nquestions = ['q']\nmethod.search.drawz = 1", "did you mean `draws`?"),
        ("model = 'm'\nquestions = ['q']\nmethod.judge.no = []", "method.judge.no"),
    ] {
        let path = Path::new("x.toml");
        let loaded = savi_run::load_str::<rain::RunConfig>(text, path, &[]);
        let found = loaded.map_err(anyhow::Error::from).and_then(|l| l.value.validate());
        let message = format!("{:#}", found.unwrap_err());
        assert!(message.contains(expected), "{message}");
    }
}

#[test]
fn contradictions_are_refused_by_key() {
    let world = "model = 'm'\nworld = { name = 'arithmetic', train = 4, held_out = 2 }";
    for (text, expected) in [
        ("model = 'm'".to_owned(), "[prompts] or [world]"),
        (format!("{world}\nprompts = {{ data = 'x.jsonl' }}"), "not both"),
        (world.replace("arithmetic", "moving-shapes"), "world.name"),
        (world.replace("train = 4", "train = 4, levels = [9]"), "world.levels"),
        (world.replace("train = 4", "train = 4, split = 'train'"), "world.split"),
        (format!("{world}\nmethod.alpha = -1.0"), "method.alpha"),
        (format!("{world}\nmethod.alhpa = 1.0"), "did you mean `alpha`?"),
        (format!("{world}\nppo.kl_coef = 0.1"), "ppo is not read"),
        (format!("{world}\ngrpo.reward_weights = [1.0]"), "method.alpha"),
        (format!("{world}\ngrpo.filter_groups.metric = 'accuracy'"), "filter_groups.metric"),
        (format!("{world}\ngrpo.num_generations = 1"), "num_generations"),
    ] {
        let message = refused(&text);
        assert!(message.contains(expected), "{message}");
    }
}
