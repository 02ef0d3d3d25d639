//! Lines grouped into what is asked for together. Pure, and always the same for the same lines: jobs are found again by the line that their
//! group begins with.

use super::lines::{Line, Target};

/// Texts in a group at most, unless one line has more.
const MAX_TEXTS: usize = 64;
/// Bytes of texts in a group at most, unless one line has more.
const MAX_BYTES: usize = 256 << 10;
/// Lines in a group at most.
const MAX_LINES: usize = 512;

/// Lines that follow each other and can be asked for together.
#[derive(Debug, Default)]
pub(super) struct Group {
    /// Which line is its first, from 0.
    pub(super) first: u64,
    pub(super) lines: Vec<Line>,
    texts: usize,
    bytes: usize,
}

impl Group {
    /// What the lines are to be asked of; none if no line can be asked.
    pub(super) fn target(&self) -> Option<&Target> {
        self.lines.iter().find_map(|line| line.request.as_ref().ok().map(|request| &request.target))
    }

    /// The line after it.
    pub(super) fn end(&self) -> u64 {
        self.first + self.lines.len() as u64
    }

    fn takes(&self, line: &Line) -> bool {
        let fits = self.texts + line.texts() <= MAX_TEXTS
            && self.bytes + line.bytes() <= MAX_BYTES
            && self.lines.len() < MAX_LINES;
        let same = match (&line.request, self.target()) {
            (Ok(request), Some(target)) => request.target == *target,
            _ => true,
        };
        self.lines.is_empty() || fits && same
    }

    fn add(&mut self, line: Line) {
        self.texts += line.texts();
        self.bytes += line.bytes();
        self.lines.push(line);
    }
}

/// Makes groups of lines as they come.
#[derive(Debug)]
pub(super) struct Grouping(Group);

impl Grouping {
    /// Begins with this line.
    pub(super) fn at(first: u64) -> Self {
        Self(Group { first, ..Group::default() })
    }

    /// Takes the next line. A group that it does not belong to any more is whole.
    pub(super) fn push(&mut self, line: Line) -> Option<Group> {
        let whole = if self.0.takes(&line) { None } else { self.take() };
        self.0.add(line);
        whole
    }

    /// What is left after the last line.
    pub(super) fn finish(mut self) -> Option<Group> {
        self.take()
    }

    fn take(&mut self) -> Option<Group> {
        let next = Group { first: self.0.end(), ..Group::default() };
        let whole = std::mem::replace(&mut self.0, next);
        (!whole.lines.is_empty()).then_some(whole)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::batches::lines::read;

    fn line() -> impl Strategy<Value = Line> {
        let texts = prop::collection::vec("[a-z]{0,9}", 1..90);
        let good = ("[mn]", prop::option::of(1_u32..3), texts).prop_map(
            |(model, dimensions, input)| serde_json::json!({"model": model, "dimensions": dimensions, "input": input}),
        );
        let bad = Just(serde_json::json!({"model": 7}));
        (any::<u64>(), prop_oneof![4 => good, 1 => bad]).prop_map(|(id, body)| {
            let id = id.to_string();
            let line = serde_json::json!({"custom_id": id, "method": "POST", "url": "/v1/embeddings", "body": body});
            read(line.to_string().as_bytes(), 100).unwrap()
        })
    }

    fn groups(first: usize, lines: &[Line]) -> Vec<Group> {
        let mut grouping = Grouping::at(first as u64);
        let mut groups: Vec<Group> = lines[first..].iter().filter_map(|line| grouping.push(line.clone())).collect();
        groups.extend(grouping.finish());
        groups
    }

    /// What identifies groups: the line that each begins with, and the lines of each.
    fn ids(groups: &[Group]) -> Vec<(u64, Vec<&str>)> {
        fn of(line: &Line) -> &str {
            &line.custom_id
        }
        groups.iter().map(|group| (group.first, group.lines.iter().map(of).collect())).collect()
    }

    proptest! {
        #[test]
        fn no_line_is_lost_and_what_follows_a_group_does_not_depend_on_it(lines in prop::collection::vec(line(), 0..60)) {
            let all = groups(0, &lines);
            let found: Vec<&str> = ids(&all).into_iter().flat_map(|(_, lines)| lines).collect();
            prop_assert_eq!(found, lines.iter().map(|line| line.custom_id.as_str()).collect::<Vec<_>>());
            let mut next = 0;
            for (n, group) in all.iter().enumerate() {
                prop_assert_eq!(group.first, next);
                next = group.end();
                let asked = group.lines.iter().filter_map(|line| line.request.as_ref().ok());
                prop_assert!(asked.clone().all(|request| Some(&request.target) == group.target()));
                let texts: usize = group.lines.iter().map(Line::texts).sum();
                prop_assert!(texts <= MAX_TEXTS || asked.count() == 1);
                // Begun anew after this group, as after a restart, the others are the same.
                let rest = groups(usize::try_from(next).unwrap(), &lines);
                prop_assert_eq!(ids(&rest), ids(&all[n + 1..]));
            }
        }
    }
}
