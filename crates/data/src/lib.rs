//! Records on disk: rows of JSON, pairs and examples in several layouts, manifests of data sets; and
//! the models of a hub ([`hub`]).
//!
//! This crate owns how records are found, read, checked and written. It reads rows as a stream
//! ([`Rows`]), names file, row and key in every complaint ([`DataError`]), knows the layouts that
//! other programs use for preference pairs ([`PairFormat`]) and the manifest that describes a data
//! set ([`Manifest`]). It never decodes media, never tokenises and knows no tensors.
//!
//! Words: a *row* is one JSON object, counted from 1 (the line of a JSONL file, the element of a
//! JSON array); a *record* is a row with a type of `savi-schema`; a *layout* is the set of keys
//! that another program gives its rows.

mod answers;
mod demonstrations;
mod error;
#[cfg(feature = "http")]
pub mod http;
pub mod hub;
mod layouts;
mod manifest;
mod mixture;
mod pairs;
mod prompts;
mod records;
mod rows;
mod unique;
mod write;

pub use answers::read_answers;
pub use demonstrations::{DemonstrationFormat, read_demonstrations};
pub use error::DataError;
pub use manifest::{DataFile, Manifest, Source, Split};
pub use mixture::{BadRows, Data, Named, Read, Source as DataSource, read_mixture};
pub use pairs::{PairFormat, read_pairs, read_pairs_with, write_pairs};
pub use prompts::{PromptFormat, read_prompts};
pub use records::{Record, read_records};
pub use rows::{Row, Rows};
pub use write::RowWriter;
