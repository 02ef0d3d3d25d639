//! Reads devices through NVML, NVIDIA's management library. It comes with the driver and is opened when it is there.

use nvml_wrapper::{
    Device, Nvml, bitmasks::device::ThrottleReasons, enum_wrappers::device::TemperatureSensor, error::NvmlError,
};

use super::reading::{Devices, ReadError, Reading};

/// The library, and which devices are asked for.
#[derive(Debug)]
pub(super) struct NvmlDevices {
    nvml: Nvml,
    /// Empty: all.
    wanted: Vec<u32>,
}

impl NvmlDevices {
    /// Opens the library.
    ///
    /// # Errors
    /// If it is not there, or there is no driver.
    pub(super) fn open(wanted: Vec<u32>) -> Result<Self, ReadError> {
        let nvml = Nvml::init().map_err(|e| ReadError(format!("libnvidia-ml.so.1: {e}")))?;
        Ok(Self { nvml, wanted })
    }
}

impl Devices for NvmlDevices {
    fn numbers(&mut self) -> Result<Vec<u32>, ReadError> {
        match &self.wanted[..] {
            [] => Ok((0..self.nvml.device_count().map_err(|e| ReadError(e.to_string()))?).collect()),
            wanted => Ok(wanted.to_vec()),
        }
    }

    fn read(&mut self, number: u32) -> Result<Reading, ReadError> {
        let read = || {
            let device = self.nvml.device_by_index(number)?;
            read(&device)
        };
        read().map_err(|e| ReadError(e.to_string()))
    }
}

fn read(device: &Device<'_>) -> Result<Reading, NvmlError> {
    let memory = supported(device.memory_info())?;
    Ok(Reading {
        product: supported(device.name())?.unwrap_or_default(),
        uuid: supported(device.uuid())?.unwrap_or_default(),
        utilization: supported(device.utilization_rates())?.map(|rates| f64::from(rates.gpu) / 100.0),
        memory_used: memory.as_ref().map(|memory| memory.used),
        memory_total: memory.map(|memory| memory.total),
        power_watts: supported(device.power_usage())?.map(|milliwatts| f64::from(milliwatts) / 1000.0),
        temperature_celsius: supported(device.temperature(TemperatureSensor::Gpu))?.map(f64::from),
        throttled: supported(device.current_throttle_reasons())?.map(names),
    })
}

/// What a device cannot tell is left out; a device split by MIG has no utilization of its own.
fn supported<T>(value: Result<T, NvmlError>) -> Result<Option<T>, NvmlError> {
    match value {
        Ok(value) => Ok(Some(value)),
        Err(NvmlError::NotSupported | NvmlError::NoPermission | NvmlError::FailedToLoadSymbol(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The reasons that slow work down. An idle device has low clocks as well; that is none of them.
fn names(reasons: ThrottleReasons) -> Vec<&'static str> {
    [
        (ThrottleReasons::SW_POWER_CAP, "power_cap"),
        (ThrottleReasons::HW_POWER_BRAKE_SLOWDOWN, "power_brake"),
        (ThrottleReasons::SW_THERMAL_SLOWDOWN, "thermal"),
        (ThrottleReasons::HW_THERMAL_SLOWDOWN, "hardware_thermal"),
        (ThrottleReasons::HW_SLOWDOWN, "hardware_slowdown"),
        (ThrottleReasons::SYNC_BOOST, "sync_boost"),
        (ThrottleReasons::APPLICATIONS_CLOCKS_SETTING, "clocks_setting"),
    ]
    .into_iter()
    .filter_map(|(reason, name)| reasons.contains(reason).then_some(name))
    .collect()
}

#[cfg(test)]
mod tests {
    use super::{super::reading::THROTTLE_REASONS, *};

    #[test]
    fn every_reason_that_slows_work_down_has_a_name() {
        let idle = ThrottleReasons::GPU_IDLE | ThrottleReasons::DISPLAY_CLOCK_SETTING;
        assert!(names(idle).is_empty());
        assert_eq!(names(ThrottleReasons::all()), THROTTLE_REASONS);
    }

    #[test]
    fn devices_are_read_or_the_reason_is_told() {
        match NvmlDevices::open(Vec::new()) {
            Ok(mut devices) => {
                for number in devices.numbers().unwrap() {
                    let reading = devices.read(number).unwrap();
                    assert!(!reading.product.is_empty() && !reading.uuid.is_empty(), "{reading:?}");
                    assert!(reading.utilization.is_none_or(|share| (0.0..=1.0).contains(&share)), "{reading:?}");
                    assert!(reading.memory_used <= reading.memory_total, "{reading:?}");
                    eprintln!("{number}: {reading:?}");
                }
                let none = NvmlDevices::open(vec![999]).unwrap().read(999);
                assert!(none.is_err(), "{none:?}");
            }
            Err(error) => assert!(error.to_string().contains("libnvidia-ml"), "{error}"),
        }
    }
}
