//! One plot as SVG, with its caption and legend.

use crate::{
    Plot,
    escape::escape,
    frame::{BOTTOM, Frame, HEIGHT, LEFT, RIGHT, TOP, WIDTH, across, up},
    marks,
};

const X_TICKS: usize = 8;
const Y_TICKS: usize = 5;

/// The whole figure.
pub(crate) fn render(plot: &Plot) -> String {
    let title = escape(&plot.title);
    let body = match marks::scales(plot) {
        Some((x, y)) => {
            let frame = Frame { x, y };
            axes(plot, &frame) + &marks::render(plot, &frame)
        }
        None => format!("<text class=\"none\" x=\"{}\" y=\"{}\">no data</text>", WIDTH / 2.0, HEIGHT / 2.0),
    };
    format!(
        "<figure><figcaption><b>{title}</b>{}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
         aria-label=\"{title}\">{body}</svg></figure>",
        legend(plot)
    )
}

/// One series needs no legend if it is called what the plot is called.
fn legend(plot: &Plot) -> String {
    let named = plot.series.len() > 1 || plot.series.iter().any(|s| !s.name.is_empty() && s.name != plot.title);
    if !named {
        return String::new();
    }
    let entries =
        plot.series.iter().enumerate().map(|(n, series)| {
            format!("<span><i class=\"key s{}\"></i>{}</span>", marks::color(n), escape(&series.name))
        });
    format!("<span class=\"legend\">{}</span>", entries.collect::<String>())
}

fn axes(plot: &Plot, frame: &Frame) -> String {
    let (left, right, top, bottom) = (LEFT, WIDTH - RIGHT, TOP, HEIGHT - BOTTOM);
    let mut out = String::new();
    for (at, label) in frame.y.ticks(Y_TICKS) {
        let y = up(at);
        out += &format!("<path class=\"grid\" d=\"M{left} {y:.1}H{right}\"/>");
        out += &format!("<text class=\"ytick\" x=\"{}\" y=\"{:.1}\">{label}</text>", left - 7.0, y + 4.0);
    }
    for (at, label) in marks::x_ticks(plot, frame.x, X_TICKS) {
        let x = across(at);
        out += &format!("<path class=\"tick\" d=\"M{x:.1} {bottom}v5\"/>");
        out += &format!("<text class=\"xtick\" x=\"{x:.1}\" y=\"{}\">{label}</text>", bottom + 18.0);
    }
    out += &format!("<path class=\"axis\" d=\"M{left} {:.1}H{right}\"/>", frame.baseline());
    out += &format!("<text class=\"ylabel\" x=\"4\" y=\"{}\">{}</text>", top - 12.0, escape(&plot.y.label));
    let middle = (left + right) / 2.0;
    out + &format!("<text class=\"xlabel\" x=\"{middle}\" y=\"{}\">{}</text>", HEIGHT - 7.0, escape(&plot.x.label))
}
