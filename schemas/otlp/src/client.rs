//! What a command records: itself, and what it sends.

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, SystemTime},
};

use embed_schemas::trace::{TraceContext, is_picked};

use crate::{ENDPOINT_VARIABLE, Exporting, KeyValue, Kind, Settings, SetupError, Span, Spans, new_span, new_trace};

/// The variable that holds the trace context of whoever started the program.
const PARENT_VARIABLE: &str = "TRACEPARENT";
/// The variable that says which share of messages is recorded.
const SHARE_VARIABLE: &str = "OTEL_TRACES_SAMPLER_ARG";

/// Records a command and what it sends, or does not. Clones are the same.
#[derive(Debug, Clone, Default)]
pub struct Recorder(Option<Arc<Recording>>);

#[derive(Debug)]
struct Recording {
    spans: Spans,
    name: &'static str,
    root: TraceContext,
    parent: Option<TraceContext>,
    begun: SystemTime,
    share: f64,
}

/// Something that is under way. Its spans are handed over when it is dropped.
#[derive(Debug)]
pub struct Open {
    recording: Arc<Recording>,
    context: TraceContext,
    parent: Option<TraceContext>,
    link: Option<TraceContext>,
    kind: Kind,
    name: Cow<'static, str>,
    from: SystemTime,
    /// Until when it went, if that was before its end.
    to: Option<SystemTime>,
    attributes: Vec<KeyValue>,
    parts: Vec<Span>,
    error: Option<String>,
}

impl Recorder {
    /// As the environment says: nothing is recorded without `OTEL_EXPORTER_OTLP_ENDPOINT`, or where `TRACEPARENT` holds a context that is not
    /// recorded. `name`: the command. `share`: of what is recorded [apart](Self::apart), if `OTEL_TRACES_SAMPLER_ARG` does not say.
    ///
    /// # Errors
    /// If a variable cannot be used.
    pub fn of_environment(
        service: &'static str,
        version: &'static str,
        name: &'static str,
        share: f64,
    ) -> Result<Option<(Self, Exporting)>, SetupError> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let Some(endpoint) = variable(ENDPOINT_VARIABLE) else { return Ok(None) };
        let parent = variable(PARENT_VARIABLE).as_deref().and_then(TraceContext::parse);
        if parent.is_some_and(|parent| !parent.is_sampled()) {
            return Ok(None);
        }
        let share = match variable(SHARE_VARIABLE) {
            None => share,
            Some(text) => text.parse().ok().filter(|share| (0.0..=1.0).contains(share)).ok_or_else(|| {
                SetupError::Variable(format!("{SHARE_VARIABLE}: {text:?} is no share; set a number from 0 to 1"))
            })?,
        };
        let instance = format!("{:x}", std::process::id());
        let (spans, exporting) = Spans::new(&Settings { endpoint, service, instance, version, queue: 8192 })?;
        let root = parent.map_or_else(new_trace, |parent| parent.with_span(new_span()));
        let recording = Recording { spans, name, root, parent, begun: SystemTime::now(), share };
        Ok(Some((Self(Some(Arc::new(recording))), exporting)))
    }

    /// Begins something that is a part of the command.
    #[must_use]
    pub fn part(&self, kind: Kind, name: impl FnOnce() -> String) -> Option<Open> {
        let recording = self.0.as_ref()?;
        Some(recording.open(recording.root.with_span(new_span()), Some(recording.root), None, kind, name()))
    }

    /// Begins something that is one of very many: a trace of its own, linked to the command, of a share of them.
    #[must_use]
    pub fn apart(&self, kind: Kind, name: impl FnOnce() -> String) -> Option<Open> {
        let recording = self.0.as_ref().filter(|recording| is_picked(recording.share, new_span()))?;
        Some(recording.open(new_trace(), None, Some(recording.root), kind, name()))
    }

    /// The command has ended, in this error if it failed. Waits until all that was recorded is with the collector, for so long at most.
    pub async fn end(&self, error: Option<String>, within: Duration) {
        let Some(recording) = &self.0 else { return };
        let &Recording { name, root, parent, begun, .. } = &**recording;
        let span = Span::new(name, root, parent, begun, SystemTime::now()).of_remote().error(error);
        recording.spans.send(vec![span]);
        recording.spans.flush(within).await;
    }
}

/// The same recorder is equal to itself.
impl PartialEq for Recorder {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        }
    }
}

impl Eq for Recorder {}

impl Recording {
    fn open(
        self: &Arc<Self>,
        context: TraceContext,
        parent: Option<TraceContext>,
        link: Option<TraceContext>,
        kind: Kind,
        name: String,
    ) -> Open {
        Open {
            recording: Arc::clone(self),
            context,
            parent,
            link,
            kind,
            name: name.into(),
            from: SystemTime::now(),
            to: None,
            attributes: Vec::new(),
            parts: Vec::new(),
            error: None,
        }
    }
}

impl Open {
    /// What is sent along.
    #[must_use]
    pub fn traceparent(&self) -> String {
        self.context.to_string()
    }

    /// What is known of it.
    pub fn note(&mut self, attribute: KeyValue) {
        self.attributes.push(attribute);
    }

    /// It failed, and why.
    pub fn failed(&mut self, error: impl ToString) {
        self.error = Some(error.to_string());
    }

    /// It is done, and what comes of it is waited for.
    pub fn sent(&mut self) {
        self.to.get_or_insert_with(SystemTime::now);
    }

    /// What came of it is there.
    pub fn received(&mut self, name: &'static str) {
        let from = self.to.unwrap_or(self.from);
        let context = self.context.with_span(new_span());
        self.parts.push(Span::new(name, context, Some(self.context), from, SystemTime::now()));
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let to = self.to.unwrap_or_else(SystemTime::now);
        let span = Span::new(std::mem::take(&mut self.name), self.context, self.parent, self.from, to)
            .kind(self.kind)
            .attributes(std::mem::take(&mut self.attributes))
            .links(self.link)
            .error(self.error.take());
        let mut spans = std::mem::take(&mut self.parts);
        spans.push(span);
        self.recording.spans.send(spans);
    }
}
