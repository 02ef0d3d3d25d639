//! Texts that come one by one, and their vectors as they are ready.

use std::{num::NonZeroUsize, sync::Arc};

use embed_schemas::{EmbedRequest, EmbedResult, Item, Slug, WireError};
use futures::{Stream, StreamExt, future, stream};

use super::{CallOptions, Client, Error, call::TEXTS_PER_CALL, split::without_texts};

/// How to embed a stream of texts.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct StreamOptions {
    /// How to make each call. Its time-out is that of one call.
    pub call: CallOptions,
    /// What else to ask for: prompt, truncation, encoding, dimensions. Its texts and id are not used.
    pub request: EmbedRequest,
    /// Texts in one call at most. Fewer go where no more are ready.
    pub texts_per_call: NonZeroUsize,
    /// Calls under way at most. With [`StreamOptions::texts_per_call`], what is read ahead of what has been taken out.
    pub in_flight: NonZeroUsize,
}

impl Default for StreamOptions {
    fn default() -> Self {
        let number = |number| NonZeroUsize::new(number).expect("it is not zero");
        Self {
            call: CallOptions::default(),
            request: EmbedRequest::new(Vec::<String>::new()),
            texts_per_call: number(TEXTS_PER_CALL / 2),
            in_flight: number(4),
        }
    }
}

impl StreamOptions {
    /// How to make each call.
    #[must_use]
    pub fn call(self, call: CallOptions) -> Self {
        Self { call, ..self }
    }

    /// What else to ask for.
    #[must_use]
    pub fn request(self, request: EmbedRequest) -> Self {
        Self { request, ..self }
    }

    /// Texts in one call at most.
    #[must_use]
    pub fn texts_per_call(self, texts_per_call: NonZeroUsize) -> Self {
        Self { texts_per_call, ..self }
    }

    /// Calls under way at most.
    #[must_use]
    pub fn in_flight(self, in_flight: NonZeroUsize) -> Self {
        Self { in_flight, ..self }
    }
}

/// One text of a stream, answered.
#[derive(Debug, Clone)]
pub struct Embedded {
    result: Arc<EmbedResult>,
    row: usize,
}

impl Embedded {
    /// Its vector.
    ///
    /// # Errors
    /// What the worker says of this text.
    pub fn vector(&self) -> Result<Vec<f32>, WireError> {
        self.result.vector(self.row)
    }

    /// Its tokens, whether it was cut, and its error if it has one.
    #[must_use]
    pub fn item(&self) -> &Item {
        &self.result.items[self.row]
    }

    /// The result that it is a row of: model, variant, version, space.
    #[must_use]
    pub fn result(&self) -> &EmbedResult {
        &self.result
    }
}

impl Client {
    /// Embeds texts as they come: one row for each, in the order of the texts. No more than `in_flight` calls are under way, and no text is
    /// read before there is room for it, so a stream without end can be embedded.
    ///
    /// The stream of rows ends after its first error; what came before it is good. Dropped, it reads no further text, and what is under way
    /// is computed for nobody.
    pub fn embed_stream<S>(
        &self,
        model: &Slug,
        texts: S,
        options: StreamOptions,
    ) -> impl Stream<Item = Result<Embedded, Error>> + Send + use<S>
    where
        S: Stream<Item = String> + Send,
    {
        let (client, model, options) = (self.clone(), model.clone(), Arc::new(options));
        let in_flight = options.in_flight.get();
        let call = {
            let options = Arc::clone(&options);
            move |texts: Vec<String>| {
                let (client, model, options) = (client.clone(), model.clone(), Arc::clone(&options));
                async move {
                    let request = EmbedRequest { id: None, texts, ..without_texts(&options.request) };
                    client.embed(&model, request, &options.call).await
                }
            }
        };
        let rows = |answer: Result<EmbedResult, Error>| match answer {
            Ok(result) => {
                let result = Arc::new(result);
                let rows = (0..result.items.len()).map(move |row| Ok(Embedded { result: Arc::clone(&result), row }));
                stream::iter(rows).left_stream()
            }
            Err(error) => stream::once(future::ready(Err(error))).right_stream(),
        };
        let answers = texts.ready_chunks(options.texts_per_call.get()).map(call).buffered(in_flight);
        // After an error nothing is asked for any more, so that it ends there also if no other text ever comes.
        stream::unfold(Some(Box::pin(answers.flat_map(rows))), async |rows| {
            let mut rows = rows?;
            let row = rows.next().await?;
            let rest = row.is_ok().then_some(rows);
            Some((row, rest))
        })
    }
}
