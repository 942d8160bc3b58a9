//! End-to-end tests of the program and of the tree it is built from, in one binary.

mod arrows;
mod convert;
mod dno;
mod endpoint;
mod eval;
mod generate;
mod hub;
mod ingest;
mod ingest_damaged;
mod ingest_goldens;
mod licences;
mod report;
mod resume;
mod score;
mod serve;
mod suites;
mod text_rain;
mod text_sar;
mod text_self_align;
mod tidy;
mod train_dpo;
mod train_online;
mod train_sft;
mod training;
mod videosavi;
mod worlds;
