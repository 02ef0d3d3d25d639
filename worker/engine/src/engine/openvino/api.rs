//! What is used of OpenVINO's C interface (`openvino/c/` in its package), as the library has it.

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    path::Path,
};

use libloading::Library;

use super::super::library::why;

/// Types of the library, of which only addresses are known.
macro_rules! opaque {
    ($($name:ident),*) => { $(#[repr(C)] #[derive(Debug)] pub(super) struct $name { _private: [u8; 0] })* };
}

opaque!(Core, Model, Compiled, Request, Tensor, Port);

/// `ov_shape_t`.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Shape {
    pub(super) rank: i64,
    pub(super) dims: *mut i64,
}

/// `ov_version_t`.
#[repr(C)]
#[derive(Debug)]
pub(super) struct Version {
    build: *const c_char,
    _description: *const c_char,
}

/// Elements of tensors: `ov_element_type_e`, as it is since 2025.1.
pub(super) const F32: c_int = 4;
pub(super) const I64: c_int = 10;

/// A status: 0 is success.
type Status = c_int;

/// Declares the functions, and looks them all up.
macro_rules! functions {
    ($($field:ident = $symbol:literal: fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The functions of the library, which stays loaded.
        #[derive(Debug)]
        pub(super) struct Api {
            $(pub(super) $field: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
            /// Its last arguments are names and values of properties, and how many of both together is said before.
            pub(super) compile: unsafe extern "C" fn(*const Core, *const Model, *const c_char, usize, *mut *mut Compiled, ...) -> Status,
        }

        impl Api {
            /// Opens the library.
            ///
            /// # Errors
            /// If it cannot be loaded, or lacks a function.
            pub(super) fn open(path: &Path) -> Result<Self, String> {
                // SAFETY: loading runs the library's initialisers; whoever configured the path, or installed the package, wants it to be used.
                let library = unsafe { Library::new(path) }.map_err(|e| why(&e))?;
                // Never closed: it has threads of its own.
                let library: &'static Library = Box::leak(Box::new(library));
                // SAFETY: the signatures are those of the library's headers.
                unsafe {
                    Ok(Self {
                        $($field: *library.get(concat!($symbol, "\0").as_bytes()).map_err(|e| why(&e))?,)*
                        compile: *library.get(b"ov_core_compile_model\0").map_err(|e| why(&e))?,
                    })
                }
            }
        }
    };
}

functions! {
    last_error = "ov_get_last_err_msg": fn() -> *const c_char;
    free = "ov_free": fn(*const c_char);
    version = "ov_get_openvino_version": fn(*mut Version) -> Status;
    free_version = "ov_version_free": fn(*mut Version);
    core = "ov_core_create": fn(*mut *mut Core) -> Status;
    read_model = "ov_core_read_model_from_memory_buffer":
        fn(*const Core, *const c_char, usize, *const Tensor, *mut *mut Model) -> Status;
    free_model = "ov_model_free": fn(*mut Model);
    compiled_property = "ov_compiled_model_get_property": fn(*const Compiled, *const c_char, *mut *mut c_char) -> Status;
    input = "ov_compiled_model_input_by_name": fn(*const Compiled, *const c_char, *mut *mut Port) -> Status;
    output = "ov_compiled_model_output_by_name": fn(*const Compiled, *const c_char, *mut *mut Port) -> Status;
    free_port = "ov_output_const_port_free": fn(*mut Port);
    request = "ov_compiled_model_create_infer_request": fn(*const Compiled, *mut *mut Request) -> Status;
    free_compiled = "ov_compiled_model_free": fn(*mut Compiled);
    wrap = "ov_tensor_create_from_host_ptr": fn(c_int, Shape, *mut c_void, *mut *mut Tensor) -> Status;
    set_tensor = "ov_infer_request_set_tensor": fn(*mut Request, *const c_char, *const Tensor) -> Status;
    get_tensor = "ov_infer_request_get_tensor": fn(*const Request, *const c_char, *mut *mut Tensor) -> Status;
    infer = "ov_infer_request_infer": fn(*mut Request) -> Status;
    free_request = "ov_infer_request_free": fn(*mut Request);
    element_type = "ov_tensor_get_element_type": fn(*const Tensor, *mut c_int) -> Status;
    size = "ov_tensor_get_size": fn(*const Tensor, *mut usize) -> Status;
    data = "ov_tensor_data": fn(*const Tensor, *mut *mut c_void) -> Status;
    free_tensor = "ov_tensor_free": fn(*mut Tensor);
}

impl Api {
    /// What a status means: if it is none of success, what the library says about its last failure.
    pub(super) fn check(&self, status: Status) -> Result<(), String> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: the function takes nothing, and gives a text that is ours, or none.
        let said = unsafe { self.text((self.last_error)()) };
        // It may have line breaks.
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        Err(if said.is_empty() { format!("status {status}") } else { said })
    }

    /// A text of the library, which is freed. Empty if there is none.
    ///
    /// # Safety
    /// It must come from the library, and not have been freed.
    pub(super) unsafe fn text(&self, text: *const c_char) -> String {
        if text.is_null() {
            return String::new();
        }
        // SAFETY: as the caller has promised; the library's texts end with a zero.
        let owned = unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned();
        // SAFETY: as the caller has promised, and nobody reads it any more.
        unsafe { (self.free)(text) };
        owned
    }

    /// The library's version, such as `2026.4.1-22982-…`.
    pub(super) fn build(&self) -> Result<String, String> {
        let mut version = Version { build: std::ptr::null(), _description: std::ptr::null() };
        // SAFETY: the pointer is to a local variable of the right type.
        self.check(unsafe { (self.version)(&raw mut version) })?;
        // SAFETY: the call that succeeded has set the pointer to a text that ends with a zero.
        let build = unsafe { CStr::from_ptr(version.build) }.to_string_lossy().into_owned();
        // SAFETY: it was filled by the library, and is not read any more.
        unsafe { (self.free_version)(&raw mut version) };
        Ok(build)
    }
}
