//! Watching that what a command prints is of one embedding space. Pure.

use embed_schemas::EmbedResult;

/// The embedding spaces of the results so far.
#[derive(Debug, Default)]
pub(super) struct Spaces {
    /// The first result's space, and who made it.
    first: Option<(String, String)>,
    warned: bool,
}

impl Spaces {
    /// Looks at a result: what to warn of, once, if it is not of the first one's space.
    pub(super) fn see(&mut self, result: &EmbedResult) -> Option<String> {
        let from = || format!("{} {}", result.variant, result.version);
        let (space, first) = self.first.get_or_insert_with(|| (result.space.clone(), from()));
        if self.warned || *space == result.space {
            return None;
        }
        self.warned = true;
        Some(format!(
            "these results are of two embedding spaces, {space} from {first} and {} from {}: compare no vector of one with \
             one of the other. Choose one with --variant, or refuse the other with --space",
            result.space,
            from()
        ))
    }
}

#[cfg(test)]
mod tests {
    use embed_schemas::{Encoding, Timing};

    use super::*;

    fn result(version: &str, space: &str) -> EmbedResult {
        EmbedResult {
            id: "a".parse().unwrap(),
            model: "m".parse().unwrap(),
            variant: "v".parse().unwrap(),
            version: version.into(),
            space: space.into(),
            dim: 1,
            encoding: Encoding::F32,
            vectors: Vec::new().into(),
            items: Vec::new(),
            timing: Timing::default(),
        }
    }

    #[test]
    fn two_spaces_are_warned_of_once() {
        let mut spaces = Spaces::default();
        assert_eq!((spaces.see(&result("v1", "s")), spaces.see(&result("v2", "s"))), (None, None));
        let warning = spaces.see(&result("v3", "t")).unwrap();
        assert!(warning.contains("s from v v1 and t from v v3"), "{warning}");
        assert_eq!((spaces.see(&result("v3", "t")), spaces.see(&result("v4", "u"))), (None, None));
    }
}
