//! Judges a shadow: whether a candidate's vectors are as good as the baseline's on the texts that are really asked for, before any caller
//! gets one.
//!
//! The sample is what is judged, at its end: means and shares are compared with what is allowed, in every lane and length, since an average over
//! all texts hides what happens to the long ones. Before the end only what is beyond doubt counts, and only against the candidate.

mod group;
mod judge;
mod settings;
mod step;
mod verdict;

pub use self::{
    judge::judge,
    settings::Shadow,
    step::ShadowRecord,
    verdict::{Aspect, ShadowReason, ShadowVerdict},
};
