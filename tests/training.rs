//! What tests of the `savi train` commands share: running one from the outside, stopping it, reading what it wrote.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use serde_json::Value;

/// `savi train NAME --config CONFIG` in a folder.
pub(crate) fn command(dir: &Path, name: &str, config: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_savi"));
    command.args(["train", name, "--config", config]).args(args).current_dir(dir);
    command
}

/// What a run told that has to succeed.
pub(crate) fn done(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A run that has to be refused as bad input, in words that name what is wrong.
pub(crate) fn refused(mut command: Command, words: &[&str]) {
    let output = command.output().unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{told}");
    for word in words {
        assert!(told.contains(word), "{told:?} lacks {word:?}");
    }
}

/// Interrupts a run once one of these steps has a checkpoint, before it has a result.
pub(crate) fn interrupt(mut command: Command, run: &Path, steps: std::ops::Range<u64>) {
    let mut child = command.stderr(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    while !steps.clone().any(|step| run.join(format!("checkpoint-{step}")).exists()) {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it was stopped");
        assert!(begun.elapsed() < Duration::from_secs(120), "no checkpoint came");
        std::thread::sleep(Duration::from_millis(1));
    }
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(!run.join("adapter").exists());
}

/// The rows of a JSONL file.
pub(crate) fn rows(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Runs a command to its end, started again after each of `kills` SIGKILLs at random moments of the `time` that it takes.
pub(crate) fn killed_on_the_way(
    command: impl Fn() -> Command,
    time: Duration,
    kills: usize,
    seed: u64,
) {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    for _ in 0..kills {
        let share = f64::from(rng.next_u32()) / f64::from(u32::MAX);
        let mut child = command().stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        let begun = Instant::now();
        let most = time.mul_f64(share * 0.7);
        while begun.elapsed() < most && child.try_wait().unwrap().is_none() {
            std::thread::sleep(Duration::from_millis(1));
        }
        // Where it had ended already, what follows is a run of what is done.
        let _ = child.kill();
        child.wait().unwrap();
    }
    done(command());
}
