//! Whom a route may concern: NATS checks a publisher's permissions on the subject that a message is mapped to, and who lacks it there hears
//! nothing. Pure, but for the questions to the servers.

use embed_schemas::{RouteRecord, Slug, routes::Lanes, subjects};
use serde_json::Value;

use super::{
    Claims, Router,
    subject::overlap,
    system::{Server, System},
};

/// Who may publish what, as servers and JWTs say it.
#[derive(Debug, Clone, PartialEq, Default)]
struct Permissions {
    allow: Vec<String>,
    deny: Vec<String>,
}

/// Subjects that messages are mapped to now, and were not before.
#[must_use]
pub fn newly_mapped(model: &Slug, record: &RouteRecord) -> Vec<String> {
    let mapped = |lanes: &Lanes| -> Vec<String> {
        let pinned = lanes
            .iter()
            .flat_map(|(lane, weights)| weights.variants().map(move |variant| subjects::pinned(*lane, model, variant)));
        pinned.collect()
    };
    let before = mapped(&record.from);
    mapped(&record.lanes).into_iter().filter(|subject| !before.contains(subject)).collect()
}

impl Router {
    /// Who is connected and may not publish on some of these subjects, as far as servers tell: they tell the permissions of users that are
    /// JWTs, and our own.
    pub async fn lacking(&self, subjects: &[String]) -> Vec<String> {
        let mut lacking = Vec::new();
        if let Ok(info) = super::user_info(&self.client).await
            && Permissions::of_user(&info["data"]["permissions"]["publish"]).lacks(subjects)
        {
            lacking.push(format!("this user, {}", info["data"]["user"].as_str().unwrap_or("without a name")));
        }
        let Ok(roll_call) = self.system.roll_call(&[]).await else { return lacking };
        for server in &roll_call.present {
            lacking.extend(connected(&self.system, server, &self.account, subjects).await);
        }
        lacking.sort();
        lacking.dedup();
        lacking
    }
}

async fn connected(system: &System, server: &Server, account: &str, subjects: &[String]) -> Vec<String> {
    let connections = system.connections(server, account).await.unwrap_or_default();
    let lacks = |connection: &&Value| {
        let claims = connection["jwt"].as_str().and_then(|token| Claims::decode(token).ok());
        claims.is_some_and(|claims| Permissions::of_user(claims.publish()).lacks(subjects))
    };
    let name = |connection: &Value| {
        let of = |field: &str| connection[field].as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        let user = of("name_tag").or_else(|| of("authorized_user")).unwrap_or_else(|| "?".to_owned());
        of("name").map_or_else(|| user.clone(), |name| format!("{user} ({name})"))
    };
    connections.iter().filter(lacks).map(name).collect()
}

impl Permissions {
    fn of_user(publish: &Value) -> Self {
        let list = |field: &str| {
            let subjects = publish[field].as_array().into_iter().flatten();
            subjects.filter_map(|subject| subject.as_str().map(str::to_owned)).collect()
        };
        Self { allow: list("allow"), deny: list("deny") }
    }

    /// Whether they miss one of these subjects.
    fn lacks(&self, subjects: &[String]) -> bool {
        let within = |list: &[String], subject: &String| list.iter().any(|pattern| overlap(pattern, subject));
        let may =
            |subject: &String| (self.allow.is_empty() || within(&self.allow, subject)) && !within(&self.deny, subject);
        subjects.iter().any(|subject| !may(subject))
    }
}

#[cfg(test)]
mod tests {
    use embed_schemas::{Lane, RouteState, Weights};
    use serde_json::json;

    use super::*;

    #[test]
    fn who_may_publish_what_is_read_as_nats_reads_it() {
        let lacks = |publish: Value| Permissions::of_user(&publish).lacks(&["embed.rpc.m.a".to_owned()]);
        assert!(!lacks(json!({})) && !lacks(Value::Null), "no permissions are all of them");
        assert!(lacks(json!({"allow": ["embed.rpc.m"]})));
        assert!(!lacks(json!({"allow": ["embed.rpc.m", "embed.rpc.m.*"]})));
        assert!(lacks(json!({"allow": ["embed.>"], "deny": ["*.rpc.m.a"]})));
    }

    #[test]
    fn only_subjects_that_are_new_concern_anybody() {
        let lanes = |shares: &[&str]| Lanes::from([(Lane::Rpc, Weights::parse(shares).unwrap())]);
        let record = |from: Lanes, to: Lanes| RouteRecord {
            lanes: to,
            from,
            state: RouteState::Applied,
            who: "me".into(),
            when: "now".into(),
            note: None,
            problem: None,
        };
        let m: Slug = "m".parse().unwrap();
        let new = |from, to| newly_mapped(&m, &record(from, to));
        assert_eq!(new(Lanes::new(), lanes(&["a=5", "b=95"])), ["embed.rpc.m.a", "embed.rpc.m.b"]);
        assert_eq!(new(lanes(&["a=100"]), lanes(&["a=5", "b=95"])), ["embed.rpc.m.b"]);
        assert!(new(lanes(&["a=50", "b=50"]), lanes(&["a=5", "b=95"])).is_empty());
        assert!(new(lanes(&["a=100"]), Lanes::new()).is_empty());
    }
}
