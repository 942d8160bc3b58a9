//! The `train` room (see ARCHITECTURE.md).
