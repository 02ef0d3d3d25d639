//! One call: what is there, what is on its way, and what is to be asked for, put together in the order of the texts.

use std::{collections::HashMap, sync::Arc};

use embed_schemas::{EmbedRequest, EmbedResult, Slug, Timing};
use futures::{FutureExt, future::join_all};
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    CachedClient, Inner, SecondLevel, count,
    current::Current,
    flights::{Arrived, Flight, Source},
    key::{Asked, Key, Keys},
    rows::{Row, assemble},
};
use crate::{Answered, CallOptions, Error, ids::new_id, split::without_texts};

pub(super) struct Call<'a> {
    pub(super) cached: &'a CachedClient,
    pub(super) model: &'a Slug,
    pub(super) request: &'a EmbedRequest,
    pub(super) options: &'a CallOptions,
    pub(super) deadline: Instant,
}

/// The texts that there is no vector of, each once.
struct Wanted<'a> {
    texts: Vec<&'a str>,
    /// Where each stands in the request.
    positions: Vec<Vec<usize>>,
}

impl<'a> Wanted<'a> {
    fn of(texts: &'a [String], rows: &[Option<Arc<Row>>]) -> Self {
        let mut wanted = Self { texts: Vec::new(), positions: Vec::new() };
        let mut known = HashMap::new();
        for (position, text) in texts.iter().enumerate().filter(|(position, _)| rows[*position].is_none()) {
            let n = *known.entry(text.as_str()).or_insert_with(|| {
                wanted.texts.push(text);
                wanted.positions.push(Vec::new());
                wanted.texts.len() - 1
            });
            wanted.positions[n].push(position);
        }
        wanted
    }

    /// Puts a vector everywhere where its text stands. Tells how often that is.
    fn put(&self, n: usize, row: &Arc<Row>, rows: &mut [Option<Arc<Row>>]) -> usize {
        for position in &self.positions[n] {
            rows[*position] = Some(Arc::clone(row));
        }
        self.positions[n].len()
    }

    fn some(&self, which: &[usize]) -> Vec<String> {
        which.iter().map(|n| self.texts[*n].to_owned()).collect()
    }
}

impl Call<'_> {
    pub(super) async fn embed(&self) -> Result<EmbedResult, Error> {
        let inner = &self.cached.inner;
        let texts = &self.request.texts;
        let current = self.current();
        let keys = current.as_ref().map(|now| Keys::of_vectors(self.asked(), &now.space, &now.version));
        let space = current.as_ref().map(|now| now.space.clone());
        let find = |text: &str| inner.vectors.get(&keys.as_ref()?.of(text));
        let mut rows: Vec<Option<Arc<Row>>> = texts.iter().map(|text| find(text)).collect();
        count(&inner.hits, rows.iter().flatten().count());
        let wanted = Wanted::of(texts, &rows);
        let mut computed = None;
        if !wanted.texts.is_empty() {
            let calls = Keys::of_calls(self.asked(), self.options.space.as_deref());
            let boarding: Vec<Key> = wanted.texts.iter().map(|text| calls.of(text)).collect();
            let (sources, own) = inner.flights.board(
                &boarding,
                |n| find(wanted.texts[n]),
                |own| self.ask(wanted.some(own), self.options.clone(), space.clone()).run().boxed(),
            );
            computed = self.arrive(&wanted, sources, own, &mut rows, space).await?;
        }
        let (by, timing) = computed.unwrap_or_default();
        let rows: Vec<Arc<Row>> = rows.into_iter().flatten().collect();
        match assemble(&rows, by, self.request.id.clone().unwrap_or_else(new_id), timing) {
            Some(result) => Ok(result),
            // Workers are changing from one space to another.
            None => self.anew().await,
        }
    }

    /// Waits for everything. Tells where in the request a text stands that was computed for this call alone, if one was, and in what time.
    async fn arrive(
        &self,
        wanted: &Wanted<'_>,
        sources: Vec<Source>,
        own: Option<(Vec<usize>, Flight)>,
        rows: &mut [Option<Arc<Row>>],
        space: Option<String>,
    ) -> Result<Option<(usize, Timing)>, Error> {
        let joined = sources.iter().map(|source| async move {
            let Source::Joined(flight, row) = source else { return None };
            let arrived = timeout_at(self.deadline, flight.clone()).await.ok()?.ok()?;
            arrived.rows.get(*row).filter(|row| row.item.error.is_none()).cloned()
        });
        let own_call = async { Some(own.as_ref()?.1.clone().await) };
        let (joined, answer) = tokio::join!(join_all(joined), own_call);
        let mut left = Vec::new();
        let (mut hits, mut shared) = (0, 0);
        for (n, (source, joined)) in sources.iter().zip(joined).enumerate() {
            match (source, joined) {
                (Source::Here(row), _) => hits += wanted.put(n, row, rows),
                (Source::Joined(..), Some(row)) => shared += wanted.put(n, &row, rows),
                (Source::Joined(..), None) => left.push(n),
                (Source::Own, _) => shared += wanted.positions[n].len() - 1,
            }
        }
        count(&self.cached.inner.hits, hits);
        count(&self.cached.inner.joined, shared);
        let mut computed = None;
        if let Some(((which, _), answer)) = own.zip(answer) {
            let answer = answer.map_err(|failed| failed.lock().take().unwrap_or_else(|| self.timed_out()));
            computed = Some(self.settle(wanted, &which, answer, rows)?);
        }
        if !left.is_empty() {
            // Those whose calls these were had other options.
            let time = self.deadline.saturating_duration_since(Instant::now());
            if time.is_zero() {
                return Err(self.timed_out());
            }
            let ask = self.ask(wanted.some(&left), self.options.clone().timeout(time), space);
            computed = Some(self.settle(wanted, &left, ask.run().await.map(Arc::new), rows)?);
        }
        Ok(computed)
    }

    /// Puts in place what a call for these texts has brought.
    fn settle(
        &self,
        wanted: &Wanted<'_>,
        which: &[usize],
        answer: Result<Arc<Arrived>, Error>,
        rows: &mut [Option<Arc<Row>>],
    ) -> Result<(usize, Timing), Error> {
        match answer {
            Ok(arrived) => {
                for (n, row) in which.iter().zip(&arrived.rows) {
                    wanted.put(*n, row, rows);
                }
                Ok((which.first().map_or(0, |n| wanted.positions[*n][0]), arrived.timing))
            }
            Err(Error::Incomplete { source, answered, .. }) => {
                for part in answered {
                    for (n, row) in which[part.texts].iter().zip(Row::all(&part.result)) {
                        wanted.put(*n, &row, rows);
                    }
                }
                Err(Error::Incomplete { source, answered: answered_of(rows), texts: rows.len() })
            }
            Err(error) => Err(error),
        }
    }

    /// Asks workers for all of it, whatever is kept.
    async fn anew(&self) -> Result<EmbedResult, Error> {
        let time = self.deadline.saturating_duration_since(Instant::now());
        if time.is_zero() {
            return Err(self.timed_out());
        }
        let ask = self.ask(self.request.texts.clone(), self.options.clone().timeout(time), None);
        Ok(ask.workers(&ask.request, &ask.options).await?.0)
    }

    /// `space`: of which vectors from the level below are as good as new ones; none, if it is not known.
    fn ask(&self, texts: Vec<String>, options: CallOptions, space: Option<String>) -> Ask {
        let CachedClient { inner, scope, below } = self.cached;
        let request = EmbedRequest { texts, ..without_texts(self.request) };
        let below = below.as_ref().filter(|_| options.variant.is_none()).cloned();
        let (inner, scope) = (Arc::clone(inner), Arc::clone(scope));
        Ask { inner, scope, below, space, model: self.model.clone(), request, options }
    }

    fn asked(&self) -> Asked<'_> {
        Asked {
            scope: &self.cached.scope,
            model: self.model,
            variant: self.options.variant.as_ref(),
            request: self.request,
        }
    }

    /// Which vectors are as good as those that workers would make now.
    fn current(&self) -> Option<Current> {
        let variant = self.options.variant.as_ref();
        let seen = self.cached.inner.watch.current(self.model, variant);
        match &self.options.space {
            None => seen,
            Some(space) if variant.is_some() => seen.filter(|now| now.space == *space),
            // A vector of a space is one for ever, whatever is served.
            Some(space) => Some(Current { space: space.clone(), version: String::new() }),
        }
    }

    fn timed_out(&self) -> Error {
        Error::Timeout {
            what: format!("no answer from {}", self.model),
            after: self.options.timeout,
            hint: ": the workers are busy or the connection is gone; try a longer --timeout".to_owned(),
        }
    }
}

/// What there is of an incomplete answer, in the order of the texts.
fn answered_of(rows: &[Option<Arc<Row>>]) -> Vec<Answered> {
    let together =
        |a: &Option<Arc<Row>>, b: &Option<Arc<Row>>| a.as_ref().zip(b.as_ref()).is_some_and(|(a, b)| a.fits(b));
    let mut start = 0;
    let mut answered = Vec::new();
    for run in rows.chunk_by(together) {
        let texts = start..start + run.len();
        start = texts.end;
        let run: Vec<Arc<Row>> = run.iter().flatten().cloned().collect();
        answered.extend(assemble(&run, 0, new_id(), Timing::default()).map(|result| Answered { texts, result }));
    }
    answered
}

/// A look into the level below and a call to workers for the rest, whoever waits for it.
struct Ask {
    inner: Arc<Inner>,
    scope: Arc<str>,
    below: Option<Arc<dyn SecondLevel>>,
    /// Whose vectors are looked for in it; none are, if it is not known.
    space: Option<String>,
    model: Slug,
    request: EmbedRequest,
    options: CallOptions,
}

impl Ask {
    async fn run(self) -> Result<Arrived, Error> {
        let begun = Instant::now();
        let mut rows = self.stored().await;
        let left: Vec<usize> = (0..rows.len()).filter(|n| rows[*n].is_none()).collect();
        if left.is_empty() {
            return Ok(Arrived { rows: rows.into_iter().flatten().collect(), timing: Timing::default() });
        }
        let texts = left.iter().map(|n| self.request.texts[*n].clone()).collect();
        let request = EmbedRequest { texts, ..without_texts(&self.request) };
        let options = self.options.clone().timeout(self.options.timeout.saturating_sub(begun.elapsed()));
        let mut put = |which: &[usize], found: Vec<Arc<Row>>| {
            which.iter().zip(found).for_each(|(n, row)| rows[*n] = Some(row));
        };
        match self.workers(&request, &options).await {
            Ok((result, found)) => {
                put(&left, found);
                if let Some(below) = &self.below {
                    below.keep(&self.model, &request, &result);
                }
                Ok(Arrived { rows: rows.into_iter().flatten().collect(), timing: result.timing })
            }
            Err(Error::Incomplete { source, answered, .. }) => {
                for part in answered {
                    put(&left[part.texts], Row::all(&part.result));
                }
                Err(Error::Incomplete { source, answered: answered_of(&rows), texts: rows.len() })
            }
            Err(error) => Err(error),
        }
    }

    /// What the level below has.
    async fn stored(&self) -> Vec<Option<Arc<Row>>> {
        let texts = &self.request.texts;
        let Some((below, space)) = self.below.as_ref().zip(self.space.as_ref()) else { return vec![None; texts.len()] };
        // At least half of the time is left to workers.
        let found = timeout(self.options.timeout / 2, below.find(&self.model, space, &self.request));
        let mut found = found.await.unwrap_or_default();
        found.resize_with(texts.len(), || None);
        // What is of another space, or no vector of one text, is not what was looked for.
        let row = |result: Option<EmbedResult>| {
            let result = result.filter(|result| result.space == *space && result.items.len() == 1)?;
            Row::all(&result).pop().filter(|row| row.item.error.is_none())
        };
        let rows: Vec<_> = found.into_iter().map(row).collect();
        let keys = Keys::of_vectors(self.asked(), space, "");
        for (text, row) in texts.iter().zip(&rows) {
            if let Some(row) = row {
                self.inner.vectors.insert(keys.of(text), Arc::clone(row));
            }
        }
        count(&self.inner.stored, rows.iter().flatten().count());
        rows
    }

    /// Asks workers, and keeps in memory what comes.
    async fn workers(
        &self,
        request: &EmbedRequest,
        options: &CallOptions,
    ) -> Result<(EmbedResult, Vec<Arc<Row>>), Error> {
        count(&self.inner.misses, request.texts.len());
        match self.inner.client.embed(&self.model, request.clone(), options).await {
            Ok(result) => {
                let rows = self.keep(&request.texts, &result);
                Ok((result, rows))
            }
            Err(error) => {
                if let Error::Incomplete { answered, .. } = &error {
                    for part in answered {
                        self.keep(&request.texts[part.texts.clone()], &part.result);
                    }
                }
                Err(error)
            }
        }
    }

    fn keep(&self, texts: &[String], result: &EmbedResult) -> Vec<Arc<Row>> {
        let Self { inner, model, options, .. } = self;
        let variant = options.variant.as_ref();
        inner.watch.answered(model, variant, result);
        let rows = Row::all(result);
        // Under what the answer says of itself, and not under what was expected.
        let keys = Keys::of_vectors(self.asked(), &result.space, &result.version);
        if variant.is_none_or(|variant| *variant == result.variant) {
            for (text, row) in texts.iter().zip(&rows).filter(|(_, row)| row.item.error.is_none()) {
                inner.vectors.insert(keys.of(text), Arc::clone(row));
            }
        }
        rows
    }

    fn asked(&self) -> Asked<'_> {
        let Self { scope, model, request, options, .. } = self;
        Asked { scope, model, variant: options.variant.as_ref(), request }
    }
}
