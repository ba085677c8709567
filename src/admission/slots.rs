//! How many logins are in progress towards one backend or auth server: one that is slow must not hold all
//! workers.
//!
//! Who comes too late waits in line; a place that becomes free is kept for the first in it.

use std::collections::{BTreeMap, HashMap, HashSet};

/// The targets with a login in progress.
#[derive(Debug, Default)]
pub(super) struct Slots {
    targets: HashMap<String, Target>,
}

#[derive(Debug, Default)]
struct Target {
    /// Logins in progress, those that a place is kept for included.
    taken: usize,
    kept: HashSet<u64>,
    /// Those in line, by the tickets that they drew.
    line: BTreeMap<u64, u64>,
    tickets: HashMap<u64, u64>,
    drawn: u64,
}

impl Slots {
    /// Takes one of `most` places; whether there was one. If not, the session stands in line then.
    pub(super) fn take(&mut self, name: &str, session: u64, most: usize) -> bool {
        if !self.targets.contains_key(name) {
            self.targets.insert(name.to_owned(), Target::default());
        }
        let Some(target) = self.targets.get_mut(name) else {
            return false;
        };
        if target.kept.remove(&session) {
            return true;
        }
        if target.taken < most && target.line.is_empty() {
            target.taken += 1;
            return true;
        }
        // In line it stands once, however often it asks.
        if !target.tickets.contains_key(&session) {
            target.drawn += 1;
            target.tickets.insert(session, target.drawn);
            target.line.insert(target.drawn, session);
        }
        false
    }

    /// Gives a place back; returns who has it now and is to be woken.
    pub(super) fn give_back(&mut self, name: &str) -> Option<u64> {
        let target = self.targets.get_mut(name)?;
        if let Some((_, next)) = target.line.pop_first() {
            target.tickets.remove(&next);
            target.kept.insert(next);
            return Some(next);
        }
        target.taken = target.taken.saturating_sub(1);
        if target.taken == 0 {
            self.targets.remove(name);
        }
        None
    }

    /// Leaves the line; if a place is kept already, it goes to whoever is returned.
    pub(super) fn leave_line(&mut self, name: &str, session: u64) -> Option<u64> {
        let target = self.targets.get_mut(name)?;
        if target.kept.remove(&session) {
            return self.give_back(name);
        }
        if let Some(ticket) = target.tickets.remove(&session) {
            target.line.remove(&ticket);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_becomes_free_belongs_to_the_first_in_line() {
        let mut slots = Slots::default();
        assert!(slots.take("a", 1, 1));
        assert!(!slots.take("a", 2, 1));
        assert!(!slots.take("a", 2, 1));
        assert!(!slots.take("a", 3, 1));
        assert!(slots.take("b", 4, 1));
        assert_eq!(slots.give_back("a"), Some(2));
        assert!(!slots.take("a", 5, 1));
        assert!(slots.take("a", 2, 1));
        assert_eq!(slots.give_back("a"), Some(3));
        // It is gone before it could take its place.
        assert_eq!(slots.leave_line("a", 3), Some(5));
        assert_eq!(slots.leave_line("a", 5), None);
        assert_eq!(slots.give_back("b"), None);
        assert!(slots.targets.is_empty());
    }
}
