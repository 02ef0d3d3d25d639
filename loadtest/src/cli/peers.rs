//! `peers`: the same texts through this project and through others, in turns.

use std::{
    collections::HashSet,
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::ensure;
use clap::Args;
use embed_connect::ConnectSettings;
use embed_report::{Axis, Plot, PlotKind, Series, Verdict, significant};
use embed_schemas::{MAX_TEXTS, Slug};
use serde_json::json;

use super::{
    session::{Session, finish},
    target::parse_some_time,
};
use crate::{
    lengths::Lengths,
    peers::{Found, HttpPeer, Ours, Peer, Plan, SentenceTransformers, Shape, compare},
    repeats,
    report::{Better, Document, Figure, Group, curve},
    texts,
};

#[derive(Debug, Args)]
pub(super) struct PeersArgs {
    /// The model's name or slug
    #[arg(long, short, env = "EMBED_MODEL", default_value = "all-minilm-l6-v2")]
    model: String,
    /// Ask this variant
    #[arg(long)]
    variant: Option<Slug>,
    /// Servers of text-embeddings-inference
    #[arg(long, num_args = 1.., value_name = "URL")]
    tei: Vec<String>,
    /// Servers that speak OpenAI's `/v1/embeddings`
    #[arg(long, num_args = 1.., value_name = "URL")]
    openai: Vec<String>,
    /// Servers of infinity
    #[arg(long, num_args = 1.., value_name = "URL")]
    infinity: Vec<String>,
    /// What these servers call the model [default: the first of their list]
    #[arg(long, value_name = "NAME")]
    peer_model: Option<String>,
    /// A Python interpreter that has sentence-transformers
    #[arg(long, value_name = "PYTHON", requires = "checkpoint")]
    sentence_transformers: Option<PathBuf>,
    /// The model's name or folder for it
    #[arg(long, value_name = "MODEL")]
    checkpoint: Option<String>,
    /// JSONL with a field `text` [default: a sample of WordNet's sentences]
    #[arg(long, value_name = "FILE")]
    texts: Option<PathBuf>,
    /// How long texts are
    #[arg(long, value_enum, default_value_t = Lengths::Mixed)]
    lengths: Lengths,
    /// Requests at once that are tried
    #[arg(long, value_delimiter = ',', default_values_t = [1, 4, 16])]
    concurrency: Vec<usize>,
    /// Texts in a request (for sentence-transformers: in a batch) that are tried
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8, 32, 128])]
    texts_per_request: Vec<usize>,
    /// How long each setting is tried, and one short text after the other in each round
    #[arg(long, default_value = "4", value_parser = parse_some_time, value_name = "DURATION")]
    sweep: Duration,
    /// How long each is measured in a round
    #[arg(long, short, default_value = "20", value_parser = parse_some_time)]
    duration: Duration,
    /// Rounds: at least three
    #[arg(long, default_value_t = repeats::LEAST)]
    rounds: usize,
    /// More rounds, up to so many, until the last two of each agree
    #[arg(long, default_value_t = 8)]
    most_rounds: usize,
    /// Percent within which they have to
    #[arg(long, default_value_t = 3.0)]
    agree: f64,
    /// Chooses the lengths, and the order of the texts
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write report.json and report.html into this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl PeersArgs {
    pub(super) fn run(self, nats: &ConnectSettings, json: bool) -> anyhow::Result<bool> {
        ensure!(self.rounds >= repeats::LEAST, "--rounds {}: at least {}", self.rounds, repeats::LEAST);
        ensure!(self.concurrency.iter().all(|n| *n > 0), "--concurrency: must be above 0");
        ensure!(
            self.texts_per_request.iter().all(|texts| (1..=MAX_TEXTS).contains(texts)),
            "--texts-per-request: 1 to {MAX_TEXTS}"
        );
        let model = Slug::from_name(&self.model)?;
        let texts: Arc<[String]> =
            distinct(self.lengths.apply(texts::load(self.texts.as_deref(), self.seed)?, self.seed)).into();
        let session = Session::open(nats)?;
        let peers = session.wait_for(self.peers(&session, &model, &texts))?;
        let plan = Plan {
            texts,
            concurrency: self.concurrency.clone(),
            sizes: self.texts_per_request.clone(),
            sweep: self.sweep,
            duration: self.duration,
            rounds: self.rounds,
            most_rounds: self.most_rounds,
            agree: self.agree / 100.0,
        };
        // There is nothing to do about a standard error that cannot be written to.
        let say = |what: String| drop(writeln!(io::stderr(), "{what}"));
        let found = session.wait_for(compare(&peers, &plan, say))?;
        finish(&self.document(&plan, &found), self.out.as_deref(), json)
    }

    /// This project first: what the others are compared with.
    async fn peers(&self, session: &Session, model: &Slug, texts: &[String]) -> anyhow::Result<Vec<Peer>> {
        let ours = |client: &embed_client::Client| Ours {
            client: client.clone(),
            model: model.clone(),
            variant: self.variant.clone(),
        };
        let mut peers = vec![Peer::Jobs(ours(&session.bulk)), Peer::Calls(ours(&session.client))];
        for (shape, urls) in [(Shape::Tei, &self.tei), (Shape::OpenAi, &self.openai), (Shape::Infinity, &self.infinity)]
        {
            for url in urls {
                peers.push(Peer::Http(HttpPeer::connect(shape, url, self.peer_model.as_deref()).await?));
            }
        }
        if let Some((python, checkpoint)) = self.sentence_transformers.as_ref().zip(self.checkpoint.as_ref()) {
            peers.push(Peer::Library(Arc::new(SentenceTransformers::start(python, checkpoint, texts).await?)));
        }
        Ok(peers)
    }

    fn document(&self, plan: &Plan, found: &[Found]) -> Document {
        let parameters = json!({
            "model": self.model,
            "variant": self.variant,
            "texts": self.texts.as_ref().map_or_else(|| "WordNet sample".to_owned(), |file| file.display().to_string()),
            "lengths": self.lengths.name(),
            "distinct texts": plan.texts.len(),
            "duration of a round, s": self.duration.as_secs_f64(),
            "seed": self.seed,
        });
        let title = "The same texts through others, in turns".to_owned();
        let mut document = Document::begin("peers", title, parameters.as_object().cloned().unwrap_or_default());
        document.verdicts = verdicts(found);
        document.figures = [found.iter().map(rates).collect::<Vec<_>>(), found.iter().map(lone).collect()].concat();
        document.plots = plots(found);
        document.notes = found.iter().flat_map(remarks).collect();
        document.detail.insert("peers".to_owned(), json!(found));
        document
    }
}

/// Each once, in their order: equal texts that wait together may be computed once.
fn distinct(texts: Vec<String>) -> Vec<String> {
    let mut seen = HashSet::new();
    texts.into_iter().filter(|text| seen.insert(text.clone())).collect()
}

/// Our best, to each of the others' best.
fn verdicts(found: &[Found]) -> Vec<Verdict> {
    let (ours, others): (Vec<&Found>, Vec<&Found>) = found.iter().partition(|one| one.ours);
    let fastest = ours.iter().max_by(|a, b| a.texts_per_second.median().total_cmp(&b.texts_per_second.median()));
    let plain = |name: String, value: String| Verdict { name, value, ..Verdict::default() };
    let mut verdicts: Vec<Verdict> = found
        .iter()
        .map(|one| plain(one.name.clone(), format!("{} texts/s", one.texts_per_second.describe(4))))
        .collect();
    for (fastest, other) in fastest.into_iter().flat_map(|fastest| others.iter().map(move |other| (fastest, other))) {
        let times = fastest.texts_per_second.over(&other.texts_per_second);
        verdicts.push(plain(format!("{}, to {}", fastest.name, other.name), format!("{} x", times.describe(3))));
    }
    verdicts
}

fn rates(one: &Found) -> Group {
    let rates = &one.texts_per_second;
    Group {
        name: one.name.clone(),
        figures: vec![
            Figure::new("median", "texts/s", rates.median(), Better::Higher),
            Figure::new("least", "texts/s", rates.least(), Better::Higher),
            Figure::new("most", "texts/s", rates.most(), Better::Higher),
            Figure::new("rounds", "", rates.values().len() as f64, Better::Neither),
            Figure::new("at once", "", one.best.concurrency as f64, Better::Neither),
            Figure::new("texts in a request", "", one.best.texts as f64, Better::Neither),
            Figure::new("cosine to the first", "", one.cosine, Better::Neither),
        ],
    }
}

fn lone(one: &Found) -> Group {
    let mut figures = Vec::new();
    for (name, values) in [("p50", &one.lone_p50_ms), ("p95", &one.lone_p95_ms), ("p99", &one.lone_p99_ms)] {
        figures.push(Figure::new(name, "ms", values.median(), Better::Lower));
        figures.push(Figure::new(&format!("{name}, from"), "ms", values.least(), Better::Neither));
        figures.push(Figure::new(&format!("{name}, to"), "ms", values.most(), Better::Neither));
    }
    Group { name: format!("{}: one short text after the other", one.name), figures }
}

fn remarks(one: &Found) -> Vec<String> {
    let other = (one.cosine < 0.99).then(|| {
        format!("{}: its vectors are others (cosine {}): is it the same model?", one.name, significant(one.cosine, 4))
    });
    other.into_iter().collect()
}

fn plots(found: &[Found]) -> Vec<Plot> {
    let axis = |label: &str, log| Axis { label: label.to_owned(), log };
    let series = |points: &dyn Fn(&Found) -> Vec<(f64, f64)>| {
        found.iter().map(|one| Series { name: one.name.clone(), points: points(one) }).collect::<Vec<_>>()
    };
    let by_round = series(&|one| {
        let values = one.texts_per_second.values().iter();
        values.enumerate().map(|(round, rate)| ((round + 1) as f64, *rate)).collect()
    });
    // The best that each size of request came to, with any number at once.
    let by_size = series(&|one| {
        let mut sizes: Vec<usize> = one.tried.iter().map(|tried| tried.setting.texts).collect();
        sizes.sort_unstable();
        sizes.dedup();
        let best = |size: usize| {
            let tried = one.tried.iter().filter(|tried| tried.setting.texts == size);
            tried.map(|tried| tried.texts_per_second).fold(f64::NAN, f64::max)
        };
        sizes.into_iter().map(|size| (size as f64, best(size))).collect()
    });
    vec![
        Plot {
            title: "Texts a second, round by round".to_owned(),
            x: axis("round", false),
            y: axis("texts/s", false),
            series: by_round,
            kind: PlotKind::Bars,
        },
        Plot {
            title: "One short text after the other".to_owned(),
            x: axis("one in … takes longer (100: p99)", true),
            y: axis("ms", true),
            series: series(&|one| curve(&one.lone)),
            kind: PlotKind::Line,
        },
        Plot {
            title: "Texts a second, by texts in a request (the sweep)".to_owned(),
            x: axis("texts in a request", true),
            y: axis("texts/s", true),
            series: by_size,
            kind: PlotKind::Line,
        },
    ]
}
