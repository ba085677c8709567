//! How many logins are in progress towards one backend or auth server: one that is slow must not hold all
//! workers.
//!
//! Who comes too late waits in line, in which addresses (IPv6: /64s) take turns: the second login of an address
//! comes behind the first ones of all others. A place that becomes free is kept for the first in line.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::net::address::LimitKey;

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
    line: BTreeMap<Ticket, u64>,
    tickets: HashMap<u64, (Ticket, LimitKey)>,
    drawn: u64,
    /// The round of whoever came last to his turn.
    round: u64,
    /// Of each address with somebody in line: how many, and the round of the last of them.
    waiting: HashMap<LimitKey, (usize, u64)>,
}

/// The round in which a login has its turn, and its number.
type Ticket = (u64, u64);

impl Target {
    fn stand_in_line(&mut self, session: u64, address: LimitKey) {
        let (count, last) = self.waiting.entry(address).or_insert((0, 0));
        let round = if *count == 0 { self.round } else { *last + 1 };
        (*count, *last) = (*count + 1, round);
        self.drawn += 1;
        let ticket = (round, self.drawn);
        self.tickets.insert(session, (ticket, address));
        self.line.insert(ticket, session);
    }

    /// Whose turn it is.
    fn next(&mut self) -> Option<u64> {
        let (&(round, _), &session) = self.line.first_key_value()?;
        self.round = round;
        self.leave(session);
        Some(session)
    }

    fn leave(&mut self, session: u64) {
        let Some((ticket, address)) = self.tickets.remove(&session) else {
            return;
        };
        self.line.remove(&ticket);
        if let Some((count, _)) = self.waiting.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                self.waiting.remove(&address);
            }
        }
    }
}

impl Slots {
    /// Takes one of `most` places; whether there was one. If not, the session stands in line then.
    pub(super) fn take(
        &mut self,
        name: &str,
        (session, address): (u64, LimitKey),
        most: usize,
    ) -> bool {
        if !self.targets.contains_key(name) {
            self.targets.insert(name.to_owned(), Target::default());
        }
        let Some(target) = self.targets.get_mut(name) else {
            return false;
        };
        if !target.kept.is_empty() && target.kept.remove(&session) {
            return true;
        }
        if target.taken < most && target.line.is_empty() {
            target.taken += 1;
            return true;
        }
        // In line it stands once, however often it asks.
        if !target.tickets.contains_key(&session) {
            target.stand_in_line(session, address);
        }
        false
    }

    /// Gives a place back; returns who has it now and is to be woken.
    pub(super) fn give_back(&mut self, name: &str) -> Option<u64> {
        let target = self.targets.get_mut(name)?;
        if let Some(next) = target.next() {
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
        target.leave(session);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(session: u64, address: u8) -> (u64, LimitKey) {
        (session, LimitKey::Ip([192, 0, 2, address].into()))
    }

    #[test]
    fn a_place_that_becomes_free_belongs_to_the_first_in_line() {
        let mut slots = Slots::default();
        assert!(slots.take("a", from(1, 1), 1));
        assert!(!slots.take("a", from(2, 1), 1));
        assert!(!slots.take("a", from(2, 1), 1));
        assert!(!slots.take("a", from(3, 1), 1));
        assert!(slots.take("b", from(4, 1), 1));
        assert_eq!(slots.give_back("a"), Some(2));
        assert!(!slots.take("a", from(5, 1), 1));
        assert!(slots.take("a", from(2, 1), 1));
        assert_eq!(slots.give_back("a"), Some(3));
        // It is gone before it could take its place.
        assert_eq!(slots.leave_line("a", 3), Some(5));
        assert_eq!(slots.leave_line("a", 5), None);
        assert_eq!(slots.give_back("b"), None);
        assert!(slots.targets.is_empty());
    }

    #[test]
    fn addresses_take_turns_in_line() {
        let mut slots = Slots::default();
        assert!(slots.take("a", from(1, 9), 1));
        // A crowd of one address, and then two others, one of them with two logins.
        for session in 10..30 {
            assert!(!slots.take("a", from(session, 1), 1));
        }
        assert!(!slots.take("a", from(40, 2), 1));
        assert!(!slots.take("a", from(50, 3), 1));
        assert!(!slots.take("a", from(51, 3), 1));
        let turns: Vec<_> = (0..4).filter_map(|_| slots.give_back("a")).collect();
        assert_eq!(turns, [10, 40, 50, 11]);
        // Whoever comes now is not behind what is left of the crowd.
        assert!(!slots.take("a", from(60, 4), 1));
        let turns: Vec<_> = (0..3).filter_map(|_| slots.give_back("a")).collect();
        assert_eq!(turns, [51, 60, 12]);
        for session in 13..30 {
            slots.leave_line("a", session);
        }
        assert_eq!(slots.give_back("a"), None);
        assert!(slots.targets.is_empty());
    }
}
