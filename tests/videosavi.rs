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
    assert!(output.stdout.is_empty(), "a refusal prints no result");
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
