//! The parts of the measurement.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{
    load::{self, Jobs, Moment, Seen},
    row::{Part, Row, names},
    stack::{Setting, Stack},
};
use crate::{
    closed_loop, open_loop,
    pacing::{Arrivals, Schedule},
    pattern::Profile,
    report::Quantiles,
};

/// Before anything is counted, and until workers that have just started do nothing but wait; no longer than it is measured, then.
const WARM_UP: Duration = Duration::from_secs(2);
const SETTLE: Duration = Duration::from_secs(4);
/// Callers for each device: more than can be served at once, so that no device waits for one.
const CALLERS: usize = 6;
/// The share of the capacity at which latencies are measured.
const CALLS_AT: f64 = 0.5;
/// Texts that a device has before it, in jobs: what its worker works on, and what comes next.
const AHEAD: usize = 512;
/// Texts in flight where devices take no time.
const CEILING_AHEAD: usize = 16_384;
/// A worker on devices takes in this much before another gets any.
const DEVICE_AHEAD: usize = 2048;
/// For what is to come to its end.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What is measured.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Which parts.
    pub parts: Vec<Part>,
    /// Numbers of servers.
    pub servers: Vec<usize>,
    /// Numbers of workers.
    pub workers: Vec<usize>,
    /// Numbers of models.
    pub models: Vec<usize>,
    /// Numbers of devices.
    pub devices: Vec<usize>,
    /// What a text takes on a device.
    pub text: Duration,
    /// Texts in a job.
    pub texts_per_job: usize,
    /// How long each is measured.
    pub duration: Duration,
    /// How often.
    pub repeats: usize,
    /// Jobs that wait.
    pub backlog: Vec<u64>,
    /// Texts in a job of the backlog.
    pub backlog_texts: usize,
    /// Rows after which it is looked what they cost.
    pub rows: Vec<u64>,
}

/// Takes a row.
pub type Take<'a> = &'a dyn Fn(Row) -> anyhow::Result<()>;

/// Measures, and hands over each row as soon as it is known: what comes later can take hours, or fail.
///
/// # Errors
/// If something does not start, or ends; what `take` fails with.
pub async fn play(plan: &Plan, take: Take<'_>) -> anyhow::Result<()> {
    for part in &plan.parts {
        for servers in &plan.servers {
            match part {
                Part::Workers | Part::Ceiling | Part::Calls => plan.by_workers(*part, *servers, take).await?,
                Part::Models => plan.by_models(*servers, take).await?,
                Part::Devices => plan.by_devices(*servers, take).await?,
                Part::Idle => plan.idle(*servers, take).await?,
                Part::Backlog => plan.backlog(*servers, take).await?,
                Part::Rows => plan.row_after_row(*servers, take).await?,
            }
        }
    }
    Ok(())
}

impl Plan {
    fn setting(&self, servers: usize) -> Setting {
        let text_us = u64::try_from(self.text.as_micros()).unwrap_or(u64::MAX);
        Setting { servers, workers: 1, models: 1, devices: 1, text_us }
    }

    async fn by_workers(&self, part: Part, servers: usize, take: Take<'_>) -> anyhow::Result<()> {
        let mut stack = Stack::start(servers, 1).await?;
        for workers in &self.workers {
            let mut setting = Setting { workers: *workers, ..self.setting(servers) };
            if part == Part::Ceiling {
                setting.text_us = 0;
            }
            stack.employ(&setting)?;
            let texts = if part == Part::Calls { 0 } else { self.texts_per_job };
            let mut row = Row::new(part, setting, 0, texts);
            for _ in 0..self.repeats {
                match part {
                    Part::Calls => self.calls(&mut stack, &mut row).await?,
                    _ => self.jobs(&mut stack, &mut row).await?,
                }
            }
            take(row)?;
        }
        Ok(())
    }

    /// Four workers, or as many as there are at most: each serves all models.
    async fn by_models(&self, servers: usize, take: Take<'_>) -> anyhow::Result<()> {
        let workers = self.workers.iter().copied().max().unwrap_or(1).min(4);
        for models in &self.models {
            let mut stack = Stack::start(servers, *models).await?;
            let paced = self.setting(servers);
            for text_us in [paced.text_us, 0] {
                let setting = Setting { workers, models: *models, text_us, ..paced };
                stack.employ(&setting)?;
                let mut row = Row::new(Part::Models, setting, 0, self.texts_per_job);
                for _ in 0..self.repeats {
                    self.jobs(&mut stack, &mut row).await?;
                }
                take(row)?;
            }
        }
        Ok(())
    }

    async fn by_devices(&self, servers: usize, take: Take<'_>) -> anyhow::Result<()> {
        let mut stack = Stack::start(servers, 1).await?;
        for devices in &self.devices {
            // As fast as a device is to a processor: five times, here.
            let text_us = self.setting(servers).text_us / 5;
            let setting = Setting { devices: *devices, text_us, ..self.setting(servers) };
            stack.employ(&setting)?;
            let mut row = Row::new(Part::Devices, setting, 0, self.texts_per_job);
            for _ in 0..self.repeats {
                self.jobs(&mut stack, &mut row).await?;
            }
            take(row)?;
        }
        Ok(())
    }

    async fn jobs(&self, stack: &mut Stack, row: &mut Row) -> anyhow::Result<()> {
        let jobs = self.in_flight(&row.setting);
        let watch = async |stack: &mut Stack| load::for_a_while(stack, self.duration).await;
        let (seen, failed) = load::jobs(stack, jobs, self.warm_up(), watch).await?;
        add_jobs(row, &seen);
        row.add(names::FAILED, failed as f64);
        Ok(())
    }

    fn warm_up(&self) -> Duration {
        WARM_UP.min(self.duration)
    }

    fn in_flight(&self, setting: &Setting) -> Jobs {
        let Setting { workers, devices, models, text_us, .. } = *setting;
        let texts = match (text_us, devices) {
            (0, _) => CEILING_AHEAD,
            // Each model of a worker has an engine of its own, and is to have one job that runs and one that waits.
            (_, 1) => workers * AHEAD.max(2 * models * self.texts_per_job),
            (_, devices) => workers * devices * DEVICE_AHEAD,
        };
        Jobs { in_flight: (texts / self.texts_per_job).max(1), texts: self.texts_per_job }
    }

    /// Callers who wait for each answer, for what there is to have; then calls at half of the sum of the engines, whatever the answers do.
    async fn calls(&self, stack: &mut Stack, row: &mut Row) -> anyhow::Result<()> {
        let client = stack.client(0).await?;
        let load = load::calls(stack, self.warm_up())?;
        let callers = row.setting.workers * CALLERS;
        let looking = async {
            sleep(self.warm_up()).await;
            load::for_a_while(stack, self.duration).await
        };
        let (tally, seen) = tokio::join!(closed_loop::run(client.nats(), &load, callers, self.duration), looking);
        let (done, failed) = load::answered(&tally);
        let (rate, seen) = (done as f64 / self.duration.as_secs_f64(), seen?);
        row.add(names::CALLS, rate);
        row.add(names::OF_SUM, 100.0 * rate / row.setting.sum());
        let calls = rate * seen.seconds;
        let each = [names::CALL_CPU, names::CALL_SERVER_CPU, names::CALL_WORKER_CPU, names::CALL_LOAD_CPU];
        add_cpu(row, &seen, calls, each);
        add_shares(row, &seen);
        let offered = row.setting.sum() * CALLS_AT;
        let profile = Profile::constant(offered, self.duration).after(self.warm_up());
        let schedule = Schedule::new(Arrivals::Poisson, profile, 1);
        let tally = open_loop::run(client.nats().clone(), schedule, load, Instant::now(), |_| ()).await?;
        let quantiles = Quantiles::of(&tally.latency);
        row.add(names::OFFERED, offered);
        row.add(names::P50, quantiles.p50);
        row.add(names::P99, quantiles.p99);
        row.add(names::FAILED, (failed + load::answered(&tally).1) as f64);
        Ok(())
    }

    /// Every number of workers with every number of models, none included.
    async fn idle(&self, servers: usize, take: Take<'_>) -> anyhow::Result<()> {
        for models in &self.models {
            let mut stack = Stack::start(servers, *models).await?;
            for workers in [0].iter().chain(&self.workers) {
                let setting = Setting { workers: *workers, models: *models, ..self.setting(servers) };
                stack.employ(&setting)?;
                sleep(SETTLE.min(self.duration)).await;
                let mut row = Row::new(Part::Idle, setting, 0, 0);
                for _ in 0..self.repeats {
                    let seen = load::for_a_while(&mut stack, self.duration).await?;
                    row.add(names::IDLE_SERVER, 100.0 * seen.used.server / seen.seconds);
                    row.add(names::IDLE_WORKERS, 100.0 * seen.used.workers / seen.seconds);
                    row.add(names::IDLE_MESSAGES, seen.messages / seen.seconds);
                    let [server, workers, _] = stack.memory();
                    row.add(names::SERVER_MB, server);
                    row.add(names::WORKERS_MB, workers);
                }
                take(row)?;
            }
        }
        Ok(())
    }

    /// Jobs are stored, and then done by workers whose devices take no time; the results stay.
    async fn backlog(&self, servers: usize, take: Take<'_>) -> anyhow::Result<()> {
        for jobs in &self.backlog {
            let mut stack = Stack::start(servers, 1).await?;
            let setting = Setting { workers: 4, text_us: 0, ..self.setting(servers) };
            let mut row = Row::new(Part::Backlog, setting, *jobs, self.backlog_texts);
            let (begun, before) = (Instant::now(), stack.used());
            load::publish(&stack, *jobs, self.backlog_texts).await?;
            row.add(names::PUBLISHED, *jobs as f64 / begun.elapsed().as_secs_f64());
            row.add(names::PUBLISH_SERVER_CPU, 1e6 * stack.used().since(before).server / *jobs as f64);
            row.add(names::SERVER_MB, stack.memory()[0]);
            row.add(names::DISK_MB, stack.disk());
            stack.employ(&setting)?;
            load::until_embedded(&mut stack, jobs * self.backlog_texts as u64, PATIENCE).await?;
            // What was embedded last is on its way into the stream.
            sleep(WARM_UP.min(self.duration)).await;
            row.add(names::KEPT_SERVER_MB, stack.memory()[0]);
            row.add(names::KEPT_DISK_MB, stack.disk());
            take(row)?;
        }
        Ok(())
    }

    /// One run. What a row costs is that of all rows since the look before.
    async fn row_after_row(&self, servers: usize, take: Take<'_>) -> anyhow::Result<()> {
        let mut stack = Stack::start(servers, 1).await?;
        let setting = Setting { workers: 4, text_us: 0, ..self.setting(servers) };
        stack.employ(&setting)?;
        let watch = async |stack: &mut Stack| {
            let first = Moment::now(stack).await?;
            let (begun, mut before) = (first.texts(), first);
            for count in &self.rows {
                let moment = load::until_embedded(stack, begun + count, PATIENCE).await?;
                let mut row = Row::new(Part::Rows, setting, *count, self.texts_per_job);
                add_jobs(&mut row, &moment.since(&before));
                let [server, workers, load] = stack.memory();
                row.add(names::SERVER_MB, server);
                row.add(names::WORKERS_MB, workers);
                row.add(names::LOAD_MB, load);
                row.add(names::DISK_MB, stack.disk());
                take(row)?;
                before = moment;
            }
            anyhow::Ok(())
        };
        load::jobs(&mut stack, self.in_flight(&setting), self.warm_up(), watch).await?;
        Ok(())
    }
}

fn add_jobs(row: &mut Row, seen: &Seen) {
    let rate = seen.texts() / seen.seconds;
    row.add(names::RATE, rate);
    if row.setting.text_us > 0 {
        row.add(names::OF_SUM, 100.0 * rate / row.setting.sum());
    }
    let each = [names::ALL_CPU, names::SERVER_CPU, names::WORKER_CPU, names::LOAD_CPU];
    add_cpu(row, seen, seen.texts(), each);
    row.add(names::MESSAGES, seen.messages / seen.texts());
    add_shares(row, seen);
}

/// What all used for each of so many, and then servers, workers and load.
fn add_cpu(row: &mut Row, seen: &Seen, count: f64, names: [&'static str; 4]) {
    let used = seen.used;
    for (name, seconds) in names.into_iter().zip([used.total(), used.server, used.workers, used.load]) {
        row.add(name, 1e6 * seconds / count);
    }
    row.add(self::names::CORES, used.total() / seen.seconds);
}

/// What the workers had that had least and most, of what each would have had if all had the same. On one worker, its devices.
fn add_shares(row: &mut Row, seen: &Seen) {
    let each = match &seen.embedded[..] {
        [devices] => devices.iter().map(|texts| *texts as f64).collect(),
        _ => seen.of_each(),
    };
    let even = each.iter().sum::<f64>() / each.len() as f64;
    row.add(names::LEAST_SHARE, 100.0 * each.iter().copied().fold(f64::INFINITY, f64::min) / even);
    row.add(names::MOST_SHARE, 100.0 * each.iter().copied().fold(0.0, f64::max) / even);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_engine_of_a_worker_has_a_job_that_runs_and_one_that_waits() {
        let plan = Plan {
            parts: Vec::new(),
            servers: Vec::new(),
            workers: Vec::new(),
            models: Vec::new(),
            devices: Vec::new(),
            text: Duration::from_millis(5),
            texts_per_job: 64,
            duration: Duration::from_secs(1),
            repeats: 1,
            backlog: Vec::new(),
            backlog_texts: 1,
            rows: Vec::new(),
        };
        for models in [1, 2, 4, 16, 64] {
            let setting = Setting { servers: 1, workers: 4, models, devices: 1, text_us: 5000 };
            assert!(plan.in_flight(&setting).in_flight >= 2 * 4 * models, "{models} models");
        }
    }
}
