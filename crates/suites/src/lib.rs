//! The `suites` room (see ARCHITECTURE.md).
