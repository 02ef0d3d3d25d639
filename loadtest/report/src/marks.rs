//! The lines and bars of a plot.

use crate::{
    Plot, PlotKind, Series,
    escape::escape,
    frame::Frame,
    number::significant,
    scale::{Scale, drawn},
};

/// Up to so many points, each can be pointed at for its values.
const MOST_POINTS: usize = 600;
/// What bars leave of the room between two values of x.
const BARS_FILL: f64 = 0.8;

/// How much room bars need to the left of the first and the right of the last value of x, as it is drawn.
pub(crate) fn padding(plot: &Plot) -> f64 {
    match plot.kind {
        PlotKind::Line => 0.0,
        PlotKind::Bars => slot(plot) / 2.0,
    }
}

/// All series.
pub(crate) fn render(plot: &Plot, frame: &Frame) -> String {
    let few = plot.series.iter().map(|series| series.points.len()).sum::<usize>() <= MOST_POINTS;
    let draw = |(n, series): (usize, &Series)| match plot.kind {
        PlotKind::Line => line(n, series, frame) + &if few { dots(n, series, frame) } else { String::new() },
        PlotKind::Bars => bars(n, series, plot, frame),
    };
    plot.series.iter().enumerate().map(draw).collect()
}

fn line(n: usize, series: &Series, frame: &Frame) -> String {
    let mut path = String::new();
    let mut open = false;
    for point in &series.points {
        match frame.place(*point) {
            Some((x, y)) if open => path += &format!("L{x:.1} {y:.1}"),
            // A line of no length is a dot, so that a point between gaps is seen.
            Some((x, y)) => path += &format!("M{x:.1} {y:.1}h0"),
            None => {}
        }
        open = frame.place(*point).is_some();
    }
    format!("<path class=\"line s{}\" d=\"{path}\"/>", color(n))
}

fn dots(n: usize, series: &Series, frame: &Frame) -> String {
    let dot = |point: &(f64, f64)| {
        let (x, y) = frame.place(*point)?;
        let title = title(series, *point);
        Some(format!("<circle class=\"dot s{}\" cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\">{title}</circle>", color(n)))
    };
    series.points.iter().filter_map(dot).collect()
}

fn bars(n: usize, series: &Series, plot: &Plot, frame: &Frame) -> String {
    let room = frame.width_of(slot(plot)) * BARS_FILL;
    let width = room / plot.series.len() as f64;
    let left = n as f64 * width - room / 2.0;
    let base = frame.baseline();
    let bar = |point: &(f64, f64)| {
        let (x, y) = frame.place(*point)?;
        let (x, top, height) = (x + left, y.min(base), (y - base).abs());
        let title = title(series, *point);
        let shape = format!("x=\"{x:.1}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{height:.1}\"", width.max(0.5));
        Some(format!("<rect class=\"bar s{}\" {shape}>{title}</rect>", color(n)))
    };
    series.points.iter().filter_map(bar).collect()
}

fn title(series: &Series, (x, y): (f64, f64)) -> String {
    format!("<title>{}: {} at {}</title>", escape(&series.name), significant(y, 4), significant(x, 6))
}

/// The smallest distance between two values of x, as they are drawn.
fn slot(plot: &Plot) -> f64 {
    let all = plot.series.iter().flat_map(|series| &series.points);
    let mut values: Vec<f64> = all.filter_map(|(x, _)| drawn(*x, plot.x.log)).collect();
    values.sort_by(f64::total_cmp);
    let gaps = values.windows(2).map(|pair| pair[1] - pair[0]).filter(|gap| *gap > 1e-9);
    let smallest = gaps.fold(f64::INFINITY, f64::min);
    if smallest.is_finite() { smallest } else { 1.0 }
}

/// Few bars are named one by one: ticks between them would say nothing.
pub(crate) fn x_ticks(plot: &Plot, scale: Scale, wanted: usize) -> Vec<(f64, String)> {
    let mut values: Vec<f64> = plot.series.iter().flat_map(|series| &series.points).map(|(x, _)| *x).collect();
    values.sort_by(f64::total_cmp);
    values.dedup();
    if plot.kind == PlotKind::Line || values.len() > wanted {
        return scale.ticks(wanted);
    }
    values.into_iter().filter_map(|value| Some((scale.position(value)?, significant(value, 4)))).collect()
}

/// There are eight colours.
pub(crate) const fn color(n: usize) -> usize {
    n % 8
}

/// The two axes of a plot.
pub(crate) fn scales(plot: &Plot) -> Option<(Scale, Scale)> {
    // A point needs both values to be drawn, so only such points count for the range.
    let points = || {
        let all = plot.series.iter().flat_map(|series| &series.points).copied();
        all.filter(|(x, y)| drawn(*x, plot.x.log).is_some() && drawn(*y, plot.y.log).is_some())
    };
    let x = Scale::covering(points().map(|(x, _)| x), plot.x.log, false, padding(plot))?;
    let y = Scale::covering(points().map(|(_, y)| y), plot.y.log, true, 0.0)?;
    Some((x, y))
}
