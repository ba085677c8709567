//! Who sleeps before login, by address, so that somebody can be found who makes room.
//!
//! A few steps for each that falls asleep or wakes; nobody is searched for.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use crate::net::address::LimitKey;

/// Sessions by their numbers, which are given out in the order of accept.
#[derive(Debug, Default)]
pub(super) struct Sleepers {
    by_address: HashMap<LimitKey, OfAddress>,
    /// The address with most sleepers is the last; among equals the one whose oldest came first.
    ranks: BTreeSet<(usize, Reverse<u64>, LimitKey)>,
}

/// What a session sleeps for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SleepsFor {
    /// Its client has something to say or to take.
    Client,
    /// A time that we wished: nobody can call it silent.
    Us,
    /// Somebody else's answer about its login: it goes on with that, and makes no room.
    Others,
}

/// The sleepers of one address.
#[derive(Debug, Default)]
struct OfAddress {
    /// When each fell asleep.
    since: BTreeMap<u64, Instant>,
    /// Those of them that sleep for their clients, the longest first.
    silent: BTreeSet<(Instant, u64)>,
}

impl OfAddress {
    fn rank(&self, address: LimitKey) -> Option<(usize, Reverse<u64>, LimitKey)> {
        let (oldest, _) = self.since.first_key_value()?;
        Some((self.since.len(), Reverse(*oldest), address))
    }
}

impl Sleepers {
    /// Somebody falls asleep.
    pub(super) fn add(&mut self, address: LimitKey, number: u64, what: SleepsFor, now: Instant) {
        self.change(address, |sleepers| {
            sleepers.since.insert(number, now);
            if what == SleepsFor::Client {
                sleepers.silent.insert((now, number));
            }
        });
    }

    /// Somebody wakes, or is gone.
    pub(super) fn remove(&mut self, address: LimitKey, number: u64) {
        self.change(address, |sleepers| {
            if let Some(since) = sleepers.since.remove(&number) {
                sleepers.silent.remove(&(since, number));
            }
        });
    }

    fn change(&mut self, address: LimitKey, change: impl FnOnce(&mut OfAddress)) {
        let sleepers = self.by_address.entry(address).or_default();
        if let Some(rank) = sleepers.rank(address) {
            self.ranks.remove(&rank);
        }
        change(sleepers);
        match sleepers.rank(address) {
            Some(rank) => drop(self.ranks.insert(rank)),
            None => drop(self.by_address.remove(&address)),
        }
    }

    /// Of the address with most sleepers the one who was accepted first: a client that says something now
    /// and then does not become younger by it.
    pub(super) fn oldest_of_most(&self) -> Option<(LimitKey, u64)> {
        let (_, Reverse(number), address) = self.ranks.last()?;
        Some((*address, *number))
    }

    /// Whom the newcomer of an address may ask to make room: as before, but among its own only those that
    /// sleep for their clients. Otherwise a client under `Auth-Wait` would be rid of it by coming back.
    pub(super) fn oldest_for(&self, newcomer: LimitKey) -> Option<(LimitKey, u64)> {
        let (address, number) = self.oldest_of_most()?;
        let sleepers = self.by_address.get(&address)?;
        let since = sleepers.since.get(&number)?;
        if address != newcomer || sleepers.silent.contains(&(*since, number)) {
            return Some((address, number));
        }
        let (_, silent) = sleepers.silent.first()?;
        Some((address, *silent))
    }

    /// Of one address the one who has been silent longest, if that is at least since `moment`.
    pub(super) fn longest_silent_of(&self, address: LimitKey, moment: Instant) -> Option<u64> {
        let sleepers = self.by_address.get(&address)?;
        let (since, number) = sleepers.silent.first()?;
        (*since <= moment).then_some(*number)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn address(last: u8) -> LimitKey {
        LimitKey::Ip([192, 0, 2, last].into())
    }

    #[test]
    fn room_is_made_by_the_address_with_most_and_there_by_the_oldest() {
        let now = Instant::now();
        let mut sleepers = Sleepers::default();
        sleepers.add(address(1), 1, SleepsFor::Client, now);
        sleepers.add(address(2), 3, SleepsFor::Client, now);
        sleepers.add(address(2), 2, SleepsFor::Client, now);
        assert_eq!(sleepers.oldest_of_most(), Some((address(2), 2)));
        sleepers.remove(address(2), 2);
        assert_eq!(sleepers.oldest_of_most(), Some((address(1), 1)));
        // Who wakes and sleeps again is as old as before.
        sleepers.remove(address(1), 1);
        sleepers.add(
            address(1),
            1,
            SleepsFor::Client,
            now + Duration::from_secs(9),
        );
        assert_eq!(sleepers.oldest_of_most(), Some((address(1), 1)));
        sleepers.remove(address(1), 1);
        sleepers.remove(address(2), 3);
        assert_eq!(sleepers.oldest_of_most(), None);
    }

    #[test]
    fn nobody_is_rid_of_a_wait_of_ours_by_coming_back() {
        let now = Instant::now();
        let mut sleepers = Sleepers::default();
        sleepers.add(address(1), 1, SleepsFor::Us, now);
        assert_eq!(sleepers.oldest_for(address(1)), None);
        assert_eq!(sleepers.oldest_for(address(2)), Some((address(1), 1)));
        sleepers.add(address(1), 2, SleepsFor::Client, now);
        assert_eq!(sleepers.oldest_for(address(1)), Some((address(1), 2)));
    }

    #[test]
    fn of_one_address_the_longest_silent_goes_once_it_is_silent_for_long() {
        let now = Instant::now();
        let mut sleepers = Sleepers::default();
        sleepers.add(address(1), 2, SleepsFor::Client, now);
        sleepers.add(
            address(1),
            1,
            SleepsFor::Client,
            now + Duration::from_secs(1),
        );
        // Whoever is held back by us is not silent.
        let before = now - Duration::from_secs(1);
        sleepers.add(address(1), 3, SleepsFor::Us, before);
        assert_eq!(sleepers.longest_silent_of(address(1), now), Some(2));
        assert_eq!(sleepers.longest_silent_of(address(1), before), None);
        assert_eq!(sleepers.longest_silent_of(address(2), now), None);
    }
}
