//! Finds keys that an object holds twice. JSON parsers keep the last one without a word, so a row
//! pasted together from two would silently lose half of itself.

use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// The first repeated key of a JSON text, with the keys that lead to it (`prompt[0].role`); `None`
/// where all are unique. Text that is not JSON is left to the caller's own parser.
pub(crate) fn repeated_key(text: &str) -> Option<String> {
    let found = RefCell::new(None);
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let walk = Walk { at: String::new(), found: &found };
    // The walk ends early with an error of its own once a key has been found.
    let _ = walk.deserialize(&mut deserializer);
    found.into_inner()
}

struct Walk<'a> {
    at: String,
    found: &'a RefCell<Option<String>>,
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            let separator = if self.at.is_empty() { "" } else { "." };
            let at = format!("{}{separator}{key}", self.at);
            if !seen.insert(key) {
                map.next_value::<IgnoredAny>()?;
                *self.found.borrow_mut() = Some(at);
                return Err(A::Error::custom("repeated key"));
            }
            map.next_value_seed(Walk { at, found: self.found })?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<(), A::Error> {
        let mut index = 0;
        loop {
            let walk = Walk { at: format!("{}[{index}]", self.at), found: self.found };
            if sequence.next_element_seed(walk)?.is_none() {
                return Ok(());
            }
            index += 1;
        }
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_repetitions_at_any_depth() {
        let find = |text| repeated_key(text);
        assert_eq!(find(r#"{"a":1,"b":[{"c":null},{"c":true}],"d":1.5}"#), None);
        assert_eq!(find(r#"{"a":1,"b":2,"a":3}"#).as_deref(), Some("a"));
        assert_eq!(find(r#"{"b":[0,{"c":{"x":1,"x":2}}]}"#).as_deref(), Some("b[1].c.x"));
        // An escaped spelling is the same key.
        assert_eq!(find(r#"{"ab":1,"\u0061b":2}"#).as_deref(), Some("ab"));
        assert_eq!(find("not json"), None);
    }
}
