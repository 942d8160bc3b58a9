//! `savi eval compare` on stored answers, and the wording that suites and methods share.

use std::path::PathBuf;
use std::process::{Command, Output};

use savi_schema::Message;
use savi_suites::{Format, QuestionPrompt, QuestionRecord};
use savi_videosavi::{Prompts, Subject};
use serde_json::Value;

fn run_folder(name: &str) -> String {
    let path: PathBuf =
        [env!("CARGO_MANIFEST_DIR"), "tests/fixtures/report", name].iter().collect();
    path.display().to_string()
}

fn compare(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_savi")).args(["eval", "compare"]).args(args).output().unwrap()
}

#[test]
fn rounds_are_compared_as_pairs() {
    let judge = run_folder("judge");
    let (base, first) = (format!("base={judge}@0"), format!("first={judge}@1"));
    let output = compare(&[&base, &first, &judge, "--json"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    // Two arms, each overall and in five families.
    assert_eq!(rows.len(), 12);
    assert_eq!(rows[0]["arm"], "first");
    assert_eq!(rows[0]["n"], 120);
    assert_eq!(rows[0]["clusters"], 24);
    let close = |value: &Value, expected: f64| (value.as_f64().unwrap() - expected).abs() < 1e-9;
    // 73, 88 and 95 of 120 right.
    assert!(close(&rows[0]["difference"], 15.0 / 120.0), "{}", rows[0]);
    assert!(
        close(&rows[6]["difference"], 22.0 / 120.0),
        "the last round is not taken: {}",
        rows[6]
    );
    assert_eq!(rows[6]["clear"], true);
}

#[test]
fn several_seeds_are_one_arm() {
    let judge = run_folder("judge");
    let seeds = format!("loop={judge}@1,{judge}@2");
    let output = compare(&[&format!("{judge}@0"), &seeds]);
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("loop") && text.contains("+15.4"), "{text}");
    assert_eq!(text.lines().count(), 3, "{text}");
}

#[test]
fn what_cannot_be_compared_is_bad_input() {
    let judge = run_folder("judge");
    for (args, message) in [
        (vec![format!("{judge}@0"), format!("{judge}@7")], "no round 7"),
        (vec![format!("{judge}@0"), run_folder("critique")], "no finished evaluation"),
        (vec!["nowhere".to_owned(), judge.clone()], "neither answers.jsonl nor stages"),
        (
            vec![format!("{judge}@0,{judge}@1"), format!("{judge}@0,{judge}@1,{judge}@2")],
            "2 runs cannot be paired with 3",
        ),
    ] {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let output = compare(&args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(message), "{stderr}");
    }
}

#[test]
fn held_out_questions_are_worded_as_the_loop_words_them() {
    let prompts = Prompts::builtin().unwrap();
    let open = QuestionRecord {
        schema: 1,
        id: "q".to_owned(),
        clip_id: "c".to_owned(),
        clip: "c.mp4".to_owned(),
        family: "direction".to_owned(),
        format: Format::Open,
        question: "Which way does the red circle move?".to_owned(),
        options: None,
        answer: "left".to_owned(),
        temporal: true,
        novel: false,
    };
    let options = vec!["left".to_owned(), "up".to_owned()];
    let choice = QuestionRecord { format: Format::Choice, options: Some(options), ..open.clone() };
    for question in [open, choice] {
        let suite: Vec<Message> = QuestionPrompt::default().messages(&question, None);
        let method = prompts
            .answer(&Subject::default(), &question.question, question.options.as_deref())
            .unwrap();
        assert_eq!(suite, method);
    }
}
