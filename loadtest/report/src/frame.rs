//! The picture that a plot is drawn in: its size, its margins, and where in it values are.

use crate::scale::Scale;

pub(crate) const WIDTH: f64 = 560.0;
pub(crate) const HEIGHT: f64 = 300.0;
pub(crate) const LEFT: f64 = 62.0;
pub(crate) const RIGHT: f64 = 18.0;
pub(crate) const TOP: f64 = 26.0;
pub(crate) const BOTTOM: f64 = 44.0;

/// Where in the picture values are.
pub(crate) struct Frame {
    pub(crate) x: Scale,
    pub(crate) y: Scale,
}

impl Frame {
    /// Where a point is, if it can be drawn.
    pub(crate) fn place(&self, (x, y): (f64, f64)) -> Option<(f64, f64)> {
        Some((across(self.x.position(x)?), up(self.y.position(y)?)))
    }

    /// Where bars stand on.
    pub(crate) fn baseline(&self) -> f64 {
        up(self.y.baseline())
    }

    /// How wide a distance on the axis of x is, given as it is drawn.
    pub(crate) fn width_of(&self, distance: f64) -> f64 {
        self.x.share(distance) * (WIDTH - LEFT - RIGHT)
    }
}

pub(crate) fn across(position: f64) -> f64 {
    LEFT + position * (WIDTH - LEFT - RIGHT)
}

pub(crate) fn up(position: f64) -> f64 {
    HEIGHT - BOTTOM - position * (HEIGHT - TOP - BOTTOM)
}
