//! The command line of `embed rollout`.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand};
use embed_rollout::config::RuleKind;
use embed_schemas::{Lane, Slug};

use super::{parse_duration, parse_name, route::RouteAccess};

#[derive(Debug, Args)]
pub(crate) struct RolloutArgs {
    #[command(flatten)]
    pub(crate) access: RouteAccess,
    #[command(subcommand)]
    pub(crate) command: RolloutCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum RolloutCommand {
    /// Give a variant a growing share of the traffic, as long as the evidence is for it
    Start(Box<StartArgs>),
    /// Carry rollouts on that were started elsewhere, or whose controller is gone
    Run {
        /// Only this model, until its rollout is over [default: all models, for ever]
        #[arg(value_parser = parse_name)]
        model: Option<Slug>,
        #[command(flatten)]
        controller: ControllerArgs,
        #[command(flatten)]
        hooks: HookArgs,
    },
    /// Show how far rollouts have come, and why
    Status {
        /// Only this model, with everything that has happened
        #[arg(value_parser = parse_name)]
        model: Option<Slug>,
        /// Go on showing what happens, until all that were asked for are over
        #[arg(long)]
        watch: bool,
    },
    /// The last rollout of each model
    List,
    /// A model's rollouts that are over, as far back as their records are kept
    History {
        /// The model, by name or slug
        #[arg(value_parser = parse_name)]
        model: Slug,
    },
    /// Leave the weights as they are until somebody says how it goes on
    Pause(PersonArgs),
    /// Begin a paused step anew
    Resume(PersonArgs),
    /// Go on to the next step without waiting for evidence
    Promote {
        #[command(flatten)]
        person: PersonArgs,
        /// To the last step at once
        #[arg(long)]
        full: bool,
    },
    /// Give all traffic back, now
    Abort(PersonArgs),
    /// End a promoted rollout: the candidate becomes the default, the route is removed, the old variant is not served any more
    Finish {
        #[command(flatten)]
        person: PersonArgs,
        /// Only say what would be done
        #[arg(long)]
        dry_run: bool,
        /// How long to wait for workers
        #[arg(long, default_value = "2m", value_parser = parse_duration, value_name = "DURATION")]
        timeout: Duration,
    },
    /// Make every verdict again from its record, and write a page that shows what they rest on
    Report(ReportArgs),
}

#[derive(Debug, Args)]
pub(crate) struct StartArgs {
    /// The model, by name or slug
    #[arg(value_parser = parse_name)]
    pub(crate) model: Slug,
    /// The variant that has the traffic
    #[arg(long, value_parser = parse_name, value_name = "VARIANT")]
    pub(crate) from: Slug,
    /// The variant that is to have it
    #[arg(long, value_parser = parse_name, value_name = "VARIANT")]
    pub(crate) to: Slug,
    /// Its share in percent, step by step, and how long each is held if not as long as the others: 5:10m,25:1h,50,100 [default: 5,25,50,100]
    #[arg(long, value_delimiter = ',', value_parser = parse_step, value_name = "PERCENT[:HOLD],…")]
    pub(crate) steps: Vec<(f64, Option<Duration>)>,
    /// Share of the texts, in percent, that the candidate is given as well before anybody is served by it; its vectors are compared with those
    /// that were served [default: 10]
    #[arg(long, value_parser = parse_percent, value_name = "PERCENT", conflicts_with_all = ["no_shadow", "across_spaces"])]
    pub(crate) shadow: Option<f64>,
    /// How long that goes on [default: 10m]
    #[arg(long, value_parser = parse_duration, value_name = "DURATION", conflicts_with_all = ["no_shadow", "across_spaces"])]
    pub(crate) shadow_hold: Option<Duration>,
    /// Begin with the first step at once
    #[arg(long)]
    pub(crate) no_shadow: bool,
    /// Tell of the texts whose vectors are farthest apart only the digests and the ids of their jobs, which callers may have chosen, not how they begin
    #[arg(long)]
    pub(crate) hide_texts: bool,
    /// How long each step is held [default: 30m]
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) hold: Option<Duration>,
    /// Looks at the evidence of each step [default: 10]
    #[arg(long, value_name = "N")]
    pub(crate) looks: Option<u32>,
    /// Time after a change of weights that is left out [default: 30s]
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) settle: Option<Duration>,
    /// How long the candidate may be served by nobody, as while its only worker is restarted [default: 30s]
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) restart: Option<Duration>,
    /// Begin although the traffic there is cannot decide
    #[arg(long)]
    pub(crate) any_traffic: bool,
    /// Show how it would be decided, in TOML as for --config, and start nothing
    #[arg(long)]
    pub(crate) print_config: bool,
    /// `guarded`: no worse beyond doubt; `classic`: better by fixed thresholds [default: guarded]
    #[arg(long, value_parser = parse_rule, value_name = "RULE")]
    pub(crate) rule: Option<RuleKind>,
    /// File with everything that can be set about the decisions, in TOML; what is given here comes on top
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Only this lane: rpc, job or bulk; may be repeated [default: all]
    #[arg(long, value_name = "LANE")]
    pub(crate) lane: Vec<Lane>,
    /// File of texts that both variants are probed with, one a line [default: 32 texts of this program]
    #[arg(long, value_name = "FILE")]
    pub(crate) probes: Option<PathBuf>,
    /// Go on although the variants' vectors cannot be compared
    #[arg(long)]
    pub(crate) across_spaces: bool,
    /// Why, for the record
    #[arg(long, value_name = "TEXT")]
    pub(crate) note: Option<String>,
    /// Who wants it [default: user@host]
    #[arg(long, env = "EMBED_WHO", value_name = "NAME")]
    pub(crate) who: Option<String>,
    /// Leave it to an `embed rollout run` elsewhere
    #[arg(long)]
    pub(crate) detach: bool,
    #[command(flatten)]
    pub(crate) controller: ControllerArgs,
    #[command(flatten)]
    pub(crate) hooks: HookArgs,
}

/// Who hears of what this process's controllers do.
#[derive(Args)]
pub(crate) struct HookArgs {
    /// Address that each change is posted to, as JSON; it may hold a secret, which the environment hides
    #[arg(long, env = "EMBED_ROLLOUT_WEBHOOK", hide_env_values = true, value_name = "URL")]
    pub(crate) webhook: Option<String>,
    /// Command for the shell at a rollout's end, with `EMBED_ROLLOUT_MODEL`, `_ID`, `_OUTCOME`, `_REASON`, and JSON on standard input
    #[arg(long, value_name = "COMMAND")]
    pub(crate) on_end: Option<String>,
    /// Serve metrics for Prometheus on this address
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) metrics_listen: Option<std::net::SocketAddr>,
}

/// Without the web hook's address, which may hold a secret.
impl std::fmt::Debug for HookArgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let webhook = self.webhook.as_ref().map(|_| "***");
        let Self { on_end, metrics_listen, .. } = self;
        f.debug_struct("HookArgs")
            .field("webhook", &webhook)
            .field("on_end", on_end)
            .field("metrics_listen", metrics_listen)
            .finish()
    }
}

#[derive(Debug, Args)]
pub(crate) struct ControllerArgs {
    /// Without a sign of the controller that acts for so long, another takes over
    #[arg(long, default_value = "30s", value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) lease: Duration,
    /// How long to wait for the candidate to be ready, and for servers to take new weights
    #[arg(long, default_value = "1m", value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) patience: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct PersonArgs {
    /// The model, by name or slug
    #[arg(value_parser = parse_name)]
    pub(crate) model: Slug,
    /// Who wants it [default: user@host]
    #[arg(long, env = "EMBED_WHO", value_name = "NAME")]
    pub(crate) who: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// The model, by name or slug
    #[arg(value_parser = parse_name, required_unless_present = "record")]
    pub(crate) model: Option<Slug>,
    /// An earlier rollout of the model [default: the last]
    #[arg(long, value_name = "ID")]
    pub(crate) id: Option<String>,
    /// A record that was saved; no server is needed then
    #[arg(long, value_name = "FILE", conflicts_with_all = ["model", "id", "save"])]
    pub(crate) record: Option<PathBuf>,
    /// Save the record as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) save: Option<PathBuf>,
    /// Where the page goes [default: rollout-ID.html]
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// `10` or `10%`.
fn parse_percent(text: &str) -> Result<f64, String> {
    let percent = text.strip_suffix('%').unwrap_or(text).trim().parse::<f64>();
    let percent = percent.ok().filter(|percent| *percent > 0.0 && *percent <= 100.0);
    percent.ok_or_else(|| format!("{text:?} is not a percentage above 0 and up to 100, such as 10%"))
}

fn parse_rule(text: &str) -> Result<RuleKind, String> {
    match text {
        "guarded" => Ok(RuleKind::Guarded),
        "classic" => Ok(RuleKind::Classic),
        _ => Err("use guarded or classic".to_owned()),
    }
}

fn parse_step(text: &str) -> Result<(f64, Option<Duration>), String> {
    let (percent, hold) = text.split_once(':').map_or((text, None), |(percent, hold)| (percent, Some(hold)));
    let percent = percent.trim().parse().map_err(|_| format!("{percent:?} is no percentage: write 25, or 25:10m"))?;
    Ok((percent, hold.map(parse_duration).transpose()?))
}
