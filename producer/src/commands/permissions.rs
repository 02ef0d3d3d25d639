//! `embed init --print-permissions` and `--write-jwts`: no server is needed, and none is changed.

use std::{
    fs,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, bail};
use embed_connect::{ConnectSettings, Readers, replace_file};
use embed_control::permissions::{self, Permissions, Role, Scope, jwt::Keys};
use embed_schemas::Slug;
use serde_json::json;

use super::{Status, print};
use crate::cli::permissions::{PermissionArgs, Printed};

/// Where the seeds stand, in the order of [`Keys`].
const SEEDS: [&str; 3] = ["operator.seed", "system.seed", "account.seed"];
/// What a server includes.
const ACCOUNTS: &str = "accounts.conf";

pub(super) fn run(args: PermissionArgs, connect: &ConnectSettings, json: bool) -> anyhow::Result<Status> {
    if let Some(folder) = &args.write_jwts {
        return write_jwts(folder, &args.model, json);
    }
    if args.print_permissions.contains(&Printed::All) {
        if args.print_permissions.len() > 1 || connect.inbox_prefix.is_some() || json {
            bail!(
                "--print-permissions all: prints all roles, each with its own inboxes, as a server's configuration alone"
            );
        }
        print::line(permissions::accounts(&args.model, &args.tenant).trim_end())?;
        return Ok(Status::Done);
    }
    if !args.tenant.is_empty() {
        bail!("--tenant goes with --print-permissions all: what tenants get is said by accounts, not by permissions");
    }
    let roles: Vec<Role> = args
        .print_permissions
        .iter()
        .filter_map(|printed| match printed {
            Printed::Role(role) => Some(*role),
            Printed::All => None,
        })
        .collect();
    let printed = Permissions::of(&roles, &scope(&roles, args.model, connect)?);
    if json {
        print::json_line(&printed)?;
    } else {
        print::line(format_args!("permissions: {}", permissions::block(&printed)))?;
    }
    Ok(Status::Done)
}

/// As the options say, which a program with these permissions will be given, too.
fn scope(roles: &[Role], models: Vec<Slug>, connect: &ConnectSettings) -> anyhow::Result<Scope> {
    let inbox = match &connect.inbox_prefix {
        Some(prefix) => prefix.trim_end_matches('.').to_owned(),
        None => format!("{}.{}", permissions::INBOXES, roles.first().map_or("", |role| role.as_str())),
    };
    embed_connect::check_prefix("--inbox-prefix", &inbox)?;
    Ok(Scope { models, inboxes: vec![inbox], api: embed_connect::api_prefix(connect)? })
}

fn write_jwts(folder: &Path, models: &[Slug], json: bool) -> anyhow::Result<Status> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        replace_file(&path, text, Readers::Owner).with_context(|| format!("cannot write {}", path.display()))
    };
    let keys = keys(folder)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let issued = keys.issue(models, now)?;
    for (name, key) in SEEDS.into_iter().zip([&keys.operator, &keys.system, &keys.account]) {
        write(name, &format!("{}\n", key.seed()?))?;
    }
    write(ACCOUNTS, &issued.accounts)?;
    let mut credentials = Vec::new();
    for (role, text) in &issued.credentials {
        let name = format!("{role}.creds");
        write(&name, text)?;
        credentials.push(name);
    }
    if json {
        let of = |name: &str| folder.join(name).display().to_string();
        let credentials: Vec<_> = credentials.iter().map(|name| of(name)).collect();
        print::json_line(&json!({"accounts": of(ACCOUNTS), "seeds": SEEDS.map(of), "credentials": credentials}))?;
    } else {
        print::line(format_args!("{}: for `include` in a server's configuration", folder.join(ACCOUNTS).display()))?;
        print::line(format_args!("{}: for --creds, one for each role", folder.join("ROLE.creds").display()))?;
        print::line(format_args!(
            "{}: keep them where no server and no program can read them; whoever has them may make any user",
            SEEDS.join(", ")
        ))?;
    }
    Ok(Status::Done)
}

/// Those that are there, all or none; or new ones.
fn keys(folder: &Path) -> anyhow::Result<Keys> {
    let found = SEEDS.map(|name| fs::read_to_string(folder.join(name)).ok());
    match &found {
        [None, None, None] => Ok(Keys::new()),
        [Some(operator), Some(system), Some(account)] => {
            Keys::from_seeds([operator, system, account]).with_context(|| format!("cannot use {}", folder.display()))
        }
        _ => bail!(
            "{}: some of {} cannot be read: put them back, or write into an empty folder",
            folder.display(),
            SEEDS.join(", ")
        ),
    }
}
