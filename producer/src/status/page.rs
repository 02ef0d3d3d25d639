//! The tables as one page. It keeps its structure whatever it shows, so that a script can put new rows in place of old ones without moving
//! anybody's focus; and it is complete without one. Pure.

use embed_control::status::Status;
use maud::{DOCTYPE, Markup, html};

use super::view::{self, Part};

/// The page.
pub(super) fn page(status: &Status) -> Markup {
    let parts = view::parts(status);
    let server = &status.server;
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                title { "akidb-embed: status" }
                link rel="stylesheet" href="status.css";
                script src="status.js" defer {}
            }
            body {
                a.skip href="#main" { "Skip to the figures" }
                header {
                    div {
                        h1 { "akidb-embed" }
                        p id="taken" data-live {
                            "As of " time datetime=(status.taken) { (moment(&status.taken)) } ", from " (server.name)
                            " (nats-server " (server.version) ")"
                        }
                    }
                    div.controls {
                        // The script says here that nobody answers any more.
                        p id="link" role="status" {}
                        button id="pause" type="button" aria-pressed="false" hidden { "Pause updates" }
                        a href="" { "Refresh" }
                        a href="status.json" { "JSON" }
                    }
                }
                nav aria-label="Parts of this page" {
                    ul { @for part in &parts { li { a href={ "#" (part.id) } { (part.title) } } } }
                }
                main id="main" tabindex="-1" {
                    section aria-labelledby="now" {
                        h2 id="now" { "Now" }
                        dl.figures id="figures" data-live {
                            @for figure in view::figures(status) {
                                div { dt { (figure.name) } dd { (figure.value) } }
                            }
                        }
                        // Read out when it changes, and only then: figures change all the time.
                        p.headline id="headline" role="status" data-live {
                            span class={ "mark " (if status.attention.is_empty() { "good" } else { "bad" }) } aria-hidden="true" {}
                            (view::headline(status))
                        }
                        ul.attention id="attention" data-live {
                            @for sentence in &status.attention { li { (prose(sentence)) } }
                        }
                    }
                    @for part in &parts { (section(part)) }
                }
            }
        }
    }
}

fn section(part: &Part) -> Markup {
    let Part { id, title, caption, table, instead, gap } = part;
    let (region, body, note) = (format!("{id}-title"), format!("{id}-rows"), format!("{id}-note"));
    html! {
        section id=(id) {
            h2 id=(region) { (title) }
            // Wide tables are scrolled, with the keyboard as well.
            div.wide role="region" aria-labelledby=(region) tabindex="0" {
                table {
                    caption { (prose(caption)) "." }
                    thead { tr { @for (n, name) in table.head.iter().enumerate() {
                        th scope="col" class=[table.is_numeric(n).then_some("number")] { (name) }
                    } } }
                    tbody id=(body) data-live {
                        @for row in &table.rows {
                            tr { @for (n, cell) in row.iter().enumerate() {
                                @if n == 0 { th scope="row" { (cell) } }
                                @else { td class=[class(table.is_numeric(n), &table.head[n], cell)] { (cell) } }
                            } }
                        }
                        @if table.rows.is_empty() { tr { td.none colspan=(table.head.len()) { (prose(instead)) } } }
                    }
                }
            }
            p.note id=(note) data-live {
                @if let (Some(gap), false) = (gap, table.rows.is_empty()) { (prose(gap)) }
            }
        }
    }
}

/// Text whose commands stand between backquotes, as in all that these programs say.
fn prose(text: &str) -> Markup {
    let pieces: Vec<&str> = text.split('`').collect();
    // One that is not closed is one that was meant.
    let all_closed = pieces.len() % 2 == 1;
    html! {
        @if !all_closed { (text) }
        @else {
            @for (n, piece) in pieces.iter().enumerate() {
                @if n % 2 == 1 { code { (piece) } } @else { (piece) }
            }
        }
    }
}

/// How a cell looks. What a colour says is in its words, too.
fn class(is_number: bool, heading: &str, cell: &str) -> Option<&'static str> {
    let begins = |words: &[&str]| words.iter().any(|word| cell.contains(word));
    match heading {
        "State" | "Phase" if begins(&["failed", "unserved", "paused", "rolled back", "rolling back"]) => {
            Some("state bad")
        }
        "State" | "Phase" if begins(&["loading", "cold", "draining", "checking", "shadowing", "moving", "holding"]) => {
            Some("state busy")
        }
        "State" | "Phase" if begins(&["live", "serving", "promoted"]) => Some("state good"),
        "Job" | "Code" | "Letter" => Some("code"),
        "Reason" | "Notes" | "What happened last" | "Serves" => Some("prose"),
        _ => is_number.then_some("number"),
    }
}

/// `2026-03-14T09:26:53.589Z` -> `09:26:53 UTC`
fn moment(taken: &str) -> String {
    taken.get(11..19).map_or_else(|| taken.to_owned(), |time| format!("{time} UTC"))
}

#[cfg(test)]
mod tests {
    use embed_control::status::{ServerLine, Unknown, VariantLine};
    use proptest::prelude::*;

    use super::*;

    fn with(text: &str) -> Status {
        let server = ServerLine { name: text.to_owned(), version: text.to_owned(), connected: true };
        let variant = VariantLine {
            model: "m".parse().unwrap(),
            variant: "v".parse().unwrap(),
            default: true,
            states: [("live", 2)].into(),
            versions: [text.to_owned()].into(),
            precisions: [text.to_owned()].into(),
            providers: [text.to_owned()].into(),
            shares: None,
        };
        Status {
            taken: "2026-03-14T09:26:53.589Z".to_owned(),
            server,
            attention: vec![text.to_owned()],
            variants: vec![variant],
            traffic: None,
            queues: Some(Vec::new()),
            streams: None,
            rollouts: None,
            errors: None,
            dead: None,
            workers: None,
            unknown: vec![Unknown { part: "dead", reason: text.to_owned(), next: text.to_owned() }],
        }
    }

    #[test]
    fn what_is_not_known_is_said_where_it_would_be() {
        let html = page(&with("x & y")).into_string();
        assert!(html.contains("Not known: x &amp; y. What to do: x &amp; y."), "{html}");
        assert!(html.contains("There are no queues.") && html.contains("live on 2 workers"), "{html}");
        assert!(html.contains("09:26:53 UTC"), "{html}");
        let html = page(&with("see `a b` & c")).into_string();
        assert!(html.contains("see <code>a b</code> &amp; c"), "{html}");
        assert_eq!(prose("one ` alone").into_string(), "one ` alone");
        // Nothing is loaded from elsewhere, and nothing runs that is not in the script.
        for foreign in ["http:", "https:", "<style", " style=", "onclick", "javascript:"] {
            assert!(!html.contains(foreign), "{foreign}: {html}");
        }
    }

    proptest! {
        #[test]
        fn no_text_changes_the_structure(text in "\\PC*|[<>&\"'/a-z ]*") {
            let brackets = |text: &str| {
                let html = page(&with(text)).into_string();
                (html.matches('<').count(), html.matches('>').count())
            };
            let text = text.replace('`', "'");
            prop_assert_eq!(brackets("x"), brackets(&text));
        }
    }
}
