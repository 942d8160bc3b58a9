//! The `video-ingest` room (see ARCHITECTURE.md).
