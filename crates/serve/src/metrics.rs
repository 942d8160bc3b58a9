//! What is counted, in the text format of Prometheus.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Type of what [`Metrics::text`] gives.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Labels = Vec<(&'static str, String)>;

/// What is counted.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Labels, Counter>,
    refusals: Family<Labels, Counter>,
    running: Gauge,
    waiting: Gauge,
    pub(crate) prompt_tokens: Counter,
    pub(crate) cached_tokens: Counter,
    pub(crate) generated_tokens: Counter,
    pub(crate) cancelled: Counter,
    pub(crate) first_token: Histogram,
    pub(crate) per_token: Histogram,
    pub(crate) duration: Histogram,
    /// Requests that are read, wait or are served.
    pub(crate) open: Gauge<i64>,
    pub(crate) connections: Gauge<i64>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        // From a millisecond to nine minutes, and from a tenth of one to half a minute.
        let long = || Histogram::new(exponential_buckets(0.001, 2.0, 20));
        let short = || Histogram::new(exponential_buckets(0.0001, 2.0, 18));
        let mut new = Self {
            registry: Registry::default(),
            requests: Family::default(),
            refusals: Family::default(),
            running: Gauge::default(),
            waiting: Gauge::default(),
            prompt_tokens: Counter::default(),
            cached_tokens: Counter::default(),
            generated_tokens: Counter::default(),
            cancelled: Counter::default(),
            first_token: long(),
            per_token: short(),
            duration: long(),
            open: Gauge::default(),
            connections: Gauge::default(),
        };
        let mut registry = Registry::with_prefix("savi");
        registry.register("requests", "Requests by endpoint and status", new.requests.clone());
        registry.register("refusals", "Requests refused, by reason", new.refusals.clone());
        registry.register("running", "Requests that are being served", new.running.clone());
        registry.register("waiting", "Requests that wait for their turn", new.waiting.clone());
        registry.register("prompt_tokens", "Tokens of prompts", new.prompt_tokens.clone());
        let cached = "Tokens of prompts that were found computed";
        registry.register("cached_prompt_tokens", cached, new.cached_tokens.clone());
        registry.register("generated_tokens", "Tokens drawn", new.generated_tokens.clone());
        let cancelled = "Requests whose clients left before their end";
        registry.register("cancellations", cancelled, new.cancelled.clone());
        let first = "Seconds from a request to its first token";
        registry.register("time_to_first_token_seconds", first, new.first_token.clone());
        let per_token = "Seconds for a token after the first, by choice";
        registry.register("time_per_output_token_seconds", per_token, new.per_token.clone());
        let duration = "Seconds from a request to its end";
        registry.register("request_duration_seconds", duration, new.duration.clone());
        let open = "Requests that are read, wait or are served";
        registry.register("open_requests", open, new.open.clone());
        registry.register("connections", "Connections", new.connections.clone());
        new.registry = registry;
        new
    }

    /// Counts an answer.
    pub(crate) fn answered(&self, endpoint: &str, status: u16) {
        let labels = vec![("endpoint", endpoint.to_owned()), ("status", status.to_string())];
        self.requests.get_or_create(&labels).inc();
    }

    /// Counts a refusal.
    pub(crate) fn refused(&self, reason: &str) {
        self.refusals.get_or_create(&vec![("reason", reason.to_owned())]).inc();
    }

    /// All of it; `load` says how many requests are served and how many wait.
    pub(crate) fn text(&self, load: (usize, usize)) -> Result<String, std::fmt::Error> {
        let whole = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.running.set(whole(load.0));
        self.waiting.set(whole(load.1));
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_has_a_line() {
        let metrics = Metrics::new();
        metrics.answered("/v1/models", 200);
        metrics.refused("queue_full");
        metrics.first_token.observe(0.5);
        let text = metrics.text((3, 4)).unwrap();
        for line in [
            "savi_requests_total{endpoint=\"/v1/models\",status=\"200\"} 1",
            "savi_refusals_total{reason=\"queue_full\"} 1",
            "savi_running 3",
            "savi_waiting 4",
            "savi_prompt_tokens_total 0",
            "savi_time_to_first_token_seconds_count 1",
            "savi_cancellations_total 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
        }
    }
}
