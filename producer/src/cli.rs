//! The command line.

pub(crate) mod backfill;
pub(crate) mod doctor;
pub(crate) mod gateway;
pub(crate) mod jobs;
pub(crate) mod permissions;
pub(crate) mod rollout;
pub(crate) mod route;
pub(crate) mod status;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};
use embed_connect::ConnectSettings;
use embed_schemas::{Encoding, JobId, Lane, Precision, Slug, serving::CURRENT_VERSION};

/// The model that is asked if none is named.
const DEFAULT_MODEL: &str = "all-minilm-l6-v2";

/// Ask for embeddings, publish jobs, backfill files, run a local stack.
#[derive(Debug, Parser)]
#[command(name = "embed", version, arg_required_else_help = true)]
pub(crate) struct Cli {
    /// Print JSON, for programs
    #[arg(long, global = true)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) connect: ConnectSettings,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a whole local stack: NATS server, streams, and a worker for the registry's models
    Dev(DevArgs),
    /// Make the streams, buckets and consumers for the registry's models; safe to repeat
    Init(InitArgs),
    /// How everything stands: models, traffic, queues, rollouts, errors; as text, or as a page that keeps itself up to date
    Status(status::StatusArgs),
    /// Look at all that has to be right: server, permissions, streams, workers, registry; and say what to do about what is not
    Doctor(Box<doctor::DoctorArgs>),
    /// Ask a worker for the vectors of texts, and wait for them
    Ask(AskArgs),
    /// Store texts as jobs
    Publish(PublishArgs),
    /// Find single jobs, print their results, take them out of the queue
    Jobs(jobs::JobsArgs),
    /// Look at jobs that could not be served, send them once more, or throw them away
    #[command(subcommand)]
    Dead(jobs::DeadCommand),
    /// Embed a file of JSON lines into another, through the queue
    #[command(subcommand)]
    Backfill(backfill::BackfillCommand),
    /// Which versions workers serve, and which they are to serve
    #[command(subcommand)]
    Models(ModelsCommand),
    /// Split the traffic of a model between its variants
    Route(Box<route::RouteArgs>),
    /// Answer HTTP: OpenAI's embeddings, TEI's, and the platform's own
    Gateway(Box<gateway::GatewayArgs>),
    /// Replace a variant by another, step by step, on evidence
    Rollout(Box<rollout::RolloutArgs>),
    #[command(flatten)]
    Shell(embed_shell::ShellCommand),
}

#[derive(Debug, Args)]
pub(crate) struct DevArgs {
    /// Where the server keeps its streams, configuration and log
    #[arg(long, default_value = ".embed-dev", value_name = "DIR")]
    pub(crate) data_dir: PathBuf,
    /// The registry of models: a path, file://, s3://, gs:// or az:// [default: build/registry here or in a parent folder]
    #[arg(long, env = "EMBED_REGISTRY", hide_env_values = true, value_name = "URL")]
    pub(crate) registry: Option<String>,
    /// The server's port, 0 for any
    #[arg(long, default_value_t = 4222)]
    pub(crate) port: u16,
    /// Largest message
    #[arg(long, default_value = "8MiB", value_parser = parse_bytes::<u32>, value_name = "BYTES")]
    pub(crate) max_payload: u32,
    /// Time after which a job that a worker holds is given to another
    #[arg(long, default_value = "6s", value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) ack_wait: Duration,
    /// A variant of a model, and the version that it serves [default: current]; may be repeated. The first of a model is its
    /// default [default: one for each model, called after its first precision]
    #[arg(long, value_parser = parse_served, value_name = "MODEL=NAME[@VERSION]")]
    pub(crate) variant: Vec<(Slug, Slug, Option<String>)>,
    /// Answer HTTP as well, as `embed gateway` does: OpenAI's embeddings, and more
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    pub(crate) gateway: Option<SocketAddr>,
    /// Where to show how everything stands, as `embed status --serve` does; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    pub(crate) status: SocketAddr,
    /// Passed on to `embed-worker run`; may be repeated
    #[arg(long, allow_hyphen_values = true, value_name = "ARG")]
    pub(crate) worker_arg: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct InitArgs {
    /// The registry of models: a path, file://, s3://, gs:// or az:// [default: build/registry here or in a parent folder]
    #[arg(long, env = "EMBED_REGISTRY", hide_env_values = true, value_name = "URL")]
    pub(crate) registry: Option<String>,
    /// The configuration file of the workers that are to be provisioned for: what it says of registry, variants and connection holds where
    /// nothing else is given
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Only compare; exit with 1 if anything differs
    #[arg(long)]
    pub(crate) check: bool,
    /// A variant of a model; may be repeated. The first of a model is its default: it takes what is sent without a
    /// variant. [default: one for each model, called after its first precision]
    #[arg(long, value_parser = parse_variant, value_name = "MODEL=NAME")]
    pub(crate) variant: Vec<(Slug, Slug)>,
    /// Time after which a job that a worker holds is given to another. Like all limits below, it stays as it is if it is not given [default
    /// for what is made anew: 6s]
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) ack_wait: Option<Duration>,
    /// Copies of each stream: 1, 3 or 5 [default for what is made anew: 1]
    #[arg(long, value_name = "N")]
    pub(crate) replicas: Option<usize>,
    /// What the jobs of one model may take
    #[arg(long, value_parser = parse_bytes::<i64>, value_name = "BYTES")]
    pub(crate) jobs_max_bytes: Option<i64>,
    /// What the results of one model may take
    #[arg(long, value_parser = parse_bytes::<i64>, value_name = "BYTES")]
    pub(crate) results_max_bytes: Option<i64>,
    /// How long results are kept
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) results_max_age: Option<Duration>,
    /// What the dead letters of one model may take; the oldest go to make room [default for what is made anew: 256MiB]
    #[arg(long, value_parser = parse_bytes::<i64>, value_name = "BYTES")]
    pub(crate) dead_max_bytes: Option<i64>,
    /// How long dead letters are kept [default for what is made anew: 14days]
    #[arg(long, value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) dead_max_age: Option<Duration>,
    #[command(flatten)]
    pub(crate) permissions: permissions::PermissionArgs,
}

/// Which model, and what of it.
#[derive(Debug, Args)]
pub(crate) struct ModelArgs {
    /// The model, by name or slug
    #[arg(short, long, env = "EMBED_MODEL", default_value = DEFAULT_MODEL, value_parser = parse_name)]
    pub(crate) model: Slug,
    /// A variant of the model, instead of what the route chooses
    #[arg(long, value_parser = parse_name)]
    pub(crate) variant: Option<Slug>,
    /// A prompt of the model, such as `query`
    #[arg(long)]
    pub(crate) prompt: Option<String>,
    /// Fail for texts that are longer than the model takes, instead of cutting them
    #[arg(long)]
    pub(crate) no_truncate: bool,
    /// A smaller number of dimensions, where the model allows it
    #[arg(long, value_name = "N")]
    pub(crate) dimensions: Option<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct AskArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Number format of the vectors: f32, f16, i8, u1, float or base64
    #[arg(long)]
    pub(crate) encoding: Option<Encoding>,
    /// Take vectors of this embedding space only, and fail for any other
    #[arg(long, value_name = "SPACE")]
    pub(crate) space: Option<String>,
    /// How long to wait for the whole answer
    #[arg(long, default_value = "10s", value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) timeout: Duration,
    /// The texts; `-` reads lines from standard input
    #[arg(required = true, value_name = "TEXT")]
    pub(crate) texts: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct PublishArgs {
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    /// Publish the job, and have its result stored, on behalf of this tenant: on a subject that names it, for permissions
    #[arg(long, env = "EMBED_TENANT", value_parser = parse_tenant)]
    pub(crate) tenant: Option<Slug>,
    /// Number format of the vectors: f32, f16, i8, u1 or float
    #[arg(long)]
    pub(crate) encoding: Option<Encoding>,
    /// The job's id, letters, digits, `-` and `_` [default: a new one]
    #[arg(long)]
    pub(crate) id: Option<JobId>,
    /// The lane: `job`, or `bulk` for what may wait behind everything else
    #[arg(long, default_value = "job", value_parser = parse_lane)]
    pub(crate) lane: Lane,
    /// Publish although no worker serves the model or variant: the jobs wait for one that does
    #[arg(long)]
    pub(crate) allow_unserved: bool,
    /// An inbox that gets a copy of the result: a subject that begins with `_INBOX`, or as workers are configured to serve
    #[arg(long, value_name = "SUBJECT")]
    pub(crate) reply_to: Option<String>,
    /// Wait for the results and print them
    #[arg(long)]
    pub(crate) wait: bool,
    /// Take vectors of this embedding space only, and fail for any other
    #[arg(long, requires = "wait", value_name = "SPACE")]
    pub(crate) space: Option<String>,
    /// How long to keep trying to publish, and then to wait
    #[arg(long, default_value = "30s", value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) timeout: Duration,
    /// The texts; `-` reads lines from standard input
    #[arg(required = true, value_name = "TEXT")]
    pub(crate) texts: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelsCommand {
    /// Show which version of each variant each worker serves
    List,
    /// Have all workers serve a variant, or another version of one
    Serve(ServeArgs),
    /// Have workers serve a variant no longer, beyond what their configuration says
    Unserve {
        #[command(flatten)]
        target: VariantArgs,
        /// The variant that takes what is sent without one from now on, if this one does
        #[arg(long, value_parser = parse_name, value_name = "NAME")]
        default: Option<Slug>,
        /// Even if a route sends traffic to it
        #[arg(long)]
        force: bool,
    },
    /// Have all workers look at the registry now, as after a promotion
    Refresh {
        /// Only for this model, by name or slug
        #[arg(value_parser = parse_name)]
        model: Option<Slug>,
    },
}

/// One variant of a model.
#[derive(Debug, Args)]
pub(crate) struct VariantArgs {
    /// The model, by name or slug
    #[arg(value_parser = parse_name)]
    pub(crate) model: Slug,
    /// The variant
    #[arg(value_parser = parse_name)]
    pub(crate) variant: Slug,
}

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    pub(crate) target: VariantArgs,
    /// A version of the registry, or `current` to follow its pointer
    #[arg(long, default_value = CURRENT_VERSION)]
    pub(crate) version: String,
    /// fp32, fp16, int8 or fp8 [default: the version's first]
    #[arg(long, value_parser = parse_precision)]
    pub(crate) precision: Option<Precision>,
    /// Let it take what is sent to the model without a variant
    #[arg(long)]
    pub(crate) default: bool,
    /// Keep it loaded, whatever else needs memory
    #[arg(long)]
    pub(crate) pinned: bool,
    /// Who wants it, for others to see
    #[arg(long, env = "USER", default_value = "unknown", value_name = "NAME")]
    pub(crate) who: String,
    /// Wait until every worker that answers serves it; exit with 1 if one cannot
    #[arg(long)]
    pub(crate) wait: bool,
    /// How long to wait
    #[arg(long, default_value = "5m", value_parser = parse_duration, value_name = "DURATION")]
    pub(crate) timeout: Duration,
}

fn parse_precision(text: &str) -> Result<Precision, String> {
    use serde::{
        Deserialize,
        de::{IntoDeserializer, value::Error},
    };
    let read = |text: &str| Precision::deserialize(IntoDeserializer::<Error>::into_deserializer(text));
    read(text).map_err(|_| "use fp32, fp16, int8 or fp8".to_owned())
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; write it as 500ms, 10s or 5m"))
}

fn parse_name(text: &str) -> Result<Slug, String> {
    Slug::from_name(text).map_err(|error| error.to_string())
}

/// As it is: what permissions name must not come of something else.
fn parse_tenant(text: &str) -> Result<Slug, String> {
    text.parse().map_err(|error: embed_schemas::slug::SlugError| error.to_string())
}

fn parse_variant(text: &str) -> Result<(Slug, Slug), String> {
    let (model, name) = text.split_once('=').ok_or("write it as MODEL=NAME, such as all-minilm-l6-v2=int8")?;
    Ok((parse_name(model)?, name.parse().map_err(|error: embed_schemas::slug::SlugError| error.to_string())?))
}

fn parse_served(text: &str) -> Result<(Slug, Slug, Option<String>), String> {
    let (variant, version) = match text.split_once('@') {
        Some((variant, version)) => (variant, Some(version.to_owned())),
        None => (text, None),
    };
    let (model, name) = parse_variant(variant)?;
    Ok((model, name, version))
}

fn parse_lane(text: &str) -> Result<Lane, String> {
    match text.parse() {
        Ok(Lane::Rpc) => Err("an online call is no job: use `embed ask`".to_owned()),
        Ok(lane) => Ok(lane),
        Err(_) => Err("use `job` or `bulk`".to_owned()),
    }
}

/// `1048576`, `512KiB`, `8MiB`, `2GiB`; `K`, `M` and `G` alone mean the same.
fn parse_bytes<T: TryFrom<u64>>(text: &str) -> Result<T, String> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let factor: u64 = match text[digits.len()..].trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        unit => return Err(format!("unknown unit {unit:?}: use KiB, MiB or GiB")),
    };
    let number: u64 = digits.parse().map_err(|_| "write it as a number with a unit, such as 8MiB".to_owned())?;
    number.checked_mul(factor).and_then(|bytes| T::try_from(bytes).ok()).ok_or_else(|| "too large".to_owned())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(parse_bytes::<u32>("8MiB"), Ok(8 << 20));
        assert_eq!(parse_bytes::<i64>("17"), Ok(17));
        assert!(parse_bytes::<u32>("8GiB").is_err());
        assert!(parse_bytes::<u32>("8XB").unwrap_err().contains("xb"));
        assert!(parse_bytes::<u32>("MiB").is_err());
    }

    #[test]
    fn models_may_be_named() {
        let cli = Cli::parse_from(["embed", "ask", "-m", "BGE small v1.5", "--json", "-"]);
        let Command::Ask(ask) = cli.command else { panic!("not ask") };
        assert_eq!(ask.model.model.as_str(), "bge-small-v1-5");
        assert!(cli.json);
    }

    #[test]
    fn precisions_have_names() {
        assert_eq!(parse_precision("int8"), Ok(Precision::Int8));
        assert!(parse_precision("int4").unwrap_err().contains("int8"));
    }

    #[test]
    fn variants_name_their_model() {
        assert_eq!(parse_variant("A b=int8").unwrap().0.as_str(), "a-b");
        assert!(parse_variant("int8").unwrap_err().contains("MODEL=NAME"));
    }
}
