//! How much may be in the worker at once.

use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Serialize};

/// Texts of a stored lane in the worker where the CPU computes.
const ON_CPU: usize = 1024;
/// Where a device computes: what several of its batches are chosen from, and what is on its way in and out.
const ON_DEVICE: usize = 16_384;
/// Texts of calls, to those of a stored lane: how long a call waits is bounded by time, not by this.
const CALLS: usize = 8;

/// Least bytes of a lane: a server's default for the largest message.
const LEAST_BYTES: u64 = 1024 * 1024;

/// Tokens of one call where the CPU computes: what takes some seconds of a core.
const CALL_ON_CPU: usize = 16_384;
/// Where a device computes.
const CALL_ON_DEVICE: usize = 262_144;

/// Bounds. Numbers of texts are by what computes if they are 0: of each stored lane, 1,024 on the CPU and 16,384 on devices, of calls eight
/// times as many.
///
/// Texts count by their tokens, as far as their bytes tell: one of up to 64 tokens as one, one of 256 as four. Several of the largest requests
/// have room all the same: long texts make one count for no more than a quarter of the room.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Texts of online calls in the worker, per variant. Beyond it, calls are answered `overloaded` at once.
    pub rpc_texts: usize,
    /// How long an online call that has no deadline may have to wait for those before it, as far as can be told when it comes. Beyond
    /// it, or if its own deadline leaves less, it is answered `overloaded` at once: a late answer helps nobody, and makes all that follow
    /// late as well. Whatever its deadline, it waits for no more than a minute.
    #[serde(with = "humantime_serde")]
    pub rpc_max_wait: Duration,
    /// Texts of jobs in the worker, per variant. Beyond it, no more are pulled.
    pub job_texts: usize,
    /// Texts of backfill chunks in the worker, per variant. Beyond it, no more are pulled.
    pub bulk_texts: usize,
    /// Bytes of online calls in the worker, per variant.
    pub rpc_bytes: ByteSize,
    /// Bytes of jobs in the worker, per variant.
    pub job_bytes: ByteSize,
    /// Bytes of backfill chunks in the worker, per variant.
    pub bulk_bytes: ByteSize,
    /// Most tokens of one online call, as far as its bytes tell: four are a token, and no text has more than its model takes. A larger one is
    /// refused with `call_too_large`. 0: by what computes, 16,384 on the CPU and 262,144 on devices.
    pub call_tokens: usize,
    /// The header that says who sent a call: calls are served in turn by sender. Only where nobody can write it but those who are trusted: a
    /// gateway, or with `Nats-Request-Info` the server itself, where callers import the subjects into accounts of their own. Left out: the
    /// connection that waits for the answer, as far as its inbox tells.
    pub sender_header: Option<String>,
    /// Jobs that are taken in beyond `job_texts`, per variant, so that small ones are found behind large ones. What one worker holds, no other
    /// one does: 0 where large jobs are to be shared to the last.
    pub job_lookahead: usize,
    /// A job that was tried so often becomes a dead letter. What counts is that the engine failed on it, or that its worker died while it
    /// ran alone; deliveries do not count.
    pub max_deliveries: u64,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        let bytes = ByteSize::mib(64);
        Self {
            rpc_texts: 0,
            rpc_max_wait: Duration::from_secs(2),
            job_texts: 0,
            bulk_texts: 0,
            rpc_bytes: bytes,
            job_bytes: bytes,
            bulk_bytes: bytes,
            call_tokens: 0,
            sender_header: None,
            job_lookahead: 16,
            max_deliveries: 10,
        }
    }
}

impl LimitsConfig {
    /// The same with all numbers of texts said: for texts that a device computes, or the CPU.
    #[must_use]
    pub fn resolved(&self, on_device: bool) -> Self {
        let default = if on_device { ON_DEVICE } else { ON_CPU };
        let or = |texts, default| if texts == 0 { default } else { texts };
        Self {
            rpc_texts: or(self.rpc_texts, default * CALLS),
            job_texts: or(self.job_texts, default),
            bulk_texts: or(self.bulk_texts, default),
            call_tokens: or(self.call_tokens, if on_device { CALL_ON_DEVICE } else { CALL_ON_CPU }),
            ..self.clone()
        }
    }

    pub(super) fn validate(&self, section: &str) -> Result<(), String> {
        for (key, value) in
            [("rpc_texts", self.rpc_texts), ("job_texts", self.job_texts), ("bulk_texts", self.bulk_texts)]
        {
            if value != 0 && value < embed_schemas::MAX_TEXTS {
                return Err(format!(
                    "{section}.{key}: {value} is less than one full request; set it to {} or more",
                    embed_schemas::MAX_TEXTS
                ));
            }
        }
        for (key, value) in
            [("rpc_bytes", self.rpc_bytes), ("job_bytes", self.job_bytes), ("bulk_bytes", self.bulk_bytes)]
        {
            if value.as_u64() < LEAST_BYTES {
                return Err(format!(
                    "{section}.{key}: {value} is less than one large message; set it to `1 MiB` or more"
                ));
            }
        }
        if let Some(header) = &self.sender_header
            && (header.is_empty() || !header.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':'))
        {
            return Err(format!(
                "{section}.sender_header: {header:?} is no name of a header; set it to one such as `Nats-Request-Info`"
            ));
        }
        if self.max_deliveries == 0 {
            return Err(format!("{section}.max_deliveries: must be at least 1"));
        }
        Ok(())
    }
}
