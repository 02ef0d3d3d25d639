//! Long operations say how far they are.

/// What happens to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Its size and checksum are being compared with the metadata.
    Verify,
    /// It is being sent to the registry.
    Upload,
    /// It is being fetched from the registry.
    Download,
    /// It is there already; nothing has to be done.
    Skip,
    /// Another process is fetching it; this one waits.
    Wait,
}

/// Hears how far a long operation is. Called from any thread. `&()` hears nothing.
pub trait Progress: Send + Sync {
    /// A file of this size begins.
    fn begin(&self, step: Step, file: &str, bytes: u64) {
        let _ = (step, file, bytes);
    }

    /// So many bytes more of the current file are done.
    fn advance(&self, bytes: u64) {
        let _ = bytes;
    }
}

impl Progress for () {}
