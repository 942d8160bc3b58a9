//! From an error to what the user reads and the shell sees.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;

/// The user's input is at fault: exit status 2.
#[derive(Debug, thiserror::Error)]
#[error("{}", chain(.0))]
pub(crate) struct BadInput(pub(crate) anyhow::Error);

/// The run was interrupted and its state is saved: exit status 130.
#[derive(Debug, thiserror::Error)]
#[error("interrupted; run the same command again to continue")]
pub(crate) struct Interrupted;

/// Sends `tracing` events to stderr.
pub(crate) fn init_logging(filter: &str) -> anyhow::Result<()> {
    // A word that is no level would be read as the name of a target, and show nothing.
    let is_level = filter.parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
    let filter = match is_level || filter.contains(['=', '[']) {
        true => {
            tracing_subscriber::EnvFilter::try_new(filter).context("--log").map_err(BadInput)?
        }
        false => return Err(BadInput(anyhow::anyhow!("--log {filter}: no such level")).into()),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| Stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .without_time()
        .init();
    // ureq shows what it sends, a token included, at the level trace. It logs by way of the crate `log`:
    // nothing that does is shown below debug, whatever the filter says.
    log::set_max_level(log::max_level().min(log::LevelFilter::Debug));
    Ok(())
}

/// Whether another process tells how things go.
static QUIET: AtomicBool = AtomicBool::new(false);

/// Logs no more: another process says the same. Errors are still told.
pub(crate) fn be_quiet() {
    QUIET.store(true, Ordering::Relaxed);
}

/// stderr, with progress bars out of the way while a line is written.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if QUIET.load(Ordering::Relaxed) {
            return Ok(bytes.len());
        }
        savi_run::with_bars_hidden(|| std::io::stderr().write(bytes))
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

/// Prints an error's whole chain once and picks the exit status.
pub(crate) fn code(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => ExitCode::from(tell(&error)),
    }
}

/// Whether a run was stopped, and nothing is wrong.
pub(crate) fn is_interrupted(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| cause.is::<Interrupted>())
}

/// Prints an error's whole chain; gives the exit status.
pub(crate) fn tell(error: &anyhow::Error) -> u8 {
    let broken_pipe = error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
    });
    if broken_pipe {
        return 0;
    }
    if is_interrupted(error) {
        if !QUIET.load(Ordering::Relaxed) {
            eprintln!("{}", chain(error));
        }
        return 130;
    }
    eprintln!("error: {}", chain(error));
    let bad_input = error.chain().any(|cause| cause.is::<BadInput>());
    if bad_input { 2 } else { 1 }
}

/// An error with its causes on one line. Some libraries already say their cause in their own
/// message; it is not said twice.
fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let words = cause.to_string();
        if text.is_empty() {
            text = words;
        } else if !text.ends_with(&words) {
            text = format!("{text}: {words}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_said_once() {
        let missing = || std::io::Error::other("no such file");
        let quoting = savi_run::ConfigError::Read { path: "a.toml".into(), source: missing() };
        assert_eq!(chain(&quoting.into()), "config a.toml: no such file");
        let plain = anyhow::Error::from(missing()).context("report");
        assert_eq!(chain(&BadInput(plain).into()), "report: no such file");
    }
}
