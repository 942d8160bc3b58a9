//! TensorBoard's event files: TFRecord framing around two small protocol-buffer messages.
//!
//! Only scalars are written, so the encoding is spelled out here (TensorFlow's `event.proto`,
//! `summary.proto` and `record_writer.cc`): a record is its length, the masked CRC-32C of the
//! length, the bytes, and the masked CRC-32C of the bytes.

/// The first record of every event file.
pub(crate) fn file_version(wall_time: f64) -> Vec<u8> {
    let mut event = Vec::new();
    double(&mut event, 1, wall_time);
    bytes(&mut event, 3, b"brain.Event:2");
    framed(&event)
}

/// A record of scalars at one step.
pub(crate) fn scalars(wall_time: f64, step: u64, values: &[(&str, f32)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in values {
        let mut entry = Vec::new();
        bytes(&mut entry, 1, tag.as_bytes());
        key(&mut entry, 2, 5);
        entry.extend_from_slice(&value.to_le_bytes());
        bytes(&mut summary, 1, &entry);
    }
    let mut event = Vec::new();
    double(&mut event, 1, wall_time);
    key(&mut event, 2, 0);
    varint(&mut event, step);
    bytes(&mut event, 5, &summary);
    framed(&event)
}

fn framed(payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() as u64).to_le_bytes();
    let mut record = Vec::with_capacity(payload.len() + 16);
    record.extend_from_slice(&length);
    record.extend_from_slice(&masked(crc32c(&length)).to_le_bytes());
    record.extend_from_slice(payload);
    record.extend_from_slice(&masked(crc32c(payload)).to_le_bytes());
    record
}

fn key(out: &mut Vec<u8>, field: u64, wire_type: u64) {
    varint(out, field << 3 | wire_type);
}

fn double(out: &mut Vec<u8>, field: u64, value: f64) {
    key(out, field, 1);
    out.extend_from_slice(&value.to_le_bytes());
}

fn bytes(out: &mut Vec<u8>, field: u64, value: &[u8]) {
    key(out, field, 2);
    varint(out, value.len() as u64);
    out.extend_from_slice(value);
}

fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// TFRecord stores its checksums rotated and offset, since a CRC over a CRC is weak.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// CRC-32C (Castagnoli), bit by bit: event records are a few hundred bytes.
fn crc32c(data: &[u8]) -> u32 {
    let mut crc = !0u32;
    for &byte in data {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc32c_has_its_published_check_values() {
        // RFC 3720, appendix B.4, and the check value of the CRC catalogue.
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
        assert_eq!(crc32c(&[0xff; 32]), 0x62a8_ab43);
    }

    #[test]
    fn records_are_what_tensorboard_reads() {
        // Bytes that `tensorboard.summary.writer.record_writer.RecordWriter` (2.20) wrote for the
        // same events: see tests/goldens/tensorboard-events/make.py.
        let expected = include_bytes!("../../../tests/goldens/tensorboard-events/events.bin");
        let mut actual = file_version(1_700_000_000.25);
        actual.extend(scalars(
            1_700_000_001.5,
            7,
            &[("loss", std::f32::consts::LN_2), ("rewards/margins", -1.25)],
        ));
        actual.extend(scalars(1_700_000_002.0, 300, &[("grad_norm", 12.5)]));
        assert_eq!(actual, expected);
    }
}
