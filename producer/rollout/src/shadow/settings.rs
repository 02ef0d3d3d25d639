//! What can be set about a shadow, with its defaults.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{ConfigError, refuse};

/// The shadow step: before any caller is served by the candidate, a share of the texts that the baseline serves is given to it as well.
///
/// The defaults let an `int8` graph pass that was calibrated well (mean cosines of 0.998), and none whose vectors would reorder results.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Shadow {
    /// Share of the texts in percent. 0: no shadow.
    pub share: f64,
    /// How long. The candidate is passed at the end of it; it fails as soon as that is sure.
    #[serde(with = "humantime_serde")]
    pub hold: Duration,
    /// Fewest texts in all.
    pub min_texts: u64,
    /// Fewest texts of a length that it is judged by.
    pub min_length_texts: u64,
    /// A length with a smaller share of the texts than this is judged if there are enough, and not waited for otherwise.
    pub rare: f64,
    /// The mean cosine must exceed this, in every lane and length.
    pub mean_cosine: f64,
    /// Of few texts the cosine may be below this:
    pub low_cosine: f64,
    /// of this share at most, in every lane and length.
    pub low_share: f64,
    /// Largest share of texts that the baseline served and the candidate failed on.
    pub errors: f64,
    /// Largest ratio of the engine times of a text that ran alone, candidate to baseline. A coarse bound: both are compared under load
    /// in the steps that follow, and a candidate that runs seldom runs slower.
    pub slower: f64,
    /// Fewest texts that ran alone for the times to be compared.
    pub min_alone: u64,
    /// Whether beginnings of the worst texts are told. Otherwise only their digests are.
    pub tell_texts: bool,
}

impl Default for Shadow {
    fn default() -> Self {
        Self {
            share: 10.0,
            hold: Duration::from_secs(10 * 60),
            min_texts: 200,
            min_length_texts: 30,
            rare: 0.05,
            mean_cosine: 0.99,
            low_cosine: 0.95,
            low_share: 0.01,
            errors: 0.002,
            slower: 2.0,
            min_alone: 30,
            tell_texts: true,
        }
    }
}

impl Shadow {
    /// Whether there is to be one.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.share > 0.0
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        if !(self.share >= 0.0 && self.share <= 100.0) {
            return refuse("shadow.share", format!("{} is no percentage; 10 is usual, 0 is for no shadow", self.share));
        }
        if self.is_wanted() && self.hold.is_zero() {
            return refuse("shadow.hold", "a shadow lasts for some time; 10m is usual, and share = 0 is for none");
        }
        if self.min_texts == 0 || self.min_length_texts == 0 {
            return refuse(
                "shadow.min_texts",
                "and shadow.min_length_texts: without any text nothing is known; at least 1",
            );
        }
        for (field, cosine) in [("shadow.mean_cosine", self.mean_cosine), ("shadow.low_cosine", self.low_cosine)] {
            if !(-1.0..1.0).contains(&cosine) {
                return refuse(field, format!("{cosine} is not a cosine in [-1, 1)"));
            }
        }
        for (field, share) in
            [("shadow.rare", self.rare), ("shadow.low_share", self.low_share), ("shadow.errors", self.errors)]
        {
            if !(share > 0.0 && share < 1.0) {
                return refuse(field, format!("{share} is not a share in (0, 1); 0.01 is one in a hundred"));
            }
        }
        if !(self.slower > 1.0 && self.slower.is_finite()) {
            return refuse("shadow.slower", format!("{}: a ratio above 1; 2 allows twice the time", self.slower));
        }
        Ok(())
    }
}
