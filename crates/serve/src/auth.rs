//! Who may ask: `Authorization: Bearer KEY`.

use std::hint::black_box;

use axum::http::{HeaderMap, header};

use crate::options::ApiKey;
use crate::refusal::Refusal;

/// Refuses who shows none of the keys.
pub(crate) fn check(keys: &[ApiKey], headers: &HeaderMap) -> Result<(), Refusal> {
    if keys.is_empty() {
        return Ok(());
    }
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Err(Refusal::key("no key was sent"));
    };
    let shown = value.as_bytes();
    let (scheme, shown) = shown.split_at(shown.len().min("Bearer ".len()));
    if !scheme.eq_ignore_ascii_case(b"Bearer ") {
        return Err(Refusal::key("the Authorization header holds no Bearer key"));
    }
    // All keys are compared, so that time does not tell which of them is nearly right.
    let known = keys.iter().fold(false, |known, key| known | equal(key.0.as_bytes(), shown));
    if known { Ok(()) } else { Err(Refusal::key("the key is not one of this server's")) }
}

/// Compares in a time that depends on the length of `shown` alone.
fn equal(key: &[u8], shown: &[u8]) -> bool {
    let mut difference = usize::from(key.len() != shown.len());
    for (at, byte) in shown.iter().enumerate() {
        let other = key.get(at % key.len().max(1)).copied().unwrap_or_default();
        difference |= usize::from(black_box(byte ^ other));
    }
    black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tried(value: &str) -> bool {
        let keys = [ApiKey::new("first"), ApiKey::new(" second\n")];
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, value.parse().unwrap());
        check(&keys, &headers).is_ok()
    }

    #[test]
    fn one_of_the_keys_is_needed() {
        assert!(tried("Bearer first") && tried("bearer second"));
        for wrong in ["Bearer firs", "Bearer firstfirst", "Bearer ", "Basic first", "first", ""] {
            assert!(!tried(wrong), "{wrong:?}");
        }
        assert!(check(&[], &HeaderMap::new()).is_ok());
        assert_eq!(format!("{:?}", ApiKey::new("first")), "ApiKey(hidden)");
    }
}
