//! `embed dead`

use std::collections::BTreeSet;

use anyhow::bail;
use embed_client::Client;
use embed_connect::ConnectSettings;
use embed_control::dead::{self, DeadLetter, DeadLetters, Filter, LetterName, Retried};
use embed_schemas::wire;
use serde_json::json;

use super::{Status, print, table};
use crate::cli::jobs::{DeadChoice, DeadCommand, DeadFilter};

const HEAD: [&str; 8] = ["LETTER", "TIME", "MODEL", "VARIANT", "CODE", "TRIED", "JOB", "REASON"];
/// Characters of a reason in the list.
const REASON: usize = 80;
/// Letters after which it is told how far it is.
const TELL: usize = 1000;

pub(super) async fn run(command: DeadCommand, connect: &ConnectSettings, json: bool) -> anyhow::Result<Status> {
    let client = Client::connect(connect).await?;
    match command {
        DeadCommand::List { filter, limit } => list(&client, filter.into(), limit, json).await,
        DeadCommand::Show { names, ids } => show(&client, named(&names, ids), json).await,
        DeadCommand::Retry { chosen, new_id } => retry(&client, chosen, new_id, json).await,
        DeadCommand::Purge { chosen } => purge(&client, chosen, json).await,
    }
}

impl From<DeadFilter> for Filter {
    fn from(filter: DeadFilter) -> Self {
        let DeadFilter { model, variant, code, since, until } = filter;
        let (since, until) = (since.map(Into::into), until.map(Into::into));
        Self { model, variant, code, since, until, letters: Vec::new(), ids: Vec::new() }
    }
}

/// What is no name of a letter is the id of a job.
fn named(names: &[String], mut ids: Vec<String>) -> Filter {
    let mut letters = Vec::new();
    for name in names {
        match name.parse() {
            Ok(letter) => letters.push(letter),
            Err(()) => ids.push(name.clone()),
        }
    }
    Filter { letters, ids, ..Filter::default() }
}

fn filter(chosen: DeadChoice) -> anyhow::Result<Filter> {
    let Filter { letters, ids, .. } = named(&chosen.names, chosen.ids);
    if letters.is_empty() && ids.is_empty() && chosen.filter.is_empty() && !chosen.all {
        bail!("which dead letters? Name them or their jobs' ids, give a filter such as --code, or --all");
    }
    Ok(Filter { letters, ids, ..chosen.filter.into() })
}

async fn list(client: &Client, filter: Filter, limit: usize, json: bool) -> anyhow::Result<Status> {
    let mut letters = DeadLetters::new(client, filter);
    let (mut all, mut seen) = (Vec::new(), 0);
    while let Some(page) = letters.page().await? {
        seen += page.len();
        all.extend(page);
        // They come stream by stream.
        all.sort_by_key(DeadLetter::written);
        all.drain(..all.len().saturating_sub(limit));
    }
    if json {
        all.iter().try_for_each(print::json_line)?;
        return Ok(Status::Done);
    }
    if all.is_empty() {
        print::line("no dead letters")?;
        return Ok(Status::Done);
    }
    let rows: Vec<_> = all.iter().map(row).collect();
    table::lines(HEAD, &rows).into_iter().try_for_each(print::line)?;
    if seen > all.len() {
        print::line(format_args!("the latest {} of {seen}; --limit shows more", all.len()))?;
    }
    Ok(Status::Done)
}

fn row(letter: &DeadLetter) -> [String; 8] {
    let mut reason: String = letter.reason.chars().take(REASON).collect();
    if reason.len() < letter.reason.len() {
        reason.push('…');
    }
    [
        letter.name().to_string(),
        // Whole seconds.
        letter.time.get(..19).unwrap_or(&letter.time).to_owned(),
        letter.model.to_string(),
        letter.variant.to_string(),
        letter.code.clone(),
        letter.attempts.to_string(),
        letter.id.as_ref().map_or("-", |id| id.as_str()).to_owned(),
        reason,
    ]
}

async fn show(client: &Client, filter: Filter, json: bool) -> anyhow::Result<Status> {
    let mut missing = Missing::new(&filter);
    let mut letters = DeadLetters::new(client, filter);
    while let Some(page) = letters.page().await? {
        for letter in page {
            missing.found(&letter);
            let request = wire::decode_request(&letter.payload, None).ok().map(|(request, _)| request);
            if json {
                print::json_line(&json!({"letter": letter, "job": request}))?;
                continue;
            }
            let DeadLetter { time, model, variant, code, reason, attempts, deliveries, subject, bytes, .. } = &letter;
            print::line(format_args!("dead letter {}, {time}", letter.name()))?;
            print::line(format_args!("  error     {code}: {reason}"))?;
            print::line(format_args!("  model     {model}, variant {variant}"))?;
            print::line(format_args!("  tried     {attempts} times, delivered {deliveries} times"))?;
            print::line(format_args!("  worker    {}", letter.worker.as_deref().unwrap_or("not known")))?;
            print::line(format_args!("  job       {}", letter.id.as_ref().map_or("no id", |id| id.as_str())))?;
            print::line(format_args!("  subject   {subject}"))?;
            let cut = if letter.cut { ", of which the letter holds a part" } else { "" };
            print::line(format_args!("  size      {bytes} bytes{cut}"))?;
            for text in request.iter().flat_map(|request| &request.texts) {
                print::line(format_args!("  text      {text:?}"))?;
            }
        }
    }
    Ok(missing.told(Status::Done))
}

async fn retry(client: &Client, chosen: DeadChoice, new_id: bool, json: bool) -> anyhow::Result<Status> {
    let dry_run = chosen.dry_run;
    let filter = filter(chosen)?;
    let mut missing = Missing::new(&filter);
    let (mut done, mut refused) = (0, 0);
    for letter in all(client, filter).await? {
        missing.found(&letter);
        // What stands in the way of one is none of the others' business.
        let retried = dead::retry(client, &letter, new_id, dry_run).await;
        let retried = retried.unwrap_or_else(|error| Retried::Refused { reason: error.to_string() });
        if json {
            let (stream, sequence) = (&letter.stream, letter.sequence);
            print::json_line(&json!({"letter": sequence, "stream": stream, "retried": retried}))?;
        } else {
            let name = letter.name();
            match &retried {
                Retried::Published { id, subject, .. } => {
                    print::line(format_args!("{name}: job {id} is sent once more on {subject}"))?;
                }
                Retried::Would { id, subject } => {
                    print::line(format_args!("{name}: job {id} would be sent once more on {subject}"))?;
                }
                Retried::Done { id } => print::line(format_args!("{name}: job {id} has its result already"))?,
                Retried::Refused { reason } => print::line(format_args!("{name}: stays: {reason}"))?,
            }
        }
        match retried {
            Retried::Refused { .. } => refused += 1,
            _ => done += 1,
        }
        tell(done + refused);
    }
    if done + refused == 0 {
        print::note("no dead letter is like that");
    }
    Ok(missing.told(if refused == 0 { Status::Done } else { Status::Failures }))
}

async fn purge(client: &Client, chosen: DeadChoice, json: bool) -> anyhow::Result<Status> {
    let dry_run = chosen.dry_run;
    let filter = filter(chosen)?;
    let mut missing = Missing::new(&filter);
    let mut done = 0;
    for letter in all(client, filter).await? {
        missing.found(&letter);
        if !dry_run {
            dead::remove(client, &letter).await?;
        }
        done += 1;
        tell(done);
    }
    if json {
        print::json_line(&json!({"purged": if dry_run { 0 } else { done }, "chosen": done}))?;
    } else if dry_run {
        print::line(format_args!("{done} dead letters would be thrown away"))?;
    } else {
        print::line(format_args!("{done} dead letters are thrown away"))?;
    }
    Ok(missing.told(Status::Done))
}

/// All that are there now: what is written meanwhile is left for another time, or a job that fails again would be sent for ever.
async fn all(client: &Client, filter: Filter) -> anyhow::Result<Vec<DeadLetter>> {
    let names = filter.letters.clone();
    let mut letters = DeadLetters::new(client, filter);
    let mut all = Vec::new();
    while let Some(page) = letters.page().await? {
        all.extend(page);
    }
    for name in names {
        let several: Vec<_> =
            all.iter().filter(|letter| name.is_of(letter)).map(|one| one.name().to_string()).collect();
        if several.len() > 1 {
            bail!("which dead letter {name}? There are several: {}", several.join(", "));
        }
    }
    Ok(all)
}

fn tell(done: usize) {
    if done.is_multiple_of(TELL) {
        print::note(format_args!("{done} dead letters so far"));
    }
}

/// What was named and not found yet.
struct Missing {
    letters: BTreeSet<LetterName>,
    ids: BTreeSet<String>,
}

impl Missing {
    fn new(filter: &Filter) -> Self {
        Self { letters: filter.letters.iter().cloned().collect(), ids: filter.ids.iter().cloned().collect() }
    }

    fn found(&mut self, letter: &DeadLetter) {
        self.letters.retain(|name| !name.is_of(letter));
        if let Some(id) = &letter.id {
            self.ids.remove(id.as_str());
        }
    }

    /// Tells what is still missing, which is a failure.
    fn told(self, status: Status) -> Status {
        let Self { letters, ids } = self;
        if letters.is_empty() && ids.is_empty() {
            return status;
        }
        let letters = letters.into_iter().map(|name| format!("there is no dead letter {name}"));
        let ids = ids.into_iter().map(|id| format!("there is no dead letter of a job {id}"));
        for missing in letters.chain(ids) {
            print::note(format_args!("{missing}; `embed dead list` shows those there are"));
        }
        Status::Failures
    }
}
