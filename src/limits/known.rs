//! From where each user has logged in before: there, what others do with the user's name or from the
//! same address keeps nobody out.
//!
//! Only successful logins get in here, so that a guesser without a password changes nothing. Lost at the end of
//! the process: then everybody is unknown until the next login.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::Instant;

use super::table::{Table, Weighs};
use crate::net::address::LimitKey;

/// Users that are remembered.
const MOST: usize = 65_536;

/// Addresses of one user: those of the latest logins.
const OF_USER: usize = 16;

/// Bytes of the table when it is full.
#[cfg(test)]
pub(super) const MOST_BYTES: usize = Table::<Places>::most_bytes(MOST);

/// Users with their addresses. Neither is kept, only hashes with random keys.
#[derive(Debug)]
pub(super) struct Known {
    hasher: RandomState,
    places: Table<Places>,
}

impl Known {
    /// Nobody has logged in.
    pub(super) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            places: Table::new(MOST),
        }
    }

    fn tag(&self, address: LimitKey) -> u32 {
        // The upper half; zero stands for an empty place.
        u32::try_from(self.hasher.hash_one(address) >> 32)
            .unwrap_or(0)
            .max(1)
    }

    /// The user has logged in from there.
    pub(super) fn note(&mut self, login: &[u8], address: LimitKey, now: Instant) {
        let tag = self.tag(address);
        let places = self.places.entry(login, now, || Places::none(now));
        places.note(tag, now);
    }

    /// Whether the user has logged in from there before.
    pub(super) fn has(&self, login: &[u8], address: LimitKey) -> bool {
        let tag = self.tag(address);
        let places = self.places.get(login);
        places.is_some_and(|places| places.tags.contains(&tag))
    }
}

/// Where one user has logged in from.
struct Places {
    /// The latest in front.
    tags: [u32; OF_USER],
    last: Instant,
}

impl Places {
    fn none(now: Instant) -> Self {
        Self {
            tags: [0; OF_USER],
            last: now,
        }
    }

    fn note(&mut self, tag: u32, now: Instant) {
        let at = self.tags.iter().position(|own| *own == tag);
        self.tags[..=at.unwrap_or(OF_USER - 1)].rotate_right(1);
        self.tags[0] = tag;
        self.last = now;
    }
}

/// Whoever has not logged in for longest gives way.
impl Weighs for Places {
    type Weight = Instant;

    fn weight(&self, _: Instant) -> Instant {
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u8) -> LimitKey {
        LimitKey::Ip([192, 0, 2, last].into())
    }

    #[test]
    fn a_user_is_known_where_the_latest_logins_came_from() {
        let now = Instant::now();
        let mut known = Known::new();
        assert!(!known.has(b"anna", address(1)));
        known.note(b"anna", address(1), now);
        assert!(known.has(b"anna", address(1)));
        assert!(!known.has(b"anna", address(2)) && !known.has(b"bert", address(1)));
        for last in 2..=16 {
            known.note(b"anna", address(last), now);
        }
        known.note(b"anna", address(1), now);
        known.note(b"anna", address(17), now);
        assert!(known.has(b"anna", address(1)) && known.has(b"anna", address(17)));
        assert!(!known.has(b"anna", address(2)));
    }
}
