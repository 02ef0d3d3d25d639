//! What there is of each device: compiled kernels by shape of model, and the products.

use std::{
    collections::HashMap,
    ffi::c_int,
    sync::{Arc, LazyLock, OnceLock},
};

use parking_lot::Mutex;

use super::{
    Shape,
    cublas::Products,
    cuda::{Context, Driver, Nvrtc, Stream},
    error::KernelError,
    kernels::Kernels,
    partition::{self, Calls, Partition},
};

/// The first device with FP8.
const FP8_SINCE: (c_int, c_int) = (8, 9);
/// The first with what the kernels are made of: 16-byte copies into shared memory that nobody waits for.
const SINCE: (c_int, c_int) = (8, 0);

/// A device, as long as the process lives.
pub(crate) struct Device {
    capability: (c_int, c_int),
    pub(crate) products: Products,
    kernels: Mutex<HashMap<Shape, Arc<Kernels>>>,
    /// What large runs have of it while there are calls that want the rest.
    partition: OnceLock<Result<Partition, KernelError>>,
    pub(crate) calls: Calls,
}

static DEVICES: LazyLock<Mutex<HashMap<Context, &'static Device>>> = LazyLock::new(Mutex::default);

impl Device {
    /// The one that this thread uses.
    pub(crate) fn here() -> Result<&'static Self, KernelError> {
        let driver = Driver::get()?;
        let (context, number) = driver.here()?;
        let mut devices = DEVICES.lock();
        if let Some(device) = devices.get(&context) {
            return Ok(device);
        }
        let capability = driver.capability(number)?;
        if capability < SINCE {
            let reason =
                format!("the kernels need compute capability 8.0, and this has {}.{}", capability.0, capability.1);
            return Err(KernelError::Cuda { what: "use the device", reason });
        }
        let device = Self {
            capability,
            products: Products::new()?,
            kernels: Mutex::default(),
            partition: OnceLock::new(),
            calls: Calls::default(),
        };
        Ok(devices.entry(context).insert_entry(Box::leak(Box::new(device))).get())
    }

    /// Does something with the one of this number.
    pub(crate) fn on<T>(
        number: u32,
        run: impl FnOnce(&'static Self) -> Result<T, KernelError>,
    ) -> Result<T, KernelError> {
        Driver::get()?.with_device(number, || run(Self::here()?))
    }

    /// Has this share of the multiprocessors left to calls while these come in, or what was wanted first. Gives back how many that are. To be called on a
    /// thread that uses this device.
    pub(crate) fn keep_free(&'static self, driver: &Driver, share: f64) -> Result<u32, KernelError> {
        let made = self.partition.get_or_init(|| Partition::without(driver, share));
        made.as_ref().map(|partition| partition.left).map_err(Clone::clone)
    }

    /// What large runs have of it while calls come in, if that is not all.
    fn partition(&'static self) -> Option<&'static Partition> {
        self.partition.get().and_then(|made| made.as_ref().ok())
    }

    /// Whether large runs that begin now leave a part of it to calls.
    pub(crate) fn has_room(&'static self) -> bool {
        self.partition().is_some() && self.calls.are_expected()
    }

    /// A run of so many tokens, none of calls alone, begins in this stream.
    pub(crate) fn begin(&'static self, driver: &Driver, tokens: usize, stream: Stream) -> Result<(), KernelError> {
        partition::begin(driver, (self.partition(), &self.calls), tokens, stream)
    }

    /// Whether the operators can be used here.
    pub(crate) fn check(&self, quantized: bool) -> Result<(), KernelError> {
        let (major, minor) = self.capability;
        if quantized && self.capability < FP8_SINCE {
            return Err(KernelError::NoFp8 { major, minor });
        }
        Nvrtc::get().map(|_| ())
    }

    /// The kernels for a shape of model, compiled when they are first asked for. `quantized`: states are quantized. To be called on a thread that
    /// uses this device.
    pub(crate) fn kernels(&self, shape: Shape, quantized: bool) -> Result<Arc<Kernels>, KernelError> {
        self.check(quantized)?;
        if let Some(known) = self.kernels.lock().get(&shape) {
            return Ok(known.clone());
        }
        // Runs of other models do not wait for it. Two that ask at once both compile, and the first one's stay.
        let made = Arc::new(Kernels::compile(shape, self.capability, self.capability >= FP8_SINCE)?);
        Ok(self.kernels.lock().entry(shape).or_insert(made).clone())
    }
}
