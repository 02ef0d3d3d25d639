//! Who sent a call, as far as a subscriber can tell.
//!
//! A server does not tell a subscriber whose a message is. What it can go by:
//!
//! - A header that is set by whoever hands calls on, such as a gateway, or by the server itself where a service is imported by other
//!   accounts (`Nats-Request-Info`). Anybody can write headers, so one counts only where the configuration names it.
//! - The inbox that waits for the answer. The NATS libraries have one for each connection, or make them by a generator of unique ids
//!   whose first part stays as long as the process does.
//!
//! Who makes up ever new inboxes is told by that: each is new, and all that are new have one share (see [`crate::variant::Senders`]).

use std::hash::{DefaultHasher, Hash, Hasher};

use serde::Deserialize;

use crate::variant::Sender;

/// The header in which a server says whose a request is that came through an import.
const REQUEST_INFO: &str = "Nats-Request-Info";
/// Characters of a library's unique id, and how many of them stay as long as its process does.
const UNIQUE_ID: usize = 22;
const OF_PROCESS: usize = 12;

/// What a server says of a request.
#[derive(Deserialize)]
struct RequestInfo<'a> {
    #[serde(borrow)]
    acc: std::borrow::Cow<'a, str>,
}

/// Who sent a call that is to be answered on `reply`. `header`: the header that says who it is, and its value, where the configuration names one
/// and the message has it.
pub(super) fn sender(reply: &str, header: Option<(&str, &str)>) -> Sender {
    let named = header.map(|(name, value)| match serde_json::from_str::<RequestInfo<'_>>(value) {
        Ok(info) if name.eq_ignore_ascii_case(REQUEST_INFO) => Sender::named(key((1u8, &*info.acc))),
        _ => Sender::named(key((2u8, value))),
    });
    named.unwrap_or_else(|| Sender::unnamed(key((0u8, inbox(reply)))))
}

fn key(who: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    who.hash(&mut hasher);
    hasher.finish()
}

/// What all inboxes of a connection begin with.
fn inbox(reply: &str) -> &str {
    let Some((begin, last)) = reply.rsplit_once('.') else { return reply };
    if begin.contains('.') {
        // `_INBOX.<connection>.<request>`
        return begin;
    }
    // `_INBOX.<request>`
    let is_unique = last.len() == UNIQUE_ID && last.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if is_unique { &reply[..begin.len() + 1 + OF_PROCESS] } else { reply }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_connection_is_one_sender_in_all_libraries() {
        for (one, other) in [
            // async-nats with its own multiplexer, nats.go, nats.js, jnats: an inbox for each connection.
            ("_INBOX.QZpBTrqfDhM6BMSRTyGd3F.Ab3dEf7h", "_INBOX.QZpBTrqfDhM6BMSRTyGd3F.zzzzzzzz"),
            // An inbox for each request: the first twelve characters are the process's.
            ("_INBOX.QZpBTrqfDhM6BMSRTyGd3F", "_INBOX.QZpBTrqfDhM6BMSRTyGd8Q"),
            // A prefix of one's own, as permissions need it.
            ("_INBOX_alice.QZpBTrqfDhM6BMSRTyGd3F", "_INBOX_alice.QZpBTrqfDhM6BMSRTyGd8Q"),
            ("tenants.alice.QZpBTrqfDhM6BMSRTyGd3F", "tenants.alice.xxxxxxxxxxxxBMSRTyGd8Q"),
            ("_INBOX.0123abcd.QZpBTrqfDhM6BMSRTyGd3F", "_INBOX.0123abcd.xxxxxxxxxxxxBMSRTyGd3F"),
        ] {
            assert_eq!(sender(one, None), sender(other, None), "{one} {other}");
        }
        for (one, other) in [
            ("_INBOX.QZpBTrqfDhM6BMSRTyGd3F.Ab3dEf7h", "_INBOX.xxxxxxxxxxxxBMSRTyGd3F.Ab3dEf7h"),
            // Two connections of a process.
            ("_INBOX.QZpBTrqfDhM6BMSRTyGd3F.Ab3dEf7h", "_INBOX.QZpBTrqfDhM6BMSRTyGd8Q.Ab3dEf7h"),
            ("_INBOX.QZpBTrqfDhM6BMSRTyGd3F", "_INBOX.xxxxxxxxxxxxBMSRTyGd3F"),
            ("tenants.alice.QZpBTrqfDhM6BMSRTyGd3F", "tenants.bob.QZpBTrqfDhM6BMSRTyGd3F"),
            ("a", "b"),
        ] {
            assert_ne!(sender(one, None), sender(other, None), "{one} {other}");
        }
    }

    #[test]
    fn a_header_that_is_trusted_says_who_it_is() {
        let info = |account: &str, rtt: u32| format!(r#"{{"acc":"{account}","rtt":{rtt}}}"#);
        let told = |value: &str| sender("_R_.a.b", Some((REQUEST_INFO, value)));
        assert_eq!(told(&info("A", 1)), told(&info("A", 2)), "not how far away it is");
        assert_ne!(told(&info("A", 1)), told(&info("B", 1)));
        let gateway = |value| sender("_INBOX.one", Some(("X-Tenant", value)));
        assert_eq!(gateway("alice"), sender("_INBOX.other", Some(("X-Tenant", "alice"))));
        assert_ne!(gateway("alice"), gateway("bob"));
        assert_ne!(gateway("alice"), sender("alice", None));
    }

    proptest! {
        #[test]
        fn any_subject_is_somebodys(reply in "\\PC{0,60}", value in "\\PC{0,60}") {
            sender(&reply, None);
            sender(&reply, Some((REQUEST_INFO, &value)));
        }
    }
}
