//! What the machine has of memory and disk, and what this process has taken.

use std::path::Path;

/// The most memory of the process that was resident at once, in bytes; none where the system does
/// not tell it (anything but Linux).
pub fn peak_memory() -> Option<u64> {
    status("VmHWM:")
}

/// What is resident now, in bytes; none where the system does not tell it.
pub fn resident_memory() -> Option<u64> {
    status("VmRSS:")
}

/// Memory of the machine: all of it, and what can still be taken; none where the system does not tell it.
pub fn machine_memory() -> Option<(u64, u64)> {
    Some((field("/proc/meminfo", "MemTotal:")?, field("/proc/meminfo", "MemAvailable:")?))
}

/// Bytes that are free for this user where `path` lies (or its nearest folder that exists), and all there are.
#[cfg(unix)]
pub fn disk_space(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::path::absolute(path).ok()?;
    let there = path.ancestors().find(|folder| folder.exists())?;
    let name = std::ffi::CString::new(there.as_os_str().as_bytes()).ok()?;
    let mut told = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the name ends with a zero, and the system fills what it is given.
    let status = unsafe { libc::statvfs(name.as_ptr(), told.as_mut_ptr()) };
    if status != 0 {
        return None;
    }
    // SAFETY: all zeros would be valid, and the call has filled it.
    let told = unsafe { told.assume_init() };
    #[allow(clippy::unnecessary_cast, reason = "how wide these are depends on the system")]
    let bytes = |blocks: libc::fsblkcnt_t| blocks as u64 * told.f_frsize as u64;
    Some((bytes(told.f_bavail), bytes(told.f_blocks)))
}

/// Bytes that are free; not known on this system.
#[cfg(not(unix))]
pub fn disk_space(_path: &Path) -> Option<(u64, u64)> {
    None
}

fn status(key: &str) -> Option<u64> {
    field("/proc/self/status", key)
}

/// A number of KiB in one of the system's files, in bytes.
fn field(file: &str, key: &str) -> Option<u64> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_peak_is_at_least_what_is_there() {
        let (peak, now) = (peak_memory().unwrap(), resident_memory().unwrap());
        assert!(now > 100_000 && peak >= now, "{now} {peak}");
        let (all, free) = machine_memory().unwrap();
        assert!(all > free && all > peak, "{all} {free}");
        let (free, all) = disk_space(Path::new("no/such/folder")).unwrap();
        assert!(all > 0 && free <= all, "{free} {all}");
    }
}
