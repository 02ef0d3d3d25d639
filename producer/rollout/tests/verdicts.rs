//! Properties of verdicts, and what becomes of evidence that is thin, lopsided or strange.

use std::time::Duration;

use embed_rollout::{
    Check, Collector, Config, Decision, Evidence, Finding, Metric, Pace, Rule, Verdict,
    config::{Classic, Guarded, Probes, RuleKind},
    plan::Plan,
    simulation::{Quality, Scenario},
};
use embed_schemas::{ErrorCode, Lane, VariantStats, WindowCounts};
use proptest::prelude::*;

/// Steps of six minutes, so that tests are quick; the last look is number 3.
fn config() -> Config {
    let plan = Plan { hold: Duration::from_secs(360), looks: 3, ..Plan::default() };
    Config { plan, guarded: Guarded { resamples: 100, ..Guarded::default() }, ..Config::default() }
}

fn rule() -> Rule {
    Rule::new(config()).unwrap()
}

fn evidence(scenario: &Scenario, seed: u64) -> Evidence {
    scenario.evidence(&config().plan, 72, seed)
}

fn busy() -> Scenario {
    Scenario { requests_per_second: 100.0, candidate_percent: 50.0, ..Scenario::default() }
}

fn last(evidence: &Evidence) -> Verdict {
    rule().verdict(evidence, Check::Look(3), 1)
}

fn finding(verdict: &Verdict, metric: Metric) -> Finding {
    verdict.reason(metric).unwrap_or_else(|| panic!("no {metric} in {verdict}")).finding
}

/// What workers would have published to give this evidence, a window's counts dealt out among them.
fn reports(evidence: &Evidence, deal: &[u8]) -> Vec<VariantStats> {
    let mut deal = deal.iter().copied().cycle();
    let mut reports = Vec::new();
    for arm in [&evidence.baseline, &evidence.candidate] {
        for (at, window) in arm.windows.iter().enumerate() {
            let mut parts = vec![WindowCounts::default(); 3];
            let mut give = |n: u64, set: &dyn Fn(&mut WindowCounts, u64)| {
                let to = usize::from(deal.next().unwrap()) % 3;
                set(&mut parts[to], n);
            };
            for (bucket, n) in window.latency_us.buckets() {
                let us = u64::from(embed_schemas::latency::bucket_bounds(bucket).0);
                give(n, &|w, n| {
                    w.latency_us.record_n(us, n);
                    w.requests += n;
                });
            }
            for (code, n) in &window.errors {
                give(*n, &|w, n| {
                    *w.errors.entry(*code).or_default() += n;
                    w.requests += n;
                });
            }
            give(window.texts, &|w, n| w.texts = n);
            give(window.tokens, &|w, n| w.tokens = n);
            give(window.batches, &|w, n| w.batches = n);
            give(window.batch_texts, &|w, n| w.batch_texts = n);
            give(window.busy_us, &|w, n| w.busy_us = n);
            reports.extend(parts.into_iter().enumerate().map(|(worker, counts)| VariantStats {
                model: "m".parse().unwrap(),
                variant: arm.variant.clone(),
                version: "1".into(),
                lane: Lane::ALL[worker],
                worker: format!("w-{worker}"),
                start_ms: evidence.from_ms + at as u64 * u64::from(evidence.window_ms),
                length_ms: evidence.window_ms,
                counts,
            }));
        }
    }
    reports
}

fn collect(evidence: &Evidence, reports: impl IntoIterator<Item = VariantStats>) -> Evidence {
    let slug = |s: &str| s.parse().unwrap();
    let mut collector = Collector::new(slug("m"), slug("baseline"), slug("candidate"), evidence.window_ms, &[]);
    reports.into_iter().for_each(|r| collector.add(r, None).unwrap());
    let until = evidence.from_ms + evidence.windows() as u64 * u64::from(evidence.window_ms);
    let collected = collector.evidence(evidence.candidate_percent, evidence.from_ms, evidence.from_ms, until);
    Evidence { probes: evidence.probes.clone(), ..collected }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn workers_order_and_repetition_do_not_matter(
        seed in any::<u64>(),
        deal in prop::collection::vec(any::<u8>(), 50..200),
        turn in any::<prop::sample::Index>(),
    ) {
        let evidence = evidence(&Scenario { requests_per_second: 30.0, ..busy() }, seed);
        let mut reports = reports(&evidence, &deal);
        let at = turn.index(reports.len());
        reports.rotate_left(at);
        let again = reports[..at.min(20)].to_vec();
        reports.extend(again);
        let collected = collect(&evidence, reports);
        prop_assert_eq!(&collected, &evidence);
        prop_assert_eq!(last(&collected), last(&evidence));
    }

    #[test]
    fn a_verdict_is_deterministic_and_survives_its_record(seed in any::<u64>(), slowness in 0.5f64..2.0, look in 1u32..=3) {
        let candidate = Quality { slowness, ..Quality::default() };
        let evidence = evidence(&Scenario { candidate, ..busy() }, seed);
        let verdict = rule().verdict(&evidence, Check::Look(look), seed);
        let record = serde_json::to_string(&(&evidence, &verdict, config())).unwrap();
        let (evidence, recorded, config): (Evidence, Verdict, Config) = serde_json::from_str(&record).unwrap();
        let replayed = Rule::new(config).unwrap().verdict(&evidence, Check::Look(look), seed);
        prop_assert_eq!(serde_json::to_string(&replayed).unwrap(), serde_json::to_string(&recorded).unwrap());
        prop_assert_eq!(replayed, verdict);
    }

    #[test]
    fn bounds_hold_the_estimate_and_agree_with_the_finding(seed in any::<u64>(), slowness in 0.7f64..1.5) {
        let candidate = Quality { slowness, ..Quality::default() };
        let verdict = last(&evidence(&Scenario { candidate, ..busy() }, seed));
        for reason in verdict.reasons.iter().filter(|r| Metric::COMPARED.contains(&r.metric)) {
            let (Some(lower), Some(estimate), Some(upper)) = (reason.lower, reason.estimate, reason.upper) else { continue };
            prop_assert!(lower <= estimate && estimate <= upper, "{reason:?}");
            let margin = reason.margin.unwrap();
            let expected = match reason.metric {
                Metric::Throughput if upper < margin => Finding::Fail,
                Metric::Throughput if lower > margin => Finding::Pass,
                Metric::Throughput => Finding::Inconclusive,
                _ if lower > margin => Finding::Fail,
                _ if upper < margin => Finding::Pass,
                _ => Finding::Inconclusive,
            };
            prop_assert_eq!(reason.finding, expected, "{:?}", reason);
        }
    }

    #[test]
    fn no_evidence_panics(
        windows in 0usize..40,
        candidate_percent in prop::sample::select(&[0.1, 5.0, 50.0, 99.9, 100.0][..]),
        requests in prop::collection::vec((0u64..50, 0u64..50, 0u64..u64::from(u32::MAX)), 80),
        look in 0u32..9,
    ) {
        let mut evidence = evidence(&busy(), 1);
        for (arm, offset) in [(&mut evidence.baseline, 0), (&mut evidence.candidate, 40)] {
            arm.windows = requests[offset..][..windows].iter().map(|(good, bad, us)| {
                let mut counts = WindowCounts { requests: good + bad, ..WindowCounts::default() };
                counts.latency_us.record_n(*us, *good);
                counts.errors.insert(ErrorCode::EngineFailed, *bad);
                counts
            }).collect();
        }
        evidence.candidate_percent = candidate_percent;
        for config in [config(), classic()] {
            let rule = Rule::new(config).unwrap();
            for check in [Check::Window, Check::Look(look)] {
                let verdict = rule.verdict(&evidence, check, 7);
                prop_assert!(!verdict.sentence.is_empty() && !verdict.sentence.contains("NaN"), "{}", verdict.sentence);
                let json = serde_json::to_string(&verdict).unwrap();
                prop_assert_eq!(serde_json::from_str::<Verdict>(&json).unwrap(), verdict);
            }
        }
    }
}

#[test]
fn late_reports_count_from_the_next_look_on() {
    let whole = evidence(&busy(), 3);
    let (early, late): (Vec<_>, Vec<_>) =
        reports(&whole, &[0]).into_iter().partition(|r| r.variant.as_str() == "baseline" || r.start_ms < 100_000);
    assert!(collect(&whole, early.clone()).candidate.windows[20..].iter().all(|w| w.requests == 0));
    assert_eq!(collect(&whole, [early, late].concat()), whole);
}

#[test]
fn windows_of_another_length_or_model_are_refused() {
    let whole = evidence(&busy(), 3);
    let report = reports(&whole, &[0]).swap_remove(1);
    let slug = |s: &str| s.parse().unwrap();
    let mut collector = Collector::new(slug("m"), slug("baseline"), slug("candidate"), 5_000, &[Lane::Rpc]);
    let mut refuse = |report: VariantStats, words: &str| {
        let message = collector.add(report, None).unwrap_err().to_string();
        assert!(message.contains(words), "{message}");
    };
    let rpc = VariantStats { lane: Lane::Rpc, ..report.clone() };
    refuse(VariantStats { length_ms: 1_000, ..rpc.clone() }, "windows of 1000 ms");
    refuse(VariantStats { start_ms: 1, ..rpc.clone() }, "start_ms");
    refuse(VariantStats { model: slug("other"), ..rpc.clone() }, "other/baseline");
    refuse(VariantStats { lane: Lane::Bulk, ..rpc.clone() }, "lane bulk");
    collector.add(rpc, None).unwrap();
}

#[test]
fn a_good_candidate_goes_on_and_only_at_the_end() {
    let better = Scenario {
        candidate: Quality { slowness: 0.8, error_rate: 0.0, ..Quality::default() },
        error_rate: 0.0,
        ..busy()
    };
    let evidence = evidence(&better, 1);
    assert_eq!(rule().verdict(&evidence, Check::Look(2), 1).decision, Decision::Hold);
    let verdict = last(&evidence);
    assert_eq!(verdict.decision, Decision::Promote { pace: Pace::NextStep }, "{verdict}");
}

#[test]
fn too_few_windows_hold_and_then_pause() {
    let mut evidence = evidence(&busy(), 1);
    for arm in [&mut evidence.baseline, &mut evidence.candidate] {
        arm.windows.truncate(9);
    }
    let verdict = rule().verdict(&evidence, Check::Look(1), 1);
    assert_eq!((verdict.decision, finding(&verdict, Metric::P50)), (Decision::Hold, Finding::TooLittle), "{verdict}");
    let verdict = last(&evidence);
    assert_eq!(verdict.decision, Decision::Pause, "{verdict}");
    assert!(verdict.sentence.contains("too few"), "{verdict}");
}

#[test]
fn little_traffic_pauses_and_says_how_much_is_needed() {
    let verdict = last(&evidence(&Scenario { requests_per_second: 2.0, ..busy() }, 1));
    assert_eq!(verdict.decision, Decision::Pause, "{verdict}");
    assert!(verdict.sentence.contains("p99 needs 1000 answered requests"), "{verdict}");
}

#[test]
fn a_silent_candidate_is_rolled_back_after_the_time_of_a_restart() {
    let mut evidence = evidence(&busy(), 1);
    let silence = |evidence: &mut Evidence, windows: usize| {
        evidence.candidate.windows.iter_mut().rev().take(windows).for_each(|w| *w = WindowCounts::default());
    };
    silence(&mut evidence, 5);
    assert_eq!(rule().verdict(&evidence, Check::Window, 1).decision, Decision::Hold);
    silence(&mut evidence, 6);
    let verdict = rule().verdict(&evidence, Check::Window, 1);
    assert_eq!(
        (verdict.decision, finding(&verdict, Metric::Silence)),
        (Decision::RollBack, Finding::Fail),
        "{verdict}"
    );
    assert!(verdict.sentence.contains("6 windows (30s)"), "{verdict}");
    let mut busy = evidence.clone();
    busy.candidate.backlog[71].left_out = 3;
    assert_eq!(rule().verdict(&busy, Check::Window, 1).decision, Decision::Hold);
    // Nobody sent anything: that is not silence.
    for window in evidence.baseline.windows.iter_mut().rev().take(6) {
        *window = WindowCounts::default();
    }
    assert_eq!(rule().verdict(&evidence, Check::Window, 1).decision, Decision::Hold);
}

/// Half of the candidate's requests fail with a code, 20 a window.
fn failing_with(code: ErrorCode) -> Evidence {
    let mut evidence = evidence(&busy(), 1);
    for window in &mut evidence.candidate.windows {
        window.requests += 20;
        *window.errors.entry(code).or_default() += 20;
    }
    evidence
}

#[test]
fn what_callers_did_wrong_and_restarts_count_against_nobody() {
    for code in [ErrorCode::InvalidRequest, ErrorCode::UnknownPrompt, ErrorCode::ShuttingDown] {
        let evidence = failing_with(code);
        assert_eq!(rule().verdict(&evidence, Check::Window, 1).decision, Decision::Hold, "{code}");
        assert!(last(&evidence).decision.is_promotion(), "{code}: {}", last(&evidence));
    }
    let mut evidence = failing_with(ErrorCode::DeadlineExceeded);
    assert_eq!(rule().verdict(&evidence, Check::Window, 1).decision, Decision::RollBack);
    evidence.candidate.windows.iter_mut().for_each(|w| w.by_caller = [(ErrorCode::DeadlineExceeded, 20)].into());
    assert_eq!(rule().verdict(&evidence, Check::Window, 1).decision, Decision::Hold);
}

#[test]
fn reasons_name_the_codes_with_their_counts() {
    let verdict = rule().verdict(&failing_with(ErrorCode::Overloaded), Check::Window, 1);
    assert_eq!(finding(&verdict, Metric::Spike), Finding::Fail);
    assert!(verdict.sentence.contains("0 overloaded, "), "{verdict}");
    let failing = Quality { error_rate: 0.04, ..Quality::default() };
    let verdict = last(&evidence(&Scenario { candidate: failing, ..busy() }, 1));
    assert_eq!(verdict.decision, Decision::RollBack, "{verdict}");
    assert!(verdict.sentence.contains(" engine_failed, "), "{verdict}");
}

#[test]
fn a_pause_uses_no_error_probability() {
    // Bad luck that would end a step, and that a pause of days may well see.
    let mut evidence = evidence(&busy(), 1);
    for arm in [&mut evidence.baseline, &mut evidence.candidate] {
        arm.windows.drain(..56);
        arm.backlog.drain(..56);
    }
    let window = evidence.candidate.windows.last_mut().unwrap();
    window.errors = [(ErrorCode::EngineFailed, window.requests / 3)].into();
    assert_eq!(rule().verdict(&evidence, Check::Window, 1).decision, Decision::RollBack);
    assert_eq!(rule().verdict(&evidence, Check::Paused, 1).decision, Decision::Hold);
    // A candidate that is broken is given up all the same.
    for window in evidence.candidate.windows.iter_mut().rev().take(2) {
        window.errors = [(ErrorCode::EngineFailed, window.requests)].into();
    }
    assert_eq!(rule().verdict(&evidence, Check::Paused, 1).decision, Decision::RollBack);
}

#[test]
fn the_split_is_not_judged_while_the_baseline_works_on_a_backlog() {
    let mut evidence = evidence(&busy(), 1);
    for (window, backlog) in evidence.baseline.windows.iter_mut().zip(&mut evidence.baseline.backlog) {
        backlog.left_out = window.requests;
        *window = WindowCounts { requests: window.requests / 2, ..WindowCounts::default() };
    }
    assert_eq!(finding(&last(&evidence), Metric::Split), Finding::TooLittle);
    evidence.baseline.backlog.iter_mut().for_each(|backlog| backlog.left_out = 0);
    assert_eq!(finding(&last(&evidence), Metric::Split), Finding::Fail);
}

#[test]
fn no_baseline_no_decision() {
    let mut evidence = evidence(&busy(), 1);
    evidence.baseline.windows.iter_mut().for_each(|w| *w = WindowCounts::default());
    let verdict = last(&evidence);
    assert_eq!((verdict.decision, finding(&verdict, Metric::Split)), (Decision::Pause, Finding::Fail), "{verdict}");
}

#[test]
fn a_candidate_that_only_fails_is_rolled_back_at_once() {
    let failing = Quality { error_rate: 1.0, ..Quality::default() };
    let mut evidence = evidence(&Scenario { candidate: failing, ..busy() }, 1);
    for arm in [&mut evidence.baseline, &mut evidence.candidate] {
        arm.windows.truncate(1);
    }
    assert!(evidence.candidate.windows.iter().all(|w| w.latency_us.is_empty() && w.failed() > 0));
    let verdict = rule().verdict(&evidence, Check::Window, 1);
    assert_eq!((verdict.decision, finding(&verdict, Metric::Spike)), (Decision::RollBack, Finding::Fail), "{verdict}");
}

#[test]
fn when_both_arms_fail_it_is_nobodys_spike() {
    let failing = Quality { error_rate: 0.5, ..Quality::default() };
    let evidence = evidence(&Scenario { candidate: failing, error_rate: 0.5, ..busy() }, 1);
    assert_eq!(rule().verdict(&evidence, Check::Window, 1).decision, Decision::Hold);
}

#[test]
fn callers_errors_can_be_left_out() {
    let failing = Quality { error_rate: 0.5, ..Quality::default() };
    let evidence = evidence(&Scenario { candidate: failing, ..busy() }, 1);
    let rule = Rule::new(Config { ignored_errors: vec![ErrorCode::EngineFailed], ..config() }).unwrap();
    assert_eq!(rule.verdict(&evidence, Check::Window, 1).decision, Decision::Hold);
}

#[test]
fn equal_to_the_last_digit_is_a_tie_and_passes() {
    let mut evidence = evidence(&busy(), 1);
    for window in evidence.baseline.windows.iter_mut().chain(&mut evidence.candidate.windows) {
        *window = WindowCounts {
            requests: 400,
            texts: 400,
            tokens: 16_000,
            batches: 100,
            batch_texts: 400,
            busy_us: 10_000,
            ..Default::default()
        };
        window.latency_us.record_n(5_000, 400);
    }
    let verdict = last(&evidence);
    assert_eq!(verdict.decision, Decision::Promote { pace: Pace::NextStep }, "{verdict}");
    assert_eq!(verdict.reason(Metric::P95).unwrap().estimate, Some(1.0));
}

#[test]
fn a_split_that_is_off_pauses() {
    let evidence = Evidence { candidate_percent: 25.0, ..evidence(&busy(), 1) };
    let verdict = last(&evidence);
    assert_eq!((verdict.decision, finding(&verdict, Metric::Split)), (Decision::Pause, Finding::Fail), "{verdict}");
    assert!(verdict.sentence.contains("its weight is 25.00 %"), "{verdict}");
}

#[test]
fn vectors_that_disagree_roll_back_and_missing_probes_do_not_promote() {
    let better = Scenario {
        candidate: Quality { slowness: 0.8, error_rate: 0.0, ..Quality::default() },
        error_rate: 0.0,
        ..busy()
    };
    let good = evidence(&better, 1);
    let judge = |probes: Option<Vec<f64>>| last(&Evidence { probes, ..good.clone() });
    assert!(judge(Some(vec![0.998; 16])).decision.is_promotion());
    for bad in [vec![0.98; 32], [vec![0.999; 31], vec![0.5]].concat(), [vec![0.999; 31], vec![f64::NAN]].concat()] {
        let verdict = judge(Some(bad));
        assert_eq!(
            (verdict.decision, finding(&verdict, Metric::Probes)),
            (Decision::RollBack, Finding::Fail),
            "{verdict}"
        );
    }
    for missing in [None, Some(vec![0.998; 3])] {
        let verdict = judge(missing);
        assert_eq!(verdict.decision, Decision::Pause, "{verdict}");
        assert!(verdict.sentence.contains("16 are wanted"), "{verdict}");
    }
    let across_spaces = Config { probes: Probes { required: false, ..Probes::default() }, ..config() };
    let verdict =
        Rule::new(across_spaces).unwrap().verdict(&Evidence { probes: None, ..good.clone() }, Check::Look(3), 1);
    assert!(verdict.decision.is_promotion(), "{verdict}");
}

#[test]
fn throughput_is_compared_only_at_like_batch_sizes() {
    let mut evidence = evidence(&busy(), 1);
    evidence.candidate.windows.iter_mut().for_each(|w| w.batches *= 2);
    assert_eq!(finding(&last(&evidence), Metric::Throughput), Finding::NotComparable);
}

#[test]
fn all_of_the_traffic_is_watched_for_spikes() {
    let candidate = |error_rate| Scenario {
        candidate_percent: 100.0,
        candidate: Quality { error_rate, ..Quality::default() },
        ..busy()
    };
    let reference = Some(WindowCounts { requests: 10_000, ..WindowCounts::default() });
    let good = Evidence { reference: reference.clone(), ..evidence(&candidate(0.001), 1) };
    assert_eq!(rule().verdict(&good, Check::Look(1), 1).decision, Decision::Hold);
    assert!(last(&good).decision.is_promotion());
    let bad = Evidence { reference, ..evidence(&candidate(0.3), 1) };
    assert_eq!(rule().verdict(&bad, Check::Window, 1).decision, Decision::RollBack);
}

fn classic() -> Config {
    let classic = Classic { min_duration: Duration::from_secs(360), ..Classic::default() };
    Config { rule: RuleKind::Classic, classic, ..config() }
}

#[test]
fn settings_are_checked_by_name() {
    for (toml, words) in [
        ("[plan]\nsteps = [50, 25]", "plan.steps: [50.0, 25.0]: give rising percentages"),
        ("[plan]\nsteps = [0, 25]", "plan.steps: 0 is not in (0, 100]"),
        ("[plan]\nhold = \"1m\"", "plan.hold: 1m hold 12 windows of 5s, too few for 10 looks"),
        ("[guarded]\np95 = 0.9", "guarded.p95: 0.9: a margin is a ratio above 1"),
        ("[guarded]\nrollback_alpha = 0", "guarded.rollback_alpha: 0 is not a probability"),
        ("[guarded]\nmetrics = [\"split\"]", "guarded.metrics: split is always checked"),
        ("[guarded]\nmetrics = []", "guarded.metrics: without metrics"),
        ("[guarded]\nresamples = 3", "guarded.resamples: 3 resamples"),
        ("[fast]\nspike = 2", "fast.spike: 2 is not"),
    ] {
        let message = Rule::new(toml::from_str(toml).unwrap()).unwrap_err().to_string();
        assert!(message.contains(words), "{toml}: {message}");
    }
    assert!(toml::from_str::<Config>("[guarded]\np59 = 1.1").unwrap_err().to_string().contains("p59"));
    assert_eq!(
        toml::from_str::<Config>("rule = \"classic\"\n[plan]\nhold = \"1h\"").unwrap().plan.hold.as_secs(),
        3_600
    );
}
