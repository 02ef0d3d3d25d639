//! Routes: how the traffic of a model is split between its variants, and who has changed that.

use std::{collections::BTreeMap, fmt, str::FromStr};

#[cfg(feature = "schema")]
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{Lane, Slug, slug::SlugError};

/// Key-value bucket of the routes. The key is the model's slug, the value a [`RouteRecord`] in JSON; its history is that of
/// the route.
pub const ROUTES_BUCKET: &str = "embed_routes";

/// The key of [`ROUTES_BUCKET`] under which the servers stand that routes have been applied to: a JSON array of names. It is
/// no slug, so no model has it.
pub const SERVERS_KEY: &str = "_servers";

/// Below this, followed by the model's slug, is the source of a mapping that marks a server on which a route is in effect that could not be
/// written to [`ROUTES_BUCKET`]. Nobody publishes there. Its destination ends with the [`RouteRecord`], as JSON in base 64 (for URLs, without
/// padding).
pub const MARKS: &str = "embed.wish.";

/// Shares of a model's variants, in whole percent, 100 in all.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(try_from = "BTreeMap<Slug, u8>", into = "BTreeMap<Slug, u8>")]
pub struct Weights(BTreeMap<Slug, u8>);

/// Why shares make no route.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WeightsError {
    /// Nothing was given.
    #[error("no variant is named: write them as VARIANT=PERCENT, such as fp32=95 int8=5")]
    None,
    /// Not in the form `variant=percent`.
    #[error("{0:?}: write it as VARIANT=PERCENT, such as fp32=95")]
    Form(String),
    /// The variant's name is not a slug.
    #[error(transparent)]
    Variant(#[from] SlugError),
    /// Not a whole number from 1 to 100.
    #[error(
        "{variant}={weight}: NATS takes whole percents from 1 to 100. A variant that is to get nothing is left out"
    )]
    Weight {
        /// The variant.
        variant: Slug,
        /// What was given.
        weight: String,
    },
    /// A variant was named twice.
    #[error("{0} is named twice")]
    Twice(Slug),
    /// The shares are not 100 in all.
    #[error("{weights} is {sum} in all, and must be 100: otherwise NATS would leave the rest unrouted or drop it")]
    Sum {
        /// The shares.
        weights: String,
        /// Their sum.
        sum: u32,
    },
}

impl Weights {
    /// Checks shares.
    ///
    /// # Errors
    /// If there are none, if one is not from 1 to 100, if a variant is named twice, or if the sum is not 100.
    pub fn new(shares: impl IntoIterator<Item = (Slug, u8)>) -> Result<Self, WeightsError> {
        let mut weights = BTreeMap::new();
        for (variant, weight) in shares {
            if !(1..=100).contains(&weight) {
                return Err(WeightsError::Weight { variant, weight: weight.to_string() });
            }
            if weights.insert(variant.clone(), weight).is_some() {
                return Err(WeightsError::Twice(variant));
            }
        }
        if weights.is_empty() {
            return Err(WeightsError::None);
        }
        let sum = weights.values().map(|w| u32::from(*w)).sum();
        if sum != 100 {
            return Err(WeightsError::Sum { weights: listed(&weights), sum });
        }
        Ok(Self(weights))
    }

    /// Everything to one variant.
    #[must_use]
    pub fn all_to(variant: Slug) -> Self {
        Self(BTreeMap::from([(variant, 100)]))
    }

    /// Reads `fp32=95`, `int8=5`.
    ///
    /// # Errors
    /// As [`Weights::new`], and if one is not in that form.
    pub fn parse<T: AsRef<str>>(shares: &[T]) -> Result<Self, WeightsError> {
        let read = |text: &T| {
            let text = text.as_ref();
            let (variant, weight) = text.split_once('=').ok_or_else(|| WeightsError::Form(text.to_owned()))?;
            let variant = Slug::from_str(variant.trim())?;
            match weight.trim().trim_end_matches('%').parse() {
                Ok(number) => Ok((variant, number)),
                Err(_) => Err(WeightsError::Weight { variant, weight: weight.trim().to_owned() }),
            }
        };
        Self::new(shares.iter().map(read).collect::<Result<Vec<_>, WeightsError>>()?)
    }

    /// The shares, in percent, in the order of the names.
    pub fn iter(&self) -> impl Iterator<Item = (&Slug, u8)> {
        self.0.iter().map(|(variant, weight)| (variant, *weight))
    }

    /// The variants that get something.
    pub fn variants(&self) -> impl Iterator<Item = &Slug> {
        self.0.keys()
    }

    /// The share of a variant, in percent; 0 if it gets nothing.
    #[must_use]
    pub fn of(&self, variant: &Slug) -> u8 {
        self.0.get(variant).copied().unwrap_or_default()
    }
}

impl TryFrom<BTreeMap<Slug, u8>> for Weights {
    type Error = WeightsError;

    fn try_from(shares: BTreeMap<Slug, u8>) -> Result<Self, WeightsError> {
        Self::new(shares)
    }
}

impl From<Weights> for BTreeMap<Slug, u8> {
    fn from(weights: Weights) -> Self {
        weights.0
    }
}

/// `fp32=95 int8=5`, the largest share first.
impl fmt::Display for Weights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&listed(&self.0))
    }
}

fn listed(weights: &BTreeMap<Slug, u8>) -> String {
    let mut shares: Vec<_> = weights.iter().collect();
    shares.sort_by_key(|(variant, weight)| (std::cmp::Reverse(**weight), *variant));
    shares.iter().map(|(variant, weight)| format!("{variant}={weight}")).collect::<Vec<_>>().join(" ")
}

/// The shares in each lane. A lane that is left out is not routed: everything in it goes to the default variant.
pub type Lanes = BTreeMap<Lane, Weights>;

/// What is said of the shares in all lanes: once if they are the same everywhere.
#[must_use]
pub fn describe(lanes: &Lanes) -> String {
    let mut distinct: Vec<_> = lanes.values().collect();
    distinct.dedup();
    match (lanes.len(), distinct.as_slice()) {
        (0, _) => "default variant".to_owned(),
        (n, [one]) if n == Lane::ALL.len() => one.to_string(),
        _ => lanes.iter().map(|(lane, weights)| format!("{lane}: {weights}")).collect::<Vec<_>>().join(", "),
    }
}

/// How far a change of a route has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum RouteState {
    /// It is written down and being applied. Whoever finds it so and is not applying it has found a change that was begun
    /// and not finished.
    Applying,
    /// Every server was seen to hold it.
    Applied,
    /// Not every server holds it: see [`RouteRecord::problem`].
    Incomplete,
}

/// A model's route: what is wanted, since when, and by whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(JsonSchema))]
pub struct RouteRecord {
    /// The shares that are wanted.
    pub lanes: Lanes,
    /// The shares before this change.
    #[serde(default)]
    pub from: Lanes,
    /// How far it has come.
    pub state: RouteState,
    /// Who wants it.
    pub who: String,
    /// Since when, RFC 3339.
    pub when: String,
    /// Why, in their words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// What went wrong with this change, or with the one that it undoes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn shares_that_make_no_route_are_named() {
        let error = |shares: &[&str]| Weights::parse(shares).unwrap_err().to_string();
        assert!(error(&[]).contains("VARIANT=PERCENT"));
        assert!(error(&["a"]).starts_with("\"a\": write it as"), "{}", error(&["a"]));
        assert!(error(&["A=100"]).contains("not a slug"));
        assert!(error(&["a=95", "b=4"]).contains("a=95 b=4 is 99 in all"), "{}", error(&["a=95", "b=4"]));
        assert!(error(&["a=50", "a=50"]).contains("a is named twice"));
        for weight in ["0", "-5", "99.5", "101", "300", "x", ""] {
            let share = format!("a={weight}");
            assert!(error(&[share.as_str()]).contains("whole percents from 1 to 100"), "{}", error(&[&share]));
        }
    }

    #[test]
    fn shares_read_back_and_are_shown_largest_first() {
        let weights = Weights::parse(&["b=5", "a=95%"]).unwrap();
        assert_eq!(weights.to_string(), "a=95 b=5");
        assert_eq!(serde_json::to_string(&weights).unwrap(), r#"{"a":95,"b":5}"#);
        assert!(serde_json::from_str::<Weights>(r#"{"a":95}"#).is_err());
        let lanes: Lanes = Lane::ALL.into_iter().map(|lane| (lane, weights.clone())).collect();
        assert_eq!(describe(&lanes), "a=95 b=5");
        assert_eq!(describe(&Lanes::from([(Lane::Rpc, weights)])), "rpc: a=95 b=5");
        assert_eq!(describe(&Lanes::new()), "default variant");
    }

    proptest! {
        #[test]
        fn only_a_sum_of_100_is_a_route(shares in prop::collection::btree_map("[a-z]{1,3}", 0u8..=101, 0..5)) {
            let sum: u32 = shares.values().map(|w| u32::from(*w)).sum();
            let good = sum == 100 && shares.values().all(|w| (1..=100).contains(w));
            let text: Vec<String> = shares.iter().map(|(variant, weight)| format!("{variant}={weight}")).collect();
            let read = Weights::parse(&text);
            prop_assert_eq!(read.is_ok(), good);
            if let Ok(weights) = read {
                prop_assert_eq!(weights.iter().map(|(_, w)| u32::from(w)).sum::<u32>(), 100);
                let shown = weights.to_string();
                prop_assert_eq!(Weights::parse(&shown.split(' ').collect::<Vec<_>>()).unwrap(), weights);
            }
        }
    }
}
