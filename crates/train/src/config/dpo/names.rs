//! Losses and divergences in configs, by their names.

use savi_objectives::PreferenceLoss;

/// What a config has where nothing is said.
pub(super) fn is_sigmoid(losses: &[PreferenceLoss]) -> bool {
    *losses == [PreferenceLoss::Sigmoid]
}

/// The loss called `name`; the error lists those that can be trained with.
fn loss(name: &str) -> Result<PreferenceLoss, String> {
    name.parse().map_err(|_| {
        let known: Vec<&str> = PreferenceLoss::ALL.iter().map(|loss| loss.name()).collect();
        format!("{name:?} is no loss, expected one or several of {}", known.join(", "))
    })
}

/// A list of losses, or one name for a list of one.
pub(super) mod losses {
    use std::fmt;

    use savi_objectives::PreferenceLoss;
    use serde::de::{Deserializer, Error, SeqAccess, Visitor};
    use serde::ser::{SerializeSeq, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        losses: &[PreferenceLoss],
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        if let [loss] = losses {
            return serializer.serialize_str(loss.name());
        }
        let mut list = serializer.serialize_seq(Some(losses.len()))?;
        for loss in losses {
            list.serialize_element(loss.name())?;
        }
        list.end()
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Vec<PreferenceLoss>, D::Error> {
        deserializer.deserialize_any(Names)
    }

    struct Names;

    impl<'de> Visitor<'de> for Names {
        type Value = Vec<PreferenceLoss>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the name of a loss or a list of names")
        }

        fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
            Ok(vec![super::loss(name).map_err(E::custom)?])
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut losses = Vec::new();
            while let Some(name) = list.next_element::<String>()? {
                losses.push(super::loss(&name).map_err(A::Error::custom)?);
            }
            Ok(losses)
        }
    }
}

/// A divergence.
pub(super) mod divergence {
    use savi_objectives::Divergence;
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    pub(crate) fn serialize<S: Serializer>(
        divergence: &Divergence,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(divergence.name())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Divergence, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
