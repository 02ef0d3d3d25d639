//! Whether a plan can decide at the traffic there is: asked before anything is moved, by simulating a candidate that is just as good.

use std::time::Duration;

use embed_schemas::WindowCounts;
use serde::{Deserialize, Serialize};

use crate::{
    Check, Config, ConfigError, Decision, Finding, Metric, Rule,
    config::RuleKind,
    evidence::Tally,
    simulation::{Quality, Scenario},
};

/// Simulated steps that an answer rests on.
const RUNS: u32 = 20;
/// If all of the first ones promote, that is enough.
const CLEAR: u32 = 6;
/// A step that promotes an equal candidate more seldom cannot decide.
const HOPELESS: f64 = 0.1;
/// And from here on it can be relied on.
const ENOUGH: f64 = 0.8;
/// More requests of the arm with fewer tell nothing more about whether a step can decide, and take time to simulate.
const MOST_REQUESTS: f64 = 50_000.0;
/// What is tried instead: holds so many times as long.
const LONGER: [u32; 6] = [2, 4, 8, 16, 32, 64];

/// Traffic that differs by no more than this share of the larger is alike: an answer for one does for the other.
const ALIKE: f64 = 0.1;

/// Traffic, both arms together.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Traffic {
    /// Requests a second.
    pub requests_per_second: f64,
    /// Requests that share an engine run, on average; 1 or more.
    pub batch: f64,
    /// Share that fails.
    pub error_rate: f64,
}

/// What a plan comes to, as it was found out once: simulating it takes a while.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Length of the windows, in milliseconds.
    pub window_ms: u32,
    /// The traffic that was asked about.
    pub traffic: Traffic,
    /// See [`check`].
    pub found: Result<Option<String>, String>,
}

impl Answer {
    /// Whether it answers the same question about this traffic, as far as that matters.
    #[must_use]
    pub fn is_about(&self, window_ms: u32, traffic: Traffic) -> bool {
        self.window_ms == window_ms && self.traffic.is_like(traffic)
    }
}

/// What a step can decide.
#[derive(Debug, Clone, PartialEq)]
pub struct Power {
    /// How often a candidate that is just as good is promoted from it, 0 to 1.
    pub promoted: f64,
    /// What stands in the way otherwise, most often first.
    pub undecided: Vec<Metric>,
    /// Requests that the arm with fewer gets in it.
    pub requests: f64,
}

impl Traffic {
    /// Whether what can be decided at one can be decided at the other, as far as anybody can tell: no more than chance makes of one traffic
    /// from minute to minute.
    #[must_use]
    pub fn is_like(self, other: Self) -> bool {
        let alike = |a: f64, b: f64| (a - b).abs() <= ALIKE * a.max(b);
        alike(self.requests_per_second, other.requests_per_second)
            && alike(self.batch, other.batch)
            // Rates of errors are small, and vary.
            && alike(0.01 + self.error_rate, 0.01 + other.error_rate)
    }

    /// The traffic that these windows show, ignoring what callers did wrong.
    #[must_use]
    pub fn of(windows: &[WindowCounts], window: Duration, config: &Config) -> Self {
        let tally = Tally::of(windows, &config.ignored_errors);
        let seconds = window.as_secs_f64() * windows.len() as f64;
        Self {
            requests_per_second: if seconds > 0.0 { tally.requests as f64 / seconds } else { 0.0 },
            batch: tally.requests_per_batch(),
            error_rate: if tally.requests > 0 { tally.error_rate() } else { 0.0 },
        }
    }
}

/// What one step of a configuration, an index into its steps, can decide.
///
/// # Errors
/// If the configuration makes no sense.
pub fn power(config: &Config, step: usize, traffic: Traffic) -> Result<Power, ConfigError> {
    let config = config.at(step);
    let percent = config.plan.steps.get(step).copied().unwrap_or(100.0);
    let share = (percent / 100.0).min(1.0 - percent / 100.0);
    let in_hold = traffic.requests_per_second * config.plan.hold.as_secs_f64();
    let requests = in_hold * share;
    if percent >= 100.0 {
        // There is nothing to compare with.
        return Ok(Power { promoted: 1.0, undecided: Vec::new(), requests: in_hold });
    }
    if config.rule == RuleKind::Classic {
        let enough = requests >= config.classic.min_requests as f64;
        let undecided = if enough { Vec::new() } else { vec![Metric::Volume] };
        return Ok(Power { promoted: f64::from(u8::from(enough)), undecided, requests });
    }
    let error_rate = traffic.error_rate.clamp(0.0, 0.5);
    let scenario = Scenario {
        requests_per_second: traffic.requests_per_second * (MOST_REQUESTS / requests.max(1.0)).min(1.0),
        candidate_percent: percent,
        batch: traffic.batch.max(1.0),
        error_rate,
        candidate: Quality { error_rate, ..Quality::default() },
        ..Scenario::default()
    };
    let rule = Rule::new(config)?;
    let plan = &rule.config().plan;
    let (mut promoted, mut undecided) = (0, std::collections::BTreeMap::<Metric, u32>::new());
    for seed in 0..RUNS {
        let evidence = scenario.evidence(plan, plan.windows() as usize, u64::from(seed));
        let verdict = rule.verdict(&evidence, Check::Look(plan.looks), u64::from(seed));
        if matches!(verdict.decision, Decision::Promote { .. }) {
            promoted += 1;
            if promoted == CLEAR && seed + 1 == CLEAR {
                return Ok(Power { promoted: 1.0, undecided: Vec::new(), requests });
            }
            continue;
        }
        for reason in verdict.reasons {
            if matches!(reason.finding, Finding::Inconclusive | Finding::TooLittle)
                && Metric::COMPARED.contains(&reason.metric)
            {
                *undecided.entry(reason.metric).or_default() += 1;
            }
        }
    }
    let mut undecided: Vec<_> = undecided.into_iter().collect();
    undecided.sort_by_key(|(_, times)| std::cmp::Reverse(*times));
    let undecided = undecided.into_iter().map(|(metric, _)| metric).collect();
    Ok(Power { promoted: f64::from(promoted) / f64::from(RUNS), undecided, requests })
}

/// What a plan comes to at this traffic: `Err` says why it cannot decide and what it needs, `Ok` what is uncertain.
///
/// # Errors
/// The outer one if the configuration makes no sense.
pub fn check(config: &Config, traffic: Traffic) -> Result<Result<Option<String>, String>, ConfigError> {
    let rate = format!("{:.3} requests/s", traffic.requests_per_second);
    let rate = rate.replace(".000 ", " ");
    if traffic.requests_per_second <= 0.0 {
        return Ok(Err("there are no requests that anything could be decided by: wait for some".to_owned()));
    }
    let mut weak = Vec::new();
    for step in 0..config.plan.comparisons() {
        let Power { promoted, undecided, requests } = power(config, step, traffic)?;
        let (percent, hold) = (config.plan.steps[step], config.plan.hold_of(step));
        let held = humantime::format_duration(hold);
        if promoted < HOPELESS {
            let metrics: Vec<String> = undecided.iter().map(ToString::to_string).collect();
            return Ok(Err(format!(
                "a step of {percent} % held for {held} cannot decide at {rate}: it brings {requests:.0} requests to one arm, by which {} cannot be \
                 told. {}",
                if metrics.is_empty() { "nothing".to_owned() } else { metrics.join(", ") },
                needs(config, step, traffic)?
            )));
        }
        if promoted < ENOUGH {
            weak.push(format!(
                "{percent} % held for {held} would promote an equal candidate {:.0} times of 100",
                promoted * 100.0
            ));
        }
    }
    Ok(Ok((!weak.is_empty()).then(|| format!("at {rate} some steps may pause without deciding: {}", weak.join("; ")))))
}

/// What would decide instead.
fn needs(config: &Config, step: usize, traffic: Traffic) -> Result<String, ConfigError> {
    let enough = |config: &Config| Ok::<_, ConfigError>(power(config, step, traffic)?.promoted >= ENOUGH);
    let mut ways = Vec::new();
    for times in LONGER {
        let mut longer = config.clone();
        let hold = config.plan.hold_of(step) * times;
        longer.plan.holds =
            (0..config.plan.steps.len()).map(|at| if at == step { hold } else { config.plan.hold_of(at) }).collect();
        if enough(&longer)? {
            ways.push(format!("hold it for {}", humantime::format_duration(hold)));
            break;
        }
    }
    for percent in [10.0, 25.0, 50.0] {
        let mut larger = config.at(step);
        larger.plan.steps.retain(|other| *other < config.plan.steps[step] || *other > percent);
        larger.plan.steps.insert(step, percent);
        if percent > config.plan.steps[step] && enough(&larger)? {
            ways.push(format!("take a step of {percent} %"));
            break;
        }
    }
    ways.push("widen what is allowed (`--config`)".to_owned());
    ways.push("or go on all the same (`--any-traffic`), to decide by yourself".to_owned());
    Ok(format!("What helps: {}", ways.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_remembered_for_traffic_that_is_alike() {
        let traffic = Traffic { requests_per_second: 100.0, batch: 4.0, error_rate: 0.001 };
        let answer = Answer { window_ms: 5_000, traffic, found: Ok(None) };
        for (other, alike) in [
            (traffic, true),
            (Traffic { requests_per_second: 95.0, batch: 4.2, error_rate: 0.0 }, true),
            (Traffic { requests_per_second: 85.0, ..traffic }, false),
            (Traffic { requests_per_second: 0.0, ..traffic }, false),
            (Traffic { batch: 8.0, ..traffic }, false),
            (Traffic { error_rate: 0.01, ..traffic }, false),
        ] {
            assert_eq!(answer.is_about(5_000, other), alike, "{other:?}");
            assert_eq!(traffic.is_like(other), other.is_like(traffic));
        }
        assert!(!answer.is_about(1_000, traffic));
        // No traffic is like no traffic alone.
        let none = Traffic { requests_per_second: 0.0, ..traffic };
        assert!(none.is_like(none));
        let json = serde_json::to_string(&answer).unwrap();
        assert_eq!(serde_json::from_str::<Answer>(&json).unwrap(), answer);
    }
}
