//! Latencies of a window as a mergeable sketch: counts on a grid of buckets, each at most 1/128 of its value wide.
//!
//! The grid is that of HdrHistogram with two significant digits over one microsecond to 2^32 microseconds (71 minutes):
//! unit buckets below 256, then 128 buckets an octave. The grid is fixed, so merging is adding counts: exact, in any
//! order. What is sent are the buckets in use, as pairs of lower bound and count: a reader needs no library for it.

use std::cmp::Ordering;

#[cfg(feature = "schema")]
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// log2 of the buckets of an octave.
const OCTAVE_BITS: u32 = 7;
const OCTAVE: u32 = 1 << OCTAVE_BITS;
/// Buckets of the grid.
pub const BUCKETS: usize = ((32 - OCTAVE_BITS) * OCTAVE + OCTAVE) as usize;
/// Bound of the relative error of a quantile; below 256 microseconds it is one microsecond.
pub const RELATIVE_ERROR: f64 = 1.0 / OCTAVE as f64;

/// The bucket of a latency in microseconds: 0 to [`BUCKETS`] - 1, growing with the latency.
#[must_use]
pub const fn bucket_of(us: u32) -> u16 {
    let shift = (u32::BITS - us.leading_zeros()).saturating_sub(OCTAVE_BITS + 1);
    (shift * OCTAVE + (us >> shift)) as u16
}

/// A bucket's smallest latency and the number of latencies it stands for, both in microseconds.
///
/// # Panics
/// If there is no such bucket.
#[must_use]
pub const fn bucket_bounds(bucket: u16) -> (u32, u32) {
    assert!((bucket as usize) < BUCKETS, "no such bucket");
    let shift = (bucket as u32 / OCTAVE).saturating_sub(1);
    ((bucket as u32 - shift * OCTAVE) << shift, 1 << shift)
}

/// A duration as whole microseconds, at most what the grid holds.
fn clamp_us(us: u64) -> u32 {
    u32::try_from(us).unwrap_or(u32::MAX)
}

/// Counts of latencies, in microseconds. Merges exactly; quantiles are within [`RELATIVE_ERROR`].
///
/// On the wire: `[[lower bound in microseconds, count], ...]`, buckets in rising order, none empty.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LatencySketch {
    /// Buckets in use, in rising order.
    buckets: Vec<(u16, u64)>,
}

impl LatencySketch {
    /// Adds one latency in microseconds. For a hot path use [`LatencyRecorder`].
    pub fn record(&mut self, us: u64) {
        self.record_n(us, 1);
    }

    /// Adds a latency in microseconds that occurred `n` times.
    pub fn record_n(&mut self, us: u64, n: u64) {
        if n == 0 {
            return;
        }
        let bucket = bucket_of(clamp_us(us));
        match self.buckets.binary_search_by_key(&bucket, |b| b.0) {
            Ok(at) => self.buckets[at].1 = self.buckets[at].1.saturating_add(n),
            Err(at) => self.buckets.insert(at, (bucket, n)),
        }
    }

    /// Adds all of another sketch.
    pub fn merge(&mut self, other: &Self) {
        let mut merged = Vec::with_capacity(self.buckets.len().max(other.buckets.len()));
        let (mut a, mut b) = (self.buckets.iter().peekable(), other.buckets.iter().peekable());
        while let (Some(&&(x, n)), Some(&&(y, m))) = (a.peek(), b.peek()) {
            merged.push(match x.cmp(&y) {
                Ordering::Less => (x, n),
                Ordering::Greater => (y, m),
                Ordering::Equal => (x, n.saturating_add(m)),
            });
            a.next_if(|_| x <= y);
            b.next_if(|_| y <= x);
        }
        merged.extend(a);
        merged.extend(b);
        self.buckets = merged;
    }

    /// Takes out another sketch that is a part of this one. What is not in this one cannot be taken out of it.
    pub fn subtract(&mut self, part: &Self) {
        for (bucket, n) in &part.buckets {
            if let Ok(at) = self.buckets.binary_search_by_key(bucket, |b| b.0) {
                self.buckets[at].1 = self.buckets[at].1.saturating_sub(*n);
            }
        }
        self.buckets.retain(|(_, n)| *n > 0);
    }

    /// How many latencies it holds.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum: u64, b| sum.saturating_add(b.1))
    }

    /// Whether it holds none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buckets.is_empty()
    }

    /// The buckets in use and their counts, in rising order.
    pub fn buckets(&self) -> impl ExactSizeIterator<Item = (u16, u64)> + '_ {
        self.buckets.iter().copied()
    }

    /// The latency in microseconds below which a share `q` of all lies (0 to 1), interpolated within its bucket.
    /// `None` if the sketch is empty.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let rank = q.clamp(0.0, 1.0) * self.count() as f64;
        let mut below = 0.0;
        for (at, &(bucket, n)) in self.buckets.iter().enumerate() {
            let n = n as f64;
            if below + n >= rank || at + 1 == self.buckets.len() {
                let (lower, width) = bucket_bounds(bucket);
                return Some(f64::from(lower) + f64::from(width) * ((rank - below) / n).clamp(0.0, 1.0));
            }
            below += n;
        }
        None
    }

    /// How many latencies are at most `us` microseconds, to the resolution of the grid.
    #[must_use]
    pub fn rank(&self, us: u64) -> u64 {
        let bucket = bucket_of(clamp_us(us));
        self.buckets.iter().take_while(|b| b.0 <= bucket).fold(0, |sum: u64, b| sum.saturating_add(b.1))
    }

    /// Mean and variance in microseconds, each latency taken as its bucket's middle. `None` if the sketch is empty.
    #[must_use]
    pub fn mean_variance(&self) -> Option<(f64, f64)> {
        let count = self.count() as f64;
        if count == 0.0 {
            return None;
        }
        let values = || self.buckets.iter().map(|&(bucket, n)| (middle(bucket), n as f64));
        let mean = values().map(|(x, n)| x * n).sum::<f64>() / count;
        let squares = values().map(|(x, n)| n * (x - mean).powi(2)).sum::<f64>();
        Some((mean, squares / (count - 1.0).max(1.0)))
    }
}

fn middle(bucket: u16) -> f64 {
    let (lower, width) = bucket_bounds(bucket);
    f64::from(lower) + f64::from(width - 1) / 2.0
}

impl FromIterator<u64> for LatencySketch {
    fn from_iter<I: IntoIterator<Item = u64>>(latencies: I) -> Self {
        let mut sketch = Self::default();
        latencies.into_iter().for_each(|us| sketch.record(us));
        sketch
    }
}

impl Serialize for LatencySketch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.buckets.iter().map(|&(bucket, n)| (bucket_bounds(bucket).0, n)))
    }
}

impl<'de> Deserialize<'de> for LatencySketch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pairs = Vec::<(u32, u64)>::deserialize(deserializer)?;
        let mut buckets: Vec<(u16, u64)> = Vec::with_capacity(pairs.len());
        for (lower, n) in pairs {
            let bucket = bucket_of(lower);
            let bound = bucket_bounds(bucket).0;
            if bound != lower {
                return Err(D::Error::custom(format!(
                    "{lower} is not the lower bound of a latency bucket; the bucket it lies in begins at {bound}"
                )));
            }
            if n == 0 {
                return Err(D::Error::custom(format!("the bucket {lower} is empty: leave it out")));
            }
            if buckets.last().is_some_and(|last| last.0 >= bucket) {
                return Err(D::Error::custom(format!("the bucket {lower} is out of order: sort by lower bound")));
            }
            buckets.push((bucket, n));
        }
        Ok(Self { buckets })
    }
}

#[cfg(feature = "schema")]
impl JsonSchema for LatencySketch {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "LatencySketch".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "Latencies in microseconds: pairs of a bucket's lower bound and its count, in rising order. The \
                bounds are those of HdrHistogram with two significant digits: every whole number below 256, then 128 an octave.",
            "type": "array",
            "items": {
                "type": "array",
                "prefixItems": [
                    {"type": "integer", "minimum": 0, "maximum": u32::MAX},
                    {"type": "integer", "minimum": 1},
                ],
                "minItems": 2,
                "maxItems": 2,
            },
        })
    }
}

/// Records the latencies of a window where they arise: one addition each, no allocation, 13 KB.
#[derive(Debug, Clone)]
pub struct LatencyRecorder {
    counts: Box<[u32]>,
}

impl Default for LatencyRecorder {
    fn default() -> Self {
        Self { counts: vec![0; BUCKETS].into() }
    }
}

impl LatencyRecorder {
    /// Adds one latency in microseconds.
    pub fn record(&mut self, us: u64) {
        let count = &mut self.counts[usize::from(bucket_of(clamp_us(us)))];
        *count = count.saturating_add(1);
    }

    /// What was recorded since the last call.
    pub fn take(&mut self) -> LatencySketch {
        let used = self.counts.iter_mut().enumerate().filter(|(_, n)| **n > 0);
        LatencySketch { buckets: used.map(|(i, n)| (i as u16, u64::from(std::mem::take(n)))).collect() }
    }
}
