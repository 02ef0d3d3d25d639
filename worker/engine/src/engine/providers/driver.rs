//! What NVIDIA's driver says of the devices. Its library is opened when it is asked, so that machines without it need none.

use std::ffi::{CStr, c_char, c_int};

use libloading::Library;

use crate::settings::Devices;

const FILE: &str = "libcuda.so.1";

/// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR` and `_MINOR`.
const CAPABILITY: [c_int; 2] = [75, 76];

type Init = unsafe extern "C" fn(u32) -> c_int;
type Count = unsafe extern "C" fn(*mut c_int) -> c_int;
type Get = unsafe extern "C" fn(*mut c_int, c_int) -> c_int;
type Name = unsafe extern "C" fn(*mut c_char, c_int, c_int) -> c_int;
type Attribute = unsafe extern "C" fn(*mut c_int, c_int, c_int) -> c_int;

/// The driver, ready to be asked.
#[derive(Debug)]
struct Driver(Library);

impl Driver {
    fn open() -> Result<Self, String> {
        // SAFETY: loading runs the library's initialisers; it is the system's driver, as every program that uses a device
        // loads it.
        let library = unsafe { Library::new(FILE) }.map_err(|e| format!("NVIDIA's driver cannot be loaded: {e}"))?;
        let driver = Self(library);
        // SAFETY: this is the function's signature in `cuda.h`, and 0 is the one flag that it takes.
        check("cuInit", unsafe { (driver.function::<Init>(b"cuInit\0")?)(0) })?;
        Ok(driver)
    }

    fn device(&self, number: u32) -> Result<c_int, String> {
        let mut handle = 0;
        let number = c_int::try_from(number).map_err(|e| e.to_string())?;
        // SAFETY: this is the function's signature in `cuda.h`, and the pointer is to a local variable.
        check("cuDeviceGet", unsafe { (self.function::<Get>(b"cuDeviceGet\0")?)(&raw mut handle, number) })?;
        Ok(handle)
    }

    /// # Safety
    /// `T` must be the function's type.
    unsafe fn function<T: Copy>(&self, name: &[u8]) -> Result<T, String> {
        // SAFETY: as the caller has promised.
        unsafe { self.0.get::<T>(name) }.map(|symbol| *symbol).map_err(|e| format!("{FILE}: {e}"))
    }
}

fn check(what: &str, status: c_int) -> Result<(), String> {
    if status == 0 { Ok(()) } else { Err(format!("{what}: CUDA error {status}")) }
}

/// How many devices this process sees: what `CUDA_VISIBLE_DEVICES` leaves of them.
///
/// # Errors
/// If there is no driver, or it has no device.
pub fn devices() -> Result<u32, String> {
    let driver = Driver::open()?;
    let mut count = 0;
    // SAFETY: this is the function's signature in `cuda.h`, and the pointer is to a local variable.
    check("cuDeviceGetCount", unsafe { (driver.function::<Count>(b"cuDeviceGetCount\0")?)(&raw mut count) })?;
    u32::try_from(count).map_err(|e| e.to_string())
}

/// The devices that are configured, by CUDA's numbers.
///
/// # Errors
/// As [`devices`], if these are all that there are.
pub fn chosen(devices: &Devices) -> Result<Vec<u32>, String> {
    match devices {
        Devices::These(devices) => Ok(devices.clone()),
        Devices::All(_) => Ok((0..self::devices()?).collect()),
    }
}

/// A compute capability: major and minor, such as 9 and 0.
pub type Capability = (c_int, c_int);

/// A device's architecture, such as `sm90`.
///
/// # Errors
/// As [`capability`].
pub fn architecture(device: u32) -> Result<String, String> {
    capability(device).map(|(major, minor)| format!("sm{major}{minor}"))
}

/// A device's compute capability.
///
/// # Errors
/// If there is no driver, or no such device.
pub fn capability(device: u32) -> Result<Capability, String> {
    let driver = Driver::open()?;
    let handle = driver.device(device)?;
    let mut capability = [0; 2];
    for (value, attribute) in capability.iter_mut().zip(CAPABILITY) {
        // SAFETY: this is the function's signature in `cuda.h`, and the pointer is to a local variable.
        let status =
            unsafe { (driver.function::<Attribute>(b"cuDeviceGetAttribute\0")?)(&raw mut *value, attribute, handle) };
        check("cuDeviceGetAttribute", status)?;
    }
    Ok(capability.into())
}

/// A device's name, such as `NVIDIA H100 80GB HBM3`.
///
/// # Errors
/// If there is no driver, or no such device.
pub fn name(device: u32) -> Result<String, String> {
    const LENGTH: c_int = 256;
    let driver = Driver::open()?;
    let handle = driver.device(device)?;
    let mut name = [0 as c_char; LENGTH as usize];
    // SAFETY: this is the function's signature in `cuda.h`, and the buffer is as long as is said.
    let status = unsafe { (driver.function::<Name>(b"cuDeviceGetName\0")?)(name.as_mut_ptr(), LENGTH, handle) };
    check("cuDeviceGetName", status)?;
    // SAFETY: the function ends what it writes with a zero, within the buffer.
    Ok(unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned())
}
