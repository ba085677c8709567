//! How many logins of an address are checked at a time, counting those whose refusals the client has not been
//! told yet: who does not wait for its answers gains nothing by that.
//!
//! A place is taken before the check and given back after it; a refusal that is held back holds its place
//! until its time, whether the client stays or not. Whoever finds none stands in line. Only the first in line
//! has to look when the next place comes free by time; the others are woken when it is their turn. A few
//! steps for each that comes or goes; nobody walks the line.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use crate::net::address::LimitKey;

/// Logins under way and refusals not told yet, of one address (or of one user), above which the next one
/// waits.
pub(crate) const PLACES: usize = 20;

/// Refusals of one address that are remembered; those that end soonest are left out. More there can only be
/// where many logins were under way before the first of them failed.
const MOST_HELD: usize = 256;

/// Gates beyond which those that nobody needs any more are looked for.
pub(super) const MOST: usize = 65_536;

/// Who shares places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum GateKey {
    /// Logins of users who are not known at this address.
    Address(LimitKey),
    /// Logins of a user who is known there; the hash of its login.
    KnownUser(LimitKey, u64),
    /// Logins of a user from anywhere it is not known.
    User(u64),
}

/// All gates.
#[derive(Debug)]
pub(super) struct Gates {
    gates: HashMap<GateKey, Gate>,
    drawn: u64,
    swept: Option<Instant>,
}

/// The places of those who share them.
#[derive(Debug, Default)]
struct Gate {
    under_way: usize,
    /// Until when refusals hold places, in order.
    held: Vec<Instant>,
    /// Sessions by their tickets.
    line: BTreeMap<u64, u64>,
}

/// What became of the wish for a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Taken {
    /// It has one.
    Yes,
    /// It stands in line with this ticket. It is to ask again at this time at the latest, if there is one, and
    /// when it is woken.
    InLine(u64, Option<Instant>),
}

impl Gates {
    /// Nobody is there.
    pub(super) fn new() -> Self {
        Self {
            gates: HashMap::new(),
            drawn: 0,
            swept: None,
        }
    }

    /// Takes a place for a session, which may stand in line already. `most` is how many there are; `None` is
    /// no limit. Second is who is to be woken, since it is the first in line now.
    pub(super) fn take(
        &mut self,
        key: GateKey,
        (session, ticket): (u64, Option<u64>),
        most: Option<usize>,
        now: Instant,
    ) -> (Taken, Option<u64>) {
        self.make_room(now);
        let gate = self.gates.entry(key).or_default();
        gate.forget_told(now);
        let is_first = match (gate.line.first_key_value(), ticket) {
            (None, _) => true,
            (Some((first, _)), Some(ticket)) => *first == ticket,
            (Some(_), None) => false,
        };
        let has_room = most.is_none_or(|most| gate.under_way + gate.held.len() < most);
        if most.is_none() || (is_first && has_room) {
            if let Some(ticket) = ticket {
                gate.line.remove(&ticket);
            }
            gate.under_way += 1;
            let next = if is_first { gate.first_in_line() } else { None };
            return (Taken::Yes, next);
        }
        let ticket = ticket.unwrap_or_else(|| {
            self.drawn += 1;
            self.drawn
        });
        gate.line.insert(ticket, session);
        let first = gate.line.first_key_value();
        let looks = first.is_some_and(|(first, _)| *first == ticket);
        let next_place = gate.held.first().copied().filter(|_| looks);
        (Taken::InLine(ticket, next_place), None)
    }

    /// Gives a place back; returns who is to be woken.
    pub(super) fn give_back(&mut self, key: GateKey, now: Instant) -> Option<u64> {
        let gate = self.gates.get_mut(&key)?;
        gate.under_way = gate.under_way.saturating_sub(1);
        self.after_change(key, now)
    }

    /// The place is held until a refusal is told; returns who is to be woken, to know that time.
    pub(super) fn hold(&mut self, key: GateKey, until: Instant, now: Instant) -> Option<u64> {
        let gate = self.gates.get_mut(&key)?;
        gate.under_way = gate.under_way.saturating_sub(1);
        let at = gate.held.partition_point(|held| *held <= until);
        gate.held.insert(at, until);
        if gate.held.len() > MOST_HELD {
            gate.held.remove(0);
        }
        self.after_change(key, now)
    }

    /// Leaves the line; returns who is to be woken.
    pub(super) fn leave_line(&mut self, key: GateKey, ticket: u64, now: Instant) -> Option<u64> {
        let gate = self.gates.get_mut(&key)?;
        let first = gate.line.first_key_value().map(|(first, _)| *first);
        gate.line.remove(&ticket);
        let next = self.after_change(key, now);
        next.filter(|_| first == Some(ticket))
    }

    fn after_change(&mut self, key: GateKey, now: Instant) -> Option<u64> {
        let gate = self.gates.get_mut(&key)?;
        gate.forget_told(now);
        if gate.is_needless() {
            self.gates.remove(&key);
            return None;
        }
        gate.first_in_line()
    }

    /// Looks at all gates, at most once a second: what is left afterwards is as many as there are sessions,
    /// and those whose refusals were made within the longest delay.
    fn make_room(&mut self, now: Instant) {
        const SELDOM: Duration = Duration::from_secs(1);
        let is_due = |swept: Instant| now.saturating_duration_since(swept) >= SELDOM;
        if self.gates.len() < MOST || !self.swept.is_none_or(is_due) {
            return;
        }
        self.swept = Some(now);
        self.gates.retain(|_, gate| {
            gate.forget_told(now);
            !gate.is_needless()
        });
    }

    /// How many gates there are.
    #[cfg(test)]
    fn len(&self) -> usize {
        self.gates.len()
    }
}

impl Gate {
    fn forget_told(&mut self, now: Instant) {
        let told = self.held.partition_point(|held| *held <= now);
        self.held.drain(..told);
    }

    fn is_needless(&self) -> bool {
        self.under_way == 0 && self.held.is_empty() && self.line.is_empty()
    }

    fn first_in_line(&self) -> Option<u64> {
        self.line.first_key_value().map(|(_, session)| *session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: GateKey = GateKey::User(1);

    /// Takes one of two places.
    fn take(gates: &mut Gates, session: u64, ticket: Option<u64>, now: Instant) -> Taken {
        gates.take(KEY, (session, ticket), Some(2), now).0
    }

    #[test]
    fn whoever_finds_no_place_waits_for_the_first_that_comes_free() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut gates = Gates::new();
        assert_eq!(take(&mut gates, 1, None, now), Taken::Yes);
        assert_eq!(take(&mut gates, 2, None, now), Taken::Yes);
        // Nobody knows how long a check takes.
        assert_eq!(take(&mut gates, 3, None, now), Taken::InLine(1, None));
        assert_eq!(take(&mut gates, 4, None, now), Taken::InLine(2, None));
        assert_eq!(gates.hold(KEY, at(9), now), Some(3));
        assert_eq!(gates.hold(KEY, at(5), now), Some(3));
        let first = take(&mut gates, 3, Some(1), now);
        assert_eq!(first, Taken::InLine(1, Some(at(5))));
        // A second one does not look, however often it is woken.
        assert_eq!(take(&mut gates, 4, Some(2), at(6)), Taken::InLine(2, None));
        let taken = gates.take(KEY, (3, Some(1)), Some(2), at(6));
        assert_eq!(taken, (Taken::Yes, Some(4)));
        let second = take(&mut gates, 4, Some(2), at(6));
        assert_eq!(second, Taken::InLine(2, Some(at(9))));
        assert_eq!(gates.give_back(KEY, at(6)), Some(4));
        assert_eq!(take(&mut gates, 4, Some(2), at(6)), Taken::Yes);
        assert_eq!(gates.give_back(KEY, at(7)), None);
        assert_eq!(gates.give_back(KEY, at(9)), None);
        assert_eq!(gates.len(), 0);
    }

    #[test]
    fn whoever_leaves_the_line_lets_the_next_one_look() {
        let now = Instant::now();
        let mut gates = Gates::new();
        for session in 1..=2 {
            assert_eq!(take(&mut gates, session, None, now), Taken::Yes);
        }
        for (session, ticket) in [(3, 1), (4, 2), (5, 3)] {
            let taken = take(&mut gates, session, None, now);
            assert_eq!(taken, Taken::InLine(ticket, None));
        }
        assert_eq!(gates.leave_line(KEY, 2, now), None);
        assert_eq!(gates.leave_line(KEY, 1, now), Some(5));
        assert_eq!(gates.leave_line(KEY, 3, now), None);
        assert_eq!(gates.give_back(KEY, now), None);
        assert_eq!(gates.give_back(KEY, now), None);
        assert_eq!(gates.len(), 0);
    }

    #[test]
    fn without_a_limit_nobody_waits_and_what_was_under_way_counts_afterwards() {
        let now = Instant::now();
        let until = now + Duration::from_secs(1);
        let mut gates = Gates::new();
        for session in 0..300 {
            let taken = gates.take(KEY, (session, None), None, now);
            assert_eq!(taken, (Taken::Yes, None));
        }
        assert_eq!(take(&mut gates, 300, None, now), Taken::InLine(1, None));
        for _ in 0..300 {
            assert_eq!(gates.hold(KEY, until, now), Some(300));
        }
        assert_eq!(gates.gates[&KEY].held.len(), MOST_HELD);
        assert_eq!(take(&mut gates, 300, Some(1), until), Taken::Yes);
    }

    #[test]
    fn gates_of_those_who_are_gone_are_forgotten() {
        let now = Instant::now();
        let until = now + Duration::from_secs(1);
        let mut gates = Gates::new();
        for user in 0..MOST as u64 {
            gates.take(GateKey::User(user), (user, None), None, now);
            gates.hold(GateKey::User(user), until, now);
        }
        assert_eq!(gates.len(), MOST);
        gates.take(GateKey::User(0), (0, None), None, until);
        assert_eq!(gates.len(), 1);
    }
}
