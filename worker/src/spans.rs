//! Traces of requests: what happened to a call or a job between its arrival and its end, as spans in the trace of whoever sent it.
//!
//! Whether a request is recorded is decided once, when it comes: by its sender's flag if it brings a trace context, else by
//! `telemetry.trace_ratio`. One that is not recorded costs a look at an `Option` here and there. Of one that is, everything is known when it
//! has ended; then its spans are handed over together.
//!
//! A run of an engine has texts of many requests in it. It is a trace of its own, linked to the requests that are recorded, and theirs are linked
//! to it. Its ids follow from its number, so that nobody has to hand them round.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use embed_engine::{
    pipeline::{RunOf, Stages},
    runner::RunStats,
};
use embed_otlp::{Counts, KeyValue, Kind, Span, Spans, new_span, new_trace};
use embed_schemas::trace::{TraceContext, is_picked};

/// Records requests, or does not. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Tracer(Option<Arc<Recording>>);

#[derive(Debug)]
struct Recording {
    spans: Spans,
    /// Of what comes without a context, this share is recorded.
    ratio: f64,
    /// What ids of runs are made of.
    seed: u64,
}

/// A request that is recorded. Its spans are handed over when it is dropped.
#[derive(Debug)]
pub struct Trace {
    recording: Arc<Recording>,
    context: TraceContext,
    parent: Option<TraceContext>,
    /// For whoever gets the outcome.
    header: String,
    kind: Kind,
    name: String,
    received: Instant,
    /// When that was by the clock on the wall.
    received_at: SystemTime,
    attributes: Vec<KeyValue>,
    spans: Vec<Span>,
    error: Option<String>,
}

impl Tracer {
    /// One that records. `ratio`: the share of what comes without a trace context, 0 to 1.
    #[must_use]
    pub fn new(spans: Spans, ratio: f64) -> Self {
        Self(Some(Arc::new(Recording { spans, ratio, seed: new_span() })))
    }

    /// A request came, with this header. `None`, as mostly: it is not recorded.
    #[must_use]
    pub fn begin(
        &self,
        traceparent: Option<&str>,
        received: Instant,
        describe: impl FnOnce() -> (Kind, String, Vec<KeyValue>),
    ) -> Option<Box<Trace>> {
        let recording = self.0.as_ref()?;
        let parent = traceparent.and_then(TraceContext::parse);
        let context = match parent {
            Some(parent) => parent.is_sampled().then(|| parent.with_span(new_span()))?,
            None => is_picked(recording.ratio, new_span()).then(new_trace)?,
        };
        let (kind, name, attributes) = describe();
        Some(Box::new(Trace {
            recording: Arc::clone(recording),
            context,
            parent,
            header: context.to_string(),
            kind,
            name,
            received,
            received_at: wall(received),
            attributes,
            spans: Vec::new(),
            error: None,
        }))
    }

    /// A run had texts of these requests in it.
    pub fn ran(&self, stats: &RunStats, of: &[TraceContext], labels: [KeyValue; 2], error: Option<String>) {
        let Some(recording) = &self.0 else { return };
        let count = |key: &'static str, count: usize| KeyValue::new(key, i64::try_from(count).unwrap_or(i64::MAX));
        let from = wall(stats.started);
        let run = Span::new("run a batch", recording.run(stats.number), None, from, from + stats.took)
            .attributes(labels)
            .attributes([
                KeyValue::new("embed.lane", stats.lane.as_str()),
                KeyValue::new("embed.batch.reason", stats.reason.as_str()),
                KeyValue::new("embed.batch.form", stats.form.as_str()),
                count("embed.batch.texts", stats.texts),
                count("embed.batch.rows", stats.rows),
                count("embed.batch.tokens", stats.row_tokens),
                count("embed.batch.width", stats.width),
            ])
            .links(of.iter().copied())
            .error(error);
        recording.spans.send(vec![run]);
    }

    /// Waits until what was recorded is with the collector, for so long at most.
    pub async fn flush(&self, within: Duration) {
        if let Some(recording) = &self.0 {
            recording.spans.flush(within).await;
        }
    }

    /// How it went with spans so far, if anything is recorded.
    #[must_use]
    pub fn counts(&self) -> Option<Counts> {
        self.0.as_ref().map(|recording| recording.spans.counts())
    }
}

impl Recording {
    /// The span of a run.
    fn run(&self, number: u64) -> TraceContext {
        let part = |n: u64| mix(self.seed, number.wrapping_mul(3).wrapping_add(n)).max(1);
        let trace = u128::from(part(0)) << 64 | u128::from(part(1));
        TraceContext { trace, span: part(2), flags: TraceContext::SAMPLED }
    }
}

impl Trace {
    /// The span that the request is.
    #[must_use]
    pub const fn context(&self) -> TraceContext {
        self.context
    }

    /// The context that its outcome carries.
    #[must_use]
    pub fn header(&self) -> &str {
        &self.header
    }

    /// What else is known of it.
    pub fn note(&mut self, attribute: KeyValue) {
        self.attributes.push(attribute);
    }

    /// It ends in an error.
    pub fn failed(&mut self, code: &str, message: &str) {
        self.attributes.push(KeyValue::new("error.type", code.to_owned()));
        self.error = Some(message.to_owned());
    }

    /// It had waited for so long in its stream when it came.
    pub fn queued(&mut self, age: Duration) {
        let context = self.context.with_span(new_span());
        // As long as it waited, it was nobody's: what it is a part of is what its sender did.
        let parent = Some(self.parent.unwrap_or(self.context));
        let from = self.received_at.checked_sub(age).unwrap_or(self.received_at);
        let span = Span::new("queue", context, parent, from, self.received_at);
        self.spans.push(if self.parent.is_some() { span.of_remote() } else { span });
    }

    /// A part of it, between two moments.
    pub fn part(&mut self, name: &'static str, from: Instant, to: Instant) {
        let span = self.span(name, from, to);
        self.spans.push(span);
    }

    /// What happened to its texts.
    pub fn computed(&mut self, stages: &Stages) {
        if let Some(tokenized) = stages.tokenized {
            self.part("tokenize", self.received, tokenized);
        }
        for run in &stages.runs {
            let &RunOf { number, since, started, took, texts, own } = run;
            self.part("wait for a batch", since, started);
            let span = self.span("infer", started, started + took).links([self.recording.run(number)]).attributes([
                KeyValue::new("embed.texts", i64::try_from(own).unwrap_or(i64::MAX)),
                KeyValue::new("embed.batch.texts", i64::try_from(texts).unwrap_or(i64::MAX)),
            ]);
            self.spans.push(span);
        }
    }

    fn span(&self, name: &'static str, from: Instant, to: Instant) -> Span {
        Span::new(name, self.context.with_span(new_span()), Some(self.context), self.at(from), self.at(to))
    }

    fn at(&self, moment: Instant) -> SystemTime {
        match moment.checked_duration_since(self.received) {
            Some(later) => self.received_at + later,
            None => self.received_at - self.received.duration_since(moment),
        }
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let (from, to) = (self.received_at, self.at(Instant::now()));
        let request = Span::new(std::mem::take(&mut self.name), self.context, self.parent, from, to)
            .of_remote()
            .kind(self.kind)
            .attributes(std::mem::take(&mut self.attributes))
            .error(self.error.take());
        let mut spans = std::mem::take(&mut self.spans);
        spans.push(request);
        self.recording.spans.send(spans);
    }
}

/// What the clock on the wall showed.
fn wall(moment: Instant) -> SystemTime {
    let now = SystemTime::now();
    now.checked_sub(moment.elapsed()).unwrap_or(now)
}

/// SplitMix64.
const fn mix(seed: u64, number: u64) -> u64 {
    let x = seed.wrapping_add(number.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use embed_otlp::{Exporting, Settings};

    use super::*;

    /// What is to bring spans away does nothing, as long as it is not run.
    fn tracer(ratio: f64) -> (Tracer, Exporting) {
        let settings = Settings {
            endpoint: "http://127.0.0.1:1".to_owned(),
            service: "test",
            instance: String::new(),
            version: "0",
            queue: 10,
        };
        let (spans, exporting) = Spans::new(&settings).unwrap();
        (Tracer::new(spans, ratio), exporting)
    }

    fn begin(tracer: &Tracer, header: Option<&str>) -> Option<Box<Trace>> {
        tracer.begin(header, Instant::now(), || (Kind::Server, "process".to_owned(), Vec::new()))
    }

    #[test]
    fn the_senders_flag_counts_and_the_share_only_where_there_is_none() {
        let sampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let unsampled = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
        let ((none, _exporting), (all, _also)) = (tracer(0.0), tracer(1.0));
        for tracer in [&none, &all] {
            let trace = begin(tracer, Some(sampled)).unwrap();
            assert!(trace.header().starts_with(&sampled[..36]) && trace.header() != sampled, "{}", trace.header());
            assert!(begin(tracer, Some(unsampled)).is_none());
        }
        for header in [None, Some("no context")] {
            assert!(begin(&none, header).is_none());
            let trace = begin(&all, header).unwrap();
            assert!(TraceContext::parse(trace.header()).is_some_and(|context| context.is_sampled()));
        }
        assert!(begin(&Tracer::default(), Some(sampled)).is_none());
    }

    #[test]
    fn runs_have_ids_of_their_own_that_follow_from_their_number() {
        let ((one, _), (other, _)) = (tracer(0.0), tracer(0.0));
        let run = |tracer: &Tracer, number| tracer.0.as_ref().unwrap().run(number);
        let ids: std::collections::BTreeSet<_> = (0..1_000).map(|number| run(&one, number)).collect();
        assert_eq!(ids.len(), 1_000);
        assert_eq!(run(&one, 7), run(&one, 7));
        assert_ne!(run(&one, 7), run(&other, 7));
    }

    #[test]
    fn what_the_queue_has_no_room_for_is_counted() {
        let (tracer, _exporting) = tracer(1.0);
        for _ in 0..15 {
            drop(begin(&tracer, None));
        }
        assert_eq!(tracer.counts(), Some(Counts { exported: 0, dropped: 5, refused: 0 }));
    }
}
