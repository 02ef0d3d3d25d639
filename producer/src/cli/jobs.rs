//! The command lines of `embed jobs` and `embed dead`.

use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand};
use embed_schemas::{JobId, Lane, Slug};

use super::{DEFAULT_MODEL, parse_duration, parse_lane, parse_name, parse_tenant};

#[derive(Debug, Args)]
pub(crate) struct JobsArgs {
    /// The model, by name or slug
    #[arg(short, long, global = true, env = "EMBED_MODEL", default_value = DEFAULT_MODEL, value_parser = parse_name)]
    pub(crate) model: Slug,
    /// Whose jobs: as they were published with --tenant; without, those that are of no tenant
    #[arg(long, global = true, env = "EMBED_TENANT", value_parser = parse_tenant)]
    pub(crate) tenant: Option<Slug>,
    #[command(subcommand)]
    pub(crate) command: JobsCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum JobsCommand {
    /// Show where a job is: queued, held by a worker, done, or failed; exit with 1 if nothing is known of it
    Show {
        /// The job
        id: JobId,
    },
    /// Print the vectors of a job that is done; exit with 1 if it is not, or failed
    Result {
        /// The job
        id: JobId,
    },
    /// Take jobs out of the queue, with the outcome `cancelled`
    Cancel {
        /// The jobs
        #[arg(required = true, value_name = "ID")]
        ids: Vec<JobId>,
    },
    /// List jobs that wait, or are being worked on, oldest first
    List {
        /// Of this lane only
        #[arg(long, value_parser = parse_lane)]
        lane: Option<Lane>,
        /// Of this variant only
        #[arg(long, value_parser = parse_name)]
        variant: Option<Slug>,
        /// So many at most
        #[arg(long, default_value_t = 100, value_name = "N")]
        limit: usize,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum DeadCommand {
    /// List dead letters, oldest first
    List {
        #[command(flatten)]
        filter: DeadFilter,
        /// So many at most, the latest
        #[arg(long, default_value_t = 100, value_name = "N")]
        limit: usize,
    },
    /// Show all that is known of a dead letter, and the job
    Show {
        /// Letters, as `list` names them (MODEL:NUMBER, or the number where only one has it), or ids of jobs that are no numbers
        #[arg(value_name = "NAME", required_unless_present = "ids")]
        names: Vec<String>,
        /// The id of a job, also if it is a number; may be repeated
        #[arg(long = "id", value_name = "ID")]
        ids: Vec<String>,
    },
    /// Send jobs once more, under the same ids and on the subjects that their producers used; their results replace the failures
    Retry {
        #[command(flatten)]
        chosen: DeadChoice,
        /// Give the jobs new ids, and leave what is stored under the old ones
        #[arg(long)]
        new_id: bool,
    },
    /// Throw dead letters away
    Purge {
        #[command(flatten)]
        chosen: DeadChoice,
    },
}

/// Which dead letters, by what is known of them.
#[derive(Debug, Args)]
pub(crate) struct DeadFilter {
    /// Of this model only
    #[arg(short, long, value_parser = parse_name)]
    pub(crate) model: Option<Slug>,
    /// Of this variant only
    #[arg(long, value_parser = parse_name)]
    pub(crate) variant: Option<Slug>,
    /// With this error code only, such as engine_failed
    #[arg(long)]
    pub(crate) code: Option<String>,
    /// Written so long ago or later, as in `2h`, or at this moment or later, as in 2026-01-31T12:00:00Z
    #[arg(long, value_parser = parse_moment, value_name = "TIME")]
    pub(crate) since: Option<SystemTime>,
    /// Written before
    #[arg(long, value_parser = parse_moment, value_name = "TIME")]
    pub(crate) until: Option<SystemTime>,
}

/// Which dead letters something is done to.
#[derive(Debug, Args)]
pub(crate) struct DeadChoice {
    /// Letters, as `list` names them (MODEL:NUMBER, or the number where only one has it), or ids of jobs that are no numbers
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// The id of a job, also if it is a number; may be repeated
    #[arg(long = "id", value_name = "ID")]
    pub(crate) ids: Vec<String>,
    #[command(flatten)]
    pub(crate) filter: DeadFilter,
    /// All that the filters let through; without filters, all there are
    #[arg(long, conflicts_with_all = ["names", "ids"])]
    pub(crate) all: bool,
    /// Only tell what would be done
    #[arg(long)]
    pub(crate) dry_run: bool,
}

impl DeadFilter {
    /// Whether nothing is filtered.
    pub(crate) const fn is_empty(&self) -> bool {
        let Self { model, variant, code, since, until } = self;
        model.is_none() && variant.is_none() && code.is_none() && since.is_none() && until.is_none()
    }
}

fn parse_moment(text: &str) -> Result<SystemTime, String> {
    parse_moment_at(text, SystemTime::now())
}

fn parse_moment_at(text: &str, now: SystemTime) -> Result<SystemTime, String> {
    if let Ok(moment) = humantime::parse_rfc3339_weak(text) {
        return Ok(moment);
    }
    let ago: Duration =
        parse_duration(text).map_err(|_| "write it as 30m, 2h or 3d, or as 2026-01-31T12:00:00Z".to_owned())?;
    now.checked_sub(ago).ok_or_else(|| "too long ago".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_or_a_while_ago() {
        let now = humantime::parse_rfc3339("2026-01-31T12:00:00Z").unwrap();
        assert_eq!(parse_moment_at("2h", now), Ok(now - Duration::from_secs(7200)));
        assert_eq!(parse_moment_at("2026-01-31T12:00:00Z", now), Ok(now));
        assert!(parse_moment_at("yesterday", now).unwrap_err().contains("2h"));
    }
}
