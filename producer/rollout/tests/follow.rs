//! A stage's windows by an injected clock, from workers that are made up: what had been waiting, what comes late, whose clock is wrong, and
//! what a pause leaves.

use std::time::Duration;

use embed_rollout::{
    Check, Config, Decision, Moved, PAUSED_WINDOWS, Rollout, Rule,
    follow::{Follower, LATE_MS, PausedFollower, VERY_LATE_MS},
    plan::Plan,
    record::{Record, Recorded, StageRecord, seed},
    state::{Start, Versions},
};
use embed_schemas::{Earlier, ErrorCode, Lane, VariantStats, WindowCounts};

const BEGIN: u64 = 1_700_000_000_000;
const LENGTH: u64 = 5_000;

fn rollout() -> Rollout {
    let plan = Plan { steps: vec![5.0, 100.0], hold: Duration::from_secs(600), looks: 4, ..Plan::default() };
    let mut config = Config { plan, ..Config::default() };
    config.probes.required = false;
    let start = Start {
        id: "r".into(),
        model: "m".parse().unwrap(),
        from: "old".parse().unwrap(),
        to: "new".parse().unwrap(),
        lanes: vec![Lane::Bulk],
        config,
        who: "me".into(),
        note: None,
    };
    let mut rollout = Rollout::begin(start, 0).unwrap();
    rollout.checked("good", 1, 0);
    rollout.moved(Moved { from_ms: BEGIN, route_revision: 1, stats_after: 0, versions: Versions::default() }, 0);
    rollout
}

fn follower(rollout: &Rollout) -> Follower {
    let stage = rollout.stage().unwrap().clone();
    Follower::new(rollout, StageRecord { stage, windows: Vec::new(), late: Vec::new(), verdicts: Vec::new() })
}

/// What a worker says of a window.
fn report(variant: &str, worker: &str, window: u64, counts: WindowCounts) -> VariantStats {
    VariantStats {
        model: "m".parse().unwrap(),
        variant: variant.parse().unwrap(),
        version: "1".into(),
        lane: Lane::Bulk,
        worker: worker.into(),
        start_ms: BEGIN + window * LENGTH,
        length_ms: 5_000,
        counts,
    }
}

/// Requests that were published a window before, or long before.
fn requests(n: u64) -> WindowCounts {
    let latency_us = (0..n).map(|n| 3_000 + n).collect();
    WindowCounts {
        requests: n,
        latency_us,
        texts: n,
        tokens: 30 * n,
        batches: 1,
        batch_texts: n,
        busy_us: 900,
        ..WindowCounts::default()
    }
}

fn published(ms: u64, n: u64) -> WindowCounts {
    let counts = requests(n);
    let part = Earlier { published_ms: ms, requests: n, latency_us: counts.latency_us.clone(), ..Earlier::default() };
    WindowCounts { earlier: vec![part], ..counts }
}

fn end(window: u64) -> u64 {
    BEGIN + (window + 1) * LENGTH
}

/// Takes all windows that are due, and returns how many there are then.
fn take(follower: &mut Follower, mut judged: u32, now: u64) -> u32 {
    while follower.is_due(judged, now) {
        let due = follower.due(judged);
        follower.record_mut().late.extend(due.late);
        follower.record_mut().windows.extend(due.window);
        judged += 1;
    }
    judged
}

#[test]
fn two_thousand_jobs_from_before_are_no_evidence() {
    let rollout = rollout();
    let rule = Rule::new(rollout.config.clone()).unwrap();
    let mut follower = follower(&rollout);
    let mut judged = 0;
    for window in 0..120 {
        // All of them were mapped to the baseline before there was a step, and keep it busy for a minute and a half.
        let old = if window < 20 { published(BEGIN - 60_000, 100) } else { WindowCounts::default() };
        follower.add(report("old", "a", window, old), end(window) + 50).unwrap();
        follower.add(report("new", "b", window, WindowCounts::default()), end(window) + 50).unwrap();
        judged = take(&mut follower, judged, end(window) + LATE_MS);
        let look = (1..=4).find(|look| rollout.config.plan.windows_at(*look) == judged);
        let check = look.map_or(Check::Window, Check::Look);
        let verdict = rule.verdict(&follower.evidence(&rollout, judged, None), check, 1);
        let last = check == Check::Look(4);
        // Nothing was sent: at the end of the step that is said, and before it nothing is done.
        assert_eq!(verdict.decision, if last { Decision::Pause } else { Decision::Hold }, "{window}: {verdict}");
        assert!(!last || verdict.sentence.contains("does not decide"), "{verdict}");
    }
    assert_eq!(judged, 120);
    let windows = &follower.record().windows;
    assert_eq!(windows.iter().map(|w| w.backlog[0].left_out).sum::<u64>(), 2_000);
    assert!(windows.iter().all(|w| w.baseline.requests == 0 && w.baseline.earlier.is_empty()));
}

#[test]
fn what_was_sent_since_the_stage_began_counts_however_long_it_waited() {
    let rollout = rollout();
    let mut follower = follower(&rollout);
    let mut mixed = published(BEGIN - 1, 7);
    mixed.merge(&published(BEGIN, 3));
    mixed.merge(&requests(5));
    follower.add(report("old", "a", 9, mixed), end(9)).unwrap();
    take(&mut follower, 0, end(9) + LATE_MS);
    let window = &follower.record().windows[9];
    assert_eq!((window.baseline.requests, window.baseline.latency_us.count()), (8, 8));
    assert_eq!((window.backlog[0].left_out, window.backlog[0].waited), (7, 3));
}

#[test]
fn a_worker_that_was_there_is_waited_for_and_then_not() {
    let rollout = rollout();
    let mut follower = follower(&rollout);
    for window in 0..3 {
        follower.add(report("old", "a", window, requests(10)), end(window) + 10).unwrap();
        follower.add(report("new", "b", window, requests(1)), end(window) + 10).unwrap();
    }
    let judged = take(&mut follower, 0, end(2) + LATE_MS);
    assert_eq!(judged, 3);
    follower.add(report("old", "a", 3, requests(10)), end(3) + 10).unwrap();
    assert!(!follower.is_due(3, end(3) + LATE_MS), "b has not reported");
    assert!(!follower.is_due(3, end(3) + VERY_LATE_MS - 1));
    assert!(follower.is_due(3, end(3) + VERY_LATE_MS), "b may be gone");
    follower.add(report("new", "b", 3, requests(1)), end(3) + 5_000).unwrap();
    assert!(follower.is_due(3, end(3) + LATE_MS), "b was late");
}

#[test]
fn a_window_that_arrives_late_is_judged_again_and_the_record_knows_when() {
    let mut rollout = rollout();
    let rule = Rule::new(rollout.config.clone()).unwrap();
    let mut follower = follower(&rollout);
    let mut judged = 0;
    for window in 0..70 {
        let counts = if window == 40 { WindowCounts::default() } else { requests(10) };
        follower.add(report("old", "a", window, counts), end(window) + 10).unwrap();
        for (worker, cut_off) in [("late", 40), ("later still", 2)] {
            if window < cut_off {
                follower.add(report("old", worker, window, WindowCounts::default()), end(window) + 10).unwrap();
            }
        }
        if window == 50 {
            // They are heard of again.
            follower.add(report("old", "late", 40, requests(90)), end(window)).unwrap();
            follower.add(report("old", "later still", 2, requests(90)), end(window)).unwrap();
        }
        judged = take(&mut follower, judged, end(window) + VERY_LATE_MS - LENGTH);
        for windows in [30, 60].into_iter().filter(|windows| *windows == judged) {
            let known = follower.record().verdicts.iter().any(|recorded| recorded.verdict.windows == windows);
            if !known {
                let evidence = follower.evidence(&rollout, windows, None);
                let verdict = rule.verdict(&evidence, Check::Look(windows / 30), seed("r", 1, windows));
                let recorded = Recorded { when_ms: 0, probes: None, paused: None, verdict };
                follower.record_mut().verdicts.push(recorded);
            }
        }
    }
    let record = follower.record().clone();
    assert_eq!(record.windows[40].baseline.requests, 0, "what was judged stays as it was");
    assert_eq!(record.effective(45)[40].baseline.requests, 0);
    assert_eq!(record.effective(60)[40].baseline.requests, 90);
    assert_eq!(record.late.len(), 1, "once");
    assert_eq!(record.effective(60)[2].baseline.requests, 10, "too late to be looked at");
    // What is stored is what was judged: the verdicts come out the same, from JSON too.
    rollout.abort("me", 1).unwrap();
    let json = serde_json::to_string(&Record { rollout, shadows: Vec::new(), stages: vec![record] }).unwrap();
    let record: Record = serde_json::from_str(&json).unwrap();
    let replayed = record.replay().unwrap();
    assert!(replayed.len() == 2 && replayed.iter().all(|verdict| verdict.same), "{replayed:?}");
}

#[test]
fn a_controller_that_takes_over_reads_the_last_windows_and_finds_nothing_changed() {
    let rollout = rollout();
    let mut first = follower(&rollout);
    let reports: Vec<_> = (0..100)
        .flat_map(|window| ["old", "new"].map(|variant| (end(window) + 20, report(variant, "w", window, requests(5)))))
        .collect();
    for (stored, report) in &reports {
        first.add(report.clone(), *stored).unwrap();
    }
    assert_eq!(take(&mut first, 0, end(99) + LATE_MS), 100);
    let mut record = first.record().clone();
    record.windows.truncate(80);
    let mut second = Follower::new(&rollout, record);
    let from = second.read_from_ms(80);
    assert!(from > BEGIN + 50 * LENGTH, "not the whole stage is read again");
    for (stored, report) in reports.iter().filter(|(stored, _)| *stored >= from) {
        second.add(report.clone(), *stored).unwrap();
    }
    assert_eq!(take(&mut second, 80, end(99) + LATE_MS), 100);
    assert_eq!(second.record(), first.record());
}

#[test]
fn workers_with_clocks_that_are_off_are_laid_side_by_side() {
    for off in [-30_000, -9_000, 0, 9_000, 30_000i64] {
        let rollout = rollout();
        let mut follower = follower(&rollout);
        for window in 0..40u64 {
            let mut report = report("old", "off", window, requests(window));
            report.start_ms = report.start_ms.saturating_add_signed(off / 5_000 * 5_000);
            // It reports when its own clock says that the window is over. One report is held up for long.
            let held_up = if window == 10 { 8_000 } else { 30 };
            let stored = end(window).saturating_add_signed(off / 5_000 * 5_000 - off) + held_up;
            follower.add(report, stored).unwrap();
        }
        take(&mut follower, 0, end(39) + VERY_LATE_MS);
        let found: Vec<u64> = follower.record().windows.iter().take(40).map(|w| w.baseline.requests).collect();
        // What is left of it after whole windows is less than one.
        let shift = found.iter().position(|n| *n == 20).unwrap() as i64 - 20;
        assert!(shift.abs() <= 1, "{off}: {found:?}");
        let expected: Vec<u64> = (1..39).collect();
        let all: Vec<u64> = found.into_iter().filter(|n| (1..39).contains(n)).collect();
        assert_eq!(all, expected, "{off}");
    }
}

#[test]
fn a_pause_is_watched_by_its_last_windows_alone() {
    let mut rollout = rollout();
    rollout.pause("me", 1).unwrap();
    let now = BEGIN + 86_400_000;
    let mut paused = PausedFollower::new(&rollout, now).unwrap();
    let mut last = None;
    for window in 0..500u64 {
        let at = (now - BEGIN) / LENGTH + window;
        let mut counts = published(BEGIN - 5, 2);
        counts.merge(&requests(3));
        counts.errors = [(ErrorCode::EngineFailed, 0)].into_iter().filter(|e| e.1 > 0).collect();
        paused.add(report("new", "b", at, counts), end(at) + 10).unwrap();
        while let Some(windows) = paused.next(end(at) + LATE_MS) {
            last = Some(windows);
        }
    }
    let last = last.unwrap();
    assert_eq!(last.windows.len(), PAUSED_WINDOWS);
    assert!(last.windows.iter().all(|w| w.candidate.requests == 3 && w.backlog[1].left_out == 2), "{last:?}");
    assert_eq!(last.from_ms, now + (500 - PAUSED_WINDOWS as u64) * LENGTH);
}
