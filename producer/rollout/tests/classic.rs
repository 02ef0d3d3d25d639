//! The rule `classic`: its thresholds, and what it says where there is little to go by.

use std::time::Duration;

use embed_rollout::{
    Check, Config, Decision, Evidence, Finding, Metric, Pace, Rule,
    config::{Classic, Guarded, RuleKind},
    plan::Plan,
    simulation::{Quality, Scenario},
};
use embed_schemas::{ErrorCode, WindowCounts};

/// Steps of six minutes, so that tests are quick; the last look is number 3.
fn config() -> Config {
    let plan = Plan { hold: Duration::from_secs(360), looks: 3, ..Plan::default() };
    Config { plan, guarded: Guarded { resamples: 100, ..Guarded::default() }, ..Config::default() }
}

fn evidence(scenario: &Scenario, seed: u64) -> Evidence {
    scenario.evidence(&config().plan, 72, seed)
}

fn busy() -> Scenario {
    Scenario { requests_per_second: 100.0, candidate_percent: 50.0, ..Scenario::default() }
}

fn classic() -> Config {
    let classic = Classic { min_duration: Duration::from_secs(360), ..Classic::default() };
    Config { rule: RuleKind::Classic, classic, ..config() }
}

#[test]
fn classic_follows_its_thresholds() {
    let judge = |slowness: f64, error_rate: f64, look: u32| {
        let candidate = Quality { slowness, error_rate, ..Quality::default() };
        let evidence = evidence(&Scenario { candidate, error_rate: 0.0002, ..busy() }, 5);
        Rule::new(classic()).unwrap().verdict(&evidence, Check::Look(look), 1)
    };
    let verdict = judge(0.3, 0.0, 3);
    assert_eq!(verdict.decision, Decision::Promote { pace: Pace::Full }, "{verdict}");
    // 60 % is not reached: gradual, and p95 is not below 0.4 of the baseline's.
    let verdict = judge(0.6, 0.0, 3);
    assert_eq!(verdict.decision, Decision::Promote { pace: Pace::NextStep }, "{verdict}");
    assert!(verdict.sentence.contains("0.4 of the baseline's"), "{verdict}");
    for verdict in [judge(0.8, 0.0, 3), judge(1.0, 0.0002, 3), judge(0.3, 0.02, 3)] {
        assert_eq!(verdict.decision, Decision::RollBack, "{verdict}");
    }
}

#[test]
fn classic_waits_for_its_requests_and_its_hour() {
    let quick = Quality { slowness: 0.3, error_rate: 0.0, ..Quality::default() };
    let evidence = evidence(&Scenario { candidate: quick, requests_per_second: 30.0, ..busy() }, 5);
    let rule = Rule::new(classic()).unwrap();
    assert_eq!(rule.verdict(&evidence, Check::Look(1), 1).decision, Decision::Hold);
    let verdict = rule.verdict(&evidence, Check::Look(3), 1);
    assert_eq!(
        (verdict.decision, verdict.reason(Metric::Volume).unwrap().finding),
        (Decision::Pause, Finding::TooLittle),
        "{verdict}"
    );
    let error = Rule::new(Config { rule: RuleKind::Classic, ..config() }).unwrap_err().to_string();
    assert!(error.contains("plan.hold") && error.contains("wants 1h"), "{error}");
}

#[test]
fn one_error_against_none_decides_nothing() {
    let candidate = Quality { slowness: 0.3, error_rate: 0.0, ..Quality::default() };
    let mut evidence = evidence(&Scenario { candidate, error_rate: 0.0, ..busy() }, 5);
    let rule = Rule::new(classic()).unwrap();
    let fail = |evidence: &mut Evidence, failures: u64| {
        let window = &mut evidence.candidate.windows[3];
        window.requests += failures;
        *window.errors.entry(ErrorCode::EngineFailed).or_default() += failures;
    };
    fail(&mut evidence, 1);
    assert_eq!(rule.verdict(&evidence, Check::Look(2), 1).decision, Decision::Hold);
    let verdict = rule.verdict(&evidence, Check::Look(3), 1);
    assert_eq!(verdict.decision, Decision::Pause, "{verdict}");
    assert!(verdict.sentence.contains("too few failures") && verdict.sentence.contains("engine_failed"), "{verdict}");
    // Hundreds against none are no chance.
    fail(&mut evidence, 300);
    assert_eq!(rule.verdict(&evidence, Check::Look(3), 1).decision, Decision::RollBack);
}

#[test]
fn all_of_no_traffic_is_no_success() {
    let mut evidence = evidence(&busy(), 5);
    evidence.candidate_percent = 100.0;
    let rule = Rule::new(classic()).unwrap();
    assert!(rule.verdict(&evidence, Check::Look(3), 1).decision.is_promotion());
    evidence.candidate.windows.fill(WindowCounts::default());
    let verdict = rule.verdict(&evidence, Check::Look(3), 1);
    assert_eq!(verdict.decision, Decision::Pause, "{verdict}");
    assert!(verdict.sentence.contains("there was none"), "{verdict}");
}
