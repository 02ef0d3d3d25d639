//! GPUs beside the batch metrics: utilization, memory, power, temperature, throttling, and what a million texts cost.
//!
//! A thread of its own reads them every few seconds: a dead device can make its driver hang, which must hold up nobody.

mod cost;
mod nvml;
mod reading;

use std::{io, time::Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use embed_schemas::metrics as names;
use metrics::gauge;

use self::{
    cost::Cost,
    nvml::NvmlDevices,
    reading::{Devices, Gauges},
};
use crate::config::TelemetryConfig;

/// The thread that watches the devices. It ends when this is dropped.
#[derive(Debug)]
pub struct GpuWatch {
    _stop: Sender<()>,
}

impl GpuWatch {
    /// Starts the thread. Where there is no NVML it ends at once: with a warning if devices are `expected`, else silently.
    /// `texts` tells how many texts this process has embedded.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn start(
        config: &TelemetryConfig,
        expected: bool,
        texts: impl Fn() -> u64 + Send + 'static,
    ) -> io::Result<Self> {
        let (stop, stopped) = bounded(0);
        let config = config.clone();
        let expected = expected || config.gpu_price_per_hour.is_some() || !config.gpu_devices.is_empty();
        let body = move || match NvmlDevices::open(config.gpu_devices.clone()) {
            Ok(mut devices) => watch(&mut devices, &config, &texts, &stopped),
            Err(error) if expected => tracing::warn!(%error, "no GPU metrics: NVML is not to be had"),
            Err(error) => tracing::debug!(%error, "no GPU metrics"),
        };
        std::thread::Builder::new().name("gpu-metrics".to_owned()).spawn(body)?;
        Ok(Self { _stop: stop })
    }
}

/// Reads the devices until told to stop.
fn watch(devices: &mut impl Devices, config: &TelemetryConfig, texts: &impl Fn() -> u64, stopped: &Receiver<()>) {
    let mut gauges = Gauges::default();
    let mut cost = config.gpu_price_per_hour.map(|price| Cost::new(price, config.gpu_cost_window));
    loop {
        let count = gauges.update(devices);
        if let Some(cost) = &mut cost {
            // Where nothing was embedded there is no cost of a text: that is no zero.
            let value = cost.per_million(Instant::now(), texts(), count).unwrap_or(f64::NAN);
            gauge!(names::GPU_COST_PER_MILLION_TEXTS).set(value);
        }
        if stopped.recv_timeout(config.gpu_interval) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}
