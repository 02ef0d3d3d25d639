//! What is taken from a consumer is owned by one value, a [`Lease`], from the moment it leaves the socket.
//!
//! As long as there is a lease, the server hears that its message is being worked on, whatever that waits for. A lease ends by
//! [`Lease::ack`], [`Lease::terminate`] or [`Lease::give_back`], and there is no other way to say any of this to the server; one that is
//! dropped gives its message back. So nothing that is in the worker can be forgotten, and nothing has to be remembered.

mod attempts;
mod keeper;

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant, SystemTime},
};

use async_nats::{Message, Subject};
pub use attempts::{AttemptStore, Attempts};
use bytes::Bytes;
use embed_schemas::{JobId, Lane, headers, subjects};
pub use keeper::Keeper;

use self::keeper::Held;

/// A message of a job stream that this worker has.
#[derive(Debug)]
pub struct Lease {
    message: Message,
    delivery: Delivery,
    received: Instant,
    begun: Arc<AtomicBool>,
    held: Held,
}

/// What the server says of a message, in the subject for acknowledgements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The stream.
    pub stream: String,
    /// The sequence in the stream.
    pub sequence: u64,
    /// How often it has been delivered, this time included.
    pub deliveries: u64,
    /// When it was published, by the server's clock.
    pub published: SystemTime,
}

impl Delivery {
    /// Reads `$JS.ACK.[<domain>.<account hash>.]<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>[.<token>]`.
    #[must_use]
    pub fn parse(reply: &str) -> Option<Self> {
        let tokens: Vec<&str> = reply.strip_prefix("$JS.ACK.")?.split('.').collect();
        let fields = match tokens.len() {
            7 => &tokens[..],
            9.. => &tokens[2..],
            _ => return None,
        };
        let [stream, _, delivered, sequence, _, time, ..] = fields else { return None };
        Some(Self {
            stream: (*stream).to_owned(),
            sequence: sequence.parse().ok()?,
            deliveries: delivered.parse().ok()?,
            published: SystemTime::UNIX_EPOCH + Duration::from_nanos(time.parse().ok()?),
        })
    }

    /// What tells this message apart from all others, also of a stream that was deleted and made anew: sequence and time. One token of a
    /// subject.
    #[must_use]
    pub fn key(&self) -> String {
        let published = self.published.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        format!("{}-{published:x}", self.sequence)
    }

    /// The id of a job that came without one: it follows from where the message is stored, so that every delivery has the same.
    ///
    /// # Panics
    /// Never for the streams of this project: their names are of characters that an id may have.
    #[must_use]
    pub fn job_id(&self) -> JobId {
        format!("{}-{}", self.stream, self.key()).parse().expect("stream names are made of slugs")
    }
}

impl Lease {
    /// Takes a message. `None` if it is not one of a job stream: then there is nothing to give back.
    #[must_use]
    pub fn take(message: Message, keeper: &Keeper, ack_wait: Duration) -> Option<Self> {
        let reply = message.reply.clone()?;
        let delivery = Delivery::parse(&reply)?;
        let held = keeper.hold(reply, ack_wait);
        Some(Self { message, delivery, received: Instant::now(), begun: Arc::default(), held })
    }

    /// What the server says of it.
    #[must_use]
    pub const fn delivery(&self) -> &Delivery {
        &self.delivery
    }

    /// When it arrived.
    #[must_use]
    pub const fn received(&self) -> Instant {
        self.received
    }

    /// What was published.
    #[must_use]
    pub const fn payload(&self) -> &Bytes {
        &self.message.payload
    }

    /// The subject on which it is stored.
    #[must_use]
    pub const fn subject(&self) -> &Subject {
        &self.message.subject
    }

    /// The lane that it came by.
    #[must_use]
    pub fn lane(&self) -> Lane {
        subjects::parse(self.subject()).map_or(Lane::Job, |target| target.lane)
    }

    /// A header of the message.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.message.headers.as_ref()?.get(name).map(async_nats::HeaderValue::as_str)
    }

    /// The subject that wants a direct copy of the outcome.
    #[must_use]
    pub fn reply_to(&self) -> Option<&str> {
        self.header(headers::REPLY_TO)
    }

    /// Producers name the job in `Nats-Msg-Id` as well, which can be read even where the payload cannot.
    #[must_use]
    pub fn id_in_headers(&self) -> Option<JobId> {
        self.header(headers::MSG_ID)?.parse().ok()
    }

    /// Set when one of its texts is given to an engine: until then, nothing that happens is its doing.
    #[must_use]
    pub const fn begun(&self) -> &Arc<AtomicBool> {
        &self.begun
    }

    /// What is to be written down if the message is given back in good order, in place of what is written for the case that it kills the
    /// worker. `false` if it has been given back already, since the worker stops.
    pub fn on_give_back(&mut self, subject: Subject, payload: Bytes) -> bool {
        self.held.on_give_back(Some((subject, payload)))
    }

    /// The job is done. A lost acknowledgement leads to a redelivery, which the results stream recognizes.
    pub fn ack(self) {
        self.held.end(Bytes::from_static(b"+ACK"));
    }

    /// The message is no job, and never will be.
    pub fn terminate(self) {
        self.held.end(Bytes::from_static(b"+TERM"));
    }

    /// Gives the message back, to be delivered again after `delay`, here or elsewhere. Costs the job nothing.
    pub fn give_back(self, delay: Duration) {
        self.held.give_back(delay);
    }

    /// Gives the message back after an attempt that counts.
    pub fn retry_after(mut self, delay: Duration) {
        self.held.on_give_back(None);
        self.held.give_back(delay);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_servers_word_is_read_in_both_forms() {
        let expected = Delivery {
            stream: "EMBED_m".into(),
            sequence: 42,
            deliveries: 3,
            published: SystemTime::UNIX_EPOCH + Duration::from_nanos(1_700_000_000_123_456_789),
        };
        let short = "$JS.ACK.EMBED_m.fp32-job.3.42.7.1700000000123456789.5";
        let long = "$JS.ACK._.hash.EMBED_m.fp32-job.3.42.7.1700000000123456789.5.token";
        assert_eq!(Delivery::parse(short).as_ref(), Some(&expected));
        assert_eq!(Delivery::parse(long).as_ref(), Some(&expected));
        for other in ["", "_INBOX.x", "$JS.ACK.EMBED_m.c.3", "$JS.ACK.EMBED_m.c.x.42.7.17.5"] {
            assert_eq!(Delivery::parse(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn every_place_in_every_stream_has_an_id_of_its_own(
            places in prop::collection::btree_set(("[a-z0-9][a-z0-9-]{0,63}", any::<u64>(), any::<u64>()), 1..20),
        ) {
            let id = |(model, sequence, nanos): &(String, u64, u64)| Delivery {
                stream: format!("EMBED_{model}"),
                sequence: *sequence,
                deliveries: 1,
                published: SystemTime::UNIX_EPOCH + Duration::from_nanos(*nanos),
            }.job_id();
            let ids: std::collections::BTreeSet<_> = places.iter().map(id).collect();
            prop_assert_eq!(ids.len(), places.len());
        }

        #[test]
        fn no_subject_panics(reply in "\\PC*") {
            let _ = Delivery::parse(&reply);
            let _ = Delivery::parse(&format!("$JS.ACK.{reply}"));
        }
    }
}
