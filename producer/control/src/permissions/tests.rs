use proptest::prelude::*;

use super::*;
use crate::route::overlap;

fn models() -> Vec<Slug> {
    ["m", "other"].map(|name| name.parse().unwrap()).into()
}

fn of(role: Role) -> Permissions {
    Permissions::of(&[role], &Scope::new(&models()[..1], role.as_str()))
}

fn may_publish(role: Role, subject: &str) -> bool {
    of(role).publish.allow.iter().any(|pattern| overlap(pattern, subject))
}

/// In whatever queue group.
fn may_hear(role: Role, subject: &str) -> bool {
    of(role).subscribe.allow.iter().any(|pattern| overlap(pattern.split(' ').next().unwrap(), subject))
}

/// What only some roles may do: (subject to publish on, who may).
const GUARDED: &[(&str, &[Role])] = &[
    // Results, and what becomes of jobs.
    ("embed.store.m.id", &[Role::Worker, Role::Jobs, Role::Operator]),
    ("embed.result.m.id", &[]),
    ("embed.dead.m.fp32", &[Role::Worker]),
    ("embed.attempts.m.key", &[Role::Worker]),
    ("$JS.ACK.EMBED_m.fp32-job.1.2.3.4.5", &[Role::Worker]),
    ("$JS.ACK.hub.hash.EMBED_m.fp32-job.1.2.3.4.5", &[Role::Worker]),
    ("$JS.API.CONSUMER.MSG.NEXT.EMBED_m.fp32-job", &[Role::Worker]),
    // Everybody's results, and lists of them.
    ("$JS.API.DIRECT.GET.EMBED_RESULTS_m", &[]),
    ("$JS.API.STREAM.INFO.EMBED_RESULTS_m", &[Role::Worker, Role::Status, Role::Init, Role::Operator]),
    ("$JS.API.STREAM.MSG.GET.EMBED_RESULTS_m", &[]),
    ("$JS.API.STREAM.PURGE.EMBED_RESULTS_m", &[Role::Worker]),
    ("embed.store.m.a.id", &[Role::Worker, Role::Jobs, Role::Operator]),
    ("$JS.API.DIRECT.GET.EMBED_RESULTS_m.embed.result.m.a.id", &[Role::Worker, Role::Jobs, Role::Operator]),
    ("embed.job.m.fp32.a", &[Role::Jobs, Role::Operator]),
    ("embed.remove.m", &[Role::Backfill, Role::Gateway, Role::Operator]),
    ("embed.remove.m.a", &[]),
    ("$JS.API.STREAM.MSG.DELETE.EMBED_RESULTS_m", &[Role::Jobs, Role::Operator]),
    ("$JS.API.CONSUMER.CREATE.EMBED_RESULTS_m.x", &[]),
    // Everybody's texts.
    ("$JS.API.DIRECT.GET.EMBED_m", &[Role::Worker, Role::Jobs, Role::Operator]),
    ("$JS.API.STREAM.MSG.GET.EMBED_m", &[Role::Worker]),
    ("$JS.API.STREAM.MSG.DELETE.EMBED_m", &[Role::Worker, Role::Jobs, Role::Operator]),
    ("$JS.API.DIRECT.GET.EMBED_DEAD", &[Role::Jobs, Role::Operator]),
    ("$JS.API.DIRECT.GET.EMBED_DEAD_m", &[Role::Status, Role::Jobs, Role::Operator]),
    ("$JS.API.DIRECT.GET.EMBED_DEAD_other", &[]),
    ("embed.shadow.m.canary", &[Role::Worker]),
    // Streams and consumers.
    ("$JS.API.STREAM.CREATE.EMBED_m", &[Role::Init, Role::Operator]),
    ("$JS.API.STREAM.UPDATE.EMBED_m", &[Role::Init, Role::Operator]),
    ("$JS.API.STREAM.DELETE.EMBED_m", &[]),
    ("$JS.API.STREAM.PURGE.EMBED_m", &[]),
    ("$JS.API.CONSUMER.CREATE.EMBED_m.fp32-job", &[Role::Models, Role::Init, Role::Operator]),
    ("$JS.API.CONSUMER.DELETE.EMBED_m.fp32-job", &[]),
    ("$JS.API.STREAM.SNAPSHOT.EMBED_m", &[]),
    // What operators decide.
    ("$KV.embed_models.m.fp32", &[Role::Models, Role::Operator]),
    ("$KV.embed_routes.m", &[Role::Routes, Role::Rollouts, Role::Operator]),
    ("$KV.embed_rollouts.m", &[Role::Rollouts, Role::Operator]),
    ("$KV.embed_backfills.id", &[Role::Backfill, Role::Operator]),
    ("$JS.API.STREAM.MSG.GET.KV_embed_backfills", &[Role::Backfill, Role::Operator]),
    ("embed.control.refresh", &[Role::Models, Role::Operator]),
    ("embed.control.reload", &[Role::Models, Role::Operator]),
    ("embed.control.reload.w1", &[Role::Models, Role::Operator]),
    ("embed.control.drain.w1", &[Role::Operator]),
    ("embed.control.drain", &[]),
    ("embed.control.status", &[Role::Metrics, Role::Status, Role::Models, Role::Operator]),
    ("embed.control.status.w1", &[Role::Metrics, Role::Models, Role::Operator]),
    ("$SRV.STATS", &[Role::Metrics, Role::Operator]),
    ("embed.control.shadow", &[Role::Rollouts, Role::Operator]),
    ("$SYS.REQ.SERVER.X.RELOAD", &[Role::RoutesSys]),
    // What they decide by.
    ("embed.stats.m.fp32", &[Role::Worker]),
    ("embed.stats.m.fp32.shadow", &[Role::Worker]),
    // Answers: to calls, and to the question who serves what.
    ("_INBOX.caller.x", &[Role::Worker]),
    ("_R_.x", &[Role::Worker]),
    // Another model, or none.
    ("embed.rpc.other", &[]),
    ("embed.job.other.fp32", &[]),
    ("embed.store.other.id", &[]),
    ("$JS.API.DIRECT.GET.EMBED_RESULTS_other.embed.result.other.id", &[]),
    ("anything", &[]),
];

#[test]
fn what_is_guarded_is_for_its_roles_alone() {
    for (subject, who) in GUARDED {
        let may: Vec<_> = Role::ALL.into_iter().filter(|role| may_publish(*role, subject)).collect();
        let mut who = who.to_vec();
        who.sort();
        assert_eq!(may, who, "{subject}");
    }
}

#[test]
fn nobody_hears_anybody_else() {
    let heard: &[(&str, &[Role])] = &[
        ("embed.rpc.m", &[Role::Worker]),
        ("embed.rpc.m.fp32", &[Role::Worker]),
        ("embed.shadow.m.fp32", &[Role::Worker]),
        ("embed.result.m.id", &[]),
        ("embed.job.m", &[]),
        // Keys of results stand in them.
        ("embed.remove.m", &[Role::Worker]),
        ("embed.remove.m.a", &[Role::Worker]),
        ("embed.stats.m.fp32", &[Role::Metrics, Role::Operator]),
        ("$SRV.INFO.embed-worker", &[Role::Worker]),
        ("embed.control.status", &[Role::Worker]),
        ("embed.control.drain.w1", &[Role::Worker]),
        ("_INBOX.another.x", &[]),
        ("_R_.x", &[]),
        ("$JS.ACK.EMBED_m.fp32-job.1.2.3.4.5", &[]),
        ("$KV.embed_models.m.fp32", &[]),
    ];
    for (subject, who) in heard {
        let may: Vec<_> = Role::ALL.into_iter().filter(|role| may_hear(*role, subject)).collect();
        assert_eq!(may, *who, "{subject}");
    }
    for role in Role::ALL {
        assert!(may_hear(role, &format!("_INBOX.{role}.x")), "{role}");
    }
    // Calls come to whoever joins their queue group, and only so.
    let calls = "embed.rpc.m workers".to_owned();
    assert!(of(Role::Worker).subscribe.allow.contains(&calls));
}

#[test]
fn every_program_may_do_what_it_is_for() {
    let may = |role: Role, subjects: &[&str]| {
        for subject in subjects {
            assert!(may_publish(role, subject), "{role}: {subject}");
        }
    };
    let result = "$JS.API.DIRECT.GET.EMBED_RESULTS_m.embed.result.m.id";
    may(Role::Caller, &["embed.rpc.m", "embed.rpc.m.fp32", "$SRV.INFO.embed-worker"]);
    may(Role::Producer, &["embed.job.m", "embed.job.m.fp32", result]);
    may(Role::Backfill, &["embed.bulk.m", "embed.bulk.m.fp32", result]);
    may(Role::Gateway, &["embed.rpc.m", "embed.job.m", "embed.bulk.m", "embed.remove.m", result]);
    assert!(!may_publish(Role::Caller, "embed.job.m") && !may_publish(Role::Producer, "embed.bulk.m"));
    let tenant = Scope { tenant: Some("a".parse().unwrap()), ..Scope::new(&models()[..1], "x") };
    let tenant = Permissions::of(&[Role::Producer, Role::Backfill], &tenant).publish.allow;
    let may = |subject: &str| tenant.iter().any(|pattern| overlap(pattern, subject));
    for own in ["embed.job.m._.a", "embed.bulk.m.fp32.a", "embed.remove.m.a", &result.replace("m.id", "m.a.id")] {
        assert!(may(own), "{own}: {tenant:?}");
    }
    for other in [
        "embed.job.m",
        "embed.job.m._.b",
        "embed.remove.m",
        "embed.remove.m.b",
        "$KV.embed_backfills.id",
        "$JS.API.STREAM.MSG.GET.KV_embed_backfills",
        result,
        &result.replace("m.id", "m.b.id"),
    ] {
        assert!(!may(other), "{other}: {tenant:?}");
    }
    let domain = Scope { api: "$JS.hub.API".into(), ..Scope::new(&models(), "x") };
    let routes = Permissions::of(&[Role::Routes], &domain).publish.allow;
    assert!(routes.contains(&"$JS.hub.API.$KV.embed_routes.>".to_owned()), "{routes:?}");
    assert!(!routes.iter().any(|subject| subject.starts_with("$JS.API") || subject.starts_with("$KV")), "{routes:?}");
}

/// What stands in the repository is what this makes.
#[test]
fn the_files_of_deploy_nats_are_made_of_this() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/nats");
    let model: Vec<Slug> = vec!["all-minilm-l6-v2".parse().unwrap()];
    let tenants = ["TENANT_A", "TENANT_B"].map(str::to_owned);
    for (name, wanted) in [("roles.conf", accounts(&model, &[])), ("tenants.conf", accounts(&model, &tenants))] {
        let path = folder.join(name);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, &wanted).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(found == wanted, "{} is another: UPDATE_GOLDEN=1 writes it anew", path.display());
    }
}

proptest! {
    #[test]
    fn two_roles_may_do_what_each_may_and_no_more(a in 0..Role::ALL.len(), b in 0..Role::ALL.len()) {
        let scope = Scope::new(&models(), "x");
        let of = |roles: &[Role]| Permissions::of(roles, &scope).publish.allow;
        let (a, b) = (Role::ALL[a], Role::ALL[b]);
        let (both, each) = (of(&[a, b]), [of(&[a]), of(&[b])].concat());
        prop_assert!(each.iter().all(|subject| both.contains(subject)));
        prop_assert!(both.iter().all(|subject| each.contains(subject)));
        let unique: std::collections::BTreeSet<_> = both.iter().collect();
        prop_assert_eq!(unique.len(), both.len());
    }

    #[test]
    fn a_role_has_one_name(i in 0..Role::ALL.len()) {
        prop_assert_eq!(Role::ALL[i].as_str().parse(), Ok(Role::ALL[i]));
    }
}
