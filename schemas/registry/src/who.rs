//! Who runs this, for records of who has changed what.

use std::os::unix::fs::MetadataExt;

/// Whoever runs this, as `user@host`.
#[must_use]
pub fn who() -> String {
    let user = ["USER", "LOGNAME"].into_iter().find_map(|name| std::env::var(name).ok());
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").or_else(|_| std::env::var("HOSTNAME"));
    // Services often have no user name in their environment.
    let uid = || std::fs::metadata("/proc/self").map_or_else(|_| "?".to_owned(), |own| format!("uid-{}", own.uid()));
    format!("{}@{}", user.unwrap_or_else(uid), host.as_deref().unwrap_or("?").trim())
}
