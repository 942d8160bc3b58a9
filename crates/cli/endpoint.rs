//! Servers that generate in place of a model in this process.

use savi_endpoint::{Endpoint, EndpointError, EndpointOptions};
use savi_run::Interrupt;

use crate::exit::BadInput;

/// Asks a server what it is; waits for it end with `interrupt`.
pub(crate) fn open(options: EndpointOptions, interrupt: &Interrupt) -> anyhow::Result<Endpoint> {
    let interrupt = interrupt.clone();
    let endpoint = Endpoint::new(options).map_err(|error| match error {
        EndpointError::Option { .. } => BadInput(error.into()).into(),
        error => anyhow::Error::from(error),
    })?;
    tracing::info!(
        "{} answers at {} (dialect {})",
        endpoint.model(),
        endpoint.base_url(),
        endpoint.dialect().name()
    );
    Ok(endpoint.with_stop(move || interrupt.is_set()))
}

/// Says what was asked and what it cost.
pub(crate) fn log_usage(endpoint: &Endpoint) {
    let usage = endpoint.usage();
    tracing::info!(
        "endpoint: {} calls ({} tried again), {} answers from the cache, {} + {} tokens, cost {:.4}",
        usage.requests,
        usage.retries,
        usage.cached_answers,
        usage.prompt_tokens,
        usage.completion_tokens,
        usage.cost
    );
}
