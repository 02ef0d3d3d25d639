//! Inboxes: the only subjects on which anything is published on somebody else's behalf. Pure.
//!
//! Whoever sends a call or a job names the subject of the answer, and it is a worker that publishes there, with a worker's permissions. If
//! it took any subject, a caller could have it purge streams (`$JS.API.…`), write buckets (`$KV.…`) or forge results.

/// Longest inbox, bytes. What a client says to a server has room for 4,096 on its line (`max_control_line`); a longer line ends the
/// connection, and with it what others wait for.
pub const MAX_INBOX_LEN: usize = 1024;

/// What inboxes of NATS's clients begin with, by default and where each user has a prefix of its own: `_INBOX.…`, `_INBOX_a.…`.
const INBOX: &str = "_INBOX";
/// The server's stand-in for the inbox of another account.
const OF_ANOTHER_ACCOUNT: &str = "_R_";
/// Before the inbox of another cluster of a super cluster, with two tokens that say of which server.
const OF_ANOTHER_CLUSTER: &str = "_GR_.";

/// Why a subject is no inbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoInbox {
    /// It would not fit beside the rest of a publication.
    #[error("it has {0} bytes, and an inbox has at most {MAX_INBOX_LEN}")]
    TooLong(usize),
    /// Nothing can be published there.
    #[error("it is no subject: it has wildcards, white space, control characters, or an empty token")]
    NoSubject,
    /// It is something else.
    #[error(
        "it is no inbox: answers go to subjects that begin with `_INBOX` or `_R_`, or with one of the worker's `worker.reply_prefixes`"
    )]
    Elsewhere,
}

/// Whether a subject is an inbox: `_INBOX….<token>`, `_R_.<token>`, or something below one of these prefixes.
///
/// # Errors
/// Why it is none.
pub fn check<P: AsRef<str>>(subject: &str, prefixes: &[P]) -> Result<(), NoInbox> {
    if subject.len() > MAX_INBOX_LEN {
        return Err(NoInbox::TooLong(subject.len()));
    }
    if !is_subject(subject) {
        return Err(NoInbox::NoSubject);
    }
    // A server strips this, and publishes on what is left.
    let inbox = match subject.strip_prefix(OF_ANOTHER_CLUSTER) {
        Some(rest) => rest.splitn(3, '.').nth(2).ok_or(NoInbox::Elsewhere)?,
        None => subject,
    };
    let (first, rest) = inbox.split_once('.').unwrap_or((inbox, ""));
    let standing = !rest.is_empty() && (first.starts_with(INBOX) || first == OF_ANOTHER_ACCOUNT);
    let is_below = |prefix: &P| {
        let prefix = prefix.as_ref().trim_end_matches('.');
        !prefix.is_empty() && inbox.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('.'))
    };
    if standing || prefixes.iter().any(is_below) { Ok(()) } else { Err(NoInbox::Elsewhere) }
}

/// Whether somebody's inboxes may begin with this, as a configuration says.
///
/// # Errors
/// What is wrong with it, for a person.
pub fn check_prefix(prefix: &str) -> Result<(), &'static str> {
    let prefix = prefix.trim_end_matches('.');
    if !is_subject(prefix) || prefix.len() > MAX_INBOX_LEN / 2 {
        return Err("is no beginning of a subject");
    }
    match prefix.split('.').next() {
        Some(first) if first.starts_with('$') => Err("belongs to the server, which does what is published there"),
        Some("embed") => Err("belongs to the workers: results, jobs and dead letters are published there"),
        _ => Ok(()),
    }
}

/// Whether something can be published there, and those who listen there hear it.
fn is_subject(subject: &str) -> bool {
    let is_bad = |c: char| c.is_whitespace() || c.is_control();
    let is_token = |token: &str| !matches!(token, "" | "*" | ">") && !token.contains(is_bad);
    subject.split('.').all(is_token)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NONE: &[&str] = &[];

    #[test]
    fn inboxes_are_what_clients_and_servers_make() {
        for inbox in ["_INBOX.x", "_INBOX.x.y", "_INBOX_a.x", "_R_.x.y", "_GR_.abcdef.ghijkl._INBOX.x"] {
            assert_eq!(check(inbox, NONE), Ok(()), "{inbox}");
        }
        assert_eq!(check("replies.of.a.x", &["replies.of.a."]), Ok(()));
        assert_eq!(check("_GR_.abcdef.ghijkl.mine.x", &["mine"]), Ok(()));
    }

    #[test]
    fn what_does_something_is_none() {
        for subject in [
            "$JS.API.STREAM.PURGE.X",
            "$JS.ACK.EMBED_m.c.1.2.3.4.5",
            "$KV.embed_routes.m",
            "$SYS.REQ.USER.INFO",
            "$SRV.INFO",
            "embed.result.m.x",
            "embed.job.m",
            "_INBOX",
            "_R_",
            "_GR_.a.b.$JS.API.STREAM.PURGE.X",
            "_GR_.a.b",
            "_GR_.a.b._GR_.c.d._INBOX.x",
            "replies",
            "repliesx.y",
            "inbox.x",
            "x._INBOX.y",
        ] {
            assert_eq!(check(subject, &["replies"]), Err(NoInbox::Elsewhere), "{subject}");
        }
        for subject in
            ["", "_INBOX.", "_INBOX..x", "_INBOX.*", "_INBOX.>", "_INBOX.a b", "_INBOX.a\r\nPUB x 0", "_INBOX.\0"]
        {
            assert_eq!(check(subject, NONE), Err(NoInbox::NoSubject), "{subject:?}");
        }
        assert_eq!(check(&format!("_INBOX.{}", "x".repeat(5_000)), NONE), Err(NoInbox::TooLong(5_007)));
    }

    #[test]
    fn a_prefix_is_nobody_elses() {
        for prefix in ["replies", "_MINE.", "a.b"] {
            assert_eq!(check_prefix(prefix), Ok(()), "{prefix}");
        }
        for prefix in ["", ".", "$JS", "$KV.x", "embed", "embed.result", "a.*", "a b", "a..b"] {
            assert!(check_prefix(prefix).is_err(), "{prefix}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_taken_for_an_inbox_begins_like_one(subject in "(_GR_\\.a\\.b\\.)?[_$A-Za-z.*> ]{0,12}(\\.[_$a-zA-Z.*>]{0,8})?") {
            if check(&subject, NONE).is_ok() {
                let inbox = subject.strip_prefix("_GR_.a.b.").unwrap_or(&subject);
                prop_assert!(inbox.starts_with("_INBOX") || inbox.starts_with("_R_."), "{}", subject);
                prop_assert!(!subject.contains(['*', '>', ' ']) || subject.split('.').all(|token| token != "*" && token != ">"));
            }
        }

        #[test]
        fn no_text_panics(subject in "\\PC*", prefix in "\\PC*") {
            let _ = check(&subject, &[&prefix]);
            let _ = check_prefix(&prefix);
        }
    }
}
