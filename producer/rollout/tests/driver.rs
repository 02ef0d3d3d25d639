//! Drives a rollout through whatever may happen to it, with a shadow or without.

use std::time::Duration;

use embed_rollout::{
    Check, Config, ConfigError, Decision, Moved, Pace, Rollout, Verdict,
    config::RuleKind,
    plan::Plan,
    shadow::ShadowVerdict,
    state::{ShadowStage, Start, Versions},
};
use embed_schemas::WindowCounts;
use proptest::prelude::*;

/// A rollout of `v2` for `v1`, as somebody asks for it.
pub(crate) fn start(config: Config) -> Start {
    Start {
        id: "r".into(),
        model: "m".parse().unwrap(),
        from: "v1".parse().unwrap(),
        to: "v2".parse().unwrap(),
        lanes: Vec::new(),
        config,
        who: "me".into(),
        note: None,
    }
}

pub(crate) fn begin(config: Config) -> Rollout {
    Rollout::begin(start(config), 0).unwrap()
}

/// Why it is refused.
pub(crate) fn refusal(start: Start) -> ConfigError {
    Rollout::begin(start, 0).unwrap_err()
}

/// With these steps, held for ten minutes each.
pub(crate) fn steps(steps: &[f64]) -> Config {
    let plan = Plan { steps: steps.to_vec(), hold: Duration::from_secs(600), ..Plan::default() };
    Config { plan, ..Config::default() }
}

pub(crate) fn verdict(decision: Decision) -> Verdict {
    Verdict {
        decision,
        sentence: format!("{decision:?}"),
        reasons: Vec::new(),
        rule: RuleKind::Guarded,
        check: Check::Look(1),
        candidate_percent: 5.0,
        windows: 12,
        seed: 0,
    }
}

pub(crate) fn shadow_verdict(decision: Decision) -> ShadowVerdict {
    ShadowVerdict { decision, sentence: format!("{decision:?}"), reasons: Vec::new() }
}

pub(crate) fn moved(revision: u64) -> Moved {
    Moved { from_ms: 0, route_revision: revision, stats_after: 0, versions: Versions::default() }
}

pub(crate) fn shadow_stage() -> ShadowStage {
    ShadowStage {
        number: 0,
        from_ms: 5,
        route_revision: 3,
        stats_after: 7,
        versions: Versions::default(),
        said_ms: None,
        lasted_ms: 0,
    }
}

/// What may happen.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Input {
    /// All that must be so before traffic moves is so: with a shadow, that begins.
    Checked,
    Refused,
    ShadowBegins,
    ShadowJudged(Decision),
    ShadowLost,
    Moved,
    Stuck,
    Judged(Decision),
    VersionChanged,
    RouteChanged,
    Lost,
    RolledBack,
    NotRolledBack,
    Pause,
    Resume,
    Promote(bool),
    Abort,
}

/// What usually happens is likelier, so that sequences get far.
pub(crate) fn inputs() -> impl Strategy<Value = Vec<Input>> {
    use Input::*;
    let next = Decision::Promote { pace: Pace::NextStep };
    let full = Decision::Promote { pace: Pace::Full };
    let shadow = prop_oneof![
        3 => Just(ShadowBegins),
        4 => Just(ShadowJudged(next)),
        2 => Just(ShadowJudged(Decision::Hold)),
        1 => Just(ShadowJudged(Decision::Pause)),
        1 => Just(ShadowJudged(Decision::RollBack)),
        1 => Just(ShadowLost),
    ];
    let steps = prop_oneof![
        12 => Just(Moved),
        1 => Just(Stuck),
        12 => Just(Judged(next)),
        1 => Just(Judged(full)),
        1 => Just(Judged(Decision::RollBack)),
        2 => Just(Judged(Decision::Pause)),
        2 => Just(Judged(Decision::Hold)),
        1 => Just(VersionChanged),
        1 => Just(RouteChanged),
        1 => Just(Lost),
        2 => Just(RolledBack),
        1 => Just(NotRolledBack),
    ];
    let people =
        prop_oneof![1 => Just(Pause), 3 => Just(Resume), 1 => any::<bool>().prop_map(Promote), 1 => Just(Abort)];
    let one = prop_oneof![8 => Just(Checked), 1 => Just(Refused), 12 => shadow, 36 => steps, 6 => people];
    prop::collection::vec(one, 0..40)
}

/// A controller does what it does only where it is due; a person may want anything at any time.
pub(crate) fn apply(rollout: &mut Rollout, input: Input, now: u64) {
    match input {
        Input::Checked if rollout.wants_shadow() => rollout.shadow_begins("good", shadow_stage(), now),
        Input::Checked => rollout.checked("good", 1, now),
        Input::Refused => rollout.refused("bad", now),
        Input::ShadowBegins if !rollout.wants_shadow() => (),
        Input::ShadowBegins => rollout.shadow_begins("v2 now serves version v9", shadow_stage(), now),
        Input::ShadowJudged(decision) => rollout.shadow_judged(&shadow_verdict(decision), now),
        Input::ShadowLost => rollout.shadow_lost("gone", now),
        Input::Moved => rollout.moved(moved(now), now),
        Input::Stuck => rollout.stuck("no", now),
        Input::Judged(decision) => rollout.judged(12, &verdict(decision), WindowCounts::default, now),
        Input::VersionChanged => rollout.version_changed("v9", now),
        Input::RouteChanged => rollout.interrupted("them", now),
        Input::Lost => rollout.candidate_lost("gone", now),
        Input::RolledBack => rollout.rolled_back(now),
        Input::NotRolledBack => rollout.not_rolled_back("you have changed the route", now),
        Input::Pause => drop(rollout.pause("me", now)),
        Input::Resume => drop(rollout.resume("me", 1, now)),
        Input::Promote(full) => drop(rollout.promote("me", full, 1, WindowCounts::default(), now)),
        Input::Abort => drop(rollout.abort("me", now)),
    }
}
