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

mod error;
#[cfg(feature = "http")]
pub mod http;
pub mod hub;
mod manifest;
mod pairs;
mod records;
mod rows;
mod unique;
mod write;

pub use error::DataError;
pub use manifest::{DataFile, Manifest, Source, Split};
pub use pairs::{PairFormat, read_pairs, write_pairs};
pub use records::{Record, read_records};
pub use rows::{Row, Rows};
pub use write::RowWriter;
