//! The `objectives` room (see ARCHITECTURE.md).
