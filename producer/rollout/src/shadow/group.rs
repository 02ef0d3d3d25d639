//! Texts that are judged together: those of a lane and length, of a length, and all.

use std::collections::BTreeMap;

use embed_schemas::{
    ErrorCode, Lane, LatencySketch,
    shadow::{ShadowCounts, cosine_of, describe_length, distance_of},
};
use statrs::distribution::{Binomial, DiscreteCDF};

use super::{
    settings::Shadow,
    verdict::{Aspect, ShadowReason},
};
use crate::verdict::Finding;

/// A group fails before the end if chance does that to an agreeing candidate less often than this. It is looked at again and again, in
/// every lane and length.
const SURELY: f64 = 1e-5;
/// The same, as standard errors.
const STANDARD_ERRORS: f64 = 4.3;
/// Fewest texts that a mean is taken of before the end.
const EARLIEST: u64 = 10;
/// One text is no share.
const SEVERAL: u64 = 2;

/// Texts that are judged together.
#[derive(Debug, Clone, Default)]
pub(super) struct Group {
    /// `None`: of all lanes.
    pub(super) lane: Option<Lane>,
    /// `None`: of all lengths.
    pub(super) tokens: Option<u32>,
    /// Lanes and lengths in it.
    cells: usize,
    distance: LatencySketch,
    errors: BTreeMap<ErrorCode, u64>,
}

impl Group {
    /// All groups: lane by lane and length by length first, then lengths, then all.
    pub(super) fn all(counts: &ShadowCounts) -> Vec<Self> {
        let mut cells = Vec::new();
        let mut lengths = BTreeMap::<u32, Self>::new();
        let mut all = Self::default();
        for cell in &counts.cells {
            let one = Self {
                lane: Some(cell.lane),
                tokens: Some(cell.tokens),
                cells: 1,
                distance: cell.distance.clone(),
                errors: cell.errors.clone(),
            };
            lengths.entry(cell.tokens).or_default().add(&one);
            all.add(&one);
            cells.push(one);
        }
        for (tokens, length) in &mut lengths {
            length.tokens = Some(*tokens);
        }
        cells.extend(lengths.into_values());
        cells.push(all);
        cells
    }

    fn add(&mut self, other: &Self) {
        self.cells += other.cells;
        self.distance.merge(&other.distance);
        for (code, n) in &other.errors {
            *self.errors.entry(*code).or_default() += n;
        }
    }

    /// Whether it is a length, over all lanes.
    pub(super) const fn is_length(&self) -> bool {
        self.lane.is_none() && self.tokens.is_some()
    }

    /// Texts of which there are both vectors.
    pub(super) fn compared(&self) -> u64 {
        self.distance.count()
    }

    fn failed(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Texts that were given to the candidate.
    pub(super) fn texts(&self) -> u64 {
        self.compared() + self.failed()
    }

    /// What they are called.
    pub(super) fn name(&self) -> String {
        match (self.lane, self.tokens) {
            (Some(lane), Some(tokens)) => format!("lane {lane}, {}", describe_length(tokens)),
            (None, Some(tokens)) => describe_length(tokens),
            (Some(lane), None) => format!("lane {lane}"),
            (None, None) => "all texts".to_owned(),
        }
    }

    /// What is known of them. `over`: nothing more will come. Nothing of a length that is one of one lane: that is judged.
    pub(super) fn judge(&self, settings: &Shadow, over: bool) -> Vec<ShadowReason> {
        let mut reasons = Vec::new();
        if self.is_length() && self.cells < 2 {
            return reasons;
        }
        if self.compared() > 0 {
            reasons.push(self.mean(settings, over));
            reasons.push(self.low(settings, over));
        }
        reasons.push(self.failures(settings, over));
        reasons
    }

    pub(super) fn is_enough(&self, settings: &Shadow) -> bool {
        self.texts() >= settings.min_length_texts
    }

    fn mean(&self, settings: &Shadow, over: bool) -> ShadowReason {
        let n = self.compared();
        let (mean, variance) = self.distance.mean_variance().unwrap_or_default();
        let wanted = distance_of(settings.mean_cosine) as f64;
        let error = (variance / n as f64).sqrt();
        let surely = n >= EARLIEST && mean - STANDARD_ERRORS * error > wanted;
        let enough = self.is_enough(settings);
        let sentence = format!(
            "{}: mean cosine {:.4} of {n} texts (wanted: above {})",
            self.name(),
            cosine_of(mean),
            settings.mean_cosine
        );
        let finding = finding(surely || (over && enough && mean >= wanted), enough);
        self.reason(Aspect::MeanCosine, finding, Some(cosine_of(mean)), settings.mean_cosine, sentence)
    }

    fn low(&self, settings: &Shadow, over: bool) -> ShadowReason {
        let n = self.compared();
        let low = n - self.distance.rank(distance_of(settings.low_cosine));
        let share = low as f64 / n as f64;
        let sentence = format!(
            "{}: {low} of {n} texts have a cosine below {} (allowed: {} %)",
            self.name(),
            settings.low_cosine,
            100.0 * settings.low_share
        );
        let finding = self.share(low, n, settings.low_share, settings, over);
        self.reason(Aspect::LowCosines, finding, Some(share), settings.low_share, sentence)
    }

    fn failures(&self, settings: &Shadow, over: bool) -> ShadowReason {
        let (failed, n) = (self.failed(), self.texts());
        let codes: Vec<String> = self.errors.iter().map(|(code, n)| format!("{code} {n}")).collect();
        let codes = if codes.is_empty() { String::new() } else { format!(": {}", codes.join(", ")) };
        let sentence = format!(
            "{}: the candidate failed on {failed} of {n} texts that the baseline served{codes} (allowed: {} %)",
            self.name(),
            100.0 * settings.errors
        );
        let finding = self.share(failed, n, settings.errors, settings, over);
        let share = (n > 0).then(|| failed as f64 / n as f64);
        self.reason(Aspect::Errors, finding, share, settings.errors, sentence)
    }

    /// Whether so many of `n` are more than a share of them.
    fn share(&self, count: u64, n: u64, allowed: f64, settings: &Shadow, over: bool) -> Finding {
        let enough = self.is_enough(settings);
        let more = count >= SEVERAL && count as f64 > allowed * n as f64;
        let surely = more && Binomial::new(allowed, n).is_ok_and(|binomial| binomial.sf(count - 1) < SURELY);
        finding(surely || (over && enough && more), enough)
    }

    fn reason(
        &self,
        aspect: Aspect,
        finding: Finding,
        figure: Option<f64>,
        margin: f64,
        sentence: String,
    ) -> ShadowReason {
        ShadowReason {
            aspect,
            lane: self.lane,
            tokens: self.tokens,
            finding,
            texts: self.texts(),
            figure,
            margin,
            sentence,
        }
    }
}

const fn finding(fails: bool, enough: bool) -> Finding {
    match (fails, enough) {
        (true, _) => Finding::Fail,
        (false, true) => Finding::Pass,
        (false, false) => Finding::TooLittle,
    }
}
