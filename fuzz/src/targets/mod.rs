//! The targets. Each decoder is followed by what its readers do next with what it lets through.

mod columns;
mod names;
mod registry;
mod tokens;
mod wire;
mod written;

use crate::Target;

/// All targets.
pub static TARGETS: &[Target] = &[
    Target { name: "requests", run: wire::request, seeds: || golden("request") },
    Target { name: "outcomes", run: wire::outcome, seeds: wire::outcomes },
    Target { name: "statistics", run: wire::statistics, seeds: || [golden("stats"), golden("shadow")].concat() },
    Target { name: "headers", run: names::headers, seeds: names::blocks },
    Target { name: "names", run: names::names, seeds: names::all },
    Target { name: "documents", run: registry::documents, seeds: registry::all_documents },
    Target { name: "golden-texts", run: registry::golden_texts, seeds: registry::golden_sets },
    Target { name: "graphs", run: registry::graph, seeds: registry::all_graphs },
    Target { name: "tokenizers", run: tokens::tokenizer, seeds: tokens::tokenizers },
    Target { name: "tokens", run: tokens::tokens, seeds: tokens::texts },
    Target { name: "contexts", run: written::context, seeds: written::contexts },
    Target { name: "rows", run: written::rows, seeds: written::all_rows },
    Target { name: "tables", run: written::tables, seeds: written::all_tables },
    Target { name: "parquet", run: columns::parquet, seeds: columns::parquet_seeds },
    Target { name: "arrow", run: columns::arrow, seeds: columns::arrow_seeds },
];

/// The golden messages whose names begin with this, in both encodings.
///
/// # Panics
/// If there are none.
fn golden(name: &str) -> Vec<Vec<u8>> {
    let folder = embed_testkit::repository().join("schemas/golden");
    let entries = std::fs::read_dir(folder).expect("golden messages").flatten().map(|entry| entry.path());
    let is_meant = |file: &std::path::PathBuf| {
        file.file_stem().is_some_and(|stem| stem.to_str().is_some_and(|stem| stem.starts_with(name)))
    };
    let mut files: Vec<_> = entries.filter(is_meant).collect();
    files.sort();
    assert!(!files.is_empty(), "{name}: there are golden messages");
    files.into_iter().map(|file| std::fs::read(file).expect("a golden message")).collect()
}
