//! Rewards of lengths.

/// 0 up to `buffer` tokens before `max_length`, then falling in a line to `-penalty_factor` there, and flat after
/// it.
pub(super) fn overlong(
    length: usize,
    max_length: usize,
    buffer: usize,
    penalty_factor: f64,
) -> f64 {
    let excess = length as f64 - (max_length - buffer) as f64;
    let share = (excess / buffer as f64).clamp(0.0, 1.0);
    // No minus zero in logs.
    if share > 0.0 { -share * penalty_factor } else { 0.0 }
}
