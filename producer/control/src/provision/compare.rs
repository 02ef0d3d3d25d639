//! Comparing definitions with what the server holds, field by field. Pure.

use serde_json::{Map, Value};

/// One field that is not as it should be.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Difference {
    /// The stream, or `stream/consumer`.
    pub name: String,
    /// The field, as in JetStream's JSON. `(all)` if the whole thing is missing.
    pub field: String,
    /// What it should be.
    pub wanted: Value,
    /// What it is; null if there is nothing.
    pub found: Value,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.found.is_null() && self.field == ALL {
            return write!(f, "{}: missing", self.name);
        }
        write!(f, "{}: {} is {}, wanted {}", self.name, self.field, self.found, self.wanted)
    }
}

/// Stands for the name of a field where everything is missing.
pub(super) const ALL: &str = "(all)";

/// The fields of `wanted` that `found` does not have so. Fields that only `found` has are the operator's own.
pub(super) fn differences(name: &str, wanted: &Map<String, Value>, found: &Map<String, Value>) -> Vec<Difference> {
    let mut out = Vec::new();
    for (field, wanted) in wanted {
        let found = normalised(field, found);
        if !same(wanted, &found) {
            out.push(Difference { name: name.to_owned(), field: field.clone(), wanted: wanted.clone(), found });
        }
    }
    out
}

/// What the server holds with the wanted fields put over it: fields that we do not speak of (placement, metadata,
/// compression) stay as the operator set them.
pub(super) fn overlay(wanted: &Map<String, Value>, found: &Map<String, Value>) -> Map<String, Value> {
    let mut merged = found.clone();
    if wanted.contains_key("filter_subjects") {
        // The server refuses both forms at once.
        merged.remove("filter_subject");
    }
    merged.extend(wanted.clone());
    merged
}

fn normalised(field: &str, found: &Map<String, Value>) -> Value {
    let value = found.get(field).cloned().unwrap_or(Value::Null);
    match (field, found.get("filter_subject")) {
        ("filter_subjects", Some(single)) if value.is_null() => Value::Array(vec![single.clone()]),
        _ => value,
    }
}

/// The server leaves out what is false, zero or empty, and keeps subjects in an order of its own.
fn same(wanted: &Value, found: &Value) -> bool {
    match (wanted, found) {
        (Value::Bool(false), Value::Null) => true,
        (Value::Number(n), Value::Null) => n.as_i64() == Some(0),
        (Value::String(s), Value::Null) => s.is_empty(),
        (Value::Array(a), Value::Null) => a.is_empty(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().all(|x| b.contains(x)),
        (a, b) => a == b,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_the_server_leaves_out_is_no_difference() {
        let wanted = map(json!({"a": false, "b": 0, "c": "", "d": [], "subjects": ["x", "y"]}));
        assert_eq!(differences("s", &wanted, &map(json!({"subjects": ["y", "x"], "more": 1}))), []);
    }

    #[test]
    fn a_difference_is_named() {
        let found = differences("s", &map(json!({"max_bytes": 5})), &map(json!({"max_bytes": 7})));
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].to_string(), "s: max_bytes is 7, wanted 5");
    }

    #[test]
    fn one_filter_is_the_same_in_either_form() {
        let wanted = map(json!({"filter_subjects": ["x"]}));
        let found = map(json!({"filter_subject": "x"}));
        assert_eq!(differences("c", &wanted, &found), []);
        assert_eq!(overlay(&wanted, &found), wanted);
    }

    proptest! {
        #[test]
        fn an_overlay_has_no_differences(
            wanted in prop::collection::btree_map("[a-d]", -1i64..4, 0..4),
            found in prop::collection::btree_map("[a-f]", -1i64..4, 0..6),
        ) {
            let map = |m: std::collections::BTreeMap<String, i64>| -> Map<String, Value> {
                m.into_iter().map(|(k, v)| (k, v.into())).collect()
            };
            let (wanted, found) = (map(wanted), map(found));
            let merged = overlay(&wanted, &found);
            prop_assert_eq!(differences("s", &wanted, &merged), vec![]);
            for (field, value) in &found {
                prop_assert!(wanted.contains_key(field) || merged[field] == *value);
            }
        }
    }
}
