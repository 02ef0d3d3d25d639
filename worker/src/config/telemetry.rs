//! What is measured beside the work.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Watching devices, and recording requests.
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
    /// The OpenTelemetry collector that traces go to, as OTLP over HTTP, such as `http://localhost:4318`. What
    /// `OTEL_EXPORTER_OTLP_ENDPOINT` says if left out; nothing is recorded without either.
    pub otlp_endpoint: Option<String>,
    /// The share of requests that are recorded of those that come without a trace context, 0 to 1. Of others, their sender decides.
    pub trace_ratio: f64,
    /// Spans that may wait for the collector; what does not fit is dropped.
    pub trace_queue: usize,
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self {
            gpu_interval: Duration::from_secs(5),
            gpu_devices: Vec::new(),
            gpu_price_per_hour: None,
            gpu_cost_window: Duration::from_secs(300),
            otlp_endpoint: None,
            trace_ratio: 0.0,
            trace_queue: 8192,
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
        if !(0.0..=1.0).contains(&self.trace_ratio) {
            return Err(format!("telemetry.trace_ratio: {} is no share; set a number from 0 to 1", self.trace_ratio));
        }
        if self.trace_queue == 0 {
            return Err(
                "telemetry.trace_queue: must be at least 1; leave telemetry.otlp_endpoint out for no traces".into()
            );
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
        assert_eq!(with(|config| config.trace_ratio = 1.0), "");
        assert!(with(|config| config.trace_ratio = 1.1).contains("trace_ratio"));
        assert!(with(|config| config.trace_ratio = f64::NAN).contains("trace_ratio"));
        assert!(with(|config| config.trace_queue = 0).contains("trace_queue"));
    }
}
