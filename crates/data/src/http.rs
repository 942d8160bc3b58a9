//! The HTTP client that all of the program uses: rustls with the system's certificates.

use std::sync::Arc;

use ureq::Agent;
use ureq::config::{AutoHeaderValue, ConfigBuilder, RedirectAuthHeaders};
use ureq::tls::{RootCerts, TlsConfig, TlsProvider};
use ureq::typestate::AgentScope;

/// Settings of a client that takes an answer of any status as an answer, and tells a key to the host
/// that it is for alone. Time limits are the caller's.
pub fn settings() -> ConfigBuilder<AgentScope> {
    let tls = TlsConfig::builder()
        .provider(TlsProvider::Rustls)
        .root_certs(RootCerts::PlatformVerifier)
        .unversioned_rustls_crypto_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .build();
    Agent::config_builder()
        .tls_config(tls)
        .http_status_as_error(false)
        .max_redirects_will_error(false)
        .redirect_auth_headers(RedirectAuthHeaders::SameHost)
        .user_agent(AutoHeaderValue::from(concat!("savi/", env!("CARGO_PKG_VERSION"))))
}
