//! ONNX Runtime reports home, and keeps a device's id and what it could not send yet below the home folder. It is told not to.

/// ONNX Runtime looks at it when it is loaded, before anything can be said through its interface.
const DISABLE: &str = "ORT_DISABLE_TELEMETRY";

/// Tells ONNX Runtime to report nothing, unless the environment says otherwise.
///
/// # Safety
/// There must be no other thread: the environment of the process is changed.
pub unsafe fn disable() {
    if std::env::var_os(DISABLE).is_none() {
        // SAFETY: as the caller has promised.
        unsafe { std::env::set_var(DISABLE, "1") };
    }
}
