//! Whether a file is shorter than its own outer structure says, told from that structure alone.
//!
//! MP4 and MOV are a row of boxes, AVI is one RIFF chunk, Matroska one segment after a header; each
//! declares its length in bytes. This is exact where counts and durations in headers are not: an AVI
//! made by a camera that dropped frames declares more of them than it ever had.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// Why the file must have lost its end; `None` where it is whole or its structure does not tell.
pub(crate) fn cut_reason(path: &Path) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    let mut head = [0u8; 64];
    let count = read_up_to(&mut file, &mut head);
    let head = &head[..count];
    if head.starts_with(b"RIFF") && head.len() >= 12 && &head[8..12] == b"AVI " {
        let declared = u64::from(u32::from_le_bytes([head[4], head[5], head[6], head[7]])) + 8;
        // Writers that were not closed leave 0 or all ones.
        let told = (9..u64::from(u32::MAX)).contains(&declared);
        return (told && declared > length + 1).then(|| missing("RIFF chunk", declared, length));
    }
    if head.starts_with(&[0x1a, 0x45, 0xdf, 0xa3]) {
        return matroska(head, length);
    }
    if head.len() >= 8 && [&b"ftyp"[..], b"moov", b"mdat", b"wide", b"free"].contains(&&head[4..8])
    {
        return boxes(&mut file, length);
    }
    None
}

fn missing(part: &str, declared: u64, length: u64) -> String {
    format!("its {part} reaches to byte {declared}, the file has {length}")
}

fn read_up_to(file: &mut File, buffer: &mut [u8]) -> usize {
    let mut count = 0;
    while count < buffer.len() {
        match file.read(&mut buffer[count..]) {
            Ok(0) | Err(_) => break,
            Ok(more) => count += more,
        }
    }
    count
}

/// Walks the outermost boxes (ISO/IEC 14496-12, section 4.2).
fn boxes(file: &mut File, length: u64) -> Option<String> {
    /// More than any honest file has, fragments included.
    const MOST: usize = 1_000_000;
    let mut at = 0u64;
    for _ in 0..MOST {
        file.seek(SeekFrom::Start(at)).ok()?;
        let mut header = [0u8; 16];
        let count = read_up_to(file, &mut header);
        if count < 8 || !header[4..8].iter().all(|b| b.is_ascii_alphanumeric() || *b == b' ') {
            return None;
        }
        let name = String::from_utf8_lossy(&header[4..8]).into_owned();
        let size = match u32::from_be_bytes([header[0], header[1], header[2], header[3]]) {
            0 => return None,
            1 if count == 16 => {
                let mut large = [0; 8];
                large.copy_from_slice(&header[8..]);
                u64::from_be_bytes(large)
            }
            size => u64::from(size),
        };
        if size < 8 {
            return None;
        }
        at = at.saturating_add(size);
        if at > length {
            return Some(missing(&format!("`{name}` box"), at, length));
        }
    }
    None
}

/// EBML header, then one segment that is the rest of the file (RFC 9559).
fn matroska(head: &[u8], length: u64) -> Option<String> {
    let (header, width) = vint(head.get(4..)?)?;
    let at = usize::try_from(header).ok()?.checked_add(4 + width)?;
    let segment = head.get(at..)?.strip_prefix(&[0x18, 0x53, 0x80, 0x67])?;
    let (size, width) = vint(segment)?;
    // All ones: unknown, as live streams have it.
    if size == (1u64 << (7 * width)) - 1 {
        return None;
    }
    let end = (at + 4 + width) as u64;
    let end = end.saturating_add(size);
    (end > length).then(|| missing("segment", end, length))
}

/// A variable-length number and its width in bytes (RFC 8794, section 4).
fn vint(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let width = first.leading_zeros() as usize + 1;
    if width > 8 || bytes.len() < width {
        return None;
    }
    let start = u64::from(first) & ((1u64 << (8 - width)) - 1);
    let value = bytes[1..width].iter().fold(start, |value, &byte| value << 8 | u64::from(byte));
    Some((value, width))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], cut: bool) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        std::fs::write(&path, bytes).expect("writes");
        assert_eq!(cut_reason(&path).is_some(), cut, "{bytes:?}");
    }

    #[test]
    fn lengths_are_held_against_the_file() {
        check(b"\0\0\0\x0cftypisom\0\0\0\x08mdat", false);
        check(b"\0\0\0\x0cftypisom\0\0\0\x09mdat", true);
        check(b"\0\0\0\x0cftypisom\0\0\0\x01mdat\0\0\0\0\0\0\0\x10", false);
        check(b"\0\0\0\x0cftypisom\0\0\0\x01mdat\0\0\0\0\0\0\0\x11", true);
        // To the end of the file, whatever that is; and garbage behind the last box.
        check(b"\0\0\0\x0cftypisom\0\0\0\0mdat123", false);
        check(b"\0\0\0\x0cftypisom\xff\xff\xff\xff\xff\xff\xff\xff", false);
        check(b"RIFF\x04\0\0\0AVI ", false);
        check(b"RIFF\x44\0\0\0AVI ", true);
        check(b"RIFF\xff\xff\xff\xffAVI ", false);
        check(b"\x1a\x45\xdf\xa3\x81x\x18\x53\x80\x67\x82ab", false);
        check(b"\x1a\x45\xdf\xa3\x81x\x18\x53\x80\x67\x83ab", true);
        check(b"\x1a\x45\xdf\xa3\x81x\x18\x53\x80\x67\xffab", false);
        check(b"", false);
        check(b"text", false);
    }
}
