//! CUDA's driver and its compiler, as far as they are needed, opened where they are found.

use std::{
    ffi::{CStr, CString, c_char, c_int, c_uint, c_void},
    ptr,
};

use libloading::{
    Library,
    os::unix::{Library as UnixLibrary, RTLD_LOCAL, RTLD_NOW},
};

use super::error::KernelError;

/// A context of the driver. The provider uses the first of each device, and so do we.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Context(usize);

/// A kernel that is loaded on a device.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Function(*mut c_void);

/// A stream: ONNX Runtime's, one that it is told to use, or one of ours.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stream(pub(crate) *mut c_void);

/// A place in a stream that another one can wait for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Event(*mut c_void);

/// Some of a device's multiprocessors: a green context.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Part {
    context: *mut c_void,
    /// How many.
    pub(crate) multiprocessors: c_int,
}

macro_rules! names {
    ($($name:ident)*) => {$(
        // SAFETY: it is the name of what the driver has, which may be called from every thread.
        unsafe impl Send for $name {}
        // SAFETY: as above.
        unsafe impl Sync for $name {}
    )*};
}
names!(Function Stream Event Part);

impl Stream {
    /// What tells it from others.
    pub(crate) fn address(self) -> usize {
        self.0 as usize
    }
}

/// Declares the functions of a library, which are found by name when it is opened.
macro_rules! functions {
    ($(#[$what:meta])* $name:ident, $files:expr, { $($field:ident: $symbol:literal = fn($($arg:ty),*);)* }) => {
        $(#[$what])*
        pub(crate) struct $name { $(pub(crate) $field: unsafe extern "C" fn($($arg),*) -> c_int,)* }

        impl $name {
            /// The library, opened once and never closed.
            pub(crate) fn get() -> Result<&'static Self, KernelError> {
                static LIBRARY: ::std::sync::OnceLock<Result<$name, KernelError>> = ::std::sync::OnceLock::new();
                LIBRARY.get_or_init(|| {
                    let (library, file) = $crate::cuda::open(&$files)?;
                    let library: &'static ::libloading::Library = Box::leak(Box::new(library));
                    // SAFETY: these are the functions' signatures in CUDA's headers, which stay as they are once they are there.
                    Ok(unsafe { Self { $($field: *library.get($symbol).map_err(|error| KernelError::Library { library: file, reason: error.to_string() })?,)* } })
                }).as_ref().map_err(Clone::clone)
            }
        }
    };
}
pub(crate) use functions;

/// Of `dlopen`, on Linux: only what is loaded already.
const RTLD_NOLOAD: c_int = 4;

/// Opens the first of these that the process has loaded already, wherever it lies, or else the first that is there: not a newer one beside the provider's.
pub(crate) fn open(files: &[&'static str]) -> Result<(Library, &'static str), KernelError> {
    for file in files {
        // SAFETY: what is loaded already is not initialised again, and nothing else is loaded.
        if let Ok(library) = unsafe { UnixLibrary::open(Some(*file), RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD) } {
            return Ok((library.into(), file));
        }
    }
    let mut first = None;
    for file in files {
        // SAFETY: loading runs the libraries' initialisers; they are NVIDIA's, and the provider loads them as well.
        match unsafe { Library::new(*file) } {
            Ok(library) => return Ok((library, file)),
            Err(error) => _ = first.get_or_insert(KernelError::Library { library: file, reason: error.to_string() }),
        }
    }
    Err(first.unwrap_or(KernelError::Library { library: "", reason: "it has no name".to_owned() }))
}

functions!(
    /// The driver.
    Driver, ["libcuda.so.1"], {
        init: b"cuInit" = fn(c_uint);
        current: b"cuCtxGetCurrent" = fn(*mut *mut c_void);
        set_current: b"cuCtxSetCurrent" = fn(*mut c_void);
        device: b"cuCtxGetDevice" = fn(*mut c_int);
        get: b"cuDeviceGet" = fn(*mut c_int, c_int);
        primary: b"cuDevicePrimaryCtxRetain" = fn(*mut *mut c_void, c_int);
        attribute: b"cuDeviceGetAttribute" = fn(*mut c_int, c_int, c_int);
        load: b"cuModuleLoadData" = fn(*mut *mut c_void, *const c_void);
        function: b"cuModuleGetFunction" = fn(*mut *mut c_void, *mut c_void, *const c_char);
        launch: b"cuLaunchKernel" = fn(*mut c_void, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, *mut c_void, *mut *mut c_void, *mut *mut c_void);
        priorities: b"cuCtxGetStreamPriorityRange" = fn(*mut c_int, *mut c_int);
        make_stream: b"cuStreamCreateWithPriority" = fn(*mut *mut c_void, c_uint, c_int);
        end_stream: b"cuStreamDestroy_v2" = fn(*mut c_void);
        host_memory: b"cuMemHostAlloc" = fn(*mut *mut c_void, usize, c_uint);
        free_host: b"cuMemFreeHost" = fn(*mut c_void);
        make_event: b"cuEventCreate" = fn(*mut *mut c_void, c_uint);
        record: b"cuEventRecord" = fn(*mut c_void, *mut c_void);
        wait: b"cuStreamWaitEvent" = fn(*mut c_void, *mut c_void, c_uint);
        upload: b"cuMemcpyHtoDAsync_v2" = fn(u64, *const c_void, usize, *mut c_void);
        describe: b"cuGetErrorString" = fn(c_int, *mut *const c_char);
    }
);

functions!(
    /// What a driver since 12.5 has beside that: parts of a device.
    Parts, ["libcuda.so.1"], {
        all: b"cuDeviceGetDevResource" = fn(c_int, *mut Resource, c_int);
        split: b"cuDevSmResourceSplitByCount" = fn(*mut Resource, *mut c_uint, *const Resource, *mut Resource, c_uint, c_uint);
        describe: b"cuDevResourceGenerateDesc" = fn(*mut *mut c_void, *mut Resource, c_uint);
        make: b"cuGreenCtxCreate" = fn(*mut *mut c_void, *mut c_void, c_int, c_uint);
        make_stream: b"cuGreenCtxStreamCreate" = fn(*mut *mut c_void, *mut c_void, c_uint, c_int);
    }
);

/// `CUdevResource`: 144 bytes, with what comes first in that of multiprocessors.
#[repr(C, align(8))]
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resource {
    kind: c_int,
    padding: [u8; 92],
    multiprocessors: c_uint,
    /// The smallest group, and what groups are multiples of.
    smallest: [c_uint; 2],
    rest: [u8; 36],
}

impl Resource {
    const MULTIPROCESSORS: c_int = 1;

    const fn empty() -> Self {
        Self { kind: 0, padding: [0; 92], multiprocessors: 0, smallest: [0; 2], rest: [0; 36] }
    }
}

/// Of so many multiprocessors those that are there without this share of them, in whole groups. 0: there are too few.
fn part_of(all: u32, share: f64, [smallest, step]: [u32; 2]) -> u32 {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is from 0 to `all`")]
    let left = (f64::from(all) * share.clamp(0.0, 1.0)).ceil() as u32;
    let step = step.max(1);
    let part = all.saturating_sub(left) / step * step;
    if part < smallest { 0 } else { part }
}

/// Of a green context, which has to be asked for.
const WITH_DEFAULT_STREAM: c_uint = 1;
/// Of an event: it only tells an order.
const WITHOUT_TIME: c_uint = 2;

/// Of a stream: nothing waits for it that does not ask.
const NON_BLOCKING: c_uint = 1;

/// Of memory of the host: each context knows it, and a device reads it where it is.
const PORTABLE_AND_MAPPED: c_uint = 1 | 2;

const MAJOR: c_int = 75;
const MINOR: c_int = 76;

impl Driver {
    fn check(&self, status: c_int, what: &'static str) -> Result<(), KernelError> {
        if status == 0 {
            return Ok(());
        }
        let mut said = ptr::null();
        // SAFETY: it writes a pointer to a text that lives as long as the driver, or none.
        let known = unsafe { (self.describe)(status, &raw mut said) } == 0 && !said.is_null();
        let reason = if known {
            // SAFETY: as above.
            unsafe { CStr::from_ptr(said) }.to_string_lossy().into_owned()
        } else {
            format!("error {status}")
        };
        Err(KernelError::Cuda { what, reason })
    }

    /// The context that this thread uses, and its device.
    pub(crate) fn here(&self) -> Result<(Context, c_int), KernelError> {
        let (mut context, mut device) = (ptr::null_mut(), 0);
        // SAFETY: it writes one pointer.
        self.check(unsafe { (self.current)(&raw mut context) }, "tell the context")?;
        if context.is_null() {
            return Err(KernelError::Cuda { what: "tell the context", reason: "this thread has none".to_owned() });
        }
        // SAFETY: it writes one number.
        self.check(unsafe { (self.device)(&raw mut device) }, "tell the device")?;
        Ok((Context(context as usize), device))
    }

    /// Does something with the first context of a device as this thread's.
    pub(crate) fn with_device<T>(
        &self,
        number: u32,
        run: impl FnOnce() -> Result<T, KernelError>,
    ) -> Result<T, KernelError> {
        let number = c_int::try_from(number).unwrap_or(c_int::MAX);
        let (mut device, mut context, mut before) = (0, ptr::null_mut(), ptr::null_mut());
        // SAFETY: it takes no flags, and can be called any number of times.
        self.check(unsafe { (self.init)(0) }, "start")?;
        // SAFETY: it writes one number.
        self.check(unsafe { (self.get)(&raw mut device, number) }, "find the device")?;
        // SAFETY: it writes one pointer. The context is not given back: the provider keeps it as well.
        self.check(unsafe { (self.primary)(&raw mut context, device) }, "make a context")?;
        // SAFETY: it writes one pointer.
        self.check(unsafe { (self.current)(&raw mut before) }, "tell the context")?;
        // SAFETY: the context is there, see above.
        self.check(unsafe { (self.set_current)(context) }, "take the context")?;
        let done = run();
        // SAFETY: it is what was there before.
        self.check(unsafe { (self.set_current)(before) }, "give the context back")?;
        done
    }

    /// A device's compute capability.
    pub(crate) fn capability(&self, device: c_int) -> Result<(c_int, c_int), KernelError> {
        let read = |attribute| {
            let mut value = 0;
            // SAFETY: it writes one number.
            self.check(unsafe { (self.attribute)(&raw mut value, attribute, device) }, "tell the capability")?;
            Ok(value)
        };
        Ok((read(MAJOR)?, read(MINOR)?))
    }

    /// Loads compiled kernels into this thread's context, where they stay, and finds these.
    pub(crate) fn load<const N: usize>(&self, image: &[u8], names: [&CStr; N]) -> Result<[Function; N], KernelError> {
        let mut module = ptr::null_mut();
        // SAFETY: the image is one that NVRTC has made, and is copied.
        self.check(unsafe { (self.load)(&raw mut module, image.as_ptr().cast()) }, "load the kernels")?;
        let mut functions = [Function(ptr::null_mut()); N];
        for (function, name) in functions.iter_mut().zip(names) {
            // SAFETY: the module is there, and the name ends with a zero.
            self.check(unsafe { (self.function)(&raw mut function.0, module, name.as_ptr()) }, "find a kernel")?;
        }
        Ok(functions)
    }

    /// Launches a kernel.
    ///
    /// # Safety
    /// The arguments are what the kernel takes, and what they point to is as large as the kernel reads and writes.
    pub(crate) unsafe fn launch<const N: usize>(
        &self,
        function: Function,
        grid: (usize, usize),
        block: (u32, u32),
        stream: Stream,
        arguments: [*mut c_void; N],
    ) -> Result<(), KernelError> {
        let wide = |blocks: usize| c_uint::try_from(blocks).unwrap_or(c_uint::MAX);
        let mut arguments = arguments;
        // SAFETY: as the caller promises; the arguments are read before it returns.
        let status = unsafe {
            (self.launch)(
                function.0,
                wide(grid.0),
                wide(grid.1),
                1,
                block.0,
                block.1,
                1,
                0,
                stream.0,
                arguments.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        self.check(status, "launch a kernel")
    }

    /// Makes a stream in this thread's context, of the highest priority that there is.
    pub(crate) fn urgent_stream(&self) -> Result<Stream, KernelError> {
        let (mut lowest, mut highest, mut stream) = (0, 0, ptr::null_mut());
        // SAFETY: it writes two numbers.
        self.check(unsafe { (self.priorities)(&raw mut lowest, &raw mut highest) }, "tell the priorities of streams")?;
        // SAFETY: it writes one pointer.
        let made = unsafe { (self.make_stream)(&raw mut stream, NON_BLOCKING, highest) };
        self.check(made, "make a stream")?;
        Ok(Stream(stream))
    }

    /// A part of this thread's device: all of it but for this share of its multiprocessors, or a little more, since the driver parts them by groups. It
    /// stays. Gives back how many are left over as well.
    pub(crate) fn part_without(&self, share: f64) -> Result<(Part, u32), KernelError> {
        let parts = Parts::get()?;
        let (_, device) = self.here()?;
        let (mut all, mut part, mut groups) = (Resource::empty(), Resource::empty(), 1);
        // SAFETY: it writes one resource.
        let told = unsafe { (parts.all)(device, &raw mut all, Resource::MULTIPROCESSORS) };
        self.check(told, "tell the multiprocessors")?;
        // Older drivers do not tell.
        let known = if self.capability(device)?.0 >= 9 { [8, 8] } else { [4, 2] };
        let smallest = if all.smallest[1] == 0 { known } else { all.smallest };
        let wanted = part_of(all.multiprocessors, share, smallest);
        let refused = |reason| Err(KernelError::Cuda { what: "part the multiprocessors", reason });
        if wanted == 0 {
            return refused(format!("of {}, {share} are to be left", all.multiprocessors));
        }
        // SAFETY: there is room for one group, and what is left over is not asked for.
        let split =
            unsafe { (parts.split)(&raw mut part, &raw mut groups, &raw const all, ptr::null_mut(), 0, wanted) };
        self.check(split, "part the multiprocessors")?;
        if groups == 0 || part.multiprocessors >= all.multiprocessors {
            return refused(format!("the driver gave {} of {}", part.multiprocessors, all.multiprocessors));
        }
        let (mut described, mut context) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: it reads one resource, and writes one pointer.
        let done = unsafe { (parts.describe)(&raw mut described, &raw mut part, 1) };
        self.check(done, "describe a part of the device")?;
        // SAFETY: it writes one pointer.
        let made = unsafe { (parts.make)(&raw mut context, described, device, WITH_DEFAULT_STREAM) };
        self.check(made, "make a part of the device")?;
        let multiprocessors = c_int::try_from(part.multiprocessors).unwrap_or(c_int::MAX);
        Ok((Part { context, multiprocessors }, all.multiprocessors - part.multiprocessors))
    }

    /// Makes a stream on a part of a device.
    pub(crate) fn stream_on(&self, part: Part) -> Result<Stream, KernelError> {
        let mut stream = ptr::null_mut();
        // SAFETY: the part is there, and one pointer is written.
        let made = unsafe { (Parts::get()?.make_stream)(&raw mut stream, part.context, NON_BLOCKING, 0) };
        self.check(made, "make a stream on a part of the device")?;
        Ok(Stream(stream))
    }

    /// Makes an event in this thread's context.
    pub(crate) fn event(&self) -> Result<Event, KernelError> {
        let mut event = ptr::null_mut();
        // SAFETY: it writes one pointer.
        self.check(unsafe { (self.make_event)(&raw mut event, WITHOUT_TIME) }, "make an event")?;
        Ok(Event(event))
    }

    /// What comes in a stream from now on waits for what is in another one now. The event can be used again at once.
    pub(crate) fn follow(&self, stream: Stream, other: Stream, event: Event) -> Result<(), KernelError> {
        // SAFETY: the event and the stream are there.
        self.check(unsafe { (self.record)(event.0, other.0) }, "note a place in a stream")?;
        // SAFETY: as above.
        self.check(unsafe { (self.wait)(stream.0, event.0, 0) }, "wait for another stream")
    }

    /// Ends a stream that was made here, after what is in it.
    ///
    /// # Safety
    /// Nobody uses it any more.
    pub(crate) unsafe fn end_stream(&self, stream: Stream) -> Result<(), KernelError> {
        // SAFETY: as the caller promises.
        self.check(unsafe { (self.end_stream)(stream.0) }, "end a stream")
    }

    /// Memory of the host for one number, which is 0, and which a device reads at the same address.
    pub(crate) fn host_number(&self) -> Result<*mut u32, KernelError> {
        let mut memory = ptr::null_mut();
        // SAFETY: it writes one pointer.
        let made = unsafe { (self.host_memory)(&raw mut memory, size_of::<u32>(), PORTABLE_AND_MAPPED) };
        self.check(made, "take memory of the host")?;
        let number: *mut u32 = memory.cast();
        // SAFETY: there is room for one, and nobody else has it yet.
        unsafe { number.write(0) };
        Ok(number)
    }

    /// Gives back what [`Driver::host_number`] took.
    ///
    /// # Safety
    /// Nobody reads or writes it any more, on the device neither.
    pub(crate) unsafe fn free_host_number(&self, number: *mut u32) -> Result<(), KernelError> {
        // SAFETY: as the caller promises.
        self.check(unsafe { (self.free_host)(number.cast()) }, "give memory of the host back")
    }

    /// Copies numbers to a device, in the order of the stream. They may go as soon as it returns: what is not page-locked is put aside first.
    ///
    /// # Safety
    /// There is room for them at `to`, which is on the device.
    pub(crate) unsafe fn upload(&self, to: *mut c_void, from: &[i32], stream: Stream) -> Result<(), KernelError> {
        // SAFETY: as the caller promises.
        let status = unsafe { (self.upload)(to as u64, from.as_ptr().cast(), size_of_val(from), stream.0) };
        self.check(status, "copy to the device")
    }
}

functions!(
    /// The compiler.
    Nvrtc, ["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"], {
        create: b"nvrtcCreateProgram" = fn(*mut *mut c_void, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char);
        compile: b"nvrtcCompileProgram" = fn(*mut c_void, c_int, *const *const c_char);
        log_size: b"nvrtcGetProgramLogSize" = fn(*mut c_void, *mut usize);
        log: b"nvrtcGetProgramLog" = fn(*mut c_void, *mut c_char);
        image_size: b"nvrtcGetCUBINSize" = fn(*mut c_void, *mut usize);
        image: b"nvrtcGetCUBIN" = fn(*mut c_void, *mut c_char);
        destroy: b"nvrtcDestroyProgram" = fn(*mut *mut c_void);
    }
);

impl Nvrtc {
    /// Compiles a source for a device.
    pub(crate) fn compile(&self, source: &CStr, options: &[String]) -> Result<Vec<u8>, KernelError> {
        let failed = |said: &str| KernelError::Compile(said.to_owned());
        let options: Vec<CString> = options
            .iter()
            .map(|one| CString::new(one.as_str()))
            .collect::<Result<_, _>>()
            .map_err(|e| failed(&e.to_string()))?;
        let pointers: Vec<_> = options.iter().map(|one| one.as_ptr()).collect();
        let count = c_int::try_from(pointers.len()).unwrap_or(0);
        let mut program = ptr::null_mut();
        // SAFETY: source and name end with a zero, and there are no headers.
        let made = unsafe {
            (self.create)(&raw mut program, source.as_ptr(), c"kernels.cu".as_ptr(), 0, ptr::null(), ptr::null())
        };
        if made != 0 {
            return Err(failed(&format!("NVRTC made no program (error {made})")));
        }
        // SAFETY: the program is there, and so are the options.
        let compiled = unsafe { (self.compile)(program, count, pointers.as_ptr()) };
        let result = if compiled == 0 {
            self.read(program, self.image_size, self.image)
        } else {
            let log = self.read(program, self.log_size, self.log).unwrap_or_default();
            Err(failed(String::from_utf8_lossy(&log).trim_end_matches('\0').trim()))
        };
        // SAFETY: the program is there, and is not used any more.
        unsafe { (self.destroy)(&raw mut program) };
        result
    }

    fn read(
        &self,
        program: *mut c_void,
        size: unsafe extern "C" fn(*mut c_void, *mut usize) -> c_int,
        get: unsafe extern "C" fn(*mut c_void, *mut c_char) -> c_int,
    ) -> Result<Vec<u8>, KernelError> {
        let mut length = 0;
        // SAFETY: the program is there; it writes one number.
        let sized = unsafe { size(program, &raw mut length) };
        let mut bytes = vec![0; length];
        // SAFETY: there is room for what it said.
        let got = unsafe { get(program, bytes.as_mut_ptr().cast()) };
        if sized == 0 && got == 0 {
            Ok(bytes)
        } else {
            Err(KernelError::Compile("NVRTC does not give what it made".to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_loaded_goes_before_what_comes_first() {
        // Every process here has the C library. `libanl` is a part of it that nobody loads.
        let (first, loaded) = ("libanl.so.1", "libc.so.6");
        assert_eq!(open(&["libnothing.so", first, loaded]).unwrap().1, loaded);
        let error = open(&["libnothing.so", "libnothing.so.1"]).unwrap_err();
        assert!(matches!(error, KernelError::Library { library: "libnothing.so", .. }), "{error}");
    }

    #[test]
    fn a_part_has_whole_groups_and_leaves_at_least_the_share() {
        assert_eq!(part_of(132, 0.2, [8, 8]), 104, "an H200");
        assert_eq!(part_of(108, 0.2, [4, 2]), 86, "an A100");
        assert_eq!(part_of(132, 0.0, [8, 8]), 128, "as many as are in groups");
        assert_eq!([part_of(132, 1.0, [8, 8]), part_of(10, 0.5, [8, 8]), part_of(0, 0.2, [0, 0])], [0; 3]);
    }

    #[test]
    fn a_resource_is_as_large_as_the_driver_s() {
        assert_eq!(size_of::<Resource>(), 144);
    }
}
