//! Which execution providers are to be tried.

use std::{fmt, ops::Deref};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{SeqAccess, Visitor, value::SeqAccessDeserializer},
};

use super::provider::Provider;

const AUTO: &str = "auto";

/// Execution providers to try: these, in this order, or all that the processor has, of which the fastest is taken. Either way it can be read as a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Providers {
    /// The first of these that runs a version.
    These(Vec<Provider>),
    /// The fastest on the processor, as measured when a version is loaded.
    Auto,
}

impl Providers {
    /// What `auto` chooses from. Of equals, the last is taken.
    const ON_PROCESSOR: &'static [Provider] = &[Provider::Openvino, Provider::Cpu];

    /// Whether the fastest is to be taken instead of the first.
    #[must_use]
    pub const fn measures(&self) -> bool {
        matches!(self, Self::Auto)
    }

    /// Those to try where falling back is an error.
    #[must_use]
    pub fn strictly(&self) -> &[Provider] {
        match self {
            Self::These(providers) => &providers[..providers.len().min(1)],
            // Nothing is fallen back to.
            Self::Auto => Self::ON_PROCESSOR,
        }
    }
}

impl Deref for Providers {
    type Target = [Provider];

    fn deref(&self) -> &[Provider] {
        match self {
            Self::These(providers) => providers,
            Self::Auto => Self::ON_PROCESSOR,
        }
    }
}

impl From<Vec<Provider>> for Providers {
    fn from(providers: Vec<Provider>) -> Self {
        Self::These(providers)
    }
}

impl Serialize for Providers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::These(providers) => providers.serialize(serializer),
            Self::Auto => serializer.serialize_str(AUTO),
        }
    }
}

impl<'de> Deserialize<'de> for Providers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListOrAuto;

        impl<'de> Visitor<'de> for ListOrAuto {
            type Value = Providers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of providers, such as `[\"cuda\", \"cpu\"]`, or `\"auto\"`")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Providers, E> {
                if text == AUTO {
                    return Ok(Providers::Auto);
                }
                Err(E::invalid_value(serde::de::Unexpected::Str(text), &self))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Providers, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(Providers::These)
            }
        }

        deserializer.deserialize_any(ListOrAuto)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_or_auto_is_read_and_written() {
        let read = |json: &str| serde_json::from_str::<Providers>(json);
        for (json, expected) in [
            (r#"["openvino","cpu"]"#, Providers::These(vec![Provider::Openvino, Provider::Cpu])),
            (r#""auto""#, Providers::Auto),
        ] {
            let found = read(json).unwrap();
            assert_eq!(found, expected);
            assert_eq!(serde_json::to_string(&found).unwrap(), json);
            assert_eq!(&*found, [Provider::Openvino, Provider::Cpu]);
        }
        assert_eq!(read(r#"["openvino","cpu"]"#).unwrap().strictly(), [Provider::Openvino]);
        assert_eq!(Providers::Auto.strictly(), [Provider::Openvino, Provider::Cpu]);
        for (json, named) in [(r#""fast""#, "`\"auto\"`"), (r#"["gpu"]"#, "openvino"), ("1", "a list of providers")] {
            let said = read(json).unwrap_err().to_string();
            assert!(said.contains(named), "{said}");
        }
    }
}
