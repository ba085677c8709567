//! The counts of this process, in memory: bounded, and gone with it. A shared store goes
//! beside it (`shared`).
//!
//! Failures: `MOST` addresses and as many users; in a full bucket whoever has the fewest gives way. Sessions:
//! one entry for each user that is logged in, so that `max_sessions` bounds them.

use std::collections::HashMap;
use std::collections::hash_map::{Entry, RandomState};
use std::hash::BuildHasher;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::penalty::Failures;
use super::store::{Begun, FailuresOf, SessionLimits, Store, StoreError, UserSession};
use super::table::Table;
use crate::net::address::LimitKey;
use crate::protocol::Protocol;

/// Addresses whose failures are counted, and users.
const MOST: usize = 65_536;

/// Bytes of both tables when they are full.
#[cfg(test)]
pub(super) const MOST_BYTES: usize = 2 * Table::<Failures>::most_bytes(MOST);

/// Keeps everything in memory. Nothing fails.
#[derive(Debug)]
pub(crate) struct MemoryStore {
    of_addresses: Mutex<Table<Failures>>,
    of_users: Mutex<Table<Failures>>,
    sessions: Mutex<Sessions>,
}

impl MemoryStore {
    /// Nothing is known.
    pub(crate) fn new() -> Self {
        Self {
            of_addresses: Mutex::new(Table::new(MOST)),
            of_users: Mutex::new(Table::new(MOST)),
            sessions: Mutex::default(),
        }
    }

    fn table(&self, of: FailuresOf<'_>) -> MutexGuard<'_, Table<Failures>> {
        lock(match of {
            FailuresOf::Address(_) => &self.of_addresses,
            FailuresOf::User(_) => &self.of_users,
        })
    }

    fn add_failure_at(&self, of: FailuresOf<'_>, most: u32, now: Instant) -> u32 {
        let mut table = self.table(of);
        let failures = table.entry(of, now, || Failures::none(now));
        failures.add(most, now)
    }

    fn failures_at(&self, of: FailuresOf<'_>, now: Instant) -> u32 {
        let table = self.table(of);
        table.get(of).map_or(0, |failures| failures.at(now))
    }
}

impl Store for MemoryStore {
    fn add_failure(&self, of: FailuresOf<'_>, most: u32) -> Result<u32, StoreError> {
        Ok(self.add_failure_at(of, most, Instant::now()))
    }

    fn failures(&self, of: FailuresOf<'_>) -> Result<u32, StoreError> {
        Ok(self.failures_at(of, Instant::now()))
    }

    fn begin_session(
        &self,
        session: &UserSession,
        limits: SessionLimits,
    ) -> Result<Begun, StoreError> {
        Ok(lock(&self.sessions).begin(session, limits))
    }

    fn end_session(&self, session: &UserSession) -> Result<(), StoreError> {
        lock(&self.sessions).end(session);
        Ok(())
    }
}

/// How many sessions each user has. Names are not kept, only their hashes.
#[derive(Debug, Default)]
struct Sessions {
    hasher: RandomState,
    of_user: HashMap<(Protocol, u64), OfUser>,
}

#[derive(Debug, Default)]
struct OfUser {
    all: u32,
    by_address: HashMap<LimitKey, u32>,
}

impl Sessions {
    fn key(&self, session: &UserSession) -> (Protocol, u64) {
        (session.protocol, self.hasher.hash_one(&session.user))
    }

    fn begin(&mut self, session: &UserSession, limits: SessionLimits) -> Begun {
        let key = self.key(session);
        let (all, here) = self.of_user.get(&key).map_or((0, 0), |of_user| {
            let here = of_user.by_address.get(&session.address);
            (of_user.all, here.copied().unwrap_or(0))
        });
        let begun = limits.judge(all, here);
        if begun == Begun::Counted {
            let of_user = self.of_user.entry(key).or_default();
            of_user.all += 1;
            *of_user.by_address.entry(session.address).or_default() += 1;
        }
        begun
    }

    fn end(&mut self, session: &UserSession) {
        let key = self.key(session);
        let Entry::Occupied(mut entry) = self.of_user.entry(key) else {
            return;
        };
        let of_user = entry.get_mut();
        of_user.all = of_user.all.saturating_sub(1);
        if let Entry::Occupied(mut here) = of_user.by_address.entry(session.address) {
            match *here.get() {
                0 | 1 => drop(here.remove()),
                more => *here.get_mut() = more - 1,
            }
        }
        if of_user.all == 0 {
            entry.remove();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::super::penalty::LEAK;
    use super::*;

    fn address(last: u8) -> LimitKey {
        LimitKey::Ip([192, 0, 2, last].into())
    }

    fn session(user: &str, last: u8, number: u64) -> UserSession {
        UserSession {
            protocol: Protocol::Imap,
            user: user.as_bytes().to_vec(),
            address: address(last),
            number,
        }
    }

    #[test]
    fn failures_of_addresses_and_users_are_counted_apart_and_leak() {
        let store = MemoryStore::new();
        let now = Instant::now();
        let of_address = FailuresOf::Address(address(1));
        let of_user = FailuresOf::User(b"anna@example.com");
        assert_eq!(store.add_failure_at(of_address, 9, now), 1);
        assert_eq!(store.add_failure_at(of_address, 9, now), 2);
        assert_eq!(store.add_failure_at(of_user, 9, now), 1);
        assert_eq!(store.failures_at(of_address, now), 2);
        assert_eq!(store.failures_at(of_address, now + LEAK), 1);
        assert_eq!(store.failures_at(FailuresOf::Address(address(2)), now), 0);
        assert_eq!(store.failures_at(of_user, now), 1);
        assert_eq!(store.add_failure_at(of_user, 1, now), 1);
    }

    #[test]
    fn sessions_are_refused_at_a_limit_and_the_counts_return_to_nothing() {
        let store = MemoryStore::new();
        let limits = SessionLimits {
            of_user: Some(3),
            of_user_and_address: Some(2),
        };
        let begin = |session: &UserSession| store.begin_session(session, limits);
        let sessions = [session("a", 1, 1), session("a", 1, 2), session("a", 2, 3)];
        for session in &sessions {
            assert_eq!(begin(session), Ok(Begun::Counted));
        }
        let per_user = Begun::Reached("max_sessions_per_user");
        assert_eq!(begin(&session("a", 3, 4)), Ok(per_user));
        let per_ip = Begun::Reached("max_sessions_per_user_per_ip");
        assert_eq!(begin(&session("a", 1, 5)), Ok(per_ip));
        assert_eq!(begin(&session("b", 1, 6)), Ok(Begun::Counted));
        let smtp = UserSession {
            protocol: Protocol::Smtp,
            ..session("a", 1, 7)
        };
        assert_eq!(begin(&smtp), Ok(Begun::Counted));
        for session in sessions.iter().chain([&session("b", 1, 6), &smtp]) {
            assert_eq!(store.end_session(session), Ok(()));
        }
        assert!(lock(&store.sessions).of_user.is_empty());
        // One that was never begun does no harm.
        assert_eq!(store.end_session(&sessions[0]), Ok(()));
    }
}
