//! How texts are drawn, through `Engine::generate` on the built-in model: forms that they are held to, what ends them,
//! how often each token comes.

mod constraints;
mod detokenize;
mod endings;
mod frequencies;

use std::sync::OnceLock;

use savi_engine::{Engine, EngineOptions};
use savi_schema::{Completion, Generate, Message, Request, Role, Sampling};

/// The built-in model; its logits are the same for all tests.
pub(crate) fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    let options = || EngineOptions { device: "cpu".into(), ..EngineOptions::default() };
    ENGINE.get_or_init(|| Engine::load("builtin:tiny", &options()).unwrap())
}

pub(crate) fn messages() -> Vec<Message> {
    vec![Message::text(Role::User, "Which way does the red circle move?")]
}

pub(crate) fn request(samplings: Vec<Sampling>, seed: u64) -> Request {
    Request { id: "a".to_owned(), messages: messages(), samplings, seed, ..Request::default() }
}

pub(crate) fn draw(samplings: Vec<Sampling>, seed: u64) -> Vec<Completion> {
    engine().generate(&[request(samplings, seed)]).unwrap().remove(0)
}

/// The token of a text that is one.
pub(crate) fn token(text: &str) -> u32 {
    let ids = engine().text().encode(text).unwrap();
    assert_eq!(ids.len(), 1, "{text:?} is {ids:?}");
    ids[0]
}
