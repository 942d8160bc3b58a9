//! How much memory this process has taken.

/// The most memory of the process that was resident at once, in bytes; none where the system does
/// not tell it (anything but Linux).
pub fn peak_memory() -> Option<u64> {
    status("VmHWM:")
}

/// What is resident now, in bytes; none where the system does not tell it.
pub fn resident_memory() -> Option<u64> {
    status("VmRSS:")
}

fn status(key: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_at_least_what_is_there() {
        let (peak, now) = (peak_memory().unwrap(), resident_memory().unwrap());
        assert!(now > 100_000 && peak >= now, "{now} {peak}");
    }
}
