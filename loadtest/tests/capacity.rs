//! What jobs and results take in their streams: `deploy/capacity.md` says what is measured here.

use std::fs;

use async_nats::jetstream;
use embed_client::{Client, ConnectSettings, EmbedRequest, PublishOptions};
use embed_schemas::{EmbedResult, Encoding, Format, Lane, Outcome, Slug, streams, subjects, wire::decode_outcome};
use embed_testkit::{PATIENCE, repository};

use crate::support::Stack;

const BEGIN: &str = "<!-- sizes: made by the command above -->\n";
const END: &str = "<!-- end -->";
/// Characters of a text of 40 tokens, about.
const CHARACTERS: usize = 200;
/// Dimensions of the models that there are recipes for, and of the largest.
const DIMENSIONS: [u32; 3] = [384, 768, 1024];
/// Texts a second.
const RATES: [u64; 4] = [10, 100, 1_000, 10_000];
const DAY: u64 = 24 * 3_600;

fn model() -> Slug {
    "all-minilm-l6-v2".parse().unwrap()
}

/// A worker's stream, in which sizes are looked at.
struct Server {
    client: Client,
    context: jetstream::Context,
    stored: usize,
}

impl Server {
    async fn bytes(&self, stream: &str) -> u64 {
        self.context.get_stream(stream).await.unwrap().cached_info().state.bytes
    }

    /// Bytes of the job of so many texts in its stream, while no worker takes it.
    async fn job(&mut self, texts: usize) -> u64 {
        let stream = streams::jobs_stream(&model());
        let before = self.bytes(&stream).await;
        let text = "The quick brown fox jumps over the lazy dog. ".repeat(5)[..CHARACTERS].to_owned();
        let request = EmbedRequest::new(vec![text; texts]);
        // Nobody serves this variant.
        let options = PublishOptions::default().variant("waiting".parse::<Slug>().unwrap()).timeout(PATIENCE);
        self.client.publish(&model(), Lane::Bulk, request, &options).await.unwrap();
        self.bytes(&stream).await - before
    }

    /// What a worker stores as the result of so many texts.
    async fn result(
        &self,
        texts: usize,
        format: Format,
        encoding: Encoding,
    ) -> (jetstream::message::StreamMessage, EmbedResult) {
        let id = embed_client::new_id();
        let request = EmbedRequest {
            id: Some(id.clone()),
            encoding: Some(encoding),
            ..EmbedRequest::new((0..texts).map(|n| format!("a text that is like others, number {n}")))
        };
        let subject = subjects::bare(Lane::Job, &model());
        let mut headers = async_nats::HeaderMap::new();
        headers.insert(embed_schemas::headers::MSG_ID, id.as_str());
        let payload = format.encode(&request);
        self.context.publish_with_headers(subject, headers, payload).await.unwrap().await.unwrap();
        self.client.result(&model(), &id, PATIENCE).await.unwrap();
        let stream = self.context.get_stream(streams::results_stream(&model())).await.unwrap();
        let message = stream.get_last_raw_message_by_subject(&subjects::result(&model(), &id)).await.unwrap();
        let Outcome::Result(result) = decode_outcome(&message.payload).unwrap() else { panic!("it failed") };
        (message, result)
    }

    /// Bytes of such a result of a model with so many dimensions: the worker's own, with longer rows, stored as it stores them.
    async fn result_bytes(&mut self, texts: usize, format: Format, encoding: Encoding, dimensions: u32) -> u64 {
        let (message, mut result) = self.result(texts, format, encoding).await;
        let times = f64::from(dimensions) / f64::from(result.dim);
        let rows: Vec<Vec<f32>> = (0..texts).map(|row| result.vector(row).unwrap()).collect();
        let mut vectors = Vec::new();
        for row in rows {
            // Of unit length again, so that its digits are like those of a real one.
            let long: Vec<f32> =
                row.iter().cycle().take(dimensions as usize).map(|x| (f64::from(*x) / times.sqrt()) as f32).collect();
            encoding.storage().encode_row(&long, &mut vectors);
        }
        result.dim = dimensions;
        result.vectors = vectors.into();
        let payload = format.encode(&Outcome::Result(result));
        let stream = streams::results_stream(&model());
        let before = self.bytes(&stream).await;
        self.stored += 1;
        let id = format!("{:026}", self.stored).parse().unwrap();
        let subject = subjects::store(&model(), &id);
        self.context.publish_with_headers(subject, message.headers, payload).await.unwrap().await.unwrap();
        self.bytes(&stream).await - before
    }
}

/// `1,234`
fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1.2 GB`, with two digits that say something.
fn size(bytes: u64) -> String {
    let (unit, name) = [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")]
        .into_iter()
        .find(|(unit, _)| bytes as f64 >= *unit)
        .unwrap_or((1.0, "B"));
    let value = bytes as f64 / unit;
    if value < 10.0 { format!("{value:.1} {name}") } else { format!("{value:.0} {name}") }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_on_capacity_says_what_is_measured() {
    let stack = Stack::start();
    let settings = ConnectSettings { server: Some(stack.nats.url()), ..ConnectSettings::default() };
    let client = Client::connect(&settings).await.unwrap();
    let context = jetstream::new(client.nats().clone());
    let mut server = Server { client, context, stored: 0 };

    let mut page = "Bytes of one result in its stream, with subject and headers:\n\n| result of | as | ".to_owned();
    page += &DIMENSIONS.map(|dimensions| format!("{} dims", grouped(dimensions.into()))).join(" | ");
    page += " |\n|---|---|---|---|---|\n";
    let mut one = [0; DIMENSIONS.len()];
    let mut many = [0; DIMENSIONS.len()];
    for (texts, format, encoding) in [
        (1, Format::MessagePack, Encoding::F32),
        (1, Format::MessagePack, Encoding::F16),
        (1, Format::MessagePack, Encoding::I8),
        (1, Format::Json, Encoding::Base64),
        (1, Format::Json, Encoding::Float),
        (64, Format::MessagePack, Encoding::F32),
    ] {
        let mut cells = Vec::new();
        for (n, dimensions) in DIMENSIONS.into_iter().enumerate() {
            let bytes = server.result_bytes(texts, format, encoding, dimensions).await;
            if (format, encoding) == (Format::MessagePack, Encoding::F32) {
                if texts == 1 { one[n] = bytes } else { many[n] = bytes / 64 }
            }
            cells.push(if texts == 1 {
                grouped(bytes)
            } else {
                format!("{}; {} a text", grouped(bytes), grouped(bytes / 64))
            });
        }
        let format = if format == Format::Json { "JSON" } else { "MessagePack" };
        let texts = if texts == 1 { "1 text".to_owned() } else { format!("{texts} texts") };
        page += &format!("| {texts} | {format}, `{encoding}` | {} |\n", cells.join(" | "));
    }
    let jobs = [server.job(1).await, server.job(64).await];
    page += &format!(
        "\nA job of one text of {CHARACTERS} characters (40 tokens or so) takes {} bytes in its stream, one of 64 such texts {}, {} a text.\n",
        grouped(jobs[0]),
        grouped(jobs[1]),
        grouped(jobs[1] / 64)
    );
    page += "\nResults that are kept for 24 hours, one text each (`f32`, MessagePack), or in jobs of 64; one copy:\n\n| texts/s | ";
    page += &DIMENSIONS.map(|dimensions| format!("{} dims", grouped(dimensions.into()))).join(" | ");
    page += " | backlog of an hour, jobs of 1 text | of 64 |\n|---|---|---|---|---|---|\n";
    for rate in RATES {
        let cells: Vec<_> = (0..DIMENSIONS.len())
            .map(|n| format!("{}; {}", size(rate * DAY * one[n]), size(rate * DAY * many[n])))
            .collect();
        let backlog = [jobs[0], jobs[1] / 64].map(|bytes| size(rate * 3_600 * bytes)).join(" | ");
        page += &format!("| {} | {} | {backlog} |\n", grouped(rate), cells.join(" | "));
    }
    page += "\n2 GiB, the limit of a model's results unless it is changed, hold ";
    page += &(0..DIMENSIONS.len())
        .map(|n| {
            format!(
                "{} results of one text with {} dimensions",
                grouped((2u64 << 30) / one[n] / 1_000 * 1_000),
                grouped(DIMENSIONS[n].into())
            )
        })
        .collect::<Vec<_>>()
        .join(", ");
    page += ".\n";
    compare(&page);
}

/// Digits of vectors, and so bytes of JSON, differ a little between processors.
fn compare(made: &str) {
    let path = repository().join("deploy/capacity.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once(BEGIN).unwrap();
    let (held, after) = rest.split_once(END).unwrap();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, format!("{before}{BEGIN}{made}{END}{after}")).unwrap();
        return;
    }
    let numbers = |text: &str| -> Vec<f64> {
        let text = text.replace(',', "");
        text.split(|c: char| !c.is_ascii_digit() && c != '.').filter_map(|word| word.parse().ok()).collect()
    };
    let (held_numbers, made_numbers) = (numbers(held), numbers(made));
    assert_eq!(held_numbers.len(), made_numbers.len(), "{made}");
    for (is, was) in made_numbers.iter().zip(&held_numbers) {
        assert!((is - was).abs() <= 0.03 * was, "{is} and not {was}; if the change is meant, UPDATE_GOLDEN=1:\n{made}");
    }
}
