//! An OpenAI-compatible HTTP server on anything that serves requests ([`savi_schema::Serve`]).
//!
//! This crate owns the wire: which fields a request may have and what they mean, the shapes of answers,
//! server-sent events, limits, keys, metrics, and how pictures and clips of a request become files. It knows
//! no model, no tensors and no training: what continues a prompt is behind the trait.
//!
//! Words: a *field* is one key of a request's JSON; a *refusal* is an answer that says what is wrong
//! and names the field; a *choice* is one continuation of a request; a *back end* is what continues;
//! a *reference* is how a request names a picture or a clip, and a *run* is a request that the back end has
//! taken up.

mod auth;
mod body;
mod connection;
mod cors;
mod endpoints;
mod error;
mod fields;
mod generation;
mod layers;
mod media;
mod metrics;
mod options;
mod queue;
mod refusal;
mod reply;
mod request;
mod server;

pub use error::ServeError;
pub use options::{ApiKey, ServeOptions};
pub use server::{serve, serve_blocking};
