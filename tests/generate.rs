//! `savi generate`: one prompt, a file of requests, interruption and resume, forms of texts, bad input.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

fn generate(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_savi"))
        .args(["generate", "--model", "builtin:tiny", "--device", "cpu"])
        .args(args)
        .output()
        .unwrap()
}

fn told(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_prompt_is_continued_printed_streamed_and_held_to_a_form() {
    let base = ["--prompt", "Where is the red circle?", "--max-tokens", "24"];
    let with = |more: &[&str]| told(&generate(&[&base, more].concat()));
    let plain = with(&[]);
    assert_eq!(with(&["--stream"]), plain);
    let value: Value = serde_json::from_str(&with(&["--json", "--n", "2"])).unwrap();
    let completions = value["completions"].as_array().unwrap();
    assert_eq!(completions.len(), 2);
    assert_eq!(completions[0], completions[1]);
    assert_eq!(completions[0]["text"].as_str().unwrap(), plain.trim_end_matches('\n'));
    assert_eq!(
        completions[0]["token_ids"].as_array().unwrap().len(),
        completions[0]["logps"].as_array().unwrap().len()
    );
    let warm =
        ["--json", "--n", "8", "--temperature", "1", "--choice", "left", "--choice", "right"];
    let value: Value = serde_json::from_str(&with(&warm)).unwrap();
    for completion in value["completions"].as_array().unwrap() {
        let text = completion["text"].as_str().unwrap();
        assert!(["left", "right"].contains(&text), "{text:?}");
    }
}

fn write_requests(path: &Path, count: usize) {
    let row = |i: usize| match i % 3 {
        0 => json!({"id": format!("r{i}"), "prompt": format!("question {i}"), "n": 2}),
        1 => json!({"id": format!("r{i}"), "temperature": 0.9, "seed": 7,
            "messages": [{"role": "user", "content": [{"type": "text", "text": "where"}]}]}),
        _ => json!({"id": format!("r{i}"), "raw": [40, 41, 42 + i % 50], "max_tokens": 5}),
    };
    let text: String = (0..count).map(|i| format!("{}\n", row(i))).collect();
    std::fs::write(path, text).unwrap();
}

#[test]
fn a_file_of_requests_is_answered_in_order_also_after_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let (file, whole) = (dir.path().join("requests.jsonl"), dir.path().join("whole.jsonl"));
    write_requests(&file, 40);
    let args = |out: &Path| -> Vec<String> {
        ["--requests", file.to_str().unwrap(), "--out", out.to_str().unwrap(), "--max-tokens", "16"]
            .map(str::to_owned)
            .to_vec()
    };
    let run = |out: &Path| {
        let args = args(out);
        generate(&args.iter().map(String::as_str).collect::<Vec<_>>())
    };
    told(&run(&whole));
    let rows = lines(&whole);
    assert_eq!(rows.len(), 40);
    for (i, row) in rows.iter().enumerate() {
        assert_eq!(row["id"], format!("r{i}"));
        assert_eq!(row["completions"].as_array().unwrap().len(), if i % 3 == 0 { 2 } else { 1 });
    }
    // What a killed run has left is kept, the torn last line aside, and nothing of it is done again.
    let out = dir.path().join("again.jsonl");
    let partial = dir.path().join("again.jsonl.partial");
    let mut kept: Vec<Value> = rows[3..9].to_vec();
    kept[0]["completions"][0]["text"] = json!("kept");
    // Another request of this name, or another model.
    kept[1]["completions"][0]["text"] = json!("of another time");
    kept[1]["key"] = json!("0123");
    let text: String = kept.iter().map(|row| format!("{row}\n")).collect();
    // The last line is torn in the middle of a letter.
    let torn = [text.as_bytes(), b"{\"id\": \"r20\", \"completions\": \"\xc3"].concat();
    std::fs::write(&partial, torn).unwrap();
    told(&run(&out));
    let again = lines(&out);
    assert_eq!(again[3]["completions"][0]["text"], "kept");
    assert_eq!(again[4..], rows[4..]);
    assert!(!partial.exists());

    // A run that is really killed.
    let out = dir.path().join("killed.jsonl");
    let mut child = Command::new(env!("CARGO_BIN_EXE_savi"))
        .args(["generate", "--model", "builtin:tiny", "--device", "cpu", "--max-rows", "1"])
        .args(args(&out))
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let partial = dir.path().join("killed.jsonl.partial");
    for _ in 0..600 {
        if std::fs::read_to_string(&partial).is_ok_and(|text| text.lines().count() >= 3) {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    told(&run(&out));
    assert_eq!(std::fs::read(&out).unwrap(), std::fs::read(&whole).unwrap());
}

#[test]
fn bad_requests_are_named_and_do_not_take_the_others_along() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("requests.jsonl");
    let refused = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let output = generate(&["--requests", file.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(2), "{text}");
        String::from_utf8(output.stderr).unwrap()
    };
    for (text, what) in [
        ("{\"prompt\": \"a\"}\n{\"prompt\": 3}\n", "requests.jsonl:2"),
        ("{\"prompt\": \"a\", \"id\": \"x\"}\n{\"prompt\": \"b\", \"id\": \"x\"}\n", "comes twice"),
        ("{\"prompt\": \"a\", \"temprature\": 1}\n", "temprature"),
        ("{\"prompt\": \"a\", \"top_p\": 3}\n", "top_p"),
        ("{\"prompt\": \"a\", \"n\": 0}\n", "n = 0"),
        ("{\"prompt\": \n", "requests.jsonl:1"),
    ] {
        let error = refused(text);
        assert!(error.contains(what), "{what}: {error}");
    }
    // One that the model cannot serve fails alone.
    let long = json!({"id": "long", "prompt": "left ".repeat(9000)});
    std::fs::write(&file, format!("{long}\n{}\n", json!({"id": "short", "prompt": "left"})))
        .unwrap();
    let out = dir.path().join("out.jsonl");
    let output = generate(&["--requests", file.to_str().unwrap(), "--out", out.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let rows = lines(&out);
    assert!(rows[0]["error"].as_str().unwrap().contains("long"), "{}", rows[0]);
    assert!(rows[1]["completions"][0]["text"].is_string());
    for args in [vec!["--prompt", "a", "--n", "0"], vec!["--prompt", "a", "--regex", "("]] {
        assert_eq!(generate(&args).status.code(), Some(2), "{args:?}");
    }
}
