//! Routes as a file declares them, for those who keep them under version control. Pure.
//!
//! ```toml
//! [route.all-minilm-l6-v2]
//! weights = { fp32 = 95, int8 = 5 }     # in all lanes that are not named here
//! bulk = { fp32 = 100 }
//! note = "a trial"
//!
//! [route.bge-small-en-v1-5]             # no shares: everything goes to the default variant
//! ```

use std::{collections::BTreeMap, path::Path};

use embed_schemas::{Lane, Slug, Weights, routes::Lanes};
use serde::Deserialize;

/// The route of one model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Declared {
    /// Its shares, lane by lane.
    pub lanes: Lanes,
    /// Why, for the record.
    pub note: Option<String>,
}

/// Routes by model.
pub type Declarations = BTreeMap<Slug, Declared>;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    route: BTreeMap<Slug, Entry>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    weights: Option<Weights>,
    rpc: Option<Weights>,
    job: Option<Weights>,
    bulk: Option<Weights>,
    note: Option<String>,
}

/// Reads declarations. `path` is for the message.
///
/// # Errors
/// What is wrong with them, with the line: a key that is not known, shares that make no route.
pub fn parse(text: &str, path: &Path) -> Result<Declarations, String> {
    let file: File = toml::from_str(text).map_err(|error| format!("{}: {error}", path.display()))?;
    let declared = |entry: Entry| {
        let of = |lane: Lane| match lane {
            Lane::Rpc => &entry.rpc,
            Lane::Job => &entry.job,
            Lane::Bulk => &entry.bulk,
        };
        let lanes = Lane::ALL
            .into_iter()
            .filter_map(|lane| Some((lane, of(lane).as_ref().or(entry.weights.as_ref())?.clone())));
        Declared { lanes: lanes.collect(), note: entry.note.clone() }
    };
    Ok(file.route.into_iter().map(|(model, entry)| (model, declared(entry))).collect())
}

#[cfg(test)]
mod tests {
    use embed_schemas::routes::describe;

    use super::*;

    fn read(text: &str) -> Result<Declarations, String> {
        parse(text, Path::new("routes.toml"))
    }

    #[test]
    fn lanes_that_are_named_win() {
        let text = "[route.m]\nweights = {a = 95, b = 5}\nbulk = {a = 100}\nnote = \"x\"\n[route.n]\n[route.o]\nrpc = {a = 100}\n";
        let read = read(text).unwrap();
        let told: Vec<_> = read.iter().map(|(model, one)| format!("{model}: {}", describe(&one.lanes))).collect();
        assert_eq!(told, ["m: rpc: a=95 b=5, job: a=95 b=5, bulk: a=100", "n: default variant", "o: rpc: a=100"]);
        assert_eq!(read["m"].note.as_deref(), Some("x"));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, expected) in [
            ("[route.m]\nweight = {a = 100}\n", "unknown field `weight`"),
            ("[routes.m]\n", "unknown field `routes`"),
            ("[route.m]\nweights = {a = 95}\n", "is 95 in all, and must be 100"),
            ("[route.M]\n", "not a slug"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected) && error.starts_with("routes.toml: "), "{error}");
        }
    }
}
