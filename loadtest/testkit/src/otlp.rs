//! A collector of traces: it takes what is sent as OTLP over HTTP, and keeps it.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::{Span, status::StatusCode},
};
use prost::Message;

use crate::wait_for;

/// A running collector. It takes spans as long as the process lives.
#[derive(Debug)]
pub struct OtlpReceiver {
    address: SocketAddr,
    spans: Arc<Mutex<Vec<ReceivedSpan>>>,
}

/// A span that was sent. Ids are in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceivedSpan {
    /// The program.
    pub service: String,
    /// What it is called.
    pub name: String,
    /// The trace.
    pub trace: String,
    /// The span.
    pub span: String,
    /// Its parent; empty if it has none.
    pub parent: String,
    /// `SPAN_KIND_SERVER` and so on.
    pub kind: &'static str,
    /// Nanoseconds of Unix time.
    pub start: u64,
    /// Nanoseconds of Unix time.
    pub end: u64,
    /// What is said of it.
    pub attributes: BTreeMap<String, String>,
    /// Traces and spans that it is linked to.
    pub links: Vec<(String, String)>,
    /// Why it failed.
    pub error: Option<String>,
}

impl OtlpReceiver {
    /// Starts one on a free port.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let spans = Arc::<Mutex<Vec<_>>>::default();
        let received = Arc::clone(&spans);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let received = Arc::clone(&received);
                std::thread::spawn(move || serve(stream, &received));
            }
        });
        Self { address, spans }
    }

    /// What a program is told: its base address.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// What has come so far.
    pub fn spans(&self) -> Vec<ReceivedSpan> {
        self.spans.lock().expect("nobody panics with it").clone()
    }

    /// Waits until what has come is enough.
    pub fn wait_for<T>(&self, what: &str, enough: impl Fn(&[ReceivedSpan]) -> Option<T>) -> T {
        wait_for(what, || enough(&self.spans()))
    }
}

/// Answers the requests of a connection, until it ends.
fn serve(stream: TcpStream, received: &Mutex<Vec<ReceivedSpan>>) -> Option<()> {
    let mut answers = stream.try_clone().ok()?;
    let mut stream = BufReader::new(stream);
    loop {
        let (mut head, mut length) = (String::new(), 0);
        while stream.read_line(&mut head).ok()? > 2 {
            let line = head.lines().last()?.to_ascii_lowercase();
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().ok()?;
            }
        }
        if head.is_empty() {
            return None;
        }
        assert!(head.starts_with("POST /v1/traces ") && head.contains("application/x-protobuf"), "{head}");
        let mut body = vec![0; length];
        stream.read_exact(&mut body).ok()?;
        let request = ExportTraceServiceRequest::decode(&body[..]).expect("an export of traces");
        received.lock().expect("nobody panics with it").extend(read(request));
        answers
            .write_all(b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n")
            .ok()?;
    }
}

fn read(request: ExportTraceServiceRequest) -> Vec<ReceivedSpan> {
    let mut spans = Vec::new();
    for of_program in request.resource_spans {
        let resource = of_program.resource.map(|resource| texts(resource.attributes)).unwrap_or_default();
        let service = resource.get("service.name").cloned().unwrap_or_default();
        let all = of_program.scope_spans.into_iter().flat_map(|scope| scope.spans);
        spans.extend(all.map(|span| one(&service, span)));
    }
    spans
}

fn one(service: &str, span: Span) -> ReceivedSpan {
    ReceivedSpan {
        service: service.to_owned(),
        kind: span.kind().as_str_name(),
        name: span.name,
        trace: hex(&span.trace_id),
        span: hex(&span.span_id),
        parent: hex(&span.parent_span_id),
        start: span.start_time_unix_nano,
        end: span.end_time_unix_nano,
        attributes: texts(span.attributes),
        links: span.links.into_iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect(),
        error: span.status.filter(|status| status.code() == StatusCode::Error).map(|status| status.message),
    }
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Option<AnyValue>| match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        other => format!("{other:?}"),
    };
    attributes.into_iter().map(|attribute| (attribute.key, text(attribute.value))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
