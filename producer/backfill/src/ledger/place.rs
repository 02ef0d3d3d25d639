//! Where a runner runs: so that one that has died here need not be waited for.

use std::path::Path;

/// This host, as people call it.
pub(super) fn host() -> String {
    let who = embed_control::who();
    who.rsplit_once('@').map_or(who.clone(), |(_, host)| host.to_owned())
}

/// This machine since it was started, and the processes that are seen from here: two containers of one machine may have the same name, and processes of
/// the same number. `None` if it cannot be told.
pub(super) fn place() -> Option<String> {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
    let processes = std::fs::read_link("/proc/self/ns/pid").ok()?;
    Some(format!("{} {}", boot.trim(), processes.display()))
}

/// Whether a process that ran at this place is there no more.
pub(super) fn is_gone(its_place: Option<&str>, pid: u32) -> bool {
    its_place.is_some() && its_place == place().as_deref() && !Path::new(&format!("/proc/{pid}")).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_of_here_can_it_be_told_that_a_process_is_gone() {
        let here = place().unwrap();
        assert!(!is_gone(Some(&here), std::process::id()));
        // Above the largest that Linux gives.
        assert!(is_gone(Some(&here), 1 << 30));
        assert!(!is_gone(Some("elsewhere"), 1 << 30) && !is_gone(None, 1 << 30));
        assert!(!host().is_empty());
    }
}
