//! The server over real connections, on a back end without a model.

mod answers;
mod client;
#[path = "../../examples/scripted/fake.rs"]
mod fake;
mod leaving;
mod limits;
mod load;
mod media;
mod refusals;
mod streams;
