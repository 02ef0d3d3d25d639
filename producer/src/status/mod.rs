//! How everything stands, for people: as text, and as a page that keeps itself up to date.
//!
//! | module | does |
//! |---|---|
//! | `view` | [`Status`] as tables, the same for text and page |
//! | `page` | the tables as HTML |
//! | `watch` | looks at most once a second, however many ask |
//! | `serve` | answers HTTP |
//!
//! What is shown is found out by [`embed_control::status`].

mod page;
mod serve;
mod view;
mod watch;

use embed_control::status::Status;

pub use serve::routes;
pub use watch::Watch;

/// As text, for a terminal.
#[must_use]
pub fn text(status: &Status) -> String {
    let mut out = view::headline(status);
    out.push('\n');
    for sentence in &status.attention {
        out += &format!("! {}\n", sentence.replace('\n', " "));
    }
    for part in view::parts(status) {
        out += &format!("\n{}\n", part.title);
        match part.table.rows.is_empty() {
            true => out += &format!("  {}\n", part.instead),
            false => out += &part.table.aligned(),
        }
        if let Some(gap) = part.gap.filter(|_| !part.table.rows.is_empty()) {
            out += &format!("  {gap}\n");
        }
    }
    out
}
