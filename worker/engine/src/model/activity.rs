//! What takes long and is under way, for whoever asks why the worker is not ready yet.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use parking_lot::Mutex;

/// Everything that is under way. Clones are the same list.
#[derive(Debug, Clone, Default)]
pub struct Activities(Arc<Mutex<List>>);

#[derive(Debug, Default)]
struct List {
    next: u64,
    under_way: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    what: String,
    step: String,
    since: Instant,
}

/// One thing that is under way, until it is dropped.
#[derive(Debug)]
pub struct Activity {
    list: Activities,
    key: u64,
}

impl Activities {
    /// Something begins.
    #[must_use]
    pub fn begin(&self, what: String) -> Activity {
        let mut list = self.0.lock();
        let key = list.next;
        list.next += 1;
        list.under_way.insert(key, Entry { what, step: String::new(), since: Instant::now() });
        Activity { list: self.clone(), key }
    }

    /// What is under way, the oldest first, for a person.
    #[must_use]
    pub fn describe(&self) -> Vec<String> {
        let describe = |entry: &Entry| {
            let (seconds, step) = (entry.since.elapsed().as_secs(), &entry.step);
            let separator = if step.is_empty() { "" } else { ", " };
            format!("{}{separator}{step} ({seconds} s so far)", entry.what)
        };
        self.0.lock().under_way.values().map(describe).collect()
    }
}

impl Activity {
    /// What is being done now, such as `building engine 2 of 3`.
    pub fn step(&self, step: String) {
        if let Some(entry) = self.list.0.lock().under_way.get_mut(&self.key) {
            entry.step = step;
        }
    }
}

impl Drop for Activity {
    fn drop(&mut self) {
        self.list.0.lock().under_way.remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_under_way_is_told_until_it_ends() {
        let activities = Activities::default();
        let (first, second) = (activities.begin("loading a".into()), activities.begin("loading b".into()));
        second.step("building engine 1 of 2".into());
        assert_eq!(activities.describe(), ["loading a (0 s so far)", "loading b, building engine 1 of 2 (0 s so far)"]);
        drop(first);
        assert_eq!(activities.describe().len(), 1);
        drop(second);
        assert!(activities.describe().is_empty());
    }
}
