//! `savi video run` from the outside: what it refuses, and how it says so. That it continues where
//! it was killed is in `resume`.

use std::path::Path;
use std::process::Command;

fn video_run(args: &[&str], dir: &Path) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_savi"))
        .args(["video", "run"])
        .args(args)
        .current_dir(dir)
        .output()
        .expect("the program starts");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Runs with `config` as config file and expects exit status 2 and `words` in the message.
fn refused(config: &str, args: &[&str], words: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("run.toml"), config).unwrap();
    let args = [&["--config", "run.toml"], args].concat();
    let (code, stderr) = video_run(&args, dir.path());
    assert_eq!(code, Some(2), "{stderr}");
    for word in words {
        assert!(stderr.contains(word), "{stderr:?} lacks {word:?}");
    }
    assert!(!dir.path().join("runs/run/stages").exists());
}

#[test]
fn mistakes_in_the_config_name_file_key_and_remedy() {
    let config = "model = 'builtin:tiny'\nvideos = ['*.mp4']\n";
    refused(&format!("{config}sead = 1"), &[], &["run.toml", "`sead`", "did you mean `seed`?"]);
    refused(config, &["--set", "method.round=1"], &["method", "did you mean `rounds`?"]);
    refused(config, &["--set", "method.form=judges"], &["did you mean `judge`?"]);
    refused(config, &["--set", "seed"], &["--set seed", "key=value"]);
    refused("model = 'builtin:tiny'", &[], &["videos"]);
    refused("model = 'no/such/model'\nvideos = ['*.mp4']", &[], &["no/such/model"]);
}

#[test]
fn a_config_that_is_not_there_is_bad_input() {
    let dir = tempfile::tempdir().unwrap();
    let (code, stderr) = video_run(&["--config", "none.toml"], dir.path());
    assert_eq!(code, Some(2));
    assert!(stderr.contains("none.toml"), "{stderr}");
}

/// Two sound clips, one that is text and one that is cut.
const MIXED: &str = "
    model = 'builtin:tiny'
    videos = ['*.mp4', '*.webm']
    method = { rounds = 1, questions = { draws = { what = 1 }, sampling = { max_tokens = 8 } } }
";

#[test]
fn clips_that_cannot_be_read_are_left_out_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let goldens = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/ingest");
    for name in ["h264-plain.mp4", "vp9.webm"] {
        std::fs::copy(goldens.join(name), dir.path().join(name)).unwrap();
    }
    std::fs::write(dir.path().join("text.mp4"), "no video").unwrap();
    let whole = std::fs::read(goldens.join("h264-bt709.mp4")).unwrap();
    std::fs::write(dir.path().join("cut.mp4"), &whole[..whole.len() / 2]).unwrap();
    std::fs::write(dir.path().join("run.toml"), MIXED).unwrap();

    let (code, stderr) =
        video_run(&["--config", "run.toml", "--set", "unreadable=fail"], dir.path());
    assert_eq!(code, Some(2), "{stderr}");
    assert!(stderr.contains(".mp4: not a readable video"), "{stderr}");

    // Mended, the same command goes on.
    for name in ["text.mp4", "cut.mp4"] {
        std::fs::copy(goldens.join("vp9.webm"), dir.path().join(name)).unwrap();
    }
    let (_, stderr) = video_run(&["--config", "run.toml", "--set", "unreadable=fail"], dir.path());
    assert!(stderr.contains("looking at clips: 4 done"), "{stderr}");
    std::fs::write(dir.path().join("text.mp4"), "no video").unwrap();
    std::fs::write(dir.path().join("cut.mp4"), &whole[..whole.len() / 2]).unwrap();

    // Whether so little gives pairs is another matter.
    let (_, stderr) = video_run(&["--config", "run.toml", "--fresh"], dir.path());
    for name in ["text", "cut"] {
        assert!(stderr.contains(&format!("clip {name} is left out: {name}.mp4")), "{stderr}");
    }
    let stages = dir.path().join("runs/run/stages");
    let read = |path: &str| std::fs::read_to_string(stages.join(path)).unwrap();
    let done: serde_json::Value = serde_json::from_str(&read("00-readable/done.json")).unwrap();
    assert_eq!(done["counters"], serde_json::json!({"clips": 4, "unreadable": 2}));
    assert_eq!(read("00-clips/records.jsonl").lines().count(), 2);
}
