//! Requests as they come, and what is told of them while they are served.

use std::time::Duration;

use crate::{Alternative, Completion, GenerateError, Request};

/// What is told of a request while it is served.
#[derive(Debug)]
pub enum Event {
    /// Its turn has not come, or its prompt is being computed. Told again and again, so that those whose
    /// listener has left are dropped.
    Waiting,
    /// Its turn has come, and its prompt is known.
    Started {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Those of them that were found computed.
        cached_tokens: usize,
    },
    /// A completion goes on.
    Delta {
        /// Which of the request's samplings.
        index: usize,
        /// What is new of its text. The texts of all deltas together are the completion's text; words
        /// that may yet turn out to begin a stop string or to be half a character wait.
        text: String,
        /// What is new of its tokens.
        tokens: Vec<Token>,
    },
    /// A completion is whole.
    Done {
        /// Which of the request's samplings.
        index: usize,
        /// All of it.
        completion: Completion,
    },
    /// The request has failed as a whole; nothing more will come.
    Failed(GenerateError),
}

/// A token that was drawn.
#[derive(Debug, Clone, PartialEq)]
pub struct Token {
    /// It, its bytes and its log-probability.
    pub drawn: Alternative,
    /// The likeliest in its place, where they were asked for.
    pub top: Vec<Alternative>,
}

/// Hears of a request; false when nobody listens any more, so that the request may be dropped.
pub type Listener = Box<dyn FnMut(Event) -> bool + Send>;

/// Anything that serves requests as they come, many at a time.
pub trait Serve: Send + Sync {
    /// Takes a request up, or refuses it, at once. Of one that was taken up the listener hears a `Done` for
    /// each of its samplings, or one `Failed`, unless it says that nobody listens.
    fn submit(&self, request: Request, listener: Listener) -> Result<(), GenerateError>;

    /// How many requests are being served and how many wait for their turn.
    fn load(&self) -> (usize, usize);

    /// Takes up nothing more; returns when what was taken up has ended or `limit` has passed.
    fn drain(&self, limit: Duration);

    /// Tokens of a text as a prompt without a chat template.
    fn tokenize(&self, text: &str) -> Result<Vec<u32>, GenerateError>;
}
