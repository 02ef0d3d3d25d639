//! What the user asks for, as criteria in a file, and what of it a live system meets.
//!
//! | module | does |
//! |---|---|
//! | `criteria` | the file: patterns of load, criteria, bounds |
//! | `measured` | what was measured, repeat by repeat, and why something was not |
//! | `judge` | met, missed, or not measured |
//! | `gpu` | what the workers' metrics say of their devices meanwhile |
//! | `cosine` | how alike vectors are |

mod cosine;
mod criteria;
mod gpu;
mod judge;
mod measured;

pub use cosine::mean_cosine;
pub use criteria::{Criteria, Criterion, Expected, Measure, TrafficPattern};
pub use gpu::{GpuUse, GpuWatch, probe};
pub use judge::{Judged, judge};
pub use measured::Measured;

/// One caller who waits for each answer.
pub const ONE_CALLER: &str = "one-caller";
/// Many of them.
pub const MANY_CALLERS: &str = "many-callers";
/// The last pattern beside as much bulk as the workers take.
pub const BESIDE_BULK: &str = "beside-bulk";

/// What a million texts cost at so many a second, in the currency of the price.
#[must_use]
pub fn cost_per_million(price_per_hour: f64, texts_per_second: f64) -> f64 {
    price_per_hour / 3600.0 / texts_per_second * 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_for_an_hour_divided_by_what_it_does_in_one() {
        assert!((cost_per_million(3.6, 1000.0) - 1.0).abs() < 1e-12);
        assert!(!cost_per_million(3.6, 0.0).is_finite());
    }
}
