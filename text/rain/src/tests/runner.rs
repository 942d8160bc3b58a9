//! Runs: every way of answering, continued from wherever they were killed.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use savi_run::{FolderOptions, Interrupt, RunFolder};
use savi_schema::{Generate, Message, PromptRecord, Request, Role, Sampling};
use serde_json::Map;

use super::script::{Script, Table};
use crate::{
    AnswerRecord, Baselines, Config, Error, Inputs, JudgeConfig, Method, Models, PromptFiles,
    PromptForm, Prompts, Rain, ScoreKind, Search, Summary, judge, replay, run,
};

fn table() -> Table {
    Table {
        seed: 5,
        form: String::new(),
        iterations: 0,
        min_visits: 0,
        threshold: 0.0,
        sharp: 6.0,
        end: 1.0,
        turn: 0.0,
        good: 0.4,
        noise: 0.2,
    }
}

fn config() -> Config {
    Config {
        search: Search {
            iterations: 6,
            extra_iterations: 3,
            min_visits: 2,
            max_new_tokens: 24,
            stop: vec!["Human:".to_owned()],
            ..Search::default()
        },
        judge: JudgeConfig { score: ScoreKind::Soft, ..JudgeConfig::default() },
        baselines: Baselines { greedy: true, sampled: true, best_of: 3, ..Baselines::default() },
        ..Config::default()
    }
}

fn prompts(ids: &[&str]) -> Vec<PromptRecord> {
    let prompt = |id: &&str| PromptRecord {
        id: (*id).to_owned(),
        prompt: vec![Message::text(Role::User, format!("question {id}"))],
        columns: Map::new(),
    };
    ids.iter().map(prompt).collect()
}

/// Runs in a folder; `patience` is how often the models answer before they are interrupted.
fn run_in(dir: &Path, ids: &[&str], script: &Script) -> Result<Vec<Summary>, Error> {
    let config = config();
    let wording = Prompts::load(&PromptFiles::default(), PromptForm::Chat, &config.judge).unwrap();
    let judge = judge::SelfJudge { scorer: script, prompts: &wording, config: &config.judge };
    let models = Models {
        generator: script,
        tokens: script,
        scorer: script,
        judge: &judge,
        embedder: Some(script),
    };
    let folder = RunFolder::open(dir, &toml::Table::new(), &FolderOptions::default()).unwrap();
    let prompts = prompts(ids);
    let inputs =
        Inputs { seed: 3, prompts: &prompts, models, embedder: "script", wording: &wording };
    run(&config, &inputs, &folder, &Interrupt::new())
}

/// Everything below `stages`.
fn bytes(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut open = vec![dir.join("stages")];
    while let Some(at) = open.pop() {
        for entry in fs::read_dir(at).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().display().to_string();
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// A run folder that holds a trace and nothing else.
fn begun(dir: &Path, name: &str, trace: &[u8]) {
    drop(RunFolder::open(dir, &toml::Table::new(), &FolderOptions::default()).unwrap());
    fs::create_dir_all(dir.join(name).parent().unwrap()).unwrap();
    fs::write(dir.join(name), trace).unwrap();
}

const IDS: [&str; 3] = ["b", "a", "c"];

#[test]
fn interrupted_anywhere_a_run_goes_on_to_the_same_bytes_and_pays_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let script = Script::new(table());
    let summaries = run_in(&dir.path().join("whole"), &IDS, &script).unwrap();
    let methods: Vec<Method> = summaries.iter().map(|summary| summary.method).collect();
    assert_eq!(methods, [Method::Rain, Method::Greedy, Method::Sampled, Method::BestOf]);
    let expected = bytes(&dir.path().join("whole"));
    let mut asked = script.asked.take();
    asked.sort();
    let step = (asked.len() / 40).max(1);
    for patience in (0..asked.len()).step_by(step) {
        let at = dir.path().join(format!("at-{patience}"));
        let script = Script::new(table());
        script.patience.set(patience);
        assert!(matches!(run_in(&at, &IDS, &script), Err(Error::Interrupted)), "{patience}");
        script.patience.set(usize::MAX);
        assert_eq!(run_in(&at, &IDS, &script).unwrap(), summaries);
        assert_eq!(bytes(&at), expected, "interrupted after {patience}");
        let mut again = script.asked.take();
        again.sort();
        // A greedy, drawn or best-of answer whose judgement was interrupted is drawn again.
        let twice = again.len() - asked.len();
        assert!(twice <= 1, "interrupted after {patience}: {twice} asked twice");
        again.retain(|what| {
            !what.contains("/greedy") && !what.contains("/sampled") && !what.contains("/best-of")
        });
        let mut searches = asked.clone();
        searches.retain(|what| {
            !what.contains("/greedy") && !what.contains("/sampled") && !what.contains("/best-of")
        });
        assert_eq!(again, searches, "interrupted after {patience}");
    }
}

#[test]
fn a_trace_cut_at_any_place_is_continued_to_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole");
    run_in(&whole, &["a"], &Script::new(table())).unwrap();
    let expected = bytes(&whole);
    let (name, trace) = expected.iter().find(|(name, _)| name.contains("traces")).unwrap();
    let ends: Vec<usize> =
        trace.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at).collect();
    // Around every end of a line near the start, then at some places all over.
    let mut cuts: Vec<usize> = ends.iter().take(12).flat_map(|&at| [at, at + 1, at + 2]).collect();
    cuts.extend((0..trace.len()).step_by(trace.len() / 30 + 1));
    cuts.extend([0, trace.len() - 1, trace.len()]);
    for cut in cuts {
        let at = dir.path().join(format!("cut-{cut}"));
        if at.exists() {
            continue;
        }
        begun(&at, name, &trace[..cut]);
        let script = Script::new(table());
        run_in(&at, &["a"], &script).unwrap();
        assert_eq!(bytes(&at), expected, "cut at byte {cut}");
        if cut == trace.len() {
            let asked = script.asked.take();
            assert!(!asked.iter().any(|what| what.contains("/candidates/")), "{asked:?}");
        }
    }
    let text = std::str::from_utf8(trace).unwrap();
    let answer = replay(text).unwrap();
    let records = &expected["stages/01-rain/records.jsonl"];
    let record: AnswerRecord = serde_json::from_slice(records).unwrap();
    assert_eq!((record.answer, record.score), (answer.text, answer.score));
    // Another seed makes another trace; the old one is not taken for it.
    let other = text.replacen("\"key\":\"", "\"key\":\"0", 1);
    let at = dir.path().join("other");
    begun(&at, name, other.as_bytes());
    run_in(&at, &["a"], &Script::new(table())).unwrap();
    assert_eq!(bytes(&at), expected);
}

#[test]
fn answers_do_not_depend_on_order_or_company() {
    let dir = tempfile::tempdir().unwrap();
    let traces = |name: &str, ids: &[&str]| {
        let at = dir.path().join(name);
        run_in(&at, ids, &Script::new(table())).unwrap();
        let mut found = bytes(&at);
        found.retain(|name, _| name.contains("traces") || name.ends_with("records.jsonl"));
        found
    };
    let all = traces("all", &IDS);
    assert_eq!(traces("turned", &["c", "b", "a"]), all);
    for (name, trace) in traces("alone", &["b"]) {
        if name.contains("traces") {
            assert_eq!(trace, all[&name]);
        }
    }
}

#[test]
fn the_best_of_several_is_the_judge_s_choice() {
    let dir = tempfile::tempdir().unwrap();
    run_in(dir.path(), &IDS, &Script::new(table())).unwrap();
    let path = dir.path().join("stages/04-best-of/records.jsonl");
    let records: Vec<AnswerRecord> = savi_run::read_records(&path).unwrap();
    assert_eq!(records.len(), 3);
    for record in records {
        assert_eq!(record.scores.len(), 3);
        let best = record.scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        assert_eq!(record.score, best);
        assert_eq!(record.judge_prompts, 6);
    }
}

#[test]
fn it_generates_as_any_model_does() {
    let config = config();
    let wording = Prompts::load(&PromptFiles::default(), PromptForm::Chat, &config.judge).unwrap();
    let script = Script::new(table());
    let judge = judge::SelfJudge { scorer: &script, prompts: &wording, config: &config.judge };
    let models = Models {
        generator: &script,
        tokens: &script,
        scorer: &script,
        judge: &judge,
        embedder: None,
    };
    let interrupt = Interrupt::new();
    let rain =
        Rain { models, embedder: "", config: &config, prompts: &wording, interrupt: &interrupt };
    let short = Sampling { max_tokens: 5, ..Sampling::default() };
    let request = |id: &str, samplings: Vec<Sampling>| Request {
        id: id.to_owned(),
        messages: vec![Message::text(Role::User, "q")],
        samplings,
        seed: 1,
        ..Request::default()
    };
    let requests = [
        request("x", vec![Sampling::default(), short]),
        request("y", vec![Sampling { stop: vec![",".to_owned()], ..Sampling::default() }]),
    ];
    let told = rain.generate(&requests).unwrap();
    assert_eq!((told[0].len(), told[1].len()), (2, 1));
    assert!(told[0][1].token_ids.len() <= 5);
    assert!(!told[1][0].text.contains(','));
    for completion in told.iter().flatten() {
        assert_eq!(completion.logps.len(), completion.token_ids.len());
    }
    assert_eq!(rain.generate(&requests[1..]).unwrap()[0], told[1]);
    let raw = savi_schema::RawPrompt::Text("q".to_owned());
    let raw = Request { raw: Some(raw), ..request("z", vec![Sampling::default()]) };
    assert!(rain.generate(&[raw]).unwrap_err().to_string().contains("conversations"));
    assert_ne!(rain.fingerprint(), script.fingerprint());
}
