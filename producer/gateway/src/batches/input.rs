//! A file's content, line by line.

use bytes::{Buf, Bytes, BytesMut};
use futures::{Stream, StreamExt, TryStreamExt, stream};

use super::store::Failure;

/// Lines of what comes in parts, without those that are blank, each with its number from 1. One that is longer than `longest` is cut: what is left
/// of it is no JSON.
pub(super) fn lines(
    parts: impl Stream<Item = Result<Bytes, Failure>> + Send,
    longest: usize,
) -> impl Stream<Item = Result<(u64, Bytes), Failure>> + Send {
    let mut splitter = Splitter { rest: BytesMut::new(), number: 0, longest };
    let lines = move |part: Option<Bytes>| stream::iter(splitter.take(part)).map(Ok);
    parts
        .map_ok(Some)
        .chain(stream::once(async { Ok(None) }))
        .map_ok(lines)
        .try_flatten()
        .try_filter(|(_, line)| std::future::ready(!line.trim_ascii().is_empty()))
}

struct Splitter {
    /// Of the line that has not ended.
    rest: BytesMut,
    number: u64,
    longest: usize,
}

impl Splitter {
    /// The lines that end in this part, or, after the last, the one that ends with the file.
    fn take(&mut self, part: Option<Bytes>) -> Vec<(u64, Bytes)> {
        let mut lines = Vec::new();
        let Some(mut part) = part else {
            lines.push(self.line(Bytes::new()));
            return lines;
        };
        while let Some(end) = part.iter().position(|byte| *byte == b'\n') {
            let line = part.split_to(end);
            part.advance(1);
            lines.push(self.line(line));
        }
        self.keep(&part);
        lines
    }

    fn line(&mut self, end: Bytes) -> (u64, Bytes) {
        self.number += 1;
        if self.rest.is_empty() && end.len() <= self.longest {
            return (self.number, end);
        }
        self.keep(&end);
        (self.number, self.rest.split().freeze())
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = self.longest.saturating_sub(self.rest.len());
        self.rest.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn lines_are_found_wherever_parts_end(text in "[ab\n]{0,60}", size in 1_usize..9, longest in 1_usize..9) {
            let parts: Vec<_> = text.as_bytes().chunks(size).map(|part| Ok(Bytes::copy_from_slice(part))).collect();
            let found: Vec<_> = block_on(lines(stream::iter(parts), longest).try_collect()).unwrap();
            let expected = text.split('\n').enumerate().filter(|(_, line)| !line.is_empty());
            let cut = |line: &str| Bytes::copy_from_slice(&line.as_bytes()[..line.len().min(longest)]);
            let expected: Vec<_> = expected.map(|(n, line)| (n as u64 + 1, cut(line))).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
