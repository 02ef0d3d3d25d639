//! What a gateway adds to a call, and how many it carries: against a worker that answers at once, with 384 components, on NATS.
//!
//! `cargo run --release -p embed-gateway --example load -- [SECONDS]`
//!
//! Everything shares the machine: nats-server, the worker, the gateway, whoever asks. Each figure is the median of five rounds with their
//! range; the rounds of all are taken in turn, so that what else the machine does hits all alike.

#![expect(clippy::disallowed_methods, reason = "plain axum is what it is compared with")]
#![expect(clippy::print_stdout, reason = "it is what an example is for")]

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
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

const ROUNDS: usize = 5;
const DIMENSION: usize = 384;
/// Who asks as fast as answers come.
const MANY: usize = 64;

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next();
    if let (Some("gateway"), Some(server)) = (first.as_deref(), arguments.next()) {
        return gateway(server).await;
    }
    let seconds = first.map_or(3.0, |text| text.parse().expect("seconds"));
    let round = Duration::from_secs_f64(seconds);
    let server = NatsServer::start();
    let settings = ConnectSettings { server: Some(server.url()), ..ConnectSettings::default() };
    let model: Slug = "m".parse().expect("a slug");
    tokio::spawn(worker(Client::connect(&settings).await.expect("a connection"), model.clone()));
    // A process of its own: this program once more.
    let program = std::env::current_exe().expect("it runs");
    let gateway = Daemon::spawn(Command::new(program).args(["gateway", &server.url()]));
    let address = gateway.json_line()["url"].as_str().expect("a URL").trim_start_matches("http://").to_owned();
    let plain = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let plain_address = plain.local_addr().expect("an address").to_string();
    tokio::spawn(async move { axum::serve(plain, Router::new().route("/v1/embeddings", post(plain_json))).await });
    let client = Client::connect(&settings).await.expect("a connection");
    let nats = Asked::Nats(client, model);
    let [float, packed] = ["float", "base64"].map(|format| Asked::Http(address.clone(), format));
    let plain = Asked::Http(plain_address, "float");
    let all = [
        ("over NATS", &nats),
        ("gateway, numbers", &float),
        ("gateway, base64", &packed),
        ("plain axum, numbers, without NATS", &plain),
    ];
    while measure(&float, 1, Duration::from_millis(100)).await.is_none() {}
    for (who, many) in [("one after another", 1), ("64 at a time", MANY)] {
        println!("{who}");
        let mut rounds: Vec<Vec<Round>> = vec![Vec::new(); all.len()];
        for _ in 0..ROUNDS {
            for (rounds, (_, asked)) in rounds.iter_mut().zip(&all) {
                rounds.push(measure(asked, many, round).await.expect("answers"));
            }
        }
        for (rounds, (name, _)) in rounds.iter().zip(&all) {
            let of = |figure: fn(&Round) -> f64| {
                let mut figures: Vec<f64> = rounds.iter().map(figure).collect();
                figures.sort_by(f64::total_cmp);
                format!("{:.3} ({:.3} to {:.3})", figures[ROUNDS / 2], figures[0], figures[ROUNDS - 1])
            };
            println!("  {name}: {} /s, p50 {} ms, p99 {} ms", of(|r| r.rate), of(|r| r.p50), of(|r| r.p99));
        }
    }
}

/// What `embed gateway` does.
async fn gateway(server: String) {
    let settings = ConnectSettings { server: Some(server), ..ConnectSettings::default() };
    let client = Client::connect(&settings).await.expect("a connection");
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    println!("{}", json!({"url": format!("http://{}", listener.local_addr().expect("an address"))}));
    let recorder = embed_gateway::recorder().expect("there is no other");
    let gateway =
        Gateway::open(client, Settings::default(), Some(recorder)).expect("nothing is told that could be wrong");
    embed_gateway::serve(gateway, listener, None, std::future::pending()).await.expect("it serves");
}

#[derive(Debug, Clone, Copy)]
struct Round {
    rate: f64,
    p50: f64,
    p99: f64,
}

/// Who is asked.
#[derive(Clone)]
enum Asked {
    Nats(Client, Slug),
    Http(String, &'static str),
}

/// Asks as fast as answers come. `None` if there are none yet.
async fn measure(asked: &Asked, many: usize, round: Duration) -> Option<Round> {
    let stop = Arc::new(AtomicBool::new(false));
    let mut tasks = JoinSet::new();
    for _ in 0..many {
        let (asked, stop) = (asked.clone(), Arc::clone(&stop));
        tasks.spawn(async move {
            let mut stream = match &asked {
                Asked::Http(address, _) => Some(BufReader::new(TcpStream::connect(address).await.ok()?)),
                Asked::Nats(..) => None,
            };
            let mut times = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                let start = Instant::now();
                match (&asked, &mut stream) {
                    (Asked::Nats(client, model), _) => {
                        let request = EmbedRequest::new(["hello world"]);
                        client.embed(model, request, &CallOptions::default()).await.ok()?;
                    }
                    (Asked::Http(_, format), Some(stream)) => ask(stream, format).await?,
                    (Asked::Http(..), None) => return None,
                }
                times.push(start.elapsed().as_secs_f64() * 1000.0);
            }
            Some(times)
        });
    }
    let start = Instant::now();
    tokio::time::sleep(round).await;
    stop.store(true, Ordering::Relaxed);
    let mut times = Vec::new();
    while let Some(done) = tasks.join_next().await {
        times.extend(done.ok()??);
    }
    let rate = times.len() as f64 / start.elapsed().as_secs_f64();
    times.sort_by(f64::total_cmp);
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    (!times.is_empty()).then(|| Round { rate, p50: at(0.5), p99: at(0.99) })
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
async fn worker(client: Client, model: Slug) {
    let nats = client.nats();
    let subject = subjects::bare(Lane::Rpc, &model);
    let mut calls = nats.subscribe(subject.clone()).await.expect("a subscription");
    let mut infos = nats.subscribe(format!("$SRV.INFO.{}", subjects::SERVICE_NAME)).await.expect("a subscription");
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
