//! A span that has ended.

use std::{borrow::Cow, time::SystemTime};

use embed_schemas::trace::TraceContext;
use opentelemetry::{
    InstrumentationScope, KeyValue, SpanId, TraceFlags, TraceId,
    trace::{Link, SpanContext, SpanKind, Status, TraceState},
};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};

/// What a span is to those at the other end of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Nothing: a part of another.
    Internal,
    /// A call that is made.
    Client,
    /// A call that is answered.
    Server,
    /// A message that is left for somebody.
    Producer,
    /// A message that was left by somebody.
    Consumer,
}

/// A span that has ended.
#[derive(Debug, Clone)]
pub struct Span {
    context: TraceContext,
    parent: Option<TraceContext>,
    has_remote_parent: bool,
    kind: Kind,
    name: Cow<'static, str>,
    from: SystemTime,
    to: SystemTime,
    attributes: Vec<KeyValue>,
    links: Vec<TraceContext>,
    error: Option<String>,
}

impl Span {
    /// A span of what happened between two moments. `parent`: the span that it is a part of.
    #[must_use]
    pub fn new(
        name: impl Into<Cow<'static, str>>,
        context: TraceContext,
        parent: Option<TraceContext>,
        from: SystemTime,
        to: SystemTime,
    ) -> Self {
        Self {
            context,
            parent,
            has_remote_parent: false,
            kind: Kind::Internal,
            name: name.into(),
            from,
            // A clock that was set back makes no span that ends before it begins.
            to: to.max(from),
            attributes: Vec::new(),
            links: Vec::new(),
            error: None,
        }
    }

    /// Its parent is another process's.
    #[must_use]
    pub fn of_remote(self) -> Self {
        Self { has_remote_parent: self.parent.is_some(), ..self }
    }

    /// What it is to others.
    #[must_use]
    pub fn kind(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }

    /// What is known of it.
    #[must_use]
    pub fn attributes(mut self, attributes: impl IntoIterator<Item = KeyValue>) -> Self {
        self.attributes.extend(attributes);
        self
    }

    /// Spans that it has to do with, and is no part of.
    #[must_use]
    pub fn links(mut self, links: impl IntoIterator<Item = TraceContext>) -> Self {
        self.links.extend(links);
        self
    }

    /// It failed, and why.
    #[must_use]
    pub fn error(self, error: Option<String>) -> Self {
        Self { error, ..self }
    }

    pub(super) fn into_data(self, scope: &InstrumentationScope) -> SpanData {
        let mut links = SpanLinks::default();
        links.links = self.links.into_iter().map(|link| Link::with_context(of(link, true))).collect();
        SpanData {
            span_context: of(self.context, false),
            parent_span_id: self.parent.map_or(SpanId::INVALID, |parent| SpanId::from(parent.span)),
            parent_span_is_remote: self.has_remote_parent,
            span_kind: match self.kind {
                Kind::Internal => SpanKind::Internal,
                Kind::Client => SpanKind::Client,
                Kind::Server => SpanKind::Server,
                Kind::Producer => SpanKind::Producer,
                Kind::Consumer => SpanKind::Consumer,
            },
            name: self.name,
            start_time: self.from,
            end_time: self.to,
            attributes: self.attributes,
            dropped_attributes_count: 0,
            events: SpanEvents::default(),
            links,
            status: self.error.map_or(Status::Unset, Status::error),
            instrumentation_scope: scope.clone(),
        }
    }
}

fn of(context: TraceContext, is_remote: bool) -> SpanContext {
    let flags = TraceFlags::new(context.flags);
    let (trace, span) = (TraceId::from(context.trace), SpanId::from(context.span));
    SpanContext::new(trace, span, flags, is_remote, TraceState::NONE)
}

/// A trace of its own, that is recorded.
#[must_use]
pub fn new_trace() -> TraceContext {
    TraceContext { trace: fastrand::u128(1..), span: new_span(), flags: TraceContext::SAMPLED }
}

/// A span's id that no other has.
#[must_use]
pub fn new_span() -> u64 {
    fastrand::u64(1..)
}
