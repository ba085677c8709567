//! Which wrong passwords an address has already tried: the same login with the same wrong password counts
//! once, so that one telephone with an old password does not slow down everybody behind its address.
//!
//! Only for this process, never for a store. A password is kept as 32 bits of a hash with a random key of the
//! process, which match four thousand million others too: nothing can be learnt from them.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::time::Instant;

use super::penalty::Failures;
use super::table::{Table, Weighs};
use crate::net::address::LimitKey;

/// Addresses that are remembered.
const MOST: usize = 32_768;

/// Guesses of one address that are remembered: the latest.
const OF_ADDRESS: usize = 32;

/// Repetitions of an address that count towards its weight.
const MOST_REPEATED: u32 = 100;

/// Bytes of the table when it is full.
#[cfg(test)]
pub(super) const MOST_BYTES: usize = Table::<Tried>::most_bytes(MOST);

/// Wrong passwords by address.
#[derive(Debug)]
pub(super) struct Guesses {
    hasher: RandomState,
    tried: Table<Tried>,
}

impl Guesses {
    /// Nobody has tried anything.
    pub(super) fn new() -> Self {
        Self {
            hasher: RandomState::new(),
            tried: Table::new(MOST),
        }
    }

    /// Notes a wrong password; whether this address has tried it for this login before.
    pub(super) fn is_repeated(
        &mut self,
        address: LimitKey,
        login: &[u8],
        secret: &[u8],
        now: Instant,
    ) -> bool {
        let hash = self.hasher.hash_one((login, secret));
        // The upper half; zero stands for an empty place.
        let guess = u32::try_from(hash >> 32).unwrap_or(0).max(1);
        let tried = self.tried.entry(address, now, || Tried::nothing(now));
        tried.is_repeated(guess, now)
    }
}

/// What one address has tried.
struct Tried {
    /// The latest in front.
    guesses: [u32; OF_ADDRESS],
    /// How often it repeated itself lately. Whoever does is the one whom this table is for.
    repeated: Failures,
}

impl Tried {
    fn nothing(now: Instant) -> Self {
        Self {
            guesses: [0; OF_ADDRESS],
            repeated: Failures::none(now),
        }
    }

    fn is_repeated(&mut self, guess: u32, now: Instant) -> bool {
        let at = self.guesses.iter().position(|own| *own == guess);
        if at.is_some() {
            self.repeated.add(MOST_REPEATED, now);
        }
        self.guesses[..=at.unwrap_or(OF_ADDRESS - 1)].rotate_right(1);
        self.guesses[0] = guess;
        at.is_some()
    }
}

impl Weighs for Tried {
    type Weight = <Failures as Weighs>::Weight;

    fn weight(&self, now: Instant) -> Self::Weight {
        self.repeated.weight(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(last: u32) -> LimitKey {
        LimitKey::Ip(std::net::Ipv4Addr::from_bits(last).into())
    }

    #[test]
    fn the_same_login_with_the_same_password_is_a_repetition() {
        let now = Instant::now();
        let mut guesses = Guesses::new();
        let mut tries = |last, login: &str, secret: &str| {
            guesses.is_repeated(address(last), login.as_bytes(), secret.as_bytes(), now)
        };
        assert!(!tries(1, "anna", "old"));
        assert!(tries(1, "anna", "old"));
        assert!(!tries(2, "anna", "old"));
        assert!(!tries(1, "annaol", "d"));
        assert!(!tries(1, "bert", "old"));
        for number in 0..OF_ADDRESS - 1 {
            assert!(!tries(1, "carla", &number.to_string()));
            assert!(tries(1, "anna", "old"));
        }
        for number in 0..OF_ADDRESS {
            assert!(!tries(1, "dora", &number.to_string()));
        }
        assert!(!tries(1, "anna", "old"));
    }

    #[test]
    fn addresses_that_only_guess_do_not_push_out_one_that_repeats_itself() {
        let now = Instant::now();
        let mut guesses = Guesses::new();
        guesses.is_repeated(address(0), b"anna", b"old", now);
        assert!(guesses.is_repeated(address(0), b"anna", b"old", now));
        for last in 1..400_000 {
            guesses.is_repeated(address(last), b"anna", b"guess", now);
        }
        assert!(guesses.is_repeated(address(0), b"anna", b"old", now));
    }
}
