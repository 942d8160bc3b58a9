//! `savi eval` from the outside: killed and continued, split and merged, held against another run, and what it refuses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

fn savi(dir: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_savi"));
    command.args(args).current_dir(dir).output().expect("the program starts")
}

fn done(output: Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn refused(output: &Output, expected: &str) {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains(expected), "{stderr}");
}

/// A data set of so many clips in a folder of its own.
fn world(clips: usize) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let split = format!("dev={clips}");
    let make = ["data", "make", "moving-shapes", "--split-clips", &split, "--out", "data"];
    done(savi(dir.path(), &make));
    let path = dir.path().to_owned();
    (dir, path)
}

const RUN: [&str; 8] =
    ["eval", "run", "--model", "builtin:tiny", "--data", "data", "--device", "cpu"];

fn run<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&RUN[..], &["--out", out], more].concat()
}

/// The files that have to be the same however a run came about.
fn files(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.starts_with("samples_") || name == "evaluations.json")
        .collect();
    for stage in fs::read_dir(dir.join("stages")).unwrap() {
        let stage = stage.unwrap().file_name().to_string_lossy().into_owned();
        names.extend(["records.jsonl", "done.json"].map(|name| format!("stages/{stage}/{name}")));
    }
    names.sort();
    names.into_iter().map(|name| (name.clone(), fs::read(dir.join(&name)).unwrap())).collect()
}

fn results(dir: &Path) -> Value {
    let mut results: Value =
        serde_json::from_slice(&fs::read(dir.join("results.json")).unwrap()).unwrap();
    assert!(results["date"].as_f64().is_some_and(|date| date > 1e9));
    results["date"] = Value::Null;
    results
}

fn lines(path: &Path) -> usize {
    fs::read_to_string(path).map_or(0, |text| text.lines().count())
}

/// `SAVI_EVAL_CLIPS` asks about so many clips in place of 12: 112 have a thousand questions.
fn clips() -> usize {
    std::env::var("SAVI_EVAL_CLIPS").ok().and_then(|text| text.parse().ok()).unwrap_or(12)
}

#[test]
fn killed_and_split_runs_end_with_the_same_files() {
    let clips = clips();
    let (_keep, dir) = world(clips);
    // Each clip is looked at once, whatever is asked of it.
    let whole = savi(&dir, &run("whole", &["--view", "normal"]));
    let stderr = String::from_utf8_lossy(&whole.stderr).into_owned();
    assert!(whole.status.success(), "{stderr}");
    assert!(stderr.contains(&format!("{clips} clips through the tower")), "{stderr}");
    let expected = files(&dir.join("whole"));
    assert_eq!(
        expected.len(),
        4,
        "{:?}",
        expected.iter().map(|(name, _)| name).collect::<Vec<_>>()
    );
    let questions = lines(&dir.join("data/dev/questions.jsonl"));
    assert_eq!(lines(&dir.join("whole/samples_moving-shapes.jsonl")), questions);

    // Killed whenever another clip is through.
    let slow = run("killed", &["--view", "normal", "--chunk", "1"]);
    let partial = dir.join("killed/stages/01-ask-normal/records.jsonl.partial");
    let mut kills = 0;
    while kills < 5 {
        let before = lines(&partial);
        let mut child: Child = Command::new(env!("CARGO_BIN_EXE_savi"))
            .args(&slow)
            .current_dir(&dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let ended = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if lines(&partial) > before + 3 * kills {
                child.kill().unwrap();
                child.wait().unwrap();
                break None;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        if let Some(status) = ended {
            assert!(status.success());
            break;
        }
        kills += 1;
    }
    assert!(kills >= 3, "killed {kills} times only");
    done(savi(&dir, &slow));
    assert!(files(&dir.join("killed")) == expected, "after {kills} kills");
    assert_eq!(results(&dir.join("killed")), results(&dir.join("whole")));

    // In two parts, merged in any order.
    for (out, shard) in [("first", "1/2"), ("second", "2/2")] {
        done(savi(&dir, &run(out, &["--view", "normal", "--shard", shard])));
    }
    done(savi(&dir, &["eval", "merge", "second", "first", "--out", "merged"]));
    assert!(files(&dir.join("merged")) == expected);
    assert_eq!(results(&dir.join("merged")), results(&dir.join("whole")));
    refused(&savi(&dir, &["eval", "merge", "first", "--out", "x"]), "shard 2/2 is missing");
    refused(&savi(&dir, &["eval", "merge", "first", "first", "--out", "x"]), "named twice");
    refused(&savi(&dir, &["eval", "merge", "whole", "--out", "x"]), "whole is no shard");
    refused(&savi(&dir, &run("x", &["--shard", "3/2"])), "--shard 3/2");
}

#[test]
fn floors_stand_beside_and_runs_are_held_against_each_other() {
    let (_keep, dir) = world(4);
    let table = done(savi(&dir, &run("all", &[])));
    for row in
        ["acc (strict)", "floor: blind", "floor: one-frame", "floor: shuffled", "over reversed"]
    {
        assert!(table.contains(row), "{table}");
    }
    let found = results(&dir.join("all"));
    let task = &found["results"]["moving-shapes"];
    assert!(task["acc,strict"].is_f64() && task["acc_stderr,strict"].is_f64(), "{task}");
    let policy = &found["config"]["media_policy"]["policy"]["sampling"];
    assert_eq!((&policy["by"], &policy["frames"]), (&"count".into(), &8.into()));
    assert!(found["letters"]["chi_square"].is_null() && found["minimum_detectable"].is_f64());
    assert!(found["results"]["moving-shapes_blind"]["acc,strict"].is_f64());
    assert!(found["over_floors"]["blind"]["difference"].is_f64());
    assert!(found["task_hashes"]["moving-shapes"].as_str().is_some_and(|hash| hash.len() == 32));
    let line = fs::read_to_string(dir.join("all/samples_moving-shapes.jsonl")).unwrap();
    let sample: Value = serde_json::from_str(line.lines().next().unwrap()).unwrap();
    for key in
        ["doc_id", "doc", "target", "resps", "filtered_resps", "filter", "doc_hash", "prompt_hash"]
    {
        assert!(!sample[key].is_null(), "{key}");
    }

    // The same questions, answered otherwise.
    let other = run("other", &["--view", "normal", "--frames", "2", "--baseline", "all"]);
    let table = done(savi(&dir, &other));
    assert!(table.contains("difference to it"), "{table}");
    let compared = done(savi(&dir, &["eval", "compare", "all", "other", "--json"]));
    let rows: Vec<Value> = serde_json::from_str(&compared).unwrap();
    assert_eq!(rows[0]["n"], lines(&dir.join("data/dev/questions.jsonl")));
    // Other words are no longer the same question, unless that is wanted.
    fs::write(dir.join("t.txt"), "Look well.\n{question}").unwrap();
    done(savi(&dir, &run("words", &["--view", "normal", "--template", "t.txt"])));
    refused(&savi(&dir, &["eval", "compare", "all", "words"]), "in other words");
    done(savi(&dir, &["eval", "compare", "all", "words", "--other-words"]));
    // Scored again, nothing is asked and nothing changes.
    let before = files(&dir.join("all"));
    done(savi(&dir, &["eval", "score", "all"]));
    assert!(files(&dir.join("all")) == before);
}

#[test]
fn what_cannot_be_asked_is_bad_input() {
    let (_keep, dir) = world(2);
    fs::remove_file(dir.join("data/dev/clips/dev-00001.mp4")).unwrap();
    refused(&savi(&dir, &run("x", &[])), "the first is \"dev/clips/dev-00001.mp4\"");
    let left = done(savi(&dir, &run("left", &["--skip-missing", "--view", "normal"])));
    assert!(left.contains("acc (strict)") && left.contains("items were skipped"), "{left}");
    assert!(results(&dir.join("left"))["skipped"].as_u64().is_some_and(|skipped| skipped > 0));
    refused(&savi(&dir, &run("x", &["--suite", "moving-shape"])), "no suite \"moving-shape\"");
    refused(&savi(&dir, &run("x", &["--letters"])), "not all items of moving-shapes have options");
    fs::write(dir.join("t.txt"), "no place").unwrap();
    refused(&savi(&dir, &run("x", &["--template", "t.txt"])), "where {question} goes");
    refused(&savi(&dir, &["eval", "check", "nextqa-mc", "--data", "data"]), "expected test.csv");
    fs::write(
        dir.join("test.csv"),
        "video,question,answer,qid,type,a0,a1,a2,a3,a4\n7,why,2,0,CW,a,b,c,d,e\n",
    )
    .unwrap();
    let altered = savi(&dir, &["eval", "check", "nextqa-mc", "--data", "."]);
    refused(&altered, "test.csv, row 1 (item 7-CW-0) is not the published one");
    let taken = done(savi(&dir, &["eval", "check", "nextqa-mc", "--data", ".", "--any-rows"]));
    assert!(taken.contains("not the published ones"), "{taken}");
    assert!(!dir.join("x").exists());
}

#[test]
fn open_answers_go_to_a_judge_and_hidden_ones_into_a_submission() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::create_dir(dir.join("data")).unwrap();
    let questions = r#"[{"video_name": "1", "question": "what is red", "question_id": "q1"},
        {"video_name": "1", "question": "what is blue", "question_id": "q2"}]"#;
    let answers = r#"[{"answer": "the ring", "type": 3, "question_id": "q2"},
        {"answer": "the star", "type": 3, "question_id": "q1"}]"#;
    fs::write(dir.join("data/test_q.json"), questions).unwrap();
    fs::write(dir.join("data/test_a.json"), answers).unwrap();
    let blind = ["--view", "blind", "--any-rows", "--max-tokens", "8"];
    let ask = |suite: &str, out: &str, more: &[&str]| {
        savi(dir, &run(out, &[&["--suite", suite][..], &blind, more].concat()))
    };
    // Judged is what the clip was shown for: without that view there is nothing to judge.
    done(ask("activitynet-qa", "blind", &[]));
    let judge = ["--judge", "builtin:tiny-text", "--device", "cpu"];
    let judged =
        |out: &str, more: &[&str]| savi(dir, &[&["eval", "judge", out][..], &judge, more].concat());
    refused(&judged("blind", &[]), "no finished replies (normal)");
    let (_keep, made) = world(1);
    fs::copy(made.join("data/dev/clips/dev-00000.mp4"), dir.join("data/v_1.mp4")).unwrap();
    let shown =
        ["--suite", "activitynet-qa", "--view", "normal", "--any-rows", "--max-tokens", "8"];
    done(savi(dir, &run("shown", &shown)));
    let told = done(judged("shown", &["--json"]));
    let file: Value = serde_json::from_str(&told).unwrap();
    assert_eq!(file["judged"], 2);
    assert!(file["judge_fingerprint"].as_str().is_some_and(|name| !name.is_empty()));
    let metrics: Vec<&str> =
        file["figures"].as_array().unwrap().iter().map(|f| f["metric"].as_str().unwrap()).collect();
    // A small model gives no verdict that can be read: that is counted, as no and 0.
    assert_eq!(metrics, ["accuracy", "score", "unparsed"]);
    let records = dir.join("shown/stages/02-judge/records.jsonl");
    let first = fs::read(&records).unwrap();
    assert_eq!(lines(&records), 2);
    done(judged("shown", &[]));
    assert!(fs::read(&records).unwrap() == first);
    refused(&judged("shown", &["--against", "shown"]), "is judged without --against");
    // What replies are like can be compared without a judge.
    let length = ["eval", "compare", "shown", "shown", "--metric", "length", "--json"];
    let rows: Vec<Value> = serde_json::from_str(&done(savi(dir, &length))).unwrap();
    assert!(rows[0]["base"].as_f64().is_some_and(|tokens| tokens > 0.0), "{}", rows[0]);

    let rows = r#"[{"q_uid": "u1", "question": "What?", "option 0": "a", "option 1": "b", "option 2": "c", "option 3": "d", "option 4": "e"}]"#;
    fs::write(dir.join("data/questions.json"), rows).unwrap();
    let options = done(ask("egoschema", "hidden", &["--split", "full", "--letters"]));
    assert!(options.contains("floor: blind (lmms-eval)"), "{options}");
    // Blind replies are a floor, and none to hand in.
    assert!(!dir.join("hidden/submission.json").exists());
    fs::copy(dir.join("data/v_1.mp4"), dir.join("data/u1.mp4")).unwrap();
    let hidden = ["--suite", "egoschema", "--split", "full", "--any-rows", "--view", "normal"];
    done(savi(dir, &run("handed", &[&hidden[..], &["--letters"]].concat())));
    let submission = fs::read(dir.join("handed/submission.json")).unwrap();
    let submission: Value = serde_json::from_slice(&submission).unwrap();
    assert!(submission["u1"].as_u64().is_some_and(|at| at < 5), "{submission}");
}

#[test]
fn options_of_text_suites_are_scored_and_solutions_read() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    fs::write(
        dir.join("TruthfulQA.csv"),
        "Type,Category,Question,Best Answer,Best Incorrect Answer,Correct Answers,Incorrect Answers,Source\n\
         Adversarial,Sums,What is 1 + 1?,2,3,2; two,3; 4,none\n\
         Adversarial,Sums,What is 1 + 2?,3,5,3; three,5; 6; 7,none\n",
    )
    .unwrap();
    let row = r#"{"question": "How much is 3 + 4?", "answer": "3 + 4 = 7\n#### 7"}"#;
    for name in ["test", "train"] {
        fs::write(dir.join(format!("{name}.jsonl")), format!("{row}\n")).unwrap();
    }
    let ask = |suite: &str, more: &[&str]| {
        let base =
            ["eval", "run", "--model", "builtin:tiny-text", "--data", ".", "--device", "cpu"];
        let all = ["--any-rows", "--suite", suite, "--out", suite];
        savi(dir, &[&base[..], &all, more].concat())
    };
    for (suite, metric) in [("truthfulqa-mc1", "mc1"), ("truthfulqa-mc2", "mc2")] {
        let table = done(ask(suite, &[]));
        assert!(table.contains(&format!("{metric} (none)")), "{table}");
        let samples =
            fs::read_to_string(dir.join(format!("{suite}/samples_{suite}.jsonl"))).unwrap();
        let sample: Value = serde_json::from_str(samples.lines().next().unwrap()).unwrap();
        let scores = sample["resps"][0].as_array().unwrap();
        assert!(scores.iter().all(|score| score.as_f64().unwrap() < 0.0), "{sample}");
    }
    let table = done(ask("gsm8k", &["--plain", "--shots", "1", "--max-tokens", "16"]));
    for scorer in ["acc (strict)", "acc (strict-match)", "acc (flexible-extract)"] {
        assert!(table.contains(scorer), "{table}");
    }
    let found = results(&dir.join("gsm8k"));
    assert_eq!(
        (&found["n-shot"]["gsm8k"], &found["published_items"]["gsm8k"]),
        (&1.into(), &false.into())
    );
    refused(&ask("truthfulqa-mc1", &["--view", "blind"]), "no clips");
    refused(&ask("nextqa-mc", &["--subtitles"]), "expected test.csv");
}
