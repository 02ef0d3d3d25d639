//! How a shadow ends. That no traffic moves before it is passed is among what `machine` tries with whatever may happen.

use embed_rollout::{
    Config, Decision, Pace, Rollout,
    shadow::{ShadowRecord, judge},
    state::{Outcome, Phase},
};
use embed_schemas::{Lane, WindowCounts, shadow::ShadowCounts};

use crate::driver::{begin, shadow_stage as stage, shadow_verdict as verdict};

#[test]
fn a_shadow_ends_in_the_first_step_in_a_refusal_or_in_a_pause() {
    let shadowing = || {
        let mut rollout = begin(Config::default());
        assert!(rollout.wants_shadow());
        rollout.shadow_begins("good", stage(), 1);
        rollout
    };
    let mut passes = shadowing();
    passes.shadow_judged(&verdict(Decision::Promote { pace: Pace::NextStep }), 2);
    assert_eq!(passes.phase, Phase::Moving { step: 0, route_revision: 3, reference: None });
    let mut fails = shadowing();
    fails.shadow_judged(&verdict(Decision::RollBack), 2);
    assert_eq!((fails.outcome(), fails.percent()), (Some(Outcome::Refused), 0.0));
    let mut unsure = shadowing();
    unsure.shadow_judged(&verdict(Decision::Pause), 2);
    let mut again = unsure.clone();
    again.resume("me", 8, 3).unwrap();
    assert_eq!(again.phase, Phase::Checking, "what must be so before it is looked at again");
    again.shadow_begins("good", stage(), 4);
    assert_eq!(again.shadow().unwrap().number, 2);
    unsure.promote("me", false, 8, WindowCounts::default(), 3).unwrap();
    assert_eq!(unsure.phase, Phase::Moving { step: 0, route_revision: 8, reference: None });
    let mut changed = shadowing();
    changed.shadow_begins("v2 now serves version v9", stage(), 2);
    assert_eq!(changed.shadow().unwrap().number, 2);
}

#[test]
fn a_shadow_lasts_only_while_somebody_carries_it_on() {
    let mut config = Config::default();
    config.shadow.hold = std::time::Duration::from_secs(60);
    let mut rollout = begin(config);
    rollout.shadow_begins("good", stage(), 0);
    // Its controller dies before it has said anything, and another takes over long after.
    let mut now = 1_000_000;
    assert!(!rollout.shadow_said(now, 15_000));
    // Then workers are told every two seconds, but for an hour in which nobody was there.
    for turn in 1..=29 {
        now += if turn == 10 { 3_600_000 } else { 2_000 };
        // Of that hour, 15 seconds count: so long workers went on.
        assert_eq!(rollout.shadow_said(now, 15_000), turn >= 24, "{turn}");
    }
    rollout.shadow_begins("v2 now serves version v9", stage(), now);
    assert!(!rollout.shadow_said(now + 1, 15_000), "another lasts anew");
}

#[test]
fn it_may_be_declined_and_what_was_stored_before_there_was_one_is_read() {
    let mut config = Config::default();
    config.shadow.share = 0.0;
    let rollout = begin(config);
    assert!(!rollout.wants_shadow());
    let mut stored = serde_json::to_value(&rollout).unwrap();
    for field in ["shadows", "shadow_over"] {
        stored.as_object_mut().unwrap().remove(field).unwrap();
    }
    assert_eq!(serde_json::from_value::<Rollout>(stored).unwrap(), rollout);
}

#[test]
fn a_verdict_is_made_again_from_its_record_and_another_is_seen() {
    let settings = Config::default().shadow;
    let mut counts = ShadowCounts { requests: 500, ..ShadowCounts::default() };
    (0..500).for_each(|n| counts.cell(Lane::Rpc, n % 60).distance.record(u64::from(n) * 7));
    let verdict = judge(&settings, &counts, true);
    let record = ShadowRecord { stage: stage(), when_ms: 9, over: true, counts, verdict };
    let json = serde_json::to_string(&record).unwrap();
    let mut back: ShadowRecord = serde_json::from_str(&json).unwrap();
    assert!(back == record && back.is_same(&settings));
    back.counts.cell(Lane::Rpc, 5).distance.record(90_000);
    assert!(!back.is_same(&settings));
}
