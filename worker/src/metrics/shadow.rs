//! What was found of a variant as another's shadow, within a window.

use embed_schemas::shadow::ShadowCounts;
use parking_lot::Mutex;

/// The current window of one variant as a candidate. Of one shadow at a time: with the first texts of another, what was counted of the
/// one before is forgotten.
#[derive(Debug, Default)]
pub struct ShadowWindow(Mutex<Option<(String, ShadowCounts)>>);

impl ShadowWindow {
    /// This was found for the shadow with this id.
    pub fn add(&self, id: &str, found: &ShadowCounts) {
        let mut current = self.0.lock();
        match &mut *current {
            Some((known, counts)) if known == id => counts.merge(found),
            other => *other = Some((id.to_owned(), found.clone())),
        }
    }

    /// What was found since the last call, and for which shadow.
    pub fn take(&self) -> Option<(String, ShadowCounts)> {
        self.0.lock().take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_of_one_shadow() {
        let window = ShadowWindow::default();
        assert_eq!(window.take(), None);
        let one = ShadowCounts { requests: 2, dropped: 1, ..ShadowCounts::default() };
        window.add("a", &one);
        window.add("a", &one);
        let two = ShadowCounts { requests: 4, dropped: 2, ..ShadowCounts::default() };
        assert_eq!(window.take(), Some(("a".to_owned(), two)));
        window.add("a", &one);
        window.add("b", &one);
        assert_eq!(window.take(), Some(("b".to_owned(), one)));
        assert_eq!(window.take(), None);
    }
}
