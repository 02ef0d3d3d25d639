//! Whatever happens in whatever order, a rollout keeps its promises.

use embed_rollout::{
    Config, Decision, Pace, Rollout,
    state::{Holder, Outcome, Phase, Start},
};
use embed_schemas::WindowCounts;
use proptest::prelude::*;

use crate::driver::{Input, apply, begin, inputs, moved, refusal, start, steps, verdict};

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
    fn a_rollout_only_goes_up_its_steps_or_back_to_nothing(shadow in any::<bool>(), inputs in inputs()) {
        let mut config = steps(&[5.0, 25.0, 50.0, 100.0]);
        if !shadow {
            config.shadow.share = 0.0;
        }
        let mut rollout = begin(config);
        prop_assert_eq!(rollout.wants_shadow(), shadow);
        let (mut may_move, mut left) = (!shadow, false);
        for (now, input) in inputs.into_iter().enumerate() {
            let before = rollout.clone();
            apply(&mut rollout, input, now as u64 + 1);
            // What was told stays told.
            prop_assert_eq!(&rollout.history[..before.history.len()], &before.history[..]);
            if let (Some(a), Some(b)) = (step(&before), step(&rollout)) {
                prop_assert!(b >= a, "{:?} -> {:?}", before.phase, rollout.phase);
            }
            match (&before.phase, &rollout.phase) {
                (Phase::Ended { .. }, _) => prop_assert_eq!(&rollout, &before, "what is over stays over"),
                (Phase::RollingBack { .. }, after) => prop_assert!(
                    matches!(after, Phase::RollingBack { .. } | Phase::Ended { outcome: Outcome::RolledBack | Outcome::Aborted, .. }),
                    "on the way back there is only back"
                ),
                (_, Phase::Ended { outcome: Outcome::Promoted, .. }) => {
                    prop_assert_eq!(rollout.percent(), 100.0, "from {:?}", before.phase);
                }
                (Phase::Checking | Phase::Shadowing(_), Phase::Holding(_)) => prop_assert!(false, "traffic without checks"),
                _ => (),
            }
            // A route that somebody else has changed is left to them, with what it gives the candidate.
            left |= matches!((input, &before.phase), (Input::NotRolledBack, Phase::RollingBack { .. }));
            if !left && matches!(rollout.outcome(), Some(Outcome::RolledBack | Outcome::Aborted | Outcome::Refused)) {
                prop_assert_eq!(rollout.percent(), 0.0);
            }
            // No traffic moves before a shadow is passed, or somebody says that it is not waited for.
            may_move |= matches!(input, Input::ShadowJudged(Decision::Promote { .. }) | Input::Promote(_));
            let moves = matches!(rollout.phase, Phase::Moving { .. } | Phase::Holding(_)) || rollout.percent() > 0.0;
            prop_assert!(!moves || may_move && !rollout.wants_shadow(), "{:?}", rollout.phase);
            prop_assert!(rollout.shadows >= before.shadows);
            if let Some(stage) = rollout.shadow() {
                prop_assert_eq!(stage.number, rollout.shadows);
            }
            if before.wants_shadow() {
                prop_assert!(!matches!(rollout.phase, Phase::RollingBack { .. }), "nothing was moved: {:?}", before.phase);
            }
            // Whatever was stored is read back as it was.
            let json = serde_json::to_string(&rollout).unwrap();
            prop_assert_eq!(serde_json::from_str::<Rollout>(&json).unwrap(), rollout.clone());
        }
    }

    #[test]
    fn only_one_controller_acts(times in prop::collection::vec((0u8..2, 0u64..100), 1..40)) {
        let mut rollout = begin(steps(&[5.0, 100.0]));
        let mut now = 0;
        for (who, later) in times {
            now += later;
            let me = if who == 0 { "a" } else { "b" };
            let held = rollout.holder.clone();
            if rollout.may_act(me, now) {
                if let Some(held) = held {
                    prop_assert!(held.name == me || held.until_ms < now);
                }
                rollout.holder = Some(Holder { name: me.into(), until_ms: now + 50 });
            } else {
                prop_assert_ne!(held.unwrap().name, me);
            }
        }
    }
}

#[test]
fn a_step_of_all_traffic_remembers_the_baseline() {
    let mut rollout = begin(steps(&[50.0, 100.0]));
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
    let mut rollout = begin(steps(&[50.0, 100.0]));
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
    let mut rollout = begin(steps(&[5.0, 50.0, 100.0]));
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
    assert!(refusal(start(steps(&[0.5, 100.0]))).to_string().contains("whole percents"));
    let same = Start { to: "v1".parse().unwrap(), ..start(Config::default()) };
    assert!(refusal(same).to_string().contains("two variants"));
}

#[test]
fn a_route_that_is_left_to_others_ends_a_rollout_too() {
    let mut rollout = begin(steps(&[50.0, 100.0]));
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
