//! The server: whether it answers, how recent it is, what JetStream may hold, how it syncs, and its clock.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant, SystemTime},
};

use embed_client::{
    Client, Error,
    nats::{self, api},
};
use embed_connect::{ConnectError, ConnectSettings};
use embed_control::route::{self, RouteSettings, Servers, SyncPolicy};
use embed_schemas::{Slug, streams};
use serde_json::Value;
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use super::{Line, TIMEOUT, rights::User};

/// What everything here has been tried with, and what some of it needs: to read several messages in one request.
const TRIED: (u32, u32) = (2, 11);
/// Percent of a limit from which on it is worth a warning.
const NEARLY_FULL: u64 = 80;
/// What clocks may differ by.
const CLOCKS: Duration = Duration::from_secs(1);

/// A connection, or why there is none.
pub(super) async fn connected(connect: &ConnectSettings) -> Result<Client, Line> {
    let failed = |error: Error| {
        let next = match &error {
            Error::Connect(ConnectError::NoServer { .. }) => {
                "start a server, for example with `embed dev`, or name another with --server or --context"
            }
            Error::Connect(ConnectError::Refused { .. }) => {
                "check --user, --creds, --nkey or the context: the server does not know them"
            }
            _ => "correct the setting",
        };
        Line::failed("nats", error.to_string(), next)
    };
    let client = nats::connect(connect, "embed doctor").await.map_err(failed)?;
    Ok(Client::new(client))
}

/// How recent the server is.
pub(super) fn version(client: &Client) -> Line {
    let info = client.nats().server_info();
    let name = if info.server_name.is_empty() { &info.server_id } else { &info.server_name };
    let found = format!(
        "nats-server {} ({name}) answers at {}:{}, messages up to {} bytes",
        info.version, info.host, info.port, info.max_payload
    );
    let mut numbers = info.version.split('.').map(|part| part.parse::<u32>().ok());
    match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) if (major, minor) >= TRIED => Line::ok("nats", found),
        _ => Line::warning("nats", found, format!("use nats-server {}.{} or later", TRIED.0, TRIED.1)),
    }
}

/// What JetStream holds for this account, against what it may.
pub(super) async fn limits(client: &Client) -> Line {
    let info = match api::call(client.nats(), "INFO", &Value::Null, TIMEOUT).await {
        Ok(info) => info,
        Err(api::ApiError::Refused { code: 0, .. }) => {
            let next = "ask with a user that may publish on $JS.API.INFO";
            return Line::not_checked("jetstream", "this user may not ask for the account's limits", next);
        }
        Err(error) => {
            let next = "enable it: `jetstream {}` in the server's configuration, `jetstream: enabled` in the account. In a cluster that has lost a \
                        server, ask again: for a moment, or without a majority, it has no leader";
            return Line::failed("jetstream", error.to_string(), next);
        }
    };
    let mut found = Vec::new();
    let mut nearly = Vec::new();
    for (what, limit, unit) in [
        ("storage", "max_storage", " bytes"),
        ("memory", "max_memory", " bytes"),
        ("streams", "max_streams", ""),
        ("consumers", "max_consumers", ""),
    ] {
        let used = info[what].as_u64().unwrap_or_default();
        // -1: no limit.
        match info["limits"][limit].as_u64() {
            None => found.push(format!("{what} {used}{unit}, no limit")),
            Some(most) => {
                found.push(format!("{what} {used} of {most}{unit}"));
                if used.saturating_mul(100) >= most.saturating_mul(NEARLY_FULL) && most > 0 {
                    nearly.push(what);
                }
            }
        }
    }
    let found = found.join("; ");
    match nearly.is_empty() {
        true => Line::ok("jetstream", found),
        false => {
            let next = format!("raise the account's limit of {}, or remove what nobody needs", nearly.join(" and "));
            Line::warning("jetstream", found, next)
        }
    }
}

/// Whether all servers answer, and how they sync what they acknowledge. Only the system account sees it.
pub(super) async fn system(settings: RouteSettings, connect: &ConnectSettings) -> Vec<Line> {
    const CHECK: &str = "sync_interval";
    let settings = settings.complete(None, connect).map(|(settings, _)| settings).unwrap_or_default();
    if !settings.has_system() {
        let next = "pass --sys-user and --sys-password-file, --sys-creds or --sys-context";
        return ["servers", CHECK]
            .map(|check| Line::not_checked(check, "only the system account sees it", next))
            .into();
    }
    let asked = async {
        let system = settings.system(connect)?;
        anyhow::Ok(route::servers(nats::connect(&system, "embed doctor").await?).await?)
    };
    let servers = match asked.await {
        Ok(servers) => servers,
        Err(error) => {
            let found = format!("the system account: {error:#}");
            return ["servers", CHECK]
                .map(|check| Line::warning(check, &*found, "check --sys-user and its like"))
                .into();
        }
    };
    vec![there(&servers), synced(CHECK, &servers.syncs)]
}

/// Whether all servers of the cluster answer.
fn there(Servers { syncs, missing, unnamed }: &Servers) -> Line {
    let names: Vec<&str> = syncs.keys().map(String::as_str).collect();
    let names = names.join(", ");
    let found = match (missing.is_empty(), unnamed) {
        (true, 0) => return Line::ok("servers", format!("all answer: {names}")),
        (false, 0) => format!("{} does not answer; {names} do", missing.join(", ")),
        (_, unnamed) => {
            let known = match missing.is_empty() {
                true => String::new(),
                false => format!("; {} does not", missing.join(", ")),
            };
            let all = syncs.len() + missing.len() + unnamed;
            format!("{} of {all} answer: {names}{known}; nobody knows the names of the others", syncs.len())
        }
    };
    let next = "start it again: it catches up by itself. Then `embed route sync`, if there are routes";
    Line::failed("servers", found, next)
}

fn synced(check: &'static str, syncs: &BTreeMap<String, SyncPolicy>) -> Line {
    let lazy = syncs.iter().filter_map(|(name, sync)| match sync {
        SyncPolicy::Always => None,
        SyncPolicy::Every(interval) => Some(format!("{} on {name}", humantime::format_duration(*interval))),
        SyncPolicy::Unknown => Some(format!("not told by {name}")),
    });
    let lazy: Vec<String> = lazy.collect();
    if lazy.is_empty() {
        return Line::ok(check, "always, on all servers: what is acknowledged is on disk");
    }
    Line::warning(
        check,
        format!("{}: what a server has acknowledged can be lost with its power", lazy.join(", ")),
        "set `sync_interval: always` in `jetstream {}`, or keep three copies (`embed init --replicas 3`)",
    )
}

/// The server's clock against ours.
pub(super) async fn clock(client: &Client, user: Option<&User>, models: &[Slug]) -> Line {
    const CHECK: &str = "clock";
    let told =
        match user.and_then(|user| Some((user.answer["server"]["time"].as_str()?.to_owned(), user.asked, user.took))) {
            Some(told) => Some(told),
            // Whoever may not ask about itself may look at the stream of what it sends.
            None => stream_time(client, models).await,
        };
    let Some((time, asked, took)) = told else {
        let next = "allow this user $SYS.REQ.USER.INFO, or name a --model that has been provisioned";
        return Line::not_checked(CHECK, "the server does not say what time it is", next);
    };
    let Some(server) = OffsetDateTime::parse(&time, &Rfc3339).ok().map(SystemTime::from) else {
        return Line::not_checked(CHECK, format!("the server says that it is {time:?}"), "look at the server");
    };
    // It said so at some time between our question and its answer.
    let here = asked + took / 2;
    let off = here.duration_since(server).unwrap_or_else(|error| error.duration());
    let off = off.saturating_sub(took / 2);
    let found =
        format!("{:.3} s off the server's, or less than {:.3} s", off.as_secs_f64(), (off + took).as_secs_f64());
    match off <= CLOCKS {
        true => Line::ok(CHECK, found),
        false => {
            Line::warning(CHECK, found, "set the clock of this machine, or of the server: run an NTP client on both")
        }
    }
}

async fn stream_time(client: &Client, models: &[Slug]) -> Option<(String, SystemTime, Duration)> {
    let call = format!("STREAM.INFO.{}", streams::jobs_stream(models.first()?));
    let (asked, begun) = (SystemTime::now(), Instant::now());
    let info = api::call(client.nats(), &call, &Value::Null, TIMEOUT).await.ok()?;
    Some((info["ts"].as_str()?.to_owned(), asked, begun.elapsed()))
}

#[cfg(test)]
mod tests {
    use super::{super::Verdict, *};

    #[test]
    fn servers_that_do_not_answer_are_counted_without_their_names() {
        let said = |names: &[&str], missing: &[&str], unnamed| {
            let syncs = names.iter().map(|name| ((*name).to_owned(), SyncPolicy::Always)).collect();
            let missing = missing.iter().map(|name| (*name).to_owned()).collect();
            let line = there(&Servers { syncs, missing, unnamed });
            (line.verdict, line.found)
        };
        assert_eq!(said(&["n1", "n2"], &[], 0), (Verdict::Ok, "all answer: n1, n2".to_owned()));
        let (verdict, found) = said(&["n1", "n3"], &["n2"], 0);
        assert_eq!((verdict, found.as_str()), (Verdict::Failed, "n2 does not answer; n1, n3 do"));
        let (verdict, found) = said(&["n1"], &[], 2);
        let wanted = "1 of 3 answer: n1; nobody knows the names of the others";
        assert_eq!((verdict, found.as_str()), (Verdict::Failed, wanted));
    }
}
