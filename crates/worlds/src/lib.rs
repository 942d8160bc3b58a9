//! The `worlds` room (see ARCHITECTURE.md).
