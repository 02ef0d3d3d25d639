//! `embed rollout`

mod finish;
mod hooks;
mod metrics;
mod report;
mod show;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use embed_connect::ConnectSettings;
use embed_control::Error;
use embed_control::{
    rollout::{Controller, Progress, RolloutError, Rollouts, Settings, new_id},
    route::{RouteError, Router},
};
use embed_rollout::{
    Config, Rollout,
    state::{Outcome, Start},
};
use embed_schemas::Slug;
use futures::{StreamExt, stream::FuturesUnordered};
use serde_json::json;
use tokio::time::interval;

use super::{
    Status, asked_to_stop, print,
    route::{Connected, connected, who},
};
use crate::cli::rollout::{ControllerArgs, HookArgs, RolloutArgs, RolloutCommand, StartArgs};
use hooks::Hooks;

/// How often to look for rollouts that nobody carries on.
const LOOK: Duration = Duration::from_secs(5);
/// How often somebody who watches is shown what is new.
const WATCH: Duration = Duration::from_secs(1);

pub(super) async fn run(args: RolloutArgs, connect: &ConnectSettings, json: bool) -> anyhow::Result<Status> {
    if let RolloutCommand::Report(report) = &args.command
        && let Some(record) = &report.record
    {
        // Offline.
        return report::saved(record, report, json);
    }
    // Mistakes are told before anything is connected to.
    let config = match &args.command {
        RolloutCommand::Start(args) => Some(config(args)?),
        _ => None,
    };
    if let (RolloutCommand::Start(args), Some(config)) = (&args.command, &config)
        && args.print_config
    {
        config.validate().map_err(RolloutError::from)?;
        print::line(toml::to_string(config).context("cannot write TOML")?.trim_end())?;
        return Ok(Status::Done);
    }
    let connected = connected(args.access, connect).await?;
    let rollouts = Rollouts::new(&connected.client);
    match args.command {
        RolloutCommand::Start(args) => start(&connected, &rollouts, *args, config.unwrap_or_default(), json).await,
        RolloutCommand::Run { model, controller, hooks } => {
            let hooks = listeners(hooks).await?;
            let controller = connected.controller(&controller).await?;
            let status = match model {
                Some(model) => carry_on(&controller, &model, &hooks, json).await,
                None => carry_on_all(&rollouts, controller, &hooks, json).await,
            };
            hooks.end().await;
            status
        }
        RolloutCommand::Status { model, watch: true } => watch(&rollouts, model.as_ref(), json).await,
        RolloutCommand::Status { model: None, .. } | RolloutCommand::List => show::all(&rollouts.all().await?, json),
        RolloutCommand::Status { model: Some(model), .. } => show::one(&rollouts.record(&model, None).await?, json),
        RolloutCommand::History { model } => show::history(&rollouts.history(&model).await?, json),
        RolloutCommand::Pause(args) => told(&rollouts.pause(&args.model, &who(args.who)).await?, json),
        RolloutCommand::Resume(args) => told(&rollouts.resume(&args.model, &who(args.who)).await?, json),
        RolloutCommand::Promote { person, full } => {
            told(&rollouts.promote(&person.model, full, &who(person.who)).await?, json)
        }
        RolloutCommand::Abort(args) => {
            let controls = ControllerArgs { lease: Duration::from_secs(10), patience: Duration::from_secs(10) };
            let controller = connected.controller(&controls).await?;
            rollouts.abort(&args.model, &who(args.who), &controller).await?;
            let rollout = controller.run(&args.model, asked_to_stop(), show::progress).await?;
            told(&rollout, json)?;
            Ok(if rollout.outcome().is_some() { Status::Done } else { Status::Unsuccessful })
        }
        RolloutCommand::Finish { person, dry_run, timeout } => {
            let rollout = rollouts.get(&person.model).await?;
            finish::run(&connected, &rollout, &who(person.who), dry_run, timeout, json).await
        }
        RolloutCommand::Report(args) => {
            let model = args.model.as_ref().context("no model")?;
            report::fresh(&rollouts.record(model, args.id.as_deref()).await?, &args, json)
        }
    }
}

impl Connected {
    /// A controller that can change routes.
    async fn controller(&self, args: &ControllerArgs) -> Result<Controller, RouteError> {
        let router = Router::connect(&self.client, &self.connect, &self.settings).await?;
        // Nobody else has this name, not even one on the same host before.
        let name = format!("{}/{}-{:04x}", who(None), std::process::id(), rand::random::<u16>());
        let settings = Settings { lease: args.lease, patience: args.patience };
        Ok(Controller::new(&self.client, router, name, settings))
    }
}

fn config(args: &StartArgs) -> anyhow::Result<Config> {
    let mut config = args.config.as_deref().map(read_config).transpose()?.unwrap_or_default();
    let plan = &mut config.plan;
    plan.hold = args.hold.unwrap_or(plan.hold);
    if !args.steps.is_empty() {
        plan.steps = args.steps.iter().map(|(percent, _)| *percent).collect();
        let own = args.steps.iter().any(|(_, hold)| hold.is_some());
        plan.holds = args.steps.iter().filter(|_| own).map(|(_, hold)| hold.unwrap_or(plan.hold)).collect();
    }
    plan.any_traffic |= args.any_traffic;
    plan.looks = args.looks.unwrap_or(plan.looks);
    plan.settle = args.settle.unwrap_or(plan.settle);
    let shadow = &mut config.shadow;
    shadow.share = args.shadow.unwrap_or(shadow.share);
    shadow.hold = args.shadow_hold.unwrap_or(shadow.hold);
    shadow.tell_texts &= !args.hide_texts;
    if args.no_shadow {
        shadow.share = 0.0;
    }
    config.fast.restart = args.restart.unwrap_or(config.fast.restart);
    config.rule = args.rule.unwrap_or(config.rule);
    config.probes.required &= !args.across_spaces;
    Ok(config)
}

fn read_config(path: &Path) -> anyhow::Result<Config> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    toml::from_str(&text).map_err(|error| Error::Settings(format!("{}: {error}", path.display())).into())
}

async fn start(
    connected: &Connected,
    rollouts: &Rollouts,
    args: StartArgs,
    config: Config,
    json: bool,
) -> anyhow::Result<Status> {
    let read =
        |path: &PathBuf| std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()));
    let texts = args.probes.as_ref().map(read).transpose()?;
    // What the controller needs is asked for before anything is written down.
    let controller = if args.detach { None } else { Some(connected.controller(&args.controller).await?) };
    let hooks = listeners(args.hooks).await?;
    let start = Start {
        id: new_id(),
        model: args.model,
        from: args.from,
        to: args.to,
        lanes: args.lane,
        config,
        who: who(args.who),
        note: args.note,
    };
    let rollout = rollouts.start(start, texts.as_deref()).await?;
    let status = match controller {
        Some(controller) => carry_on(&controller, &rollout.model, &hooks, json).await,
        None => told(&rollout, json),
    };
    hooks.end().await;
    status
}

async fn listeners(args: HookArgs) -> anyhow::Result<Hooks> {
    if let Some(address) = args.metrics_listen {
        super::metrics::serve(address).await?;
    }
    Hooks::start(args)
}

/// Shows what happens, until there is nothing left to happen, or we are asked to stop.
async fn watch(rollouts: &Rollouts, model: Option<&Slug>, json: bool) -> anyhow::Result<Status> {
    let (mut look, mut stopped) = (interval(WATCH), std::pin::pin!(asked_to_stop()));
    let mut shown = std::collections::BTreeMap::<Slug, Rollout>::new();
    loop {
        tokio::select! {
            _ = look.tick() => (),
            () = &mut stopped => return Ok(Status::Done),
        }
        let all = match model {
            Some(model) => vec![rollouts.get(model).await?],
            None => rollouts.all().await?,
        };
        let over = all.iter().all(|rollout| rollout.outcome().is_some());
        for rollout in all {
            // Who acts, and until when, changes all the time.
            let now = Rollout { holder: None, ..rollout.clone() };
            if shown.get(&rollout.model) != Some(&now) {
                show::changed(shown.get(&rollout.model), &rollout, json)?;
                shown.insert(rollout.model.clone(), now);
            }
        }
        if over {
            return Ok(Status::Done);
        }
    }
}

async fn carry_on(controller: &Controller, model: &Slug, hooks: &Hooks, json: bool) -> anyhow::Result<Status> {
    let rollout = controller.run(model, asked_to_stop(), |progress| hear(hooks, progress)).await?;
    if rollout.outcome().is_none() {
        print::note(format_args!("the weights stay as they are; `embed rollout run {model}` carries it on"));
    }
    told(&rollout, json)?;
    Ok(if rollout.outcome() == Some(Outcome::Promoted) { Status::Done } else { Status::Unsuccessful })
}

fn hear(hooks: &Hooks, progress: &Progress<'_>) {
    show::progress(progress);
    metrics::hear(progress);
    hooks.hear(progress);
}

/// Carries on whatever is not over, until we are asked to stop.
async fn carry_on_all(
    rollouts: &Rollouts,
    controller: Controller,
    hooks: &Hooks,
    json: bool,
) -> anyhow::Result<Status> {
    let (stop, stopping) = tokio::sync::watch::channel(());
    let carry_on = async |model: Slug| {
        let mut stopping = stopping.clone();
        let stopped = async move { drop(stopping.changed().await) };
        let end = controller.run(&model, stopped, |progress| hear(hooks, progress)).await;
        (model, end)
    };
    let (mut running, mut models) = (FuturesUnordered::new(), Vec::<Slug>::new());
    let (mut look, mut stopped) = (interval(LOOK), std::pin::pin!(asked_to_stop()));
    loop {
        tokio::select! {
            _ = look.tick() => {
                let all = rollouts.all().await.inspect_err(|error| print::note(format_args!("cannot look for rollouts: {error}")));
                for rollout in all.unwrap_or_default() {
                    if rollout.outcome().is_none() && !models.contains(&rollout.model) {
                        models.push(rollout.model.clone());
                        running.push(carry_on(rollout.model));
                    }
                }
            }
            Some((model, end)) = running.next() => {
                models.retain(|one| *one != model);
                report_end(end, json)?;
            }
            () = &mut stopped => break,
        }
    }
    drop(stop);
    while let Some((_, end)) = running.next().await {
        report_end(end, json)?;
    }
    Ok(Status::Done)
}

fn report_end(end: Result<Rollout, RolloutError>, json: bool) -> anyhow::Result<()> {
    match end {
        Ok(rollout) => told(&rollout, json).map(drop),
        Err(error) => {
            print::warning(error.code(), &error.to_string(), json);
            Ok(())
        }
    }
}

/// The end of a command that changed a rollout.
fn told(rollout: &Rollout, json: bool) -> anyhow::Result<Status> {
    if json {
        print::json_line(&json!({ "rollout": rollout }))?;
    } else {
        print::line(show::line(rollout))?;
    }
    Ok(Status::Done)
}
