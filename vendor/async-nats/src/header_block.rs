// Copyright 2020-2026 The NATS Authors
// Licensed under the Apache License, Version 2.0 (the "License");
// you may not use this file except in compliance with the License.
// You may obtain a copy of the License at
//
// http://www.apache.org/licenses/LICENSE-2.0
//
// Unless required by applicable law or agreed to in writing, software
// distributed under the License is distributed on an "AS IS" BASIS,
// WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.
// See the License for the specific language governing permissions and
// limitations under the License.

//! Header blocks as they come over the wire. Servers hand on whatever a publisher has sent, so nothing
//! in here fails: what cannot be read is left out, and the headers say so.

use std::fmt;
use std::str::{self, FromStr};

use crate::header::{HeaderMap, HeaderName, HeaderValue};
use crate::status::StatusCode;

/// Why a message could not be read as a whole. No publisher can set or clear it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeaderDefect {
    /// The block does not begin with `NATS/1.0`.
    Version,
    /// What follows the version is no status.
    Status,
    /// A line is not UTF-8.
    Encoding,
    /// A line has no colon.
    Colon,
    /// A name is empty, or has characters that a name may not have.
    Name,
    /// A value has a carriage return in it.
    Value,
    /// The message's subject is not UTF-8.
    Subject,
    /// The message's reply subject is not UTF-8, and left out.
    Reply,
}

impl fmt::Display for HeaderDefect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Version => "the header block does not begin with `NATS/1.0`",
            Self::Status => "what follows `NATS/1.0` is no status",
            Self::Encoding => "a header is not UTF-8",
            Self::Colon => "a header has no colon",
            Self::Name => "a header's name has characters that a name may not have",
            Self::Value => "a header's value has a carriage return in it",
            Self::Subject => "the subject is not UTF-8",
            Self::Reply => "the reply subject is not UTF-8",
        })
    }
}

/// A header block, read as far as it can be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderBlock {
    /// The headers that can be read, and the first defect, see [`HeaderMap::defect`].
    pub headers: HeaderMap,
    /// The status beside the version.
    pub status: Option<StatusCode>,
    /// What follows the status.
    pub description: Option<String>,
}

impl HeaderBlock {
    /// Reads a block.
    ///
    /// # Examples
    ///
    /// ```
    /// use async_nats::header::HeaderBlock;
    ///
    /// let block = HeaderBlock::parse(b"NATS/1.0\r\nGood: 1\r\nno colon\r\n\r\n");
    /// assert_eq!(block.headers.get("Good").unwrap().as_str(), "1");
    /// assert!(block.headers.defect().is_some());
    /// ```
    pub fn parse(block: &[u8]) -> Self {
        let mut headers = HeaderMap::new();
        let mut lines = block
            .split(|byte| *byte == b'\n')
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
            .map(str::from_utf8)
            .peekable();

        let version = lines.next().and_then(Result::ok).unwrap_or_default();
        let version = match version.strip_prefix("NATS/1.0") {
            Some(suffix) => suffix.trim(),
            None => {
                headers.set_defect(HeaderDefect::Version);
                ""
            }
        };
        let (status, description) = version
            .split_once(' ')
            .map(|(status, description)| (status.trim(), description.trim()))
            .unwrap_or((version, ""));
        let description = (!description.is_empty()).then(|| description.to_owned());
        let status = match status {
            "" => None,
            status => {
                let parsed = status.parse::<StatusCode>().ok();
                if parsed.is_none() {
                    headers.set_defect(HeaderDefect::Status);
                }
                parsed
            }
        };

        while let Some(line) = lines.next() {
            let Ok(line) = line else {
                headers.set_defect(HeaderDefect::Encoding);
                continue;
            };
            if line.is_empty() {
                continue;
            }

            let Some((name, value)) = line.split_once(':') else {
                headers.set_defect(HeaderDefect::Colon);
                continue;
            };

            // Read the header value, which might have been split into multiple lines.
            // `trim_start` and `trim_end` do the same job as doing `value.trim().to_owned()` at the end, but without a reallocation
            let mut value = value.trim_start().to_owned();
            while let Some(Ok(more)) = lines
                .next_if(|line| line.is_ok_and(|line| line.starts_with(char::is_whitespace)))
            {
                value.push_str(more);
            }
            value.truncate(value.trim_end().len());

            // Some clients write an empty name; nothing could ask for it.
            let name = HeaderName::from_str(name).ok().filter(|_| !name.is_empty());
            match (name, HeaderValue::from_str(&value)) {
                (Some(name), Ok(value)) => headers.append(name, value),
                (None, _) => headers.set_defect(HeaderDefect::Name),
                (_, Err(_)) => headers.set_defect(HeaderDefect::Value),
            }
        }

        Self {
            headers,
            status,
            description,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{HeaderBlock, HeaderDefect};

    #[test]
    fn good_blocks() {
        let block = HeaderBlock::parse(b"NATS/1.0 404 No Messages\r\n\r\n");
        assert_eq!(block.status.unwrap().as_u16(), 404);
        assert_eq!(block.description.as_deref(), Some("No Messages"));
        assert!(block.headers.is_empty());
        assert_eq!(block.headers.defect(), None);

        let block = HeaderBlock::parse(b"NATS/1.0\r\nA: x\r\n  y\r\nA:z \r\nB:\r\n\r\n");
        let all: Vec<_> = block.headers.get_all("A").map(|v| v.as_str()).collect();
        assert_eq!(all, ["x  y", "z"]);
        assert_eq!(block.headers.get("B").unwrap().as_str(), "");
        assert_eq!(block.headers.defect(), None);
    }

    #[test]
    fn the_good_headers_of_bad_blocks() {
        let cases: [(&[u8], HeaderDefect); 8] = [
            (b"NATS/1.0\r\nBad: \xff\r\nGood: 1\r\n\r\n", HeaderDefect::Encoding),
            (b"NATS/1.0\r\nno colon\r\nGood: 1\r\n\r\n", HeaderDefect::Colon),
            (b"NATS/1.0\r\nbad name: x\r\nGood: 1\r\n\r\n", HeaderDefect::Name),
            (b"NATS/1.0\r\n: x\r\nGood: 1\r\n\r\n", HeaderDefect::Name),
            (b"NATS/1.0\r\nBad: x\ry\r\nGood: 1\r\n\r\n", HeaderDefect::Value),
            (b"NATS/1.0 9999\r\nGood: 1\r\n\r\n", HeaderDefect::Status),
            (b"HTTP/1.1\r\nGood: 1\r\n\r\n", HeaderDefect::Version),
            (b"\xff\r\nGood: 1", HeaderDefect::Version),
        ];
        for (bytes, defect) in cases {
            let block = HeaderBlock::parse(bytes);
            assert_eq!(block.headers.defect(), Some(defect), "{bytes:?}");
            assert_eq!(block.headers.get("Good").unwrap().as_str(), "1");
            assert_eq!(block.headers.len(), 1);
        }
        let empty = HeaderBlock::parse(b"");
        assert_eq!(empty.headers.defect(), Some(HeaderDefect::Version));
    }
}
