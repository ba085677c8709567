//! What keeps one client, or one user, from using up or guessing at what belongs to others: failed logins
//! are answered later and later, and a user has so many sessions at a time.
//!
//! Knows addresses, logins and numbers, but no session: `session` asks, waits and says. How many may come in
//! at all is decided in `admission`.
//!
//! An address (IPv6: a /64) whose logins fail has some failures free; each further one is answered later
//! (`penalty`). The same wrong password for the same login counts once (`guesses`), and a login that succeeds
//! forgives nothing. Whoever does not wait for its answers finds no place for the next check (`gate`), unless
//! the user has logged in from there before (`known`). Failures of a user from anywhere can count the same way.
//!
//! Counts that nodes can share stand behind `store`: `memory` is this process, `redis` all nodes, `shared` both
//! together. `table` is the bounded table under them.
//!
//! Memory: 16 MiB for the tables of the process when they are full, which they become only as addresses
//! and users are seen; a gate for each session before its login and each refusal that is held
//! back; a count for each user that is logged in. What has no room pushes out what counts least.

mod gate;
mod guesses;
mod known;
pub(crate) mod memory;
pub(crate) mod penalty;
pub(crate) mod redis;
pub(crate) mod shared;
pub(crate) mod store;
mod table;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::net::address::LimitKey;
use gate::Gates;
pub(crate) use gate::{GateKey, PLACES, Taken};
use guesses::Guesses;
use known::Known;
use memory::MemoryStore;
use penalty::PenaltyRule;
use store::{FailuresOf, Store, StoreError};

/// Bytes of all tables of the process when they are full.
#[cfg(test)]
pub(crate) const MOST_BYTES: usize = memory::MOST_BYTES + guesses::MOST_BYTES + known::MOST_BYTES;

/// What failed logins cost at one server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rules {
    /// Those of an address.
    pub of_address: PenaltyRule,
    /// Those of a user from addresses where it is not known, if they count.
    pub of_user: Option<PenaltyRule>,
}

/// One login that somebody tries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// Where it comes from.
    pub address: LimitKey,
    /// The login as it was presented, in lower case and with its domain.
    pub login: Vec<u8>,
}

/// What a failed login costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Penalty {
    /// How late it is answered.
    pub delay: Option<Duration>,
    /// Whether it is the first of its address that is answered late.
    pub begins: bool,
}

/// One for the process; a reload changes nothing here, as the rules come with each question.
#[derive(Debug)]
pub(crate) struct Limiter {
    store: Arc<dyn Store>,
    hasher: RandomState,
    guesses: Mutex<Guesses>,
    known: Mutex<Known>,
    gates: Mutex<Gates>,
}

impl Default for Limiter {
    /// One that shares nothing with other nodes.
    fn default() -> Self {
        Self::new(Arc::new(MemoryStore::new()))
    }
}

impl Limiter {
    /// Nothing has happened here yet.
    pub(crate) fn new(store: Arc<dyn Store>) -> Self {
        Self {
            store,
            hasher: RandomState::new(),
            guesses: Mutex::new(Guesses::new()),
            known: Mutex::new(Known::new()),
            gates: Mutex::new(Gates::new()),
        }
    }

    /// What is shared with other nodes.
    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// The gates that a login has to pass before it is checked, in this order.
    pub(crate) fn gates(&self, attempt: &Attempt, rules: Rules) -> Vec<GateKey> {
        let (address, user) = (attempt.address, self.hasher.hash_one(&attempt.login));
        if self.knows(attempt) {
            return vec![GateKey::KnownUser(address, user)];
        }
        let of_user = rules.of_user.map(|_| GateKey::User(user));
        let of_address = GateKey::Address(address);
        std::iter::once(of_address).chain(of_user).collect()
    }

    /// Takes a place at a gate; see `Gates::take`. Without failures of that address or user there is always one.
    ///
    /// # Errors
    /// The store cannot be asked; then there is a place.
    pub(crate) fn take(
        &self,
        key: GateKey,
        attempt: &Attempt,
        session: (u64, Option<u64>),
    ) -> (Taken, Option<u64>, Option<StoreError>) {
        let of = match key {
            GateKey::Address(address) | GateKey::KnownUser(address, _) => {
                FailuresOf::Address(address)
            }
            GateKey::User(_) => FailuresOf::User(&attempt.login),
        };
        let (failures, error) = known_or_none(self.store.failures(of));
        let most = (failures > 0).then_some(PLACES);
        let (taken, woken) = lock(&self.gates).take(key, session, most, Instant::now());
        (taken, woken, error)
    }

    /// Gives a place back; returns who is to be woken.
    pub(crate) fn give_back(&self, key: GateKey) -> Option<u64> {
        lock(&self.gates).give_back(key, Instant::now())
    }

    /// A place is held until a refusal is told; returns who is to be woken.
    pub(crate) fn hold(&self, key: GateKey, until: Instant) -> Option<u64> {
        lock(&self.gates).hold(key, until, Instant::now())
    }

    /// Leaves the line; returns who is to be woken.
    pub(crate) fn leave_line(&self, key: GateKey, ticket: u64) -> Option<u64> {
        lock(&self.gates).leave_line(key, ticket, Instant::now())
    }

    /// A login was refused: counts it, and says what that costs. With an error of the store it costs nothing.
    pub(crate) fn note_failure(
        &self,
        attempt: &Attempt,
        secret: &[u8],
        rules: Rules,
    ) -> (Penalty, Option<StoreError>) {
        let (address, login) = (attempt.address, &attempt.login);
        let now = Instant::now();
        let is_repeated = lock(&self.guesses).is_repeated(address, login, secret, now);
        let count = |of, rule: PenaltyRule| match is_repeated {
            // It has failed once, and does so still, however long that is ago: its places stay limited.
            true => match self.store.failures(of) {
                Ok(0) => known_or_none(self.store.add_failure(of, rule.most_failures())),
                known => known_or_none(known),
            },
            false => known_or_none(self.store.add_failure(of, rule.most_failures())),
        };
        let (failures, error) = count(FailuresOf::Address(address), rules.of_address);
        let mut delay = rules.of_address.delay(failures);
        if let Some(rule) = rules.of_user.filter(|_| !self.knows(attempt)) {
            let (failures, _) = count(FailuresOf::User(login), rule);
            delay = delay.max(rule.delay(failures));
        }
        let penalty = Penalty {
            delay,
            begins: !is_repeated && failures == rules.of_address.free.saturating_add(1),
        };
        (penalty, error)
    }

    /// A login has succeeded: from there the user is known.
    pub(crate) fn note_success(&self, attempt: &Attempt) {
        lock(&self.known).note(&attempt.login, attempt.address, Instant::now());
    }

    fn knows(&self, attempt: &Attempt) -> bool {
        lock(&self.known).has(&attempt.login, attempt.address)
    }
}

/// A store that cannot be asked is none that knows anything.
fn known_or_none(count: Result<u32, StoreError>) -> (u32, Option<StoreError>) {
    match count {
        Ok(count) => (count, None),
        Err(error) => (0, Some(error)),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: PenaltyRule = PenaltyRule {
        free: 2,
        most: Duration::from_secs(15),
    };
    const RULES: Rules = Rules {
        of_address: RULE,
        of_user: None,
    };
    const PER_USER: Rules = Rules {
        of_address: RULE,
        of_user: Some(RULE),
    };

    fn attempt(last: u8, login: &str) -> Attempt {
        Attempt {
            address: LimitKey::Ip([192, 0, 2, last].into()),
            login: login.as_bytes().to_vec(),
        }
    }

    fn seconds(limiter: &Limiter, attempt: &Attempt, secret: &str, rules: Rules) -> u64 {
        let (penalty, error) = limiter.note_failure(attempt, secret.as_bytes(), rules);
        assert_eq!(error, None);
        penalty.delay.unwrap_or_default().as_secs()
    }

    #[test]
    fn memory_of_all_tables_is_what_the_manual_says() {
        assert_eq!(MOST_BYTES.div_ceil(1024 * 1024), 16);
    }

    #[test]
    fn an_old_password_counts_once_and_success_forgives_nothing() {
        let limiter = Limiter::default();
        let anna = attempt(1, "anna");
        for _ in 0..100 {
            assert_eq!(seconds(&limiter, &anna, "old", RULES), 0);
        }
        assert_eq!(seconds(&limiter, &anna, "guess", RULES), 0);
        limiter.note_success(&anna);
        let (third, _) = limiter.note_failure(&anna, b"another", RULES);
        let expected = Penalty {
            delay: Some(Duration::from_secs(1)),
            begins: true,
        };
        assert_eq!(third, expected);
        let (fourth, _) = limiter.note_failure(&anna, b"yet another", RULES);
        assert_eq!(fourth.delay, Some(Duration::from_secs(2)));
        assert!(!fourth.begins);
        assert_eq!(seconds(&limiter, &attempt(2, "anna"), "x", RULES), 0);
    }

    #[test]
    fn a_user_is_guessed_at_slowly_from_many_addresses_but_not_from_where_it_is_known() {
        let limiter = Limiter::default();
        let home = attempt(99, "anna");
        limiter.note_success(&home);
        let delays: Vec<_> = (1..=5)
            .map(|last| seconds(&limiter, &attempt(last, "anna"), "guess", PER_USER))
            .collect();
        assert_eq!(delays, [0, 0, 1, 2, 4]);
        assert_eq!(seconds(&limiter, &home, "typing error", PER_USER), 0);
        assert_eq!(seconds(&limiter, &attempt(6, "bert"), "guess", PER_USER), 0);
        let known = limiter.gates(&home, PER_USER);
        assert!(matches!(known[..], [GateKey::KnownUser(..)]));
        let unknown = limiter.gates(&attempt(1, "anna"), PER_USER);
        assert!(matches!(
            unknown[..],
            [GateKey::Address(_), GateKey::User(_)]
        ));
    }

    #[test]
    fn places_are_limited_once_something_has_failed() {
        let limiter = Limiter::default();
        let guesser = attempt(1, "anna");
        let [key] = limiter.gates(&guesser, RULES)[..] else {
            panic!("one gate");
        };
        let take = |session| limiter.take(key, &guesser, (session, None)).0;
        for session in 0..100 {
            assert_eq!(take(session), Taken::Yes);
        }
        limiter.note_failure(&guesser, b"guess", RULES);
        assert!(matches!(take(100), Taken::InLine(..)));
    }

    /// One failure at address or user is as old as can be; counts how often it is told of another.
    #[derive(Debug, Default)]
    struct LongAgo(std::sync::atomic::AtomicU32);

    impl Store for LongAgo {
        fn add_failure(&self, _: FailuresOf<'_>, _: u32) -> Result<u32, StoreError> {
            self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            Ok(1)
        }

        fn failures(&self, _: FailuresOf<'_>) -> Result<u32, StoreError> {
            Ok(0)
        }

        fn begin_session(
            &self,
            _: &store::UserSession,
            _: store::SessionLimits,
        ) -> Result<store::Begun, StoreError> {
            Ok(store::Begun::Counted)
        }

        fn end_session(&self, _: &store::UserSession) -> Result<(), StoreError> {
            Ok(())
        }
    }

    #[test]
    fn whoever_repeats_an_old_password_has_failed_however_long_ago_that_began() {
        let store = Arc::new(LongAgo::default());
        let limiter = Limiter::new(Arc::clone(&store) as _);
        let anna = attempt(1, "anna");
        for told in 1..=3 {
            assert_eq!(seconds(&limiter, &anna, "old", RULES), 0);
            assert_eq!(store.0.load(std::sync::atomic::Ordering::SeqCst), told);
        }
    }

    /// Knows nothing, and says so.
    #[derive(Debug)]
    struct Gone;

    impl Gone {
        fn error<T>() -> Result<T, StoreError> {
            Err(StoreError("connection refused".into()))
        }
    }

    impl Store for Gone {
        fn add_failure(&self, _: FailuresOf<'_>, _: u32) -> Result<u32, StoreError> {
            Self::error()
        }

        fn failures(&self, _: FailuresOf<'_>) -> Result<u32, StoreError> {
            Self::error()
        }

        fn begin_session(
            &self,
            _: &store::UserSession,
            _: store::SessionLimits,
        ) -> Result<store::Begun, StoreError> {
            Self::error()
        }

        fn end_session(&self, _: &store::UserSession) -> Result<(), StoreError> {
            Self::error()
        }
    }

    #[test]
    fn a_store_that_is_gone_delays_nobody_and_is_told_of() {
        let limiter = Limiter::new(Arc::new(Gone));
        let anna = attempt(1, "anna");
        for guess in 0..100_u8 {
            let (penalty, error) = limiter.note_failure(&anna, &[guess], PER_USER);
            assert_eq!(penalty.delay, None);
            assert!(error.is_some());
        }
        let key = limiter.gates(&anna, RULES)[0];
        let (taken, _, error) = limiter.take(key, &anna, (1, None));
        assert_eq!((taken, error.is_some()), (Taken::Yes, true));
    }
}
