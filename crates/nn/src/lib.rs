//! The `nn` room (see ARCHITECTURE.md).
