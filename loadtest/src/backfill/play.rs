//! One backfill, watched, with processes killed on its way.

use std::{
    collections::BTreeMap,
    process::ExitStatus,
    time::{Duration, Instant},
};

use anyhow::{bail, ensure};
use embed_testkit::Daemon;
use serde::Serialize;
use serde_json::Value;

use super::{
    cpu::Cpu,
    kills::{Kill, Party},
    stack::Stack,
    watch::Watch,
};

/// How often everything is looked at.
const TICK: Duration = Duration::from_millis(100);
/// Before `embed` is started again when it has ended before its time.
const BACK_OFF: Duration = Duration::from_secs(1);
/// Somebody who looks on wants to see that it moves.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// A backfill that was begun anew so often without getting further is stuck: it may be refused for as long as another seems to run it.
const MOST_ATTEMPTS: usize = 120;
/// It has finished, and says in its summary that rows have failed.
const FAILED_ROWS: i32 = 3;

/// What to run.
#[derive(Debug)]
pub(super) struct Order<'a> {
    /// What it is called.
    pub(super) name: &'a str,
    /// The arguments of `embed backfill run`, without input and output.
    pub(super) options: Vec<String>,
    /// Where it reads.
    pub(super) input: String,
    /// Where it writes.
    pub(super) output: String,
    /// Rows that it has.
    pub(super) rows: u64,
    /// Rows in a job.
    pub(super) chunk: u64,
    /// What is killed.
    pub(super) kills: Vec<Kill>,
}

/// What came of it.
#[derive(Debug, Clone, Serialize)]
pub struct Played {
    /// What it is called.
    pub name: String,
    /// Rows that it had.
    pub rows: u64,
    /// From its start to its end, all processes and everything that took their place.
    pub seconds: f64,
    /// Processor time of each party meanwhile: seconds.
    pub cpu_seconds: BTreeMap<String, f64>,
    /// What `embed` said at its end.
    pub summary: Value,
    /// Who was killed, and how much of the rows had been embedded.
    pub kills: Vec<(Party, f64)>,
    /// Why `embed` ended before its time, where it had not been killed.
    pub ends: Vec<String>,
}

impl Played {
    /// Rows a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.rows as f64 / self.seconds
    }

    /// Processor time of a party for each row: microseconds.
    pub fn cpu_each(&self) -> impl Iterator<Item = (&str, f64)> {
        self.cpu_seconds.iter().map(|(party, seconds)| (&**party, seconds * 1e6 / self.rows as f64))
    }

    /// A count of the summary; 0 if it has none.
    #[must_use]
    pub fn count(&self, name: &str) -> u64 {
        self.summary[name].as_u64().unwrap_or_default()
    }
}

/// Runs it to its end.
///
/// # Errors
/// If it cannot be brought to its end.
pub(super) async fn play(
    stack: &mut Stack,
    order: Order<'_>,
    watch: &mut Watch,
    say: fn(&str),
) -> anyhow::Result<Played> {
    let Order { name, options, input, output, rows, chunk, kills } = order;
    let mut begin = ["backfill", "run", "--json"].map(str::to_owned).to_vec();
    begin.extend(options);
    begin.extend([input, output.clone()]);
    let resume = ["backfill", "resume", "--json", &output].map(str::to_owned);
    let before = stack.outcomes().await.unwrap_or_default();
    let started = Instant::now();
    let mut told = started;
    let mut cpu = Cpu::since(&stack.processes());
    let mut embed = Daemon::spawn(&mut stack.embed(&begin));
    let mut played = Played {
        name: name.to_owned(),
        rows,
        seconds: 0.0,
        cpu_seconds: BTreeMap::new(),
        summary: Value::Null,
        kills: Vec::new(),
        ends: Vec::new(),
    };
    let mut due = kills.into_iter().peekable();
    let (mut attempts, mut embedded) = (0, 0.0);
    loop {
        let mut processes = stack.processes();
        processes.push((Party::Producer.name().to_owned(), embed.id()));
        watch.look(&processes, &stack.store());
        cpu.look(&processes);
        if !embed.is_running() {
            let (status, log) = embed.wait();
            if has_finished(status) {
                played.seconds = started.elapsed().as_secs_f64();
                played.summary = embed.json_line();
                played.cpu_seconds = cpu.seconds();
                ensure!(played.summary["finished"] == true, "{name}: embed ended too early: {}", played.summary);
                return Ok(played);
            }
            let reason = last_line(&log);
            // Without a fault there is no excuse.
            if played.kills.is_empty() || attempts >= MOST_ATTEMPTS {
                bail!("{name}: embed ended with {status}: {reason}");
            }
            note(&mut played.ends, reason);
            attempts += 1;
            tokio::time::sleep(BACK_OFF).await;
            embed = Daemon::spawn(&mut stack.embed(&resume));
        }
        if let Some(outcomes) = stack.outcomes().await {
            embedded = share(outcomes.saturating_sub(before), chunk, rows);
        }
        if told.elapsed() >= TELL_EVERY {
            told = Instant::now();
            say(&format!("{name}: {:.0} % embedded after {:.0} s", embedded * 100.0, started.elapsed().as_secs_f64()));
        }
        if let Some(kill) = due.next_if(|kill| kill.at <= embedded) {
            say(&format!("{name}: {} is killed, at {:.0} %", kill.party.name(), embedded * 100.0));
            if kill.party == Party::Producer {
                embed.kill();
                tokio::time::sleep(kill.gone).await;
                embed = Daemon::spawn(&mut stack.embed(&resume));
            } else {
                stack.kill(kill.party, kill.target);
                tokio::time::sleep(kill.gone).await;
                stack.start_again(kill.party);
            }
            attempts = 0;
            played.kills.push((kill.party, embedded));
        }
        tokio::time::sleep(TICK).await;
    }
}

fn has_finished(status: ExitStatus) -> bool {
    status.success() || status.code() == Some(FAILED_ROWS)
}

/// How much has been embedded, as far as outcomes tell: those of jobs that were published twice count twice.
fn share(outcomes: u64, chunk: u64, rows: u64) -> f64 {
    (outcomes * chunk) as f64 / rows.max(1) as f64
}

/// A reason is told once.
fn note(reasons: &mut Vec<String>, reason: String) {
    if !reasons.contains(&reason) {
        reasons.push(reason);
    }
}

fn last_line(log: &str) -> String {
    log.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or("nothing was said").to_owned()
}

/// The arguments that all backfills here have.
pub(super) fn options(model: &str, chunk: u64, more: &[String]) -> Vec<String> {
    let chunk = chunk.to_string();
    let fixed = ["--model", model, "--format", "parquet", "--text-field", "text", "--id-field", "id"];
    let fixed = fixed.into_iter().chain(["--keep", "category,score", "--chunk", &chunk]);
    fixed.map(str::to_owned).chain(more.iter().cloned()).collect()
}

/// Everything that `embed` has to have said.
///
/// # Errors
/// If its counts do not add up.
pub(super) fn check_counts(played: &Played) -> anyhow::Result<()> {
    let [rows, stored, reused, failed] = ["rows", "stored", "reused", "failed"].map(|name| played.count(name));
    ensure!(
        rows == played.rows && stored + reused + failed == rows,
        "{}: of {} rows, embed says that it has read {rows}, stored {stored}, reused {reused}, and failed {failed}",
        played.name,
        played.rows
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn played(summary: Value) -> Played {
        let cpu_seconds = BTreeMap::new();
        Played { name: "a".into(), rows: 10, seconds: 2.0, cpu_seconds, summary, kills: Vec::new(), ends: Vec::new() }
    }

    #[test]
    fn counts_have_to_add_up() {
        let all = played(json!({"rows": 10, "stored": 3, "reused": 6, "failed": 1}));
        assert_eq!(all.rate(), 5.0);
        check_counts(&all).unwrap();
        for summary in [json!({"rows": 10, "stored": 9}), json!({"rows": 9, "stored": 9})] {
            assert!(check_counts(&played(summary)).is_err());
        }
    }

    #[test]
    fn what_is_embedded_is_a_share_of_the_rows() {
        assert_eq!(share(5, 64, 640), 0.5);
        assert_eq!(share(0, 64, 0), 0.0);
        assert_eq!(last_line("a\n b \n\n"), "b");
        let mut reasons = Vec::new();
        (0..2).for_each(|_| note(&mut reasons, "why".into()));
        assert_eq!(reasons, ["why"]);
    }
}
