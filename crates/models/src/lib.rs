//! The `models` room (see ARCHITECTURE.md).
