//! Subjects with wildcards: whether one message can match two of them. Pure.

/// Whether some subject is matched by both. `*` stands for one token, `>` at the end for one or more.
pub(crate) fn overlap(a: &str, b: &str) -> bool {
    let (mut a, mut b) = (a.split('.'), b.split('.'));
    loop {
        match (a.next(), b.next()) {
            (None, None) => return true,
            (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
            (Some(x), Some(y)) if x == y || x == "*" || y == "*" => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Matching as NATS defines it, of a subject without wildcards.
    fn matches(pattern: &[String], subject: &[String]) -> bool {
        match (pattern.first().map(String::as_str), subject.first()) {
            (None, None) => true,
            (Some(">"), Some(_)) => true,
            (Some(p), Some(s)) => (p == "*" || p == s) && matches(&pattern[1..], &subject[1..]),
            _ => false,
        }
    }

    #[test]
    fn wildcards_overlap_with_what_they_match() {
        for other in [">", "embed.>", "embed.*.m", "embed.rpc.*", "*.*.*", "embed.rpc.m"] {
            assert!(overlap("embed.rpc.m", other) && overlap(other, "embed.rpc.m"), "{other}");
        }
        for other in ["embed.rpc", "embed.rpc.m.>", "embed.job.*", "*.*", "embed.rpc.m2"] {
            assert!(!overlap("embed.rpc.m", other) && !overlap(other, "embed.rpc.m"), "{other}");
        }
    }

    fn pattern() -> impl Strategy<Value = Vec<String>> {
        let token = prop::sample::select(vec!["a", "b", "*"]);
        (prop::collection::vec(token, 1..4), any::<bool>())
            .prop_map(|(tokens, tail)| tokens.into_iter().chain(tail.then_some(">")).map(str::to_owned).collect())
    }

    proptest! {
        #[test]
        fn it_is_as_trying_all_subjects(a in pattern(), b in pattern()) {
            // Two patterns of up to four tokens over two letters: if they meet at all, then in a subject of up to five.
            let mut subjects = vec![vec![]];
            let mut both = false;
            for _ in 0..5 {
                subjects = subjects.iter().flat_map(|s: &Vec<String>| {
                    ["a", "b"].map(|t| s.iter().cloned().chain([t.to_owned()]).collect::<Vec<_>>())
                }).collect();
                both |= subjects.iter().any(|s| matches(&a, s) && matches(&b, s));
            }
            prop_assert_eq!(overlap(&a.join("."), &b.join(".")), both);
        }
    }
}
