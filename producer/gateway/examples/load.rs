//! What a gateway carries, what it adds to a call, and what of the processor it takes: against a worker that answers at once, with 384 components, on
//! NATS; and plain axum beside it, with the same JSON and no NATS.
//!
//! `cargo run --release --example load -- [SECONDS]`
//!
//! Each party is a process of its own: nats-server, the worker, the gateway, plain axum, and this one, which asks. They share the machine, so that beside
//! what came through stands what each took of the processor for one request: that is what tells what a gateway carries on cores of its own.
//!
//! First, [`MANY`] ask as fast as answers come. Then, requests come at half of what the gateway carried that way, evenly, whether or not those before them
//! were answered: times count from when a request was due. Each figure is the median of [`ROUNDS`] rounds with their range; the rounds of all are taken
//! in turn, so that what else the machine does hits all alike.

#![expect(clippy::disallowed_methods, reason = "plain axum is what it is compared with")]
#![expect(clippy::print_stdout, reason = "it is what an example is for")]

use std::{
    process::Command,
    time::{Duration, Instant},
};

use axum::{Router, routing::post};
use embed_client::{CallOptions, Client, ConnectSettings, EmbedRequest, EmbedResult, Encoding, Item, Outcome, Slug};
use embed_gateway::{Gateway, Settings};
use embed_schemas::{Lane, Timing, headers, subjects, wire};
use embed_testkit::{Daemon, NatsServer};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

const ROUNDS: usize = 3;
const DIMENSION: usize = 384;
/// Who asks at the same time.
const MANY: usize = 64;

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next();
    match (first.as_deref(), arguments.next()) {
        (Some("gateway"), Some(server)) => gateway(server).await,
        (Some("worker"), Some(server)) => worker(server).await,
        (Some("plain"), _) => plain().await,
        (seconds, _) => load(Duration::from_secs_f64(seconds.map_or(3.0, |text| text.parse().expect("seconds")))).await,
    }
}

async fn load(round: Duration) {
    let server = NatsServer::start();
    let worker = this_as(&["worker", &server.url()]);
    worker.json_line();
    let gateway = this_as(&["gateway", &server.url()]);
    let plain = this_as(&["plain"]);
    let address = |daemon: &Daemon| daemon.json_line()["address"].as_str().expect("an address").to_owned();
    let (gateway_at, plain_at) = (address(&gateway), address(&plain));
    let client = connect(server.url()).await;
    let processes = [
        ("gateway", gateway.id()),
        ("plain axum", plain.id()),
        ("nats-server", server.id()),
        ("worker", worker.id()),
        ("who asks", std::process::id()),
    ];
    let all = [
        ("over NATS", Asked::Nats(client, "m".parse().expect("a slug"))),
        ("gateway, numbers", Asked::Http(gateway_at.clone(), "float")),
        ("gateway, base64", Asked::Http(gateway_at, "base64")),
        ("plain axum, numbers, without NATS", Asked::Http(plain_at, "float")),
    ];
    while measure(&all[1].1, 1, None, Duration::from_millis(100), &processes).await.is_none() {}
    let carried = rounds("64 at a time, as fast as answers come", &all, MANY, None, round, &processes).await;
    rounds("one after another", &all, 1, None, round, &processes).await;
    let rate = carried[1] / 2.0;
    rounds(&format!("{rate:.0} a second, half of what the gateway carried"), &all, MANY, Some(rate), round, &processes)
        .await;
}

/// Measures all in turn, prints what came of it, and returns the rates.
async fn rounds(
    what: &str,
    all: &[(&str, Asked)],
    many: usize,
    rate: Option<f64>,
    round: Duration,
    processes: &[(&str, u32)],
) -> Vec<f64> {
    println!("{what}");
    let mut rounds: Vec<Vec<Round>> = vec![Vec::new(); all.len()];
    for _ in 0..ROUNDS {
        for (rounds, (_, asked)) in rounds.iter_mut().zip(all) {
            rounds.push(measure(asked, many, rate, round, processes).await.expect("answers"));
        }
    }
    let mut rates = Vec::new();
    for (rounds, (name, _)) in rounds.iter().zip(all) {
        let of = |figure: &dyn Fn(&Round) -> f64| {
            let mut figures: Vec<f64> = rounds.iter().map(figure).collect();
            figures.sort_by(f64::total_cmp);
            (figures[ROUNDS / 2], figures[0], figures[ROUNDS - 1])
        };
        let told = |(median, least, most): (f64, f64, f64), digits: usize| {
            format!("{median:.digits$} ({least:.digits$} to {most:.digits$})")
        };
        let [p50, p99] = [of(&|r| r.p50), of(&|r| r.p99)].map(|figures| told(figures, 3));
        println!("  {name}: {} /s, p50 {p50} ms, p99 {p99} ms", told(of(&|r| r.rate), 0));
        let mut cpu = Vec::new();
        for (n, (process, _)) in processes.iter().enumerate() {
            let figures = of(&|r| r.cpu[n]);
            if figures.0 >= 1.0 {
                cpu.push(format!("{process} {}", told(figures, 0)));
            }
        }
        println!("    of the processor, microseconds for each request: {}", cpu.join(", "));
        rates.push(of(&|r| r.rate).0);
    }
    rates
}

/// This program once more, as a process of its own.
fn this_as(arguments: &[&str]) -> Daemon {
    Daemon::spawn(Command::new(std::env::current_exe().expect("it runs")).args(arguments))
}

async fn connect(server: String) -> Client {
    let settings = ConnectSettings { server: Some(server), ..ConnectSettings::default() };
    Client::connect(&settings).await.expect("a connection")
}

async fn listen() -> TcpListener {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    println!("{}", json!({"address": listener.local_addr().expect("an address").to_string()}));
    listener
}

/// What `embed gateway` does.
async fn gateway(server: String) {
    let client = connect(server).await;
    let recorder = embed_gateway::recorder().expect("there is no other");
    let gateway =
        Gateway::open(client, Settings::default(), Some(recorder)).expect("nothing is told that could be wrong");
    embed_gateway::serve(gateway, listen().await, None, std::future::pending()).await.expect("it serves");
}

async fn plain() {
    let routes = Router::new().route("/v1/embeddings", post(plain_json));
    axum::serve(listen().await, routes).await.expect("it serves");
}

#[derive(Debug, Clone)]
struct Round {
    rate: f64,
    p50: f64,
    p99: f64,
    /// Microseconds of each process for one request.
    cpu: Vec<f64>,
}

/// Who is asked.
#[derive(Clone)]
enum Asked {
    Nats(Client, Slug),
    Http(String, &'static str),
}

/// Asks as fast as answers come, or at a rate. `None` if there are no answers yet.
async fn measure(
    asked: &Asked,
    many: usize,
    rate: Option<f64>,
    round: Duration,
    processes: &[(&str, u32)],
) -> Option<Round> {
    let before: Vec<f64> = processes.iter().map(|(_, id)| cpu_seconds(*id)).collect();
    let mut tasks = JoinSet::new();
    let start = Instant::now();
    for n in 0..many {
        let asked = asked.clone();
        tasks.spawn(async move {
            let mut stream = match &asked {
                Asked::Http(address, _) => Some(BufReader::new(TcpStream::connect(address).await.ok()?)),
                Asked::Nats(..) => None,
            };
            let mut times = Vec::new();
            while start.elapsed() < round {
                let due = match rate {
                    None => Instant::now(),
                    Some(rate) => {
                        let due = start + Duration::from_secs_f64((times.len() * many + n) as f64 / rate);
                        tokio::time::sleep_until(due.into()).await;
                        due
                    }
                };
                match (&asked, &mut stream) {
                    (Asked::Nats(client, model), _) => {
                        let request = EmbedRequest::new(["hello world"]);
                        client.embed(model, request, &CallOptions::default()).await.ok()?;
                    }
                    (Asked::Http(_, format), Some(stream)) => ask(stream, format).await?,
                    (Asked::Http(..), None) => return None,
                }
                times.push(due.elapsed().as_secs_f64() * 1000.0);
            }
            Some(times)
        });
    }
    let mut times = Vec::new();
    while let Some(done) = tasks.join_next().await {
        times.extend(done.ok()??);
    }
    let count = times.len() as f64;
    let rate = count / start.elapsed().as_secs_f64();
    let cpu = processes.iter().zip(before).map(|((_, id), before)| (cpu_seconds(*id) - before) * 1e6 / count).collect();
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    (!times.is_empty()).then(|| Round { rate, p50: at(0.5), p99: at(0.99), cpu })
}

/// What a process has taken of all cores, its own and the system's for it.
fn cpu_seconds(process: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("it runs");
    // Behind the name, which may hold anything; in hundredths, as the kernel tells them to programs.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let of = |field: usize| fields[field].parse::<f64>().expect("a number") / 100.0;
    of(11) + of(12)
}

/// One request, and its answer to the end.
async fn ask(stream: &mut BufReader<TcpStream>, format: &str) -> Option<()> {
    let body = format!(r#"{{"model":"m","input":"hello world","encoding_format":"{format}"}}"#);
    let head = format!(
        "POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.get_mut().write_all((head + &body).as_bytes()).await.ok()?;
    let (mut line, mut length, mut is_ok) = (String::new(), 0, false);
    loop {
        line.clear();
        stream.read_line(&mut line).await.ok()?;
        let lower = line.trim().to_ascii_lowercase();
        if lower.is_empty() {
            break;
        }
        is_ok |= lower.starts_with("http/1.1 200");
        if let Some(value) = lower.strip_prefix("content-length: ") {
            length = value.parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    is_ok.then_some(())
}

/// The same JSON as the gateway's, read and written by what everybody uses.
async fn plain_json(axum::Json(asked): axum::Json<Value>) -> axum::Json<Value> {
    let embedding: Vec<f32> = row().to_vec();
    let data = json!([{"object": "embedding", "index": 0, "embedding": embedding}]);
    axum::Json(
        json!({"object": "list", "data": data, "model": asked["model"], "usage": {"prompt_tokens": 4, "total_tokens": 4}}),
    )
}

fn row() -> [f32; DIMENSION] {
    std::array::from_fn(|n| (n as f32 * 0.731).sin() * 0.05)
}

/// Answers at once.
async fn worker(server: String) {
    let client = connect(server).await;
    let model: Slug = "m".parse().expect("a slug");
    let nats = client.nats();
    let subject = subjects::bare(Lane::Rpc, &model);
    let mut calls = nats.subscribe(subject.clone()).await.expect("a subscription");
    let mut infos = nats.subscribe(format!("$SRV.INFO.{}", subjects::SERVICE_NAME)).await.expect("a subscription");
    nats.flush().await.expect("a connection");
    println!("{{}}");
    let info = json!({"name": subjects::SERVICE_NAME, "id": "w", "endpoints": [{"subject": subject}]}).to_string();
    let mut vectors = Vec::new();
    Encoding::F32.storage().encode_row(&row(), &mut vectors);
    let vectors = bytes::Bytes::from(vectors);
    loop {
        let (reply, payload) = tokio::select! {
            Some(call) = calls.next() => {
                let (request, format) = wire::decode_request(&call.payload, None).expect("a request");
                let result = EmbedResult {
                    id: request.id.expect("clients make ids"),
                    model: model.clone(),
                    variant: "fp32".parse().expect("a slug"),
                    version: "v1".into(),
                    space: "sha256:one".into(),
                    dim: DIMENSION as u32,
                    encoding: Encoding::F32,
                    vectors: vectors.clone(),
                    items: vec![Item { tokens: 4, truncated: false, error: None }],
                    timing: Timing::default(),
                };
                (call.reply, format.encode(&Outcome::Result(result)))
            }
            Some(question) = infos.next() => (question.reply, info.clone().into()),
            else => return,
        };
        let mut header = async_nats::HeaderMap::new();
        header.insert(headers::CONTENT_TYPE, "application/msgpack");
        nats.publish_with_headers(reply.expect("somebody asks"), header, payload).await.expect("a connection");
    }
}
