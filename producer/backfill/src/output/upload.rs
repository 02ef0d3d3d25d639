//! A file on its way to its place: sent while it is being made, visible when it is whole.

use bytes::Bytes;
use object_store::{ObjectStoreExt, WriteMultipart, path::Path as ObjectPath};

use super::place::Place;
use crate::Error;

/// Bytes that are sent at once. All but the last of a file's are of this size: some stores ask for it.
pub(super) const CHUNK_BYTES: usize = 8 << 20;
/// How many of them may be under way.
const AT_ONCE: usize = 3;

/// A file on its way.
#[derive(Debug)]
pub(super) struct Upload {
    place: Place,
    name: String,
    chunk_bytes: usize,
    sent: Sent,
}

#[derive(Debug)]
enum Sent {
    /// Nothing yet: it may be small enough to be sent as one.
    Nothing(Vec<Bytes>, usize),
    Some(WriteMultipart),
}

impl Upload {
    pub(super) const fn new(place: Place, name: String, chunk_bytes: usize) -> Self {
        Self { place, name, chunk_bytes, sent: Sent::Nothing(Vec::new(), 0) }
    }

    /// What it is called.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Adds to the file.
    pub(super) async fn push(&mut self, bytes: Bytes) -> Result<(), Error> {
        if bytes.is_empty() {
            return Ok(());
        }
        if let Sent::Nothing(held, size) = &mut self.sent {
            *size += bytes.len();
            held.push(bytes);
            if *size <= self.chunk_bytes {
                return Ok(());
            }
            let begun = self.place.store().put_multipart(&ObjectPath::from(&*self.name)).await;
            let begun = begun.map_err(|error| self.place.error(&self.name, &error))?;
            let mut parts = WriteMultipart::new_with_chunk_size(begun, self.chunk_bytes);
            for bytes in std::mem::take(held) {
                parts.put(bytes);
            }
            self.sent = Sent::Some(parts);
            return Ok(());
        }
        if let Sent::Some(parts) = &mut self.sent {
            parts.wait_for_capacity(AT_ONCE).await.map_err(|error| self.place.error(&self.name, &error))?;
            parts.put(bytes);
        }
        Ok(())
    }

    /// Makes the file visible.
    pub(super) async fn finish(self) -> Result<(), Error> {
        let Self { place, name, sent, .. } = self;
        let path = ObjectPath::from(&*name);
        let finished = match sent {
            Sent::Nothing(held, _) => place.store().put(&path, held.into_iter().collect()).await,
            Sent::Some(parts) => parts.finish().await,
        };
        finished.map(|_| ()).map_err(|error| place.error(&name, &error))
    }
}
