//! Finds everybody's best settings, and then measures in turns, until nobody changes any more.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, ensure};
use hdrhistogram::Histogram;
use serde::Serialize;

use super::{
    drive::{self, Setting},
    peer::Peer,
};
use crate::{acceptance::mean_cosine, repeats::Repeats, tally::latencies};

/// Texts whose vectors are compared, to see that all have the same model.
const COMPARED: usize = 16;

/// What to do.
#[derive(Debug, Clone)]
pub struct Plan {
    /// The texts.
    pub texts: Arc<[String]>,
    /// Requests under way that are tried.
    pub concurrency: Vec<usize>,
    /// Texts in a request that are tried.
    pub sizes: Vec<usize>,
    /// How long each setting is tried.
    pub sweep: Duration,
    /// How long each measurement takes.
    pub duration: Duration,
    /// Rounds, in each of which everybody is measured.
    pub rounds: usize,
    /// More rounds follow, up to so many, until the last two of everybody are within `agree` of each other.
    pub most_rounds: usize,
    /// A share, such as 0.03.
    pub agree: f64,
}

/// One setting of one, and what it came to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tried {
    /// Requests under way, and texts in each.
    #[serde(flatten)]
    pub setting: Setting,
    /// What it came to.
    pub texts_per_second: f64,
}

/// What one came to.
#[derive(Debug, Clone, Serialize)]
pub struct Found {
    /// Who.
    pub name: String,
    /// Whether that is this project.
    pub ours: bool,
    /// All settings.
    pub tried: Vec<Tried>,
    /// The best of them.
    pub best: Setting,
    /// Texts a second with it, round by round.
    pub texts_per_second: Repeats,
    /// Milliseconds of one short text after the other, round by round: p50.
    pub lone_p50_ms: Repeats,
    /// The same, p95.
    pub lone_p95_ms: Repeats,
    /// The same, p99.
    pub lone_p99_ms: Repeats,
    /// Mean cosine of its vectors to those of the first.
    pub cosine: f64,
    /// Latencies of one short text after the other, microseconds, all rounds together.
    #[serde(skip)]
    pub lone: Histogram<u64>,
}

/// Compares all; `say` hears what is being done.
///
/// # Errors
/// If one does not answer as it should.
pub async fn compare(peers: &[Peer], plan: &Plan, say: impl Fn(String)) -> anyhow::Result<Vec<Found>> {
    let sample = &plan.texts[..COMPARED.min(plan.texts.len())];
    let mut all: Vec<Found> = Vec::new();
    let mut first: Option<Vec<Vec<f32>>> = None;
    for peer in peers {
        let name = peer.name();
        let vectors = peer.vectors(sample).await.with_context(|| name.clone())?;
        let cosine = mean_cosine(&vectors, first.as_ref().unwrap_or(&vectors));
        let cosine =
            cosine.with_context(|| format!("{name}: its vectors have other dimensions than those of the first"))?;
        first.get_or_insert(vectors);
        let tried = sweep(peer, plan, &say).await.with_context(|| name.clone())?;
        let best = tried.iter().max_by(|a, b| a.texts_per_second.total_cmp(&b.texts_per_second));
        let best = best.with_context(|| format!("{name}: no setting fits the texts"))?.setting;
        let none = Repeats::default;
        let ours = peer.is_ours();
        let (texts_per_second, lone_p50_ms, lone_p95_ms, lone_p99_ms) = (none(), none(), none(), none());
        let lone = latencies();
        all.push(Found {
            name,
            ours,
            tried,
            best,
            texts_per_second,
            lone_p50_ms,
            lone_p95_ms,
            lone_p99_ms,
            cosine,
            lone,
        });
    }
    for round in 0..plan.most_rounds.max(plan.rounds) {
        if round >= plan.rounds && all.iter().all(|found| found.texts_per_second.is_steady(plan.agree)) {
            break;
        }
        say(format!("round {}", round + 1));
        // The other way round each time: nobody always comes after the same.
        let order: Vec<usize> =
            if round % 2 == 0 { (0..peers.len()).collect() } else { (0..peers.len()).rev().collect() };
        for n in order {
            measure(&peers[n], &mut all[n], plan).await.with_context(|| peers[n].name())?;
        }
    }
    Ok(all)
}

async fn sweep(peer: &Peer, plan: &Plan, say: &impl Fn(String)) -> anyhow::Result<Vec<Tried>> {
    let alone = [1];
    let library = matches!(peer, Peer::Library(_));
    let concurrency = if library { &alone[..] } else { &plan.concurrency };
    let mut tried = Vec::new();
    for &concurrency in concurrency {
        for &texts in &plan.sizes {
            // Equal texts that wait together may be computed once: never more under way than there are.
            if concurrency * texts > plan.texts.len() {
                continue;
            }
            let setting = Setting { concurrency, texts };
            let texts_per_second = drive::rate(peer, &plan.texts, setting, plan.sweep).await?;
            say(format!("{}: {concurrency} at once, {texts} texts: {texts_per_second:.0}/s", peer.name()));
            tried.push(Tried { setting, texts_per_second });
        }
    }
    Ok(tried)
}

async fn measure(peer: &Peer, found: &mut Found, plan: &Plan) -> anyhow::Result<()> {
    let rate = drive::rate(peer, &plan.texts, found.best, plan.duration).await?;
    found.texts_per_second.push(rate);
    let lone = drive::lone(peer, plan.sweep).await?;
    ensure!(!lone.is_empty(), "no short text was answered in {:?}", plan.sweep);
    let ms = |quantile| lone.value_at_quantile(quantile) as f64 / 1000.0;
    found.lone_p50_ms.push(ms(0.5));
    found.lone_p95_ms.push(ms(0.95));
    found.lone_p99_ms.push(ms(0.99));
    found.lone.add(&lone).expect("all have the same bounds");
    Ok(())
}
