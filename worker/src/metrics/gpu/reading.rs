//! What is read of a device, and the gauges that show it. Knows no library.

use std::collections::BTreeMap;

use embed_schemas::metrics as names;
use metrics::gauge;

/// All values of the label `reason` of [`names::GPU_THROTTLED`].
pub(super) const THROTTLE_REASONS: [&str; 7] =
    ["power_cap", "power_brake", "thermal", "hardware_thermal", "hardware_slowdown", "sync_boost", "clocks_setting"];

/// A device could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct ReadError(pub(super) String);

/// Where readings come from.
pub(super) trait Devices {
    /// The devices there are to read.
    fn numbers(&mut self) -> Result<Vec<u32>, ReadError>;
    /// Reads one.
    fn read(&mut self, number: u32) -> Result<Reading, ReadError>;
}

/// A device at a moment. What it does not tell is `None`.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Reading {
    /// What it is.
    pub(super) product: String,
    /// Which it is.
    pub(super) uuid: String,
    /// Share of the time in which it computes.
    pub(super) utilization: Option<f64>,
    /// Bytes.
    pub(super) memory_used: Option<u64>,
    /// Bytes.
    pub(super) memory_total: Option<u64>,
    pub(super) power_watts: Option<f64>,
    pub(super) temperature_celsius: Option<f64>,
    /// Why its clocks are held down, of [`THROTTLE_REASONS`].
    pub(super) throttled: Option<Vec<&'static str>>,
}

/// The gauges of all devices.
#[derive(Debug, Default)]
pub(super) struct Gauges {
    /// Devices, and whether they could be read the last time.
    known: BTreeMap<u32, bool>,
}

impl Gauges {
    /// Reads all devices and sets their gauges. Says how many there are.
    ///
    /// A device that cannot be read has no values, instead of its last ones: those would look as if all were well.
    pub(super) fn update(&mut self, devices: &mut impl Devices) -> usize {
        let numbers = match devices.numbers() {
            Ok(numbers) => numbers,
            Err(error) => {
                tracing::debug!(%error, "the number of devices cannot be read");
                self.known.keys().copied().collect()
            }
        };
        for number in &numbers {
            let reading = devices.read(*number);
            match (&reading, self.known.insert(*number, reading.is_ok())) {
                (Ok(reading), None) => tracing::info!(
                    device = number,
                    product = reading.product,
                    uuid = reading.uuid,
                    "GPU metrics: watching this device"
                ),
                (Ok(_), Some(false)) => tracing::info!(device = number, "the device can be read again"),
                (Err(error), None | Some(true)) => tracing::warn!(device = number, %error, "the device cannot be read"),
                _ => {}
            }
            show(*number, reading.as_ref().ok());
        }
        numbers.len()
    }
}

fn show(number: u32, reading: Option<&Reading>) {
    let device = [(names::DEVICE, number.to_string())];
    if let Some(reading) = reading {
        let labels =
            [device[0].clone(), (names::PRODUCT, reading.product.clone()), (names::UUID, reading.uuid.clone())];
        gauge!(names::GPU_INFO, &labels).set(1.0);
    }
    let set = |name: &'static str, value: fn(&Reading) -> Option<f64>| {
        // A value that a device never tells is no metric of it.
        match reading.map(value) {
            Some(Some(value)) => gauge!(name, &device).set(value),
            Some(None) => {}
            None => gauge!(name, &device).set(f64::NAN),
        }
    };
    set(names::GPU_UTILIZATION_RATIO, |reading| reading.utilization);
    set(names::GPU_MEMORY_USED_BYTES, |reading| reading.memory_used.map(|bytes| bytes as f64));
    set(names::GPU_MEMORY_TOTAL_BYTES, |reading| reading.memory_total.map(|bytes| bytes as f64));
    // Under the names of agents that watch GPUs, for dashboards that know those.
    set(names::NVIDIA_GPU_DUTY_CYCLE, |reading| reading.utilization.map(|share| share * 100.0));
    set(names::NVIDIA_GPU_MEMORY_USAGE_BYTES, |reading| reading.memory_used.map(|bytes| bytes as f64));
    set(names::GPU_POWER_WATTS, |reading| reading.power_watts);
    set(names::GPU_TEMPERATURE_CELSIUS, |reading| reading.temperature_celsius);
    let throttled = reading.map(|reading| reading.throttled.as_deref());
    for reason in THROTTLE_REASONS {
        let labels = [device[0].clone(), (names::REASON, reason.to_owned())];
        match throttled {
            Some(Some(reasons)) => {
                let held = f64::from(u8::from(reasons.contains(&reason)));
                gauge!(names::GPU_THROTTLED, &labels).set(held);
            }
            Some(None) => {}
            None => gauge!(names::GPU_THROTTLED, &labels).set(f64::NAN),
        }
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    /// Devices that say what they are told to.
    struct Fake(Vec<Option<Reading>>);

    impl Devices for Fake {
        fn numbers(&mut self) -> Result<Vec<u32>, ReadError> {
            Ok((0..).take(self.0.len()).collect())
        }

        fn read(&mut self, number: u32) -> Result<Reading, ReadError> {
            self.0[number as usize].clone().ok_or_else(|| ReadError("the device is lost".into()))
        }
    }

    fn reading() -> Reading {
        Reading {
            product: "NVIDIA H100".into(),
            uuid: "GPU-1".into(),
            utilization: Some(0.87),
            memory_used: Some(1 << 30),
            memory_total: Some(80 << 30),
            power_watts: Some(345.5),
            temperature_celsius: Some(61.0),
            throttled: Some(vec!["power_cap"]),
        }
    }

    #[test]
    fn readings_become_gauges_and_a_lost_device_has_no_values() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        metrics::with_local_recorder(&recorder, || {
            let mut gauges = Gauges::default();
            let split = Reading { utilization: None, throttled: None, ..reading() };
            let mut devices = Fake(vec![Some(reading()), Some(split)]);
            assert_eq!(gauges.update(&mut devices), 2);
            let text = handle.render();
            for line in [
                r#"akidb_gpu_info{device="0",product="NVIDIA H100",uuid="GPU-1"} 1"#,
                r#"akidb_gpu_utilization_ratio{device="0"} 0.87"#,
                r#"nvidia_gpu_duty_cycle{device="0"} 87"#,
                r#"nvidia_gpu_memory_usage_bytes{device="0"} 1073741824"#,
                r#"akidb_gpu_memory_used_bytes{device="0"} 1073741824"#,
                r#"akidb_gpu_memory_total_bytes{device="1"} 85899345920"#,
                r#"akidb_gpu_power_watts{device="0"} 345.5"#,
                r#"akidb_gpu_temperature_celsius{device="1"} 61"#,
                r#"akidb_gpu_throttled{device="0",reason="power_cap"} 1"#,
                r#"akidb_gpu_throttled{device="0",reason="thermal"} 0"#,
            ] {
                assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
            }
            for absent in [
                r#"akidb_gpu_utilization_ratio{device="1"}"#,
                r#"nvidia_gpu_duty_cycle{device="1"}"#,
                r#"akidb_gpu_throttled{device="1""#,
            ] {
                assert!(!text.contains(absent), "{absent} is in\n{text}");
            }
            devices.0[0] = None;
            assert_eq!(gauges.update(&mut devices), 2);
            let text = handle.render();
            for line in [
                r#"akidb_gpu_utilization_ratio{device="0"} NaN"#,
                r#"akidb_gpu_throttled{device="0",reason="power_cap"} NaN"#,
                r#"akidb_gpu_power_watts{device="1"} 345.5"#,
            ] {
                assert!(text.lines().any(|found| found == line), "{line} is not in\n{text}");
            }
        });
    }
}
