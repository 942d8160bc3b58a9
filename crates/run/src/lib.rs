//! The `run` room (see ARCHITECTURE.md).
