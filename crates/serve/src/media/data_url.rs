//! `data:` addresses (RFC 2397), in base64.

use base64::Engine;
use base64::alphabet::{STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

const CONFIG: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);

/// The type and the bytes of an address.
pub(super) fn read(address: &str) -> Result<(String, Vec<u8>), String> {
    let rest = address.get("data:".len()..).unwrap_or_default();
    let Some((head, data)) = rest.split_once(',') else {
        return Err("is a data: address without a comma".to_owned());
    };
    let mut words = head.split(';').map(str::trim);
    let mime = words.next().unwrap_or_default().to_owned();
    if !words.any(|word| word.eq_ignore_ascii_case("base64")) {
        return Err("is a data: address that is not in base64".to_owned());
    }
    let alphabet = if data.contains(['-', '_']) { &URL_SAFE } else { &STANDARD };
    let engine = GeneralPurpose::new(alphabet, CONFIG);
    match engine.decode(data.trim()) {
        Ok(bytes) => Ok((mime, bytes)),
        Err(error) => Err(format!("is not base64: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn addresses() {
        let read = |address| read(address).map(|(mime, bytes)| format!("{mime} {bytes:?}"));
        assert_eq!(read("data:image/png;base64,AQID"), Ok("image/png [1, 2, 3]".to_owned()));
        assert_eq!(read("DATA:a/b;x=y;BASE64,-_8"), Ok("a/b [251, 255]".to_owned()));
        assert_eq!(read("data:;base64,+/8="), Ok(" [251, 255]".to_owned()));
        assert!(read("data:text/plain,hello").unwrap_err().contains("not in base64"));
        assert!(read("data:image/png;base64").unwrap_err().contains("comma"));
        assert!(read("data:image/png;base64,***").unwrap_err().contains("not base64"));
    }
}
