//! A file in an object store, read in blocks, of which the next is fetched while one is used.

use std::{
    collections::VecDeque,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use embed_registry::store_error;
use object_store::{GetOptions, GetRange, ObjectStore, path::Path};
use tokio::{runtime::Handle, task::JoinHandle};

/// Bytes that are asked for at once.
const BLOCK: u64 = 2 << 20;
/// Blocks that are kept: columns of a table lie one behind the other and are read side by side.
const KEPT: usize = 12;

/// A file in an object store.
#[derive(Clone)]
pub(super) struct Remote {
    object: Object,
    /// The block that was used last is the last.
    blocks: Arc<Mutex<VecDeque<(u64, Block)>>>,
    runtime: Handle,
}

/// What is read.
#[derive(Clone)]
pub(super) struct Object {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) path: Path,
    /// What it was when the backfill began.
    pub(super) e_tag: Option<String>,
    pub(super) bytes: u64,
}

enum Block {
    Here(Bytes),
    Coming(JoinHandle<object_store::Result<Bytes>>),
}

impl Object {
    /// One of its blocks, by number.
    async fn block(self, number: u64) -> object_store::Result<Bytes> {
        let range = number * BLOCK..((number + 1) * BLOCK).min(self.bytes);
        let options =
            GetOptions { range: Some(GetRange::Bounded(range)), if_match: self.e_tag, ..GetOptions::default() };
        self.store.get_opts(&self.path, options).await?.bytes().await
    }
}

impl Remote {
    /// Reads an object; `runtime` does what is to be waited for, and none of its own threads may read.
    pub(super) fn new(object: Object, runtime: Handle) -> Self {
        Self { object, blocks: Arc::default(), runtime }
    }

    /// Reads some bytes from a place on; 0 at the end.
    pub(super) fn read_at(&self, at: u64, buffer: &mut [u8]) -> io::Result<usize> {
        if at >= self.object.bytes {
            return Ok(0);
        }
        let block = self.block(at / BLOCK)?;
        // Within a block, which is in memory.
        let rest = block.get((at % BLOCK) as usize..).unwrap_or_default();
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        Ok(length)
    }

    fn block(&self, number: u64) -> io::Result<Bytes> {
        let mut blocks = self.blocks.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = |blocks: &VecDeque<(u64, Block)>, number| blocks.iter().any(|(known, _)| *known == number);
        let at = blocks.iter().position(|(known, _)| *known == number);
        let block = match at.and_then(|at| blocks.remove(at)) {
            Some((_, Block::Here(block))) => block,
            Some((_, Block::Coming(task))) => self.waited_for(task)?,
            None => self.waited_for(self.fetch(number))?,
        };
        let follows = number == 0 || is_known(&blocks, number - 1);
        if follows && (number + 1) * BLOCK < self.object.bytes && !is_known(&blocks, number + 1) {
            blocks.push_back((number + 1, Block::Coming(self.fetch(number + 1))));
        }
        blocks.push_back((number, Block::Here(block.clone())));
        while blocks.len() > KEPT {
            blocks.pop_front();
        }
        Ok(block)
    }

    fn fetch(&self, number: u64) -> JoinHandle<object_store::Result<Bytes>> {
        self.runtime.spawn(self.object.clone().block(number))
    }

    fn waited_for(&self, task: JoinHandle<object_store::Result<Bytes>>) -> io::Result<Bytes> {
        match self.runtime.block_on(task) {
            Ok(Ok(block)) => Ok(block),
            Ok(Err(object_store::Error::Precondition { .. })) => {
                Err(io::Error::other("something has changed it since the backfill began"))
            }
            Ok(Err(error)) => Err(io::Error::other(store_error(&error))),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use object_store::{ObjectStoreExt, memory::InMemory};

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn blocks_are_fetched_as_they_are_needed() {
        let content: Vec<u8> = (0..BLOCK * 3 + 7).map(|n| (n % 251) as u8).collect();
        let store = Arc::new(InMemory::new());
        let path = Path::from("a/b");
        let e_tag = store.put(&path, content.clone().into()).await.unwrap().e_tag;
        let object = Object { store: store.clone(), path: path.clone(), e_tag, bytes: content.len() as u64 };
        let remote = Remote::new(object, Handle::current());
        let from = BLOCK * 2 - 9;
        let reader = remote.clone();
        let read = tokio::task::spawn_blocking(move || {
            let (mut at, mut all, mut buffer) = (from, Vec::new(), vec![0; 1 << 20]);
            loop {
                let length = reader.read_at(at, &mut buffer).unwrap();
                all.extend_from_slice(&buffer[..length]);
                at += length as u64;
                if length == 0 {
                    return all;
                }
            }
        });
        assert!(read.await.unwrap() == content[from as usize..]);
        // It is another object now, and none of its bytes go with those that were read.
        store.put(&path, vec![7; content.len()].into()).await.unwrap();
        let late = tokio::task::spawn_blocking(move || remote.read_at(0, &mut [0; 8])).await.unwrap();
        assert!(late.unwrap_err().to_string().contains("has changed"));
    }
}
