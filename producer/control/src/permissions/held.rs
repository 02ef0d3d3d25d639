//! What a user may do, as a server says it, against what a role needs. Pure.

use serde::Deserialize;

use super::Permissions;

/// The permissions that a user has. Without rules, everything is allowed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
pub struct Held {
    /// Where it may publish.
    #[serde(default)]
    publish: Option<Rules>,
    /// What it may subscribe to.
    #[serde(default)]
    subscribe: Option<Rules>,
}

/// Subjects as a server lists them. Without any that are allowed, all are that are not denied.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
struct Rules {
    #[serde(default)]
    allow: Vec<String>,
    #[serde(default)]
    deny: Vec<String>,
}

impl Held {
    /// What is needed and not allowed, such as `publish on embed.rpc.m`.
    #[must_use]
    pub fn lacking(&self, needed: &Permissions) -> Vec<String> {
        let publish = needed.publish.allow.iter().map(|subject| ("publish on", subject, &self.publish));
        let subscribe = needed.subscribe.allow.iter().map(|subject| ("subscribe to", subject, &self.subscribe));
        publish
            .chain(subscribe)
            .filter(|(_, subject, rules)| rules.as_ref().is_some_and(|rules| !rules.allow(subject)))
            .map(|(what, subject, _)| format!("{what} {subject}"))
            .collect()
    }
}

impl Rules {
    /// Whether all that a pattern stands for is allowed.
    fn allow(&self, wanted: &str) -> bool {
        let (wanted, group) = split(wanted);
        let allows = |rule: &String| {
            let (pattern, of_group) = split(rule);
            // A rule without a group is for all of them.
            let group_fits = of_group.is_none_or(|of| group.is_some_and(|group| covers(of, group)));
            group_fits && covers(pattern, wanted)
        };
        let denies = |rule: &String| {
            let (pattern, of_group) = split(rule);
            of_group.is_none_or(|of| group.is_some_and(|group| overlap(of, group))) && overlap(pattern, wanted)
        };
        (self.allow.is_empty() || self.allow.iter().any(allows)) && !self.deny.iter().any(denies)
    }
}

/// A subject, and after a space a queue group.
fn split(rule: &str) -> (&str, Option<&str>) {
    rule.split_once(' ').map_or((rule, None), |(subject, group)| (subject, Some(group)))
}

/// Whether a pattern stands for all that another stands for.
fn covers(pattern: &str, other: &str) -> bool {
    let (mut pattern, mut other) = (pattern.split('.'), other.split('.'));
    loop {
        match (pattern.next(), other.next()) {
            (None, None) => return true,
            (Some(">"), Some(_)) => return true,
            (Some("*"), Some(token)) if token != ">" => {}
            (Some(own), Some(token)) if own == token => {}
            _ => return false,
        }
    }
}

/// Whether there is a subject that both stand for.
fn overlap(one: &str, other: &str) -> bool {
    let (mut one, mut other) = (one.split('.'), other.split('.'));
    loop {
        match (one.next(), other.next()) {
            (None, None) => return true,
            (Some(">"), Some(_)) | (Some(_), Some(">")) => return true,
            (Some(a), Some(b)) if a == b || a == "*" || b == "*" => {}
            _ => return false,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::{
        super::{Role, Scope},
        *,
    };

    fn held(value: serde_json::Value) -> Held {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn what_a_role_needs_is_compared_with_what_a_user_has() {
        let scope = Scope::new(&["m".parse().unwrap()], "producer");
        let needed = Permissions::of(&[Role::Producer], &scope);
        assert!(Held::default().lacking(&needed).is_empty(), "without rules, everything is allowed");
        let own = held(serde_json::to_value(&needed).unwrap());
        assert!(own.lacking(&needed).is_empty());
        let caller = held(serde_json::to_value(Permissions::of(&[Role::Caller], &scope)).unwrap());
        let lacking = caller.lacking(&needed);
        assert!(lacking.contains(&"publish on embed.job.m".to_owned()), "{lacking:?}");
        assert!(!lacking.iter().any(|one| one.contains("$SRV")), "{lacking:?}");
        let worker = Permissions::of(&[Role::Worker], &Scope::new(&["m".parse().unwrap()], "worker"));
        let all = held(json!({"publish": {"allow": [">"]}, "subscribe": {"allow": [">"], "deny": ["embed.rpc.m"]}}));
        let lacking = all.lacking(&worker);
        assert!(matches!(&lacking[..], [one] if one.starts_with("subscribe to embed.rpc.m ")), "{lacking:?}");
    }

    fn subject() -> impl Strategy<Value = String> {
        prop::collection::vec("[ab]", 1..4).prop_map(|tokens| tokens.join("."))
    }

    fn pattern() -> impl Strategy<Value = String> {
        (prop::collection::vec("[ab*]", 1..4), any::<bool>()).prop_map(|(mut tokens, rest)| {
            if rest {
                tokens.push(">".to_owned());
            }
            tokens.join(".")
        })
    }

    proptest! {
        #[test]
        fn what_covers_stands_for_every_subject_of_the_other(one in pattern(), other in pattern(), subject in subject()) {
            if covers(&one, &other) && covers(&other, &subject) {
                prop_assert!(covers(&one, &subject));
            }
            if covers(&one, &subject) && covers(&other, &subject) {
                prop_assert!(overlap(&one, &other));
            }
            prop_assert!(covers(&one, &one) && overlap(&one, &other) == overlap(&other, &one));
        }
    }
}
