//! Whatever happens in whatever order, a rollout keeps its promises.

use std::time::Duration;

use embed_rollout::{
    Check, Config, Decision, Moved, Pace, Rollout, Verdict,
    config::RuleKind,
    plan::Plan,
    state::{Outcome, Phase, Start, Versions},
};
use embed_schemas::WindowCounts;
use proptest::prelude::*;

fn begin(steps: &[f64]) -> Rollout {
    let plan = Plan { steps: steps.to_vec(), hold: Duration::from_secs(600), ..Plan::default() };
    let start = Start {
        id: "r".into(),
        model: "m".parse().unwrap(),
        from: "v1".parse().unwrap(),
        to: "v2".parse().unwrap(),
        lanes: Vec::new(),
        config: Config { plan, ..Config::default() },
        who: "me".into(),
        note: None,
    };
    Rollout::begin(start, 0).unwrap()
}

fn verdict(decision: Decision) -> Verdict {
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

fn moved(revision: u64) -> Moved {
    Moved { from_ms: 0, route_revision: revision, stats_after: 0, versions: Versions::default() }
}

#[derive(Debug, Clone, Copy)]
enum Input {
    Checked,
    Refused,
    Moved,
    Stuck,
    Judged(Decision),
    VersionChanged,
    RouteChanged,
    Lost,
    RolledBack,
    Pause,
    Resume,
    Promote(bool),
    Abort,
}

fn inputs() -> impl Strategy<Value = Vec<Input>> {
    use Input::*;
    let next = Decision::Promote { pace: Pace::NextStep };
    let full = Decision::Promote { pace: Pace::Full };
    // What usually happens is likelier, so that sequences get far.
    let one = prop_oneof![
        8 => Just(Checked),
        1 => Just(Refused),
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
        1 => Just(Pause),
        3 => Just(Resume),
        1 => any::<bool>().prop_map(Promote),
        1 => Just(Abort),
    ];
    prop::collection::vec(one, 0..40)
}

fn apply(rollout: &mut Rollout, input: Input, now: u64) {
    match input {
        Input::Checked => rollout.checked("good", 1, now),
        Input::Refused => rollout.refused("bad", now),
        Input::Moved => rollout.moved(moved(now), now),
        Input::Stuck => rollout.stuck("no", now),
        Input::Judged(decision) => rollout.judged(12, &verdict(decision), WindowCounts::default, now),
        Input::VersionChanged => rollout.version_changed("v9", now),
        Input::RouteChanged => rollout.interrupted("them", now),
        Input::Lost => rollout.candidate_lost("gone", now),
        Input::RolledBack => rollout.rolled_back(now),
        Input::Pause => drop(rollout.pause("me", now)),
        Input::Resume => drop(rollout.resume("me", 1, now)),
        Input::Promote(full) => drop(rollout.promote("me", full, 1, WindowCounts::default(), now)),
        Input::Abort => drop(rollout.abort("me", now)),
    }
}

/// The step that a rollout is at, or is going to.
fn step(rollout: &Rollout) -> Option<usize> {
    match &rollout.phase {
        Phase::Moving { step, .. } | Phase::Paused { step, .. } => Some(*step),
        Phase::Holding(stage) => Some(stage.step),
        _ => None,
    }
}

proptest! {
    #[test]
    fn a_rollout_only_goes_up_its_steps_or_back_to_nothing(inputs in inputs()) {
        let mut rollout = begin(&[5.0, 25.0, 50.0, 100.0]);
        for (now, input) in inputs.into_iter().enumerate() {
            let before = rollout.clone();
            apply(&mut rollout, input, now as u64 + 1);
            // What was told stays told.
            prop_assert_eq!(&rollout.history[..before.history.len()], &before.history[..]);
            if let (Some(a), Some(b)) = (step(&before), step(&rollout)) {
                prop_assert!(b >= a, "{:?} -> {:?}", before.phase, rollout.phase);
            }
            match (&before.phase, &rollout.phase) {
                (Phase::Ended { .. }, after) => prop_assert_eq!(after, &before.phase, "what is over stays over"),
                (Phase::RollingBack { .. }, after) => prop_assert!(
                    matches!(after, Phase::RollingBack { .. } | Phase::Ended { outcome: Outcome::RolledBack | Outcome::Aborted, .. }),
                    "on the way back there is only back"
                ),
                (_, Phase::Ended { outcome: Outcome::Promoted, .. }) => {
                    prop_assert_eq!(rollout.percent(), 100.0, "from {:?}", before.phase);
                }
                (Phase::Checking, Phase::Holding(_)) => prop_assert!(false, "traffic without checks"),
                _ => (),
            }
            if matches!(rollout.outcome(), Some(Outcome::RolledBack | Outcome::Aborted | Outcome::Refused)) {
                prop_assert_eq!(rollout.percent(), 0.0);
            }
            // Whatever was stored is read back as it was.
            let json = serde_json::to_string(&rollout).unwrap();
            prop_assert_eq!(serde_json::from_str::<Rollout>(&json).unwrap(), rollout.clone());
        }
    }

    #[test]
    fn only_one_controller_acts(times in prop::collection::vec((0u8..2, 0u64..100), 1..40)) {
        let mut rollout = begin(&[5.0, 100.0]);
        let mut now = 0;
        for (who, later) in times {
            now += later;
            let me = if who == 0 { "a" } else { "b" };
            let held = rollout.holder.clone();
            if rollout.may_act(me, now) {
                if let Some(held) = held {
                    prop_assert!(held.name == me || held.until_ms < now);
                }
                rollout.holder = Some(embed_rollout::state::Holder { name: me.into(), until_ms: now + 50 });
            } else {
                prop_assert_ne!(held.unwrap().name, me);
            }
        }
    }
}

#[test]
fn a_step_of_all_traffic_remembers_the_baseline() {
    let mut rollout = begin(&[50.0, 100.0]);
    rollout.checked("good", 3, 1);
    rollout.moved(moved(4), 2);
    let baseline = WindowCounts { requests: 7, ..WindowCounts::default() };
    let next = verdict(Decision::Promote { pace: Pace::NextStep });
    rollout.judged(120, &next, || baseline.clone(), 3);
    assert!(
        matches!(&rollout.phase, Phase::Moving { step: 1, route_revision: 4, reference: Some(r) } if *r == baseline)
    );
    rollout.moved(moved(5), 4);
    assert_eq!(rollout.percent(), 100.0);
    rollout.judged(120, &next, WindowCounts::default, 5);
    assert_eq!(rollout.outcome(), Some(Outcome::Promoted));
}

#[test]
fn a_paused_rollout_is_still_rolled_back() {
    let mut rollout = begin(&[50.0, 100.0]);
    rollout.checked("good", 3, 1);
    rollout.moved(moved(4), 2);
    rollout.pause("me", 3).unwrap();
    rollout.judged(30, &verdict(Decision::Promote { pace: Pace::NextStep }), WindowCounts::default, 4);
    assert!(matches!(rollout.phase, Phase::Paused { .. }), "a person has to say how it goes on");
    assert_eq!(rollout.stage().unwrap().windows, 0, "a pause adds nothing to what is gathered");
    rollout.judged(31, &verdict(Decision::RollBack), WindowCounts::default, 5);
    assert!(matches!(rollout.phase, Phase::RollingBack { .. }));
    let error = rollout.resume("me", 1, 6).unwrap_err().to_string();
    assert_eq!(error, "the rollout r is rolling back (RollBack): there is nothing to resume");
}

#[test]
fn who_was_forced_through_is_remembered() {
    let mut rollout = begin(&[5.0, 50.0, 100.0]);
    rollout.checked("good", 3, 1);
    rollout.moved(moved(4), 2);
    assert_eq!(rollout.forced(), None);
    rollout.promote("me", false, 4, WindowCounts::default(), 3).unwrap();
    rollout.moved(moved(5), 4);
    rollout.promote("them", true, 5, WindowCounts::default(), 5).unwrap();
    assert_eq!(rollout.forced().unwrap(), "5 % by me, 50 % by them");
}

#[test]
fn what_nats_cannot_weigh_is_refused() {
    let mut config = Config::default();
    config.plan.steps = vec![0.5, 100.0];
    let start = Start {
        id: "r".into(),
        model: "m".parse().unwrap(),
        from: "a".parse().unwrap(),
        to: "b".parse().unwrap(),
        lanes: Vec::new(),
        config,
        who: "me".into(),
        note: None,
    };
    assert!(Rollout::begin(start.clone(), 0).unwrap_err().to_string().contains("whole percents"));
    let same = Start { to: "a".parse().unwrap(), config: Config::default(), ..start };
    assert!(Rollout::begin(same, 0).unwrap_err().to_string().contains("two variants"));
}

#[test]
fn a_route_that_is_left_to_others_ends_a_rollout_too() {
    let mut rollout = begin(&[50.0, 100.0]);
    rollout.checked("good", 3, 1);
    rollout.moved(moved(4), 2);
    rollout.candidate_lost("gone", 3);
    assert!(!rollout.is_aborted());
    rollout.not_rolled_back("you have changed the route", 4);
    assert_eq!(rollout.outcome(), Some(Outcome::RolledBack));
    let last = rollout.history.last().unwrap();
    assert_eq!(last.sentence, "rolled back: gone; you have changed the route, which is left as it is");
    assert_eq!(last.percent, 50.0, "nothing is known of what it has now");
}
