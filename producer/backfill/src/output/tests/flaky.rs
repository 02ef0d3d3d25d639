//! A store that fails once, at a step that is chosen: before the step, or after it, as for somebody who is killed.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::BoxStream};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart, memory::InMemory, path::Path,
};
use tokio::sync::Semaphore;

/// When to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fault {
    /// The step, counted from 0.
    pub(super) step: usize,
    /// Whether it has happened when the failure is told.
    pub(super) after: bool,
}

#[derive(Debug, Default)]
struct Steps {
    count: AtomicUsize,
    fault: Mutex<Option<Fault>>,
}

impl Steps {
    /// Whether the next step fails before, and after it has happened.
    fn next(&self) -> (bool, bool) {
        let step = self.count.fetch_add(1, Ordering::SeqCst);
        let fault = self.fault.lock().unwrap().filter(|fault| fault.step == step);
        (fault.is_some_and(|fault| !fault.after), fault.is_some_and(|fault| fault.after))
    }
}

/// What changes something counts as a step.
#[derive(Debug, Default, Clone)]
pub(super) struct Flaky {
    store: Arc<InMemory>,
    steps: Arc<Steps>,
    /// What every step of this one waits for.
    gate: Option<Arc<Semaphore>>,
}

impl Flaky {
    pub(super) fn new(fault: Option<Fault>) -> Self {
        let flaky = Self::default();
        *flaky.steps.fault.lock().unwrap() = fault;
        flaky
    }

    /// The same store, for somebody whose steps are done once there is a permit.
    pub(super) fn held(&self) -> (Self, Arc<Semaphore>) {
        let gate = Arc::new(Semaphore::new(0));
        (Self { gate: Some(gate.clone()), ..self.clone() }, gate)
    }

    /// Steps so far.
    pub(super) fn steps(&self) -> usize {
        self.steps.count.load(Ordering::SeqCst)
    }

    /// What is there.
    pub(super) async fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.list(None).map(|found| found.unwrap().location.to_string()).collect().await;
        names.sort();
        names
    }
}

fn killed() -> Error {
    Error::Generic { store: "flaky", source: "killed".into() }
}

async fn step<T>(
    steps: Arc<Steps>,
    gate: Option<Arc<Semaphore>>,
    work: impl Future<Output = Result<T>> + Send,
) -> Result<T> {
    let _permit = match &gate {
        Some(gate) => Some(gate.acquire().await.unwrap()),
        None => None,
    };
    let (before, after) = steps.next();
    if before {
        return Err(killed());
    }
    let done = work.await?;
    if after { Err(killed()) } else { Ok(done) }
}

impl fmt::Display for Flaky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("flaky")
    }
}

impl ObjectStore for Flaky {
    fn put_opts<'a, 'b, 'c>(
        &'a self,
        location: &'b Path,
        payload: PutPayload,
        opts: PutOptions,
    ) -> BoxFuture<'c, Result<PutResult>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        step(self.steps.clone(), self.gate.clone(), self.store.put_opts(location, payload, opts)).boxed()
    }

    fn put_multipart_opts<'a, 'b, 'c>(
        &'a self,
        location: &'b Path,
        opts: PutMultipartOptions,
    ) -> BoxFuture<'c, Result<Box<dyn MultipartUpload>>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        let (steps, gate) = (self.steps.clone(), self.gate.clone());
        async move {
            let upload = step(steps.clone(), gate.clone(), self.store.put_multipart_opts(location, opts)).await?;
            Ok(Box::new(FlakyUpload { upload, steps, gate }) as Box<dyn MultipartUpload>)
        }
        .boxed()
    }

    fn get_opts<'a, 'b, 'c>(&'a self, location: &'b Path, options: GetOptions) -> BoxFuture<'c, Result<GetResult>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        self.store.get_opts(location, options)
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let (before, after) = self.steps.next();
        if before {
            return futures::stream::once(async { Err(killed()) }).boxed();
        }
        let deleted = self.store.delete_stream(locations);
        if after { deleted.map(|_| Err(killed())).boxed() } else { deleted }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.store.list(prefix)
    }

    fn list_with_delimiter<'a, 'b, 'c>(&'a self, prefix: Option<&'b Path>) -> BoxFuture<'c, Result<ListResult>>
    where
        'a: 'c,
        'b: 'c,
        Self: 'c,
    {
        self.store.list_with_delimiter(prefix)
    }

    fn copy_opts<'a, 'b, 'd, 'c>(
        &'a self,
        from: &'b Path,
        to: &'d Path,
        options: CopyOptions,
    ) -> BoxFuture<'c, Result<()>>
    where
        'a: 'c,
        'b: 'c,
        'd: 'c,
        Self: 'c,
    {
        self.store.copy_opts(from, to, options)
    }
}

#[derive(Debug)]
struct FlakyUpload {
    upload: Box<dyn MultipartUpload>,
    steps: Arc<Steps>,
    gate: Option<Arc<Semaphore>>,
}

impl MultipartUpload for FlakyUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        step(self.steps.clone(), self.gate.clone(), self.upload.put_part(data)).boxed()
    }

    fn complete<'a, 'c>(&'a mut self) -> BoxFuture<'c, Result<PutResult>>
    where
        'a: 'c,
        Self: 'c,
    {
        step(self.steps.clone(), self.gate.clone(), self.upload.complete()).boxed()
    }

    fn abort<'a, 'c>(&'a mut self) -> BoxFuture<'c, Result<()>>
    where
        'a: 'c,
        Self: 'c,
    {
        self.upload.abort()
    }
}
