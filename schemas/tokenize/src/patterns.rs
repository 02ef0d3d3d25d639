//! Regular expressions of a tokenizer: which are taken, and how they are run.
//!
//! The library runs them with `fancy-regex`, which tries in turn what it cannot hand to an automaton, up to a number of steps for each
//! match. Beyond it the library goes on as if nothing more matched: the tokens are others, and nobody is told. Here, that is an error of the
//! text. All matches of a text together have a time limit as well.

use fancy_regex::{Expr, Regex, RegexBuilder};
use tokenizers::{Offsets, tokenizer::pattern::Pattern};

use super::budget;

/// Most bytes of an expression. Those of known models have a few hundred.
const MAX_BYTES: usize = 4096;
/// Most copies of a part that are made of `{n}`, in all that are within each other.
const MAX_COPIES: usize = 1000;
/// Steps back in one match.
const MAX_STEPS: usize = 1_000_000;

/// Whether an expression is one to be made.
///
/// # Errors
/// What is out of proportion.
pub(super) fn check(pattern: &str) -> Result<(), String> {
    if pattern.len() > MAX_BYTES {
        return Err(format!("an expression has {} bytes, at most {MAX_BYTES} are taken", pattern.len()));
    }
    let tree = Expr::parse_tree(pattern).map_err(|e| format!("the expression {pattern:?}: {e}"))?;
    let copies = copies(&tree.expr);
    if copies > MAX_COPIES {
        return Err(format!(
            "the expression {pattern:?} repeats a part more than {MAX_COPIES} times; repeats within each other multiply"
        ));
    }
    Ok(())
}

/// The most copies of anything in an expression.
fn copies(expr: &Expr) -> usize {
    let all = |parts: &[Expr]| parts.iter().map(copies).max().unwrap_or(1);
    match expr {
        Expr::Concat(parts) | Expr::Alt(parts) => all(parts),
        Expr::Group(inner) | Expr::LookAround(inner, _) | Expr::AtomicGroup(inner) => copies(inner),
        Expr::Repeat { child, lo, hi, .. } => {
            // Without an upper bound, one more copy goes round.
            let own = if *hi == usize::MAX { lo.saturating_add(1) } else { *hi };
            copies(child).saturating_mul(own.max(1))
        }
        Expr::Conditional { condition, true_branch, false_branch } => {
            copies(condition).max(copies(true_branch)).max(copies(false_branch))
        }
        _ => 1,
    }
}

/// An expression that says so when it takes too long.
#[derive(Debug)]
pub(super) struct Guarded(Regex);

/// An expression took too long.
#[derive(Debug, Clone, thiserror::Error)]
#[error("an expression of the tokenizer takes too long on this text: {0}")]
pub(super) struct TooLong(String);

impl Guarded {
    /// Makes an expression; `plain`: a text that stands for itself.
    pub(super) fn new(pattern: &str, plain: bool) -> Result<Self, fancy_regex::Error> {
        let escaped = if plain { fancy_regex::escape(pattern) } else { pattern.into() };
        RegexBuilder::new(&escaped).backtrack_limit(MAX_STEPS).build().map(Self)
    }

    fn find(&self, text: &str) -> Result<Vec<(Offsets, bool)>, TooLong> {
        if text.is_empty() {
            return Ok(vec![((0, 0), false)]);
        }
        let in_time = || budget::in_time().map_err(|late| TooLong(late.to_string()));
        // A text may have many pieces in which nothing matches.
        in_time()?;
        let (mut found, mut end) = (Vec::new(), 0);
        for one in self.0.find_iter(text) {
            let one = one.map_err(|error| TooLong(error.to_string()))?;
            in_time()?;
            if end != one.start() {
                found.push(((end, one.start()), false));
            }
            found.push(((one.start(), one.end()), true));
            end = one.end();
        }
        if end != text.len() {
            found.push(((end, text.len()), false));
        }
        Ok(found)
    }
}

impl Pattern for &Guarded {
    fn find_matches(&self, inside: &str) -> tokenizers::Result<Vec<(Offsets, bool)>> {
        Ok(self.find(inside)?)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use proptest::prelude::*;
    use tokenizers::utils::SysRegex;

    use super::*;

    /// Expressions of known models: GPT-2's, and those of Llama 3 and GPT-4o.
    const KNOWN: [&str; 3] = [
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    ];

    #[test]
    fn expressions_of_known_models_are_taken() {
        for pattern in KNOWN {
            check(pattern).unwrap();
            Guarded::new(pattern, false).unwrap();
        }
    }

    #[test]
    fn expressions_that_cannot_be_made_are_refused() {
        for pattern in ["(?:(?:(?=a)a){1000}){1000}", "((a{99}){99}){99}", "(?:(?=a)a){4000000000}"] {
            let said = check(pattern).unwrap_err();
            assert!(said.contains("repeats a part"), "{said}");
        }
        assert!(check(&"a".repeat(MAX_BYTES + 1)).unwrap_err().contains("4096"));
        assert!(check("(").is_err() && check(&"(".repeat(MAX_BYTES)).is_err());
    }

    /// Each `(a+)+` can be read in as many ways as there are sums; what follows never matches.
    #[test]
    fn an_expression_without_end_is_an_error_and_not_another_text() {
        let pattern = r"(?:a+)+(?=b)\b";
        check(pattern).unwrap();
        let text = "a".repeat(60) + "c";
        let error = Guarded::new(pattern, false).unwrap().find(&text).unwrap_err();
        assert!(error.to_string().contains("takes too long"), "{error}");
        // What the library would have gone on with.
        assert_eq!((&SysRegex::new(pattern).unwrap()).find_matches(&text).unwrap(), [((0, text.len()), false)]);
    }

    /// Whether they are in one piece of it or in several, of one expression or of several, and whether anything matches.
    #[test]
    fn all_matches_of_a_text_have_one_deadline() {
        let expressions = ["a", "b"].map(|pattern| Guarded::new(pattern, false).unwrap());
        budget::begin_until(0, Instant::now().checked_sub(Duration::from_millis(1)).unwrap());
        for (expression, piece) in expressions.iter().flat_map(|expression| [(expression, "aaa"), (expression, "bbb")])
        {
            let error = expression.find(piece).unwrap_err();
            assert!(error.to_string().contains("more than 10s"), "{error}");
        }
        budget::begin(0);
        assert!(expressions[0].find("aaa").is_ok());
    }

    proptest! {
        #[test]
        fn matches_are_those_of_the_library(text in "[a1 '\\n\u{E9}\u{4E2D}!]{0,40}", which in 0..KNOWN.len()) {
            let library = SysRegex::new(KNOWN[which]).unwrap();
            let guarded = Guarded::new(KNOWN[which], false).unwrap();
            prop_assert_eq!((&guarded).find_matches(&text).unwrap(), (&library).find_matches(&text).unwrap());
        }
    }
}
