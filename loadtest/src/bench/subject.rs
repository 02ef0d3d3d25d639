//! What is measured: a graph of a version, and what runs it.

use std::fmt;

use embed_engine::settings::Provider;
use embed_schemas::{Precision, Slug, model::GraphForm};
use serde::Serialize;

/// What was measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Subject {
    /// The model.
    pub(super) model: Slug,
    /// Its version.
    pub(super) version: String,
    /// The graph's precision.
    pub(super) precision: Precision,
    /// The graph's operators.
    pub(super) form: GraphForm,
    /// What runs it.
    pub(super) provider: Provider,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.model, self.precision)?;
        if self.provider != Provider::Cpu {
            write!(f, " on {}", self.provider)?;
        }
        if self.form == GraphForm::Packed { f.write_str(", packed") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_is_not_usual_is_named() {
        let of = |provider, form| Subject {
            model: "m".parse().unwrap(),
            version: "v1".to_owned(),
            precision: Precision::Int8,
            form,
            provider,
        };
        assert_eq!(of(Provider::Cpu, GraphForm::Contrib).to_string(), "m int8");
        assert_eq!(of(Provider::Openvino, GraphForm::Plain).to_string(), "m int8 on openvino");
        assert_eq!(of(Provider::Cuda, GraphForm::Packed).to_string(), "m int8 on cuda, packed");
    }
}
