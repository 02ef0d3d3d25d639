//! The way of spans to a collector: a queue that is bounded, and one task that empties it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_otlp::{Protocol, RetryPolicy, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{SpanData, SpanExporter as _},
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{sleep, timeout},
};

use crate::Span;

/// Spans that go to the collector together, if so many wait.
const MOST_TOGETHER: usize = 512;
/// For how long a span waits for others.
const GATHER: Duration = Duration::from_millis(500);
/// A collector that has not answered after this has refused.
const PATIENCE: Duration = Duration::from_secs(5);

/// Spans cannot be exported.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The address is none.
    #[error("{0}")]
    Endpoint(String),
    /// A variable of the environment cannot be used.
    #[error("{0}")]
    Variable(String),
    /// The client for HTTP cannot be made.
    #[error("a client for HTTP: {0}")]
    Http(#[from] reqwest::Error),
}

/// An address as a log may show it: scheme, host and port. Some keep a token in the rest.
#[must_use]
pub fn shown(endpoint: &str) -> String {
    let url = reqwest::Url::parse(endpoint).ok();
    let shown = url.as_ref().and_then(|url| {
        let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
        Some(format!("{}://{}{port}", url.scheme(), url.host_str()?))
    });
    shown.unwrap_or_else(|| "an address without a host".to_owned())
}

/// Where spans go, and what they are of.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The collector's base address, such as `http://localhost:4318`; `/v1/traces` follows it.
    pub endpoint: String,
    /// What the program is called.
    pub service: &'static str,
    /// Which process of it this is.
    pub instance: String,
    /// The program's version.
    pub version: &'static str,
    /// Spans that may wait.
    pub queue: usize,
}

/// How it went with spans so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Spans that the collector took.
    pub exported: u64,
    /// Spans for which there was no room in the queue.
    pub dropped: u64,
    /// Spans that the collector did not take.
    pub refused: u64,
}

/// Takes spans. Clones are the same.
#[derive(Debug, Clone)]
pub struct Spans {
    shared: Arc<Shared>,
    orders: mpsc::UnboundedSender<Order>,
}

#[derive(Debug)]
struct Shared {
    room: usize,
    waiting: AtomicUsize,
    exported: AtomicU64,
    dropped: AtomicU64,
    refused: AtomicU64,
}

#[derive(Debug)]
enum Order {
    Send(Vec<Span>),
    /// Answered when all before it are with the collector, or lost.
    Flush(oneshot::Sender<()>),
}

/// What brings spans to the collector; see [`Exporting::run`].
#[derive(Debug)]
pub struct Exporting {
    exporter: SpanExporter,
    endpoint: String,
    scope: InstrumentationScope,
    shared: Arc<Shared>,
    orders: mpsc::UnboundedReceiver<Order>,
    is_failing: bool,
}

impl Spans {
    /// A queue, and what empties it. Headers, such as those that say who one is, are taken from `OTEL_EXPORTER_OTLP_HEADERS`.
    ///
    /// # Errors
    /// If the address cannot be one.
    pub fn new(settings: &Settings) -> Result<(Self, Exporting), SetupError> {
        // An earlier one stays, and does as well.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().timeout(PATIENCE).build()?;
        let endpoint = format!("{}/v1/traces", settings.endpoint.trim_end_matches('/'));
        let is_http = endpoint.starts_with("http://") || endpoint.starts_with("https://");
        let bad = |why: &str| SetupError::Endpoint(format!("{:?} {why}", settings.endpoint));
        if !is_http {
            return Err(bad("is no http:// or https:// address"));
        }
        let exporter = SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_http_client(client)
            .with_endpoint(&endpoint)
            .with_timeout(PATIENCE)
            .with_retry_policy(RetryPolicy::recommended())
            .build();
        let mut exporter = exporter.map_err(|error| bad(&format!("cannot be used: {error}")))?;
        exporter.set_resource(
            &Resource::builder_empty()
                .with_attributes([
                    KeyValue::new("service.name", settings.service),
                    KeyValue::new("service.instance.id", settings.instance.clone()),
                    KeyValue::new("service.version", settings.version),
                ])
                .build(),
        );
        let (orders, received) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            room: settings.queue,
            waiting: AtomicUsize::new(0),
            exported: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        });
        let scope = InstrumentationScope::builder(settings.service).with_version(settings.version).build();
        let endpoint = shown(&settings.endpoint);
        let exporting =
            Exporting { exporter, endpoint, scope, shared: Arc::clone(&shared), orders: received, is_failing: false };
        Ok((Self { shared, orders }, exporting))
    }

    /// Hands spans over. If there is no room for all of them, all are dropped, and counted.
    pub fn send(&self, spans: Vec<Span>) {
        let count = spans.len();
        let before = self.shared.waiting.fetch_add(count, Ordering::Relaxed);
        if before + count > self.shared.room || self.orders.send(Order::Send(spans)).is_err() {
            self.shared.waiting.fetch_sub(count, Ordering::Relaxed);
            self.shared.dropped.fetch_add(count as u64, Ordering::Relaxed);
        }
    }

    /// Waits until what was handed over is with the collector, for so long at most.
    pub async fn flush(&self, within: Duration) {
        let (done, flushed) = oneshot::channel();
        if self.orders.send(Order::Flush(done)).is_ok() {
            let _ = timeout(within, flushed).await;
        }
    }

    /// How it went so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let Shared { exported, dropped, refused, .. } = &*self.shared;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Counts { exported: read(exported), dropped: read(dropped), refused: read(refused) }
    }
}

impl Exporting {
    /// Brings spans to the collector, as long as somebody may hand some over.
    pub async fn run(mut self) {
        let mut waiting = Vec::new();
        while let Some(order) = self.orders.recv().await {
            let mut flushed = self.take(order, &mut waiting);
            let gathered = sleep(GATHER);
            tokio::pin!(gathered);
            while flushed.is_none() && waiting.len() < MOST_TOGETHER {
                tokio::select! {
                    order = self.orders.recv() => match order {
                        Some(order) => flushed = self.take(order, &mut waiting),
                        None => break,
                    },
                    () = &mut gathered => break,
                }
            }
            self.export(std::mem::take(&mut waiting)).await;
            if let Some(flushed) = flushed {
                // Whoever asked may have given up.
                let _ = flushed.send(());
            }
        }
    }

    fn take(&self, order: Order, waiting: &mut Vec<SpanData>) -> Option<oneshot::Sender<()>> {
        match order {
            Order::Send(spans) => {
                waiting.extend(spans.into_iter().map(|span| span.into_data(&self.scope)));
                None
            }
            Order::Flush(flushed) => Some(flushed),
        }
    }

    async fn export(&mut self, spans: Vec<SpanData>) {
        let count = spans.len();
        if count == 0 {
            return;
        }
        let exported = self.exporter.export(spans).await;
        // They had their place in the queue until now: what is with a collector that does not answer is in memory.
        self.shared.waiting.fetch_sub(count, Ordering::Relaxed);
        let counted = if exported.is_ok() { &self.shared.exported } else { &self.shared.refused };
        counted.fetch_add(count as u64, Ordering::Relaxed);
        let endpoint = &self.endpoint;
        match &exported {
            Ok(()) if self.is_failing => tracing::info!(endpoint, "the collector takes traces again"),
            Err(error) if !self.is_failing => {
                tracing::warn!(endpoint, %error, "the collector takes no traces; they are dropped, and counted");
            }
            _ => {}
        }
        self.is_failing = exported.is_err();
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use embed_testkit::OtlpReceiver;

    use super::*;
    use crate::{Kind, new_span, new_trace};

    #[test]
    fn no_log_shows_a_token() {
        for endpoint in ["https://me:secret@traces.example:4318/otlp/secret?key=secret", "https://traces.example:4318"]
        {
            assert_eq!(shown(endpoint), "https://traces.example:4318");
        }
        assert_eq!(shown("http://traces.example/v1"), "http://traces.example");
        assert!(!shown("secret").contains("secret"));
    }

    fn settings(endpoint: String) -> Settings {
        Settings { endpoint, service: "test", instance: "1".to_owned(), version: "0", queue: 1_000 }
    }

    #[tokio::test]
    async fn what_is_handed_over_arrives_as_it_is() {
        let collector = OtlpReceiver::start();
        let (spans, exporting) = Spans::new(&settings(collector.url() + "/")).unwrap();
        tokio::spawn(exporting.run());
        let (root, other, now) = (new_trace(), new_trace(), SystemTime::now());
        let child = root.with_span(new_span());
        let part = Span::new("part", child, Some(root), now, now + Duration::from_millis(5))
            .kind(Kind::Consumer)
            .attributes([KeyValue::new("n", 3_i64), KeyValue::new("who", "me")])
            .links([other])
            .error(Some("no luck".to_owned()));
        // A clock that was set back makes no span that ends before it begins.
        let all = Span::new("all", root, None, now, now - Duration::from_secs(1));
        spans.send(vec![part, all]);
        spans.flush(Duration::from_secs(60)).await;
        assert_eq!(spans.counts(), Counts { exported: 2, dropped: 0, refused: 0 });
        let found = collector.spans();
        let hex = |span: u64| format!("{span:016x}");
        assert_eq!(
            (found[0].service.as_str(), found[0].name.as_str(), found[0].kind),
            ("test", "part", "SPAN_KIND_CONSUMER")
        );
        assert_eq!(
            (&found[0].trace, &found[0].span, &found[0].parent),
            (&root.trace_id(), &hex(child.span), &hex(root.span))
        );
        assert_eq!(found[0].links, [(other.trace_id(), hex(other.span))]);
        assert_eq!((found[0].end - found[0].start, found[0].error.as_deref()), (5_000_000, Some("no luck")));
        assert_eq!((found[0].attributes["n"].as_str(), found[0].attributes["who"].as_str()), ("3", "me"));
        assert_eq!((found[1].parent.as_str(), found[1].start), ("", found[1].end));
    }

    #[test]
    fn an_address_that_is_none_is_refused_by_name() {
        for endpoint in ["localhost:4318", "ftp://localhost", "", "http://"] {
            let error = Spans::new(&settings(endpoint.to_owned())).unwrap_err().to_string();
            assert!(error.contains(&format!("{endpoint:?}")), "{error}");
        }
    }
}
