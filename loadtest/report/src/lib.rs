//! Measurements as one HTML page that can be judged at a glance, sent by mail, and printed.
//!
//! A page needs nothing but itself: styles and plots are in it, and it has no scripts. No I/O here: [`Page::render`]
//! returns the text.
//!
//! | module | does |
//! |---|---|
//! | `page` | the page, its verdicts, tables and text |
//! | `table` | tables, and how they look as text |
//! | `plot` | one plot as SVG |
//! | `marks` | the lines and bars of a plot |
//! | `frame` | the picture that they are drawn in |
//! | `scale` | values to positions; where the ticks are |
//! | `number` | numbers as people read them |
//! | `points` | how points are stored, with the feature `serde` |
//! | `escape` | text that is safe in HTML |

mod escape;
mod frame;
mod marks;
mod number;
mod page;
mod plot;
#[cfg(feature = "serde")]
mod points;
mod scale;
mod table;

pub use number::{grouped, significant};
pub use table::Table;

/// A page.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Page {
    /// What was measured.
    pub title: String,
    /// What it came to, first things first.
    pub summary: Vec<Verdict>,
    /// What it depends on: parameters, machine, versions; name and value.
    pub facts: Vec<(String, String)>,
    /// The details.
    pub sections: Vec<Section>,
}

/// One figure, beside what it should be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Verdict {
    /// What the figure is.
    pub name: String,
    /// The figure, with its unit.
    pub value: String,
    /// What it should be; empty where nothing is asked for.
    pub target: String,
    /// Whether it is so; `None` where nothing is asked for.
    pub passed: Option<bool>,
}

/// A part of the page.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Section {
    /// Its heading.
    pub title: String,
    /// What it holds. Plots that follow each other stand side by side where there is room.
    pub blocks: Vec<Block>,
}

/// A piece of a section.
#[derive(Debug, Clone, PartialEq)]
pub enum Block {
    /// A paragraph.
    Text(String),
    /// A table.
    Table(Table),
    /// A plot.
    Plot(Plot),
}

/// A plot.
#[derive(Debug, Clone, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Plot {
    /// Its caption.
    pub title: String,
    /// From left to right.
    pub x: Axis,
    /// From bottom to top. Begins at 0 unless it is logarithmic, so that heights can be compared.
    pub y: Axis,
    /// What is drawn.
    pub series: Vec<Series>,
    /// How.
    pub kind: PlotKind,
}

/// An axis.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Axis {
    /// What it measures, with the unit.
    pub label: String,
    /// Whether it is logarithmic. Values that are not above 0 are then left out.
    pub log: bool,
}

/// Values of one kind.
#[derive(Debug, Clone, Default, PartialEq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Series {
    /// Its name in the legend.
    pub name: String,
    /// `(x, y)`, ordered by `x`. One that is not finite is left out, and is a gap in a line.
    #[cfg_attr(feature = "serde", serde(with = "points"))]
    pub points: Vec<(f64, f64)>,
}

/// How values are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "lowercase"))]
pub enum PlotKind {
    /// One line through the points of a series.
    Line,
    /// One bar for each point; several series stand beside each other.
    Bars,
}
