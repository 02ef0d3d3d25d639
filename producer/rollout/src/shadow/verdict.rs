//! What a shadow's judgement says.

use embed_schemas::Lane;
use serde::{Deserialize, Serialize};

use crate::verdict::{Decision, Finding};

/// What is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aspect {
    /// The mean of the cosines.
    MeanCosine,
    /// The share of small cosines.
    LowCosines,
    /// Texts that the candidate failed on.
    Errors,
    /// Engine time.
    Speed,
    /// Whether enough was compared.
    Texts,
}

/// What was found about something.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShadowReason {
    /// What was judged.
    pub aspect: Aspect,
    /// Of which lane; `None`: of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<Lane>,
    /// Of which length, by its most tokens; `None`: of all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<u32>,
    /// What is known of it.
    pub finding: Finding,
    /// Texts that it rests on.
    pub texts: u64,
    /// The mean cosine, the share, the ratio.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub figure: Option<f64>,
    /// What is allowed.
    pub margin: f64,
    /// For a person.
    pub sentence: String,
}

/// What is to become of the candidate, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ShadowVerdict {
    /// `Promote`: it may get traffic. `RollBack`: it gets none. `Hold`: wait. `Pause`: a person has to say.
    pub decision: Decision,
    /// In one sentence, why.
    pub sentence: String,
    /// What was found.
    pub reasons: Vec<ShadowReason>,
}
