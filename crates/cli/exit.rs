//! From an error to what the user reads and the shell sees.

use std::process::ExitCode;

/// The user's input is at fault: exit status 2.
#[derive(Debug, thiserror::Error)]
#[error("{0:#}")]
pub(crate) struct BadInput(pub(crate) anyhow::Error);

/// The run was interrupted and its state is saved: exit status 130.
#[derive(Debug, thiserror::Error)]
#[error("interrupted; run the same command again to continue")]
pub(crate) struct Interrupted;

/// Sends `tracing` events to stderr.
pub(crate) fn init_logging(filter: &str) {
    let filter = tracing_subscriber::EnvFilter::try_new(filter)
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .without_time()
        .init();
}

/// Prints an error's whole chain once and picks the exit status.
pub(crate) fn code(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    let broken_pipe = error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
    });
    if broken_pipe {
        return ExitCode::SUCCESS;
    }
    if error.chain().any(|cause| cause.is::<Interrupted>()) {
        eprintln!("{error:#}");
        return ExitCode::from(130);
    }
    eprintln!("error: {error:#}");
    let bad_input = error.chain().any(|cause| cause.is::<BadInput>());
    ExitCode::from(if bad_input { 2 } else { 1 })
}
