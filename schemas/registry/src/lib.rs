//! The model registry in any object store, and the cache of verified model files on local disk.
//!
//! ```text
//! models/<slug>/current.json                which version is current, and the last moves of that pointer
//! models/<slug>/<version>/metadata.json     written last: a version is there when this file is
//! models/<slug>/<version>/<files>           as the metadata lists them, with size and SHA-256
//! models/<slug>/<version>/.upload.json      while a version is being published: whose content it is
//! engines/<slug>/…                          what was compiled from graphs for one kind of device, see `engines`
//! ```
//!
//! Everything beyond the files of one folder, such as what a version is used for, is for the callers to know.

pub mod cache;
mod disk;
mod engines;
mod error;
mod gc;
pub mod integrity;
mod layout;
mod local;
mod location;
mod lock;
mod pointer;
mod progress;
mod publish;
mod registry;
mod store;
mod upload;
mod verify;
mod who;

pub use cache::{Cache, LocalVersion, Resolved, VersionSpec};
pub use disk::{Disk, disk};
pub use engines::EngineKey;
pub use error::{RegistryError, store_error};
pub use gc::{Garbage, Keep};
pub use integrity::{IntegrityError, verify};
pub use layout::check_version;
pub use local::open_named;
pub use location::masked;
pub use progress::{Progress, Step};
pub use publish::Published;
pub use registry::{Registry, RegistryOptions, VersionInfo};
pub use store::open_store;
pub use verify::FileCheck;
pub use who::who;
