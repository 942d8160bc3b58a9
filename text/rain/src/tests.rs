//! Searches, judges and runs on scripted models.

mod goldens;
mod hand;
mod invariants;
mod judging;
mod runner;
mod script;
