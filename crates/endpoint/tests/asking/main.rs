//! The endpoint against servers over real sockets.

mod cached;
mod fake;
mod faults;
mod scoring;
mod words;
