//! What an engine has done.

use serde::Serialize;

/// What an engine has done since it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct EngineCounts {
    /// Tokens of the prompts that were asked for.
    pub prompt_tokens: u64,
    /// Those of them that were found computed.
    pub cached_tokens: u64,
    /// Tokens of prompts, and of continuations to score, that went through the decoder.
    pub computed_tokens: u64,
    /// Drawn tokens that went through the decoder.
    pub decoded_tokens: u64,
    /// Pictures and clips that went through the tower.
    pub clips_encoded: u64,
    /// Pictures and clips whose visual tokens were found on disk.
    pub clips_from_disk: u64,
    /// Rows that gave up their cache for want of room, to have it computed again.
    pub paused_rows: u64,
    /// Nodes of the tree that were dropped for want of room.
    pub evicted_nodes: u64,
    /// Bytes of keys and values in the tree now.
    pub kv_bytes: u64,
}
