//! The `videosavi` method (see ARCHITECTURE.md).
