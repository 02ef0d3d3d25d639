//! What people get to see of rollouts.

use std::time::Duration;

use embed_control::rollout::{Progress, ServerTime, clock};
use embed_rollout::{
    Decision, Finding, Rollout,
    record::Record,
    shadow::{Aspect, ShadowReason},
    state::{Event, Phase},
};
use serde_json::json;

use super::super::{Status, print};

pub(super) fn all(rollouts: &[Rollout], json: bool) -> anyhow::Result<Status> {
    if json {
        print::json_line(&json!({ "rollouts": rollouts }))?;
    } else if rollouts.is_empty() {
        print::line("no rollouts")?;
    }
    if !json {
        rollouts.iter().map(line).try_for_each(print::line)?;
    }
    Ok(Status::Done)
}

/// Rollouts that are over, one a line.
pub(super) fn history(rollouts: &[Rollout], json: bool) -> anyhow::Result<Status> {
    if json {
        print::json_line(&json!({ "rollouts": rollouts }))?;
        return Ok(Status::Done);
    }
    if rollouts.is_empty() {
        print::line("no rollouts that are over")?;
    }
    for rollout in rollouts {
        let (begun, line) = (clock(rollout.started_ms), line(rollout));
        print::line(format_args!("{begun} UTC  {}  {line}", rollout.id))?;
    }
    Ok(Status::Done)
}

/// What is new of a rollout since it was last shown.
pub(super) fn changed(before: Option<&Rollout>, rollout: &Rollout, json: bool) -> anyhow::Result<()> {
    if json {
        return print::json_line(&json!({ "rollout": rollout }));
    }
    let known = before.filter(|before| before.id == rollout.id).map_or(0, |before| before.history.len());
    for event in rollout.history.iter().skip(known) {
        print::line(format_args!("{} {}", rollout.model, happened(event)))?;
    }
    print::line(line(rollout))
}

/// A rollout with its history, and the last verdict with its reasons.
pub(super) fn one(record: &Record, json: bool) -> anyhow::Result<Status> {
    let rollout = &record.rollout;
    let last = record.stages.iter().rev().find_map(|stage| stage.verdicts.last());
    if json {
        let verdict = last.map(|recorded| &recorded.verdict);
        print::json_line(&json!({ "rollout": rollout, "shadow": record.shadows.last(), "verdict": verdict }))?;
        return Ok(Status::Done);
    }
    print::line(line(rollout))?;
    for event in &rollout.history {
        print::line(format_args!("  {}", happened(event)))?;
    }
    if let Some(shadow) = record.shadows.last() {
        print::line(format_args!("shadow, judged {} UTC:", clock(shadow.when_ms)))?;
        let tells = |reason: &&ShadowReason| match reason.aspect {
            Aspect::LowCosines | Aspect::Errors => reason.finding == Finding::Fail,
            Aspect::MeanCosine | Aspect::Speed | Aspect::Texts => true,
        };
        for reason in shadow.verdict.reasons.iter().filter(tells) {
            print::line(format_args!("  {}", reason.sentence))?;
        }
    }
    if let Some(recorded) = last {
        print::line(format_args!("last verdict, {} UTC:", clock(recorded.when_ms)))?;
        for text in recorded.verdict.to_string().trim_end().lines() {
            print::line(format_args!("  {text}"))?;
        }
    }
    Ok(Status::Done)
}

/// `all-minilm-l6-v2: fp32 -> int8, holding step 2 of 4 (25 %), window 14 of 360`
pub(super) fn line(rollout: &Rollout) -> String {
    let plan = &rollout.config.plan;
    let step = |step: usize| format!("step {} of {} ({} %)", step + 1, plan.steps.len(), rollout.percent_of(step));
    let state = match &rollout.phase {
        Phase::Checking => "checking whether traffic may move".to_owned(),
        Phase::Shadowing(stage) => {
            let share = rollout.config.shadow.share;
            let [lasted, hold] =
                [Duration::from_millis(stage.lasted_ms), rollout.config.shadow.hold].map(whole_seconds);
            format!("shadowing {share} % of the texts, {lasted} of {hold}")
        }
        Phase::Moving { step: at, .. } => format!("moving to {}", step(*at)),
        Phase::Holding(stage) => {
            let windows = rollout.config.at(stage.step).plan.windows();
            format!("holding {}, window {} of {windows}", step(stage.step), stage.windows)
        }
        Phase::Paused { reason, .. } if rollout.is_shadow() => {
            format!("paused before any traffic moved: {}", reason.trim_end_matches('.'))
        }
        Phase::Paused { step: at, reason, .. } => format!("paused at {}: {}", step(*at), reason.trim_end_matches('.')),
        Phase::RollingBack { reason, .. } => format!("rolling back: {reason}"),
        Phase::Ended { outcome, reason } => format!("{outcome}: {reason}"),
    };
    let next = match &rollout.phase {
        Phase::Paused { .. } => ". `embed rollout resume`, `promote` or `abort` says how it goes on",
        _ => "",
    };
    let alone = rollout.outcome().is_none() && rollout.may_act("", now_ms());
    let alone = if alone { " (no controller acts: `embed rollout run` carries it on)" } else { "" };
    format!("{}: {} -> {}, {state}{next}{alone}", rollout.model, rollout.from, rollout.to)
}

/// One line of progress, on standard error.
pub(super) fn progress(progress: &Progress<'_>) {
    match progress {
        Progress::Event(rollout, event) => print::note(format_args!("{} {}", rollout.model, happened(event))),
        // It is told by its events.
        Progress::Changed(_) => (),
        Progress::Windows { rollout, requests: [baseline, candidate], verdict } => {
            let Some(stage) = rollout.stage() else { return };
            let windows = format!("window {} of {}", stage.windows, rollout.config.at(stage.step).plan.windows());
            match verdict {
                // Any other decision is told as what has happened.
                Some(verdict) if verdict.decision == Decision::Hold => print::note(format_args!(
                    "{} {} UTC  {windows}, {baseline} + {candidate} requests. {}",
                    rollout.model,
                    clock(now_ms()),
                    verdict.sentence
                )),
                None if stage.windows.is_multiple_of(12) && matches!(rollout.phase, Phase::Holding(_)) => {
                    print::note(format_args!(
                        "{} {} UTC  {windows}, {baseline} + {candidate} requests",
                        rollout.model,
                        clock(now_ms())
                    ));
                }
                _ => (),
            }
        }
        // Any other decision is told as what has happened.
        Progress::Shadow { rollout, counts, verdict } if verdict.decision == Decision::Hold => {
            let means = verdict.reasons.iter().filter(|reason| reason.aspect == Aspect::MeanCosine);
            let mean = means.filter(|reason| reason.tokens.is_none()).find_map(|reason| reason.figure);
            let mean = mean.map(|mean| format!(", mean cosine {mean:.4}")).unwrap_or_default();
            let dropped = match counts.dropped {
                0 => String::new(),
                n => format!("; {n} requests were dropped, for want of time"),
            };
            print::note(format_args!("{} {} UTC  {}{mean}{dropped}", rollout.model, clock(now_ms()), verdict.sentence));
        }
        Progress::Shadow { .. } => (),
        Progress::Waiting(rollout, text) => print::note(format_args!("{} waiting: {text}", rollout.model)),
        Progress::Trouble(text) => print::note(format_args!("warning: {text}")),
    }
}

fn whole_seconds(duration: Duration) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(duration.as_secs()))
}

/// By this machine's clock: good enough to be shown.
fn now_ms() -> u64 {
    ServerTime::default().now_ms()
}

fn happened(event: &Event) -> String {
    format!("{} UTC  {:>3} %  {}", clock(event.when_ms), event.percent, event.sentence)
}
