//! Points as they are stored: a value that is not finite is `null`, since JSON has no name for it.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

type Stored = (Option<f64>, Option<f64>);

pub(crate) fn serialize<S: Serializer>(points: &[(f64, f64)], serializer: S) -> Result<S::Ok, S::Error> {
    let store = |value: f64| value.is_finite().then_some(value);
    let stored: Vec<Stored> = points.iter().map(|(x, y)| (store(*x), store(*y))).collect();
    stored.serialize(serializer)
}

pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(f64, f64)>, D::Error> {
    let read = |value: Option<f64>| value.unwrap_or(f64::NAN);
    let stored = Vec::<Stored>::deserialize(deserializer)?;
    Ok(stored.into_iter().map(|(x, y)| (read(x), read(y))).collect())
}
