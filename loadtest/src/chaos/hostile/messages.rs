//! What is sent: calls and jobs as no client library would send them, each from a seed and its number. Pure.

use embed_schemas::{EmbedRequest, Format, Lane, Slug, headers, streams, subjects};
use embed_testkit::mutate::mutated;
use fastrand::Rng;
use serde::Serialize;
use serde_json::json;

/// Longest payload: what servers take by default, less what else is in a message.
const LONGEST: usize = 900_000;
/// A server closes the connection at a longer line.
const LONGEST_SUBJECT: usize = 3_800;

/// What is wrong with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Nothing: small and in order.
    Fair,
    /// A request, changed a little.
    Mutated,
    /// Depth and lengths that are not there.
    Bomb,
    /// Fields with values that nobody means.
    Fields,
    /// A header block that is none.
    Block,
    /// A header block, changed a little.
    MutatedBlock,
    /// Headers of tens of kilobytes.
    Huge,
    /// A status, as a server's answers have.
    Status,
    /// An answer, or a copy, is wanted where it does something.
    Deputy,
    /// An answer, or a copy, is wanted on an odd or endless subject.
    Reply,
    /// An id that another has, or that is none.
    Id,
    /// Headers that tell the server what to do.
    Orders,
}

impl Kind {
    /// All, and how many of a hundred messages are of each.
    pub const ALL: [(Self, u8); 12] = [
        (Self::Fair, 3),
        (Self::Mutated, 30),
        (Self::Bomb, 8),
        (Self::Fields, 8),
        (Self::Block, 10),
        (Self::MutatedBlock, 10),
        (Self::Huge, 3),
        (Self::Status, 4),
        (Self::Deputy, 8),
        (Self::Reply, 8),
        (Self::Id, 6),
        (Self::Orders, 2),
    ];

    /// Its name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fair => "fair",
            Self::Mutated => "mutated payload",
            Self::Bomb => "bomb",
            Self::Fields => "odd fields",
            Self::Block => "unreadable headers",
            Self::MutatedBlock => "mutated headers",
            Self::Huge => "huge headers",
            Self::Status => "status",
            Self::Deputy => "confused deputy",
            Self::Reply => "odd reply subject",
            Self::Id => "odd or double id",
            Self::Orders => "orders to the server",
        }
    }
}

/// A message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hostile {
    /// What is wrong with it.
    pub kind: Kind,
    /// Where it is published.
    pub subject: String,
    /// Where a call's answer is to go. `None`: where its sender hears it. A job's is its sender's business.
    pub reply: Option<Vec<u8>>,
    /// The header block.
    pub headers: Option<Vec<u8>>,
    /// The payload.
    pub payload: Vec<u8>,
}

/// Header blocks that a server takes and hands on, though they are none.
const BLOCKS: [&[u8]; 12] = [
    b"NATS/1.0\r\nX: \xff\xfe\r\n\r\n",
    b"NATS/1.0\r\n\xff: x\r\n\r\n",
    b"NATS/1.0\r\nno colon\r\n\r\n",
    b"NATS/1.0\r\nbad name: x\r\n\r\n",
    "NATS/1.0\r\nnäme: x\r\n\r\n".as_bytes(),
    b"NATS/1.0\r\n: x\r\n\r\n",
    b"NATS/1.0\r\nX: a\rb\r\n\r\n",
    b"NATS/1.0\r\nX: a\x00b\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nX: x\r\n\r\n",
    b"NATS/1.0",
    b"garbage",
    b"\r\n\r\n",
];

const STATUSES: [&[u8]; 7] = [
    b"NATS/1.0 503\r\n\r\n",
    b"NATS/1.0 404 No Messages\r\n\r\n",
    b"NATS/1.0 100 Idle Heartbeat\r\n\r\n",
    b"NATS/1.0 408 Request Timeout\r\n\r\n",
    b"NATS/1.0 409 Consumer Deleted\r\n\r\n",
    b"NATS/1.0 9999\r\n\r\n",
    b"NATS/1.0 x\r\nX: x\r\n\r\n",
];

/// The n-th call of a seed, or its n-th job.
#[must_use]
pub fn hostile(model: &Slug, lane: Lane, seed: u64, n: u64) -> Hostile {
    // Each by itself, so that it does not matter in what order they are made.
    let salt = if lane == Lane::Rpc { 0x9e37_79b9_7f4a_7c15 } else { 0xd1b5_4a32_d192_ed03 };
    let mut rng = Rng::with_seed(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ n.wrapping_mul(salt) ^ salt);
    Maker { model, lane, seed, n }.make(&mut rng)
}

struct Maker<'a> {
    model: &'a Slug,
    lane: Lane,
    seed: u64,
    n: u64,
}

impl Maker<'_> {
    fn make(&self, rng: &mut Rng) -> Hostile {
        let kind = pick(rng);
        let mut message = Hostile {
            kind,
            subject: subjects::bare(self.lane, self.model),
            reply: None,
            headers: None,
            payload: self.request(rng, &format!("fair {}", self.n)),
        };
        match kind {
            Kind::Fair => {}
            Kind::Mutated => {
                let seeds = [self.request(rng, "one"), self.request(rng, "two"), result()];
                message.payload = mutated(rng, &seeds, LONGEST);
            }
            Kind::Bomb => message.payload = bomb(rng),
            Kind::Fields => message.payload = self.fields(rng),
            Kind::Block => message.headers = Some(BLOCKS[rng.usize(..BLOCKS.len())].to_vec()),
            Kind::MutatedBlock => {
                let named =
                    block(&[(headers::MSG_ID, &self.id()), (headers::CONTENT_TYPE, "application/json"), ("X", "y")]);
                let mut seeds = vec![named, block(&[(headers::REPLY_TO, "_INBOX.hostile.copy")])];
                seeds.extend(BLOCKS.map(<[u8]>::to_vec));
                message.headers = Some(mutated(rng, &seeds, 60_000));
            }
            Kind::Huge => message.headers = Some(huge(rng)),
            Kind::Status => message.headers = Some(STATUSES[rng.usize(..STATUSES.len())].to_vec()),
            Kind::Deputy => {
                let subject = self.deputy(rng);
                self.answer_on(&mut message, subject.into_bytes());
            }
            Kind::Reply => {
                let subject = odd_subject(rng);
                self.answer_on(&mut message, subject);
            }
            Kind::Id => (message.headers, message.payload) = self.odd_id(rng),
            Kind::Orders => message.headers = Some(orders(rng)),
        }
        if self.lane == Lane::Rpc && rng.u8(..20) == 0 {
            message.subject =
                ["$SRV.PING", "$SRV.INFO", "$SRV.STATS.embed-worker", "$SRV.PING.x.y"][rng.usize(..4)].to_owned();
        }
        message
    }

    fn id(&self) -> String {
        format!("hostile-{}-{}", self.seed, self.n)
    }

    /// One that is as it should be. Jobs have an id, or none.
    fn request(&self, rng: &mut Rng, text: &str) -> Vec<u8> {
        let id = (self.lane != Lane::Rpc && rng.bool()).then(|| self.id().parse().expect("an id"));
        let request = EmbedRequest { id, ..EmbedRequest::new([text]) };
        if rng.bool() { Format::Json } else { Format::MessagePack }.encode(&request).to_vec()
    }

    /// For a call that is its reply subject, for a job it is a header.
    fn answer_on(&self, message: &mut Hostile, subject: Vec<u8>) {
        if self.lane == Lane::Rpc {
            message.reply = Some(subject);
        } else {
            let mut headers = format!("NATS/1.0\r\n{}: ", headers::REPLY_TO).into_bytes();
            headers.extend(subject);
            headers.extend(b"\r\n\r\n");
            message.headers = Some(headers);
        }
    }

    /// Where whoever publishes does something.
    fn deputy(&self, rng: &mut Rng) -> String {
        let (model, jobs) = (self.model, streams::jobs_stream(self.model));
        let results = streams::results_stream(model);
        let all = [
            format!("$JS.API.STREAM.PURGE.{jobs}"),
            format!("$JS.API.STREAM.PURGE.{results}"),
            format!("$JS.API.CONSUMER.MSG.NEXT.{jobs}.x"),
            "$JS.API.STREAM.LIST".to_owned(),
            format!("$KV.embed_routes.{model}"),
            "$SYS.REQ.SERVER.PING".to_owned(),
            subjects::bare(Lane::Job, model),
            subjects::bare(Lane::Rpc, model),
            format!("embed.result.{model}.hostile-forged"),
            format!("embed.store.{model}.hostile-forged"),
            "embed.control.refresh".to_owned(),
        ];
        all[rng.usize(..all.len())].clone()
    }

    fn fields(&self, rng: &mut Rng) -> Vec<u8> {
        let text = "x";
        let value = match rng.u8(..14) {
            0 => json!({"texts": []}),
            1 => json!({"texts": vec!["a"; 300]}),
            2 => json!({"texts": [text], "deadline_ms": u64::MAX}),
            3 => json!({"texts": [text], "deadline_ms": 0}),
            4 => json!({"texts": [text], "dimensions": u32::MAX}),
            5 => json!({"texts": [text], "dimensions": 0}),
            6 => json!({"texts": [text], "prompt": "p".repeat(rng.usize(1..50_000))}),
            7 => json!({"texts": [text], "encoding": "f64"}),
            8 => json!({"texts": [text], "encoding": "u1", "truncate": false}),
            9 => json!({"texts": ["\u{0}\u{feff}\u{202e}\u{1d165}", "\u{fdfa}".repeat(20), ""]}),
            10 => json!({"texts": ["[CLS] [SEP] [MASK] [UNK] [PAD]"], "prompt": null}),
            11 => json!({"texts": "x"}),
            12 => json!({"unknown".repeat(rng.usize(1..5_000)): 1, "texts": [text]}),
            _ => json!({"texts": [{"text": text}], "id": 7}),
        };
        if rng.bool() { Format::Json } else { Format::MessagePack }.encode(&value).to_vec()
    }

    fn odd_id(&self, rng: &mut Rng) -> (Option<Vec<u8>>, Vec<u8>) {
        let double = format!("hostile-double-{}", rng.u8(..4));
        let id = match rng.u8(..7) {
            0 | 1 => double.clone(),
            2 => "x".repeat(rng.usize(100..4_000)),
            3 => "a.b".to_owned(),
            4 => ">".to_owned(),
            5 => "../../etc/passwd".to_owned(),
            _ => String::new(),
        };
        let payload = json!({"id": id, "texts": [format!("text {}", rng.u8(..3))]}).to_string().into_bytes();
        let header = match rng.u8(..3) {
            0 => None,
            1 => Some(block(&[(headers::MSG_ID, &self.id())])),
            _ => Some(block(&[
                (headers::MSG_ID, &format!("{double}-{}", self.n)),
                (headers::CONTENT_TYPE, "application/msgpack"),
            ])),
        };
        (header, payload)
    }
}

fn pick(rng: &mut Rng) -> Kind {
    let mut left = rng.u8(..100);
    for (kind, share) in Kind::ALL {
        if left < share {
            return kind;
        }
        left -= share;
    }
    Kind::Mutated
}

fn block(lines: &[(&str, &str)]) -> Vec<u8> {
    let lines: String = lines.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    format!("NATS/1.0\r\n{lines}\r\n").into_bytes()
}

/// An outcome, where a request should be.
fn result() -> Vec<u8> {
    br#"{"id":"x","error":{"code":"cancelled","message":"m","retryable":false}}"#.to_vec()
}

fn bomb(rng: &mut Rng) -> Vec<u8> {
    let deep = rng.usize(200..100_000);
    let length = [0xdd, 0xdf, 0xdb, 0xc6, 0xc9][rng.usize(..5)];
    match rng.u8(..6) {
        0 => format!("{{\"texts\":{}", "[".repeat(deep)).into_bytes(),
        1 => format!("{}1{}", "{\"texts\":".repeat(deep / 10), "}".repeat(deep / 10)).into_bytes(),
        // A list, a map, a text or bytes of four billion entries.
        2 => [&b"\x81\xa5texts"[..], &[length, 0xff, 0xff, 0xff, 0xff, 0x00]].concat(),
        3 => [&b"\x81\xa5texts"[..], &vec![0x91; deep]].concat(),
        4 => [&b"\xdf\xff\xff\xff\xff"[..], &b"\xa1a\x01".repeat(deep / 10)].concat(),
        _ => Vec::new(),
    }
}

fn huge(rng: &mut Rng) -> Vec<u8> {
    let length = rng.usize(1_000..65_000);
    match rng.u8(..4) {
        0 => block(&[(headers::TRACEPARENT, &"0".repeat(length))]),
        1 => block(&[(headers::CONTENT_TYPE, &"x".repeat(length))]),
        2 => block(&vec![("X", "y"); length / 8]),
        _ => block(&[(&"X".repeat(length), "y")]),
    }
}

fn odd_subject(rng: &mut Rng) -> Vec<u8> {
    match rng.u8(..9) {
        0 => format!("_INBOX.hostile.{}", "x".repeat(rng.usize(1_000..LONGEST_SUBJECT))).into_bytes(),
        1 => b"_INBOX.hostile.\xff".to_vec(),
        2 => b"_INBOX.hostile.a\x0bb".to_vec(),
        3 => "_INBOX.hostile.a\u{a0}b\u{2003}c".into(),
        4 => b"_INBOX.hostile.>".to_vec(),
        5 => b"_INBOX.hostile.*".to_vec(),
        6 => b"_INBOX..".to_vec(),
        7 => b"x".repeat(rng.usize(1..LONGEST_SUBJECT)),
        _ => b"_INBOX.hostile.a\0b".to_vec(),
    }
}

fn orders(rng: &mut Rng) -> Vec<u8> {
    let all = [
        ("Nats-Expected-Stream", "X"),
        ("Nats-Expected-Last-Sequence", "1"),
        ("Nats-Expected-Last-Subject-Sequence", "1"),
        ("Nats-Rollup", "all"),
        ("Nats-Rollup", "sub"),
        ("Nats-TTL", "1s"),
        ("Nats-TTL", "never"),
        ("Nats-Marker-Reason", "Purge"),
    ];
    block(&[all[rng.usize(..all.len())]])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_what_its_seed_and_number_say() {
        let model = "m".parse().unwrap();
        let all = |lane, seed| (0..300).map(|n| hostile(&model, lane, seed, n)).collect::<Vec<_>>();
        assert_eq!(all(Lane::Job, 1), all(Lane::Job, 1));
        assert_ne!(all(Lane::Job, 1), all(Lane::Job, 2));
        assert_ne!(all(Lane::Job, 1), all(Lane::Rpc, 1));
    }

    #[test]
    fn there_is_some_of_each_kind_and_a_server_takes_it() {
        assert_eq!(Kind::ALL.iter().map(|(_, share)| u32::from(*share)).sum::<u32>(), 100);
        let model = "m".parse().unwrap();
        let all: Vec<_> = (0..2_000).map(|n| hostile(&model, Lane::Job, 1, n)).collect();
        for (kind, _) in Kind::ALL {
            assert!(all.iter().any(|message| message.kind == kind), "{}", kind.name());
        }
        for message in all {
            let headers = message.headers.map_or(0, |headers| headers.len());
            assert!(headers < 1 << 17 && headers + message.payload.len() < 1 << 20);
            assert!(message.reply.is_none(), "a job's copy goes where a header says");
        }
    }
}
