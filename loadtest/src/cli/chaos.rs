//! `chaos`: faults on real processes under load, or hostile input, and whether anything is lost, doubled or wrong.

use std::{
    fs,
    io::{self, Write},
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    time::Duration,
};

use anyhow::{anyhow, ensure};
use clap::Args;
use embed_schemas::Slug;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::{session::finish, target::parse_some_time};
use crate::{
    chaos::{
        self, Orders, Setting, fill, hostile,
        kinds::{self, KINDS, Kind},
    },
    report::Document,
};

/// If neither a time nor a number of faults is asked for.
const DURATION: Duration = Duration::from_secs(120);

#[derive(Debug, Args)]
pub(super) struct ChaosArgs {
    /// Model registry: a folder, or file://, s3://, gs:// or az://
    #[arg(long, env = "EMBED_REGISTRY", hide_env_values = true, value_name = "URL", required_unless_present = "list")]
    registry: Option<String>,
    /// The model's name or slug
    #[arg(long, short, env = "EMBED_MODEL", default_value = "all-minilm-l6-v2")]
    model: String,
    /// Decides which faults come when, what they hit, and how long they last
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// No fault begins after this [default: 2m, unless --faults is given]
    #[arg(long, value_parser = parse_some_time, value_name = "DURATION")]
    duration: Option<Duration>,
    /// No more faults than this
    #[arg(long, value_name = "N")]
    faults: Option<usize>,
    /// Only these kinds; see --list [default: all that can be had]
    #[arg(long, value_delimiter = ',', value_parser = parse_kind, value_name = "KIND,…")]
    only: Vec<&'static Kind>,
    /// Servers; three are a cluster, with three copies of each stream
    #[arg(long, default_value = "1", value_parser = ["1", "3"])]
    servers: String,
    /// Workers
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    workers: u8,
    /// Time after which a job that a worker holds is given to another
    #[arg(long, default_value = "5", value_parser = parse_some_time, value_name = "DURATION")]
    ack_wait: Duration,
    /// How many times the usual load: 5 calls, 5 jobs of two texts and a bulk job of sixteen a second
    #[arg(long, default_value_t = 1.0, value_name = "FACTOR")]
    load: f64,
    /// Print the kinds of faults, and which of them cannot be had here
    #[arg(long)]
    list: bool,
    /// Instead of faults: calls and jobs as no client library would send them, from raw sockets; exits with 3 if a worker ends, a job is not
    /// accounted for, or others are harmed
    #[arg(long, conflicts_with_all = ["duration", "faults", "only", "load", "list"])]
    hostile: bool,
    /// Calls, with --hostile
    #[arg(long, default_value_t = 1_000_000, value_name = "N", requires = "hostile")]
    calls: u64,
    /// Jobs, with --hostile
    #[arg(long, default_value_t = 100_000, value_name = "N", requires = "hostile")]
    jobs: u64,
    /// Where embed and embed-worker are [default: beside this program]
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
    /// Write report.json, report.html and the workers' logs into this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

fn parse_kind(name: &str) -> Result<&'static Kind, String> {
    kinds::find(name).ok_or_else(|| "there is no such kind; --list prints all".to_owned())
}

impl ChaosArgs {
    pub(super) fn run(self, json: bool) -> anyhow::Result<bool> {
        let setting = self.setting()?;
        if self.list {
            return list(&setting, json);
        }
        if self.hostile {
            return self.run_hostile(setting, json);
        }
        ensure!(self.load > 0.0 && self.load.is_finite(), "--load: must be above 0");
        ensure!(self.faults != Some(0), "--faults: must be above 0");
        let asked = !self.only.is_empty();
        let all = if asked { self.only.clone() } else { KINDS.iter().collect() };
        let mut left_out = Vec::new();
        let mut chosen = Vec::new();
        for kind in all {
            match chaos::lacks(kind, &setting) {
                None => chosen.push(kind),
                Some(reason) => {
                    ensure!(!asked, "--only {}: {reason}", kind.name);
                    left_out.push(format!("Left out: {}, since {reason}.", kind.name));
                }
            }
        }
        let duration = self.duration.or_else(|| self.faults.is_none().then_some(DURATION));
        let orders = Orders { seed: self.seed, duration, faults: self.faults, kinds: chosen, load: self.load };
        if let Some(folder) = &setting.logs {
            fs::create_dir_all(folder)?;
        }
        let parameters = json!({
            "seed": self.seed, "servers": self.servers, "workers": self.workers, "model": setting.model,
            "ack wait, s": self.ack_wait.as_secs_f64(), "duration, s": duration.map(|duration| duration.as_secs_f64()),
            "faults": self.faults, "load": self.load,
            "kinds": orders.kinds.iter().map(|kind| kind.name).collect::<Vec<_>>().join(", "),
        });
        let title = format!("Chaos test: seed {}", self.seed);
        let mut document = Document::begin("chaos", title, parameters.as_object().cloned().unwrap_or_default());
        let observed = play(chaos::run(setting, &orders, say))?;
        fill(&mut document, &observed);
        document.notes.extend(left_out);
        finish(&document, self.out.as_deref(), json)
    }

    fn run_hostile(&self, setting: Setting, json: bool) -> anyhow::Result<bool> {
        let orders = hostile::Orders { seed: self.seed, calls: self.calls, jobs: self.jobs };
        if let Some(folder) = &setting.logs {
            fs::create_dir_all(folder)?;
        }
        let parameters = json!({
            "seed": self.seed, "calls": self.calls, "jobs": self.jobs, "servers": self.servers, "workers": self.workers,
            "model": setting.model, "ack wait, s": self.ack_wait.as_secs_f64(),
        });
        let title = format!("Hostile input: seed {}", self.seed);
        let mut document = Document::begin("hostile", title, parameters.as_object().cloned().unwrap_or_default());
        let observed = play(hostile::run(setting, &orders, say))?;
        hostile::fill(&mut document, &observed);
        finish(&document, self.out.as_deref(), json)
    }

    fn setting(&self) -> anyhow::Result<Setting> {
        let here = std::env::current_exe()?;
        Ok(Setting {
            registry: self.registry.clone().unwrap_or_default(),
            model: Slug::from_name(&self.model)?,
            servers: self.servers.parse()?,
            workers: self.workers.into(),
            ack_wait: self.ack_wait,
            programs: self.programs.clone().or_else(|| here.parent().map(PathBuf::from)).unwrap_or_default(),
            logs: self.out.as_ref().map(|out| out.join("logs")),
        })
    }
}

pub(super) fn say(what: &str) {
    // There is nothing to do about a standard error that cannot be written to.
    let _ = writeln!(io::stderr(), "{what}");
}

/// Plays on this thread. What cannot go on panics in the test kit, with its reason; the stack is gone then as well.
pub(super) fn play<T>(run: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let whole = async {
        // The stack goes with us, and its folders too.
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        tokio::select! {
            observed = run => observed,
            _ = interrupt.recv() => Err(anyhow!("interrupted")),
            _ = terminate.recv() => Err(anyhow!("terminated")),
        }
    };
    catch_unwind(AssertUnwindSafe(|| runtime.block_on(whole)))
        .unwrap_or_else(|_| Err(anyhow!("the stack could not be kept up; the reason is above")))
}

fn list(setting: &Setting, json: bool) -> anyhow::Result<bool> {
    let mut out = io::stdout();
    for kind in KINDS {
        let lacks = chaos::lacks(kind, setting);
        if json {
            writeln!(out, "{}", json!({ "name": kind.name, "what": kind.what, "lacks": lacks }))?;
        } else {
            let lacks = lacks.map(|lacks| format!(" (not here: {lacks})")).unwrap_or_default();
            writeln!(out, "{:18} {}{lacks}", kind.name, kind.what)?;
        }
    }
    Ok(true)
}
