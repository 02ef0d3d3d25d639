//! How much may be in the worker at once.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Texts of a lane in the worker where the CPU computes.
const ON_CPU: usize = 1024;
/// Where a device computes: what several of its batches are chosen from, and what is on its way in and out.
const ON_DEVICE: usize = 16_384;

/// Bounds. Numbers of texts are by what computes if they are 0: 1,024 on the CPU, 16,384 on devices.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsConfig {
    /// Texts of online calls in the worker, per variant. Beyond it, calls are answered `overloaded` at once.
    pub rpc_texts: usize,
    /// How long an online call may have to wait for those before it, as far as can be told when it comes. Beyond it, it
    /// is answered `overloaded` at once: a late answer helps nobody, and makes all that follow late as well.
    #[serde(with = "humantime_serde")]
    pub rpc_max_wait: Duration,
    /// Texts of jobs in the worker, per variant. Beyond it, no more are pulled.
    pub job_texts: usize,
    /// Texts of backfill chunks in the worker, per variant. Beyond it, no more are pulled.
    pub bulk_texts: usize,
    /// A job that was delivered more often than this becomes a dead letter: it is likely to harm whoever takes it.
    pub max_deliveries: u64,
}

impl Default for LimitsConfig {
    fn default() -> Self {
        Self { rpc_texts: 0, rpc_max_wait: Duration::from_millis(50), job_texts: 0, bulk_texts: 0, max_deliveries: 10 }
    }
}

impl LimitsConfig {
    /// The same with all numbers of texts said: for texts that a device computes, or the CPU.
    #[must_use]
    pub fn resolved(&self, on_device: bool) -> Self {
        let default = if on_device { ON_DEVICE } else { ON_CPU };
        let or_default = |texts| if texts == 0 { default } else { texts };
        Self {
            rpc_texts: or_default(self.rpc_texts),
            job_texts: or_default(self.job_texts),
            bulk_texts: or_default(self.bulk_texts),
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
        if self.max_deliveries == 0 {
            return Err(format!("{section}.max_deliveries: must be at least 1"));
        }
        Ok(())
    }
}
