//! What is measured beside the work.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Watching devices, see [`crate::telemetry`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// How often devices are read.
    #[serde(with = "humantime_serde")]
    pub gpu_interval: Duration,
    /// The devices that this worker uses, by their numbers in NVML's order, as `nvidia-smi` shows them. Empty: all.
    pub gpu_devices: Vec<u32>,
    /// What one device costs for an hour, in any currency. With it, the cost of a million texts is a metric.
    pub gpu_price_per_hour: Option<f64>,
    /// Over how long the cost of a million texts is averaged.
    #[serde(with = "humantime_serde")]
    pub gpu_cost_window: Duration,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            gpu_interval: Duration::from_secs(5),
            gpu_devices: Vec::new(),
            gpu_price_per_hour: None,
            gpu_cost_window: Duration::from_secs(300),
        }
    }
}

impl TelemetryConfig {
    /// Checks what the types cannot say.
    ///
    /// # Errors
    /// A message that names the key and the fix.
    pub(super) fn validate(&self) -> Result<(), String> {
        if self.gpu_interval < Duration::from_millis(100) {
            return Err("telemetry.gpu_interval: must be at least `100ms`".into());
        }
        if self.gpu_cost_window < self.gpu_interval {
            return Err("telemetry.gpu_cost_window: must be at least telemetry.gpu_interval".into());
        }
        match self.gpu_price_per_hour {
            Some(price) if !(price.is_finite() && price >= 0.0) => {
                Err(format!("telemetry.gpu_price_per_hour: {price} is no price; set a number such as 2.5"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_checked() {
        let with = |change: fn(&mut TelemetryConfig)| {
            let mut config = TelemetryConfig::default();
            change(&mut config);
            config.validate().err().unwrap_or_default()
        };
        assert_eq!(with(|config| config.gpu_price_per_hour = Some(2.5)), "");
        assert!(with(|config| config.gpu_price_per_hour = Some(-1.0)).contains("gpu_price_per_hour"));
        assert!(with(|config| config.gpu_price_per_hour = Some(f64::NAN)).contains("gpu_price_per_hour"));
        assert!(with(|config| config.gpu_interval = Duration::ZERO).contains("gpu_interval"));
        assert!(with(|config| config.gpu_cost_window = Duration::from_secs(1)).contains("gpu_cost_window"));
    }
}
