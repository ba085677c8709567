//! How many failed logins are answered how late, and how that is forgotten. No clock of its own, no I/O.
//!
//! A count goes back by one every `LEAK`, whatever happens meanwhile, and is never more than `BEYOND` above
//! what is free: an hour after the last failure the next one is answered at once again, and after
//! `LEAK` times the free ones more nothing is known any more.

use std::time::{Duration, Instant};

use super::table::Weighs;

/// After that long a count goes back by one.
pub(crate) const LEAK: Duration = Duration::from_secs(300);

/// A count is never higher above the free failures than that.
pub(crate) const BEYOND: u32 = 12;

/// The delay of the first failure that is not free; each further one doubles it.
const FIRST: Duration = Duration::from_secs(1);

/// What failed logins cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PenaltyRule {
    /// So many are answered at once.
    pub free: u32,
    /// The longest delay.
    pub most: Duration,
}

impl PenaltyRule {
    /// How late the failure is answered that made this the count.
    pub(crate) fn delay(self, count: u32) -> Option<Duration> {
        let beyond = count.checked_sub(self.free)?.checked_sub(1)?;
        let doubled = FIRST.saturating_mul(2_u32.saturating_pow(beyond));
        Some(doubled.min(self.most))
    }

    /// The count above which the delay no longer grows.
    pub(crate) fn most_failures(self) -> u32 {
        self.free.saturating_add(BEYOND)
    }
}

/// A count of failures.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failures {
    count: u32,
    /// Since when the count waits to go back by one.
    since: Instant,
}

impl Failures {
    /// None so far.
    pub(super) fn none(now: Instant) -> Self {
        Self {
            count: 0,
            since: now,
        }
    }

    /// How many there are now.
    pub(super) fn at(&self, now: Instant) -> u32 {
        self.count.saturating_sub(self.leaked(now))
    }

    fn leaked(&self, now: Instant) -> u32 {
        let steps = now.saturating_duration_since(self.since).as_secs() / LEAK.as_secs();
        u32::try_from(steps).unwrap_or(u32::MAX)
    }

    /// One more, up to `most`; returns how many that makes. The next step back comes as if nothing had
    /// happened: failures do not put it off.
    pub(super) fn add(&mut self, most: u32, now: Instant) -> u32 {
        let leaked = self.leaked(now);
        match self.count.saturating_sub(leaked) {
            0 => *self = Self::none(now),
            left => {
                self.count = left;
                self.since += LEAK.saturating_mul(leaked);
            }
        }
        self.count = self.count.saturating_add(1).min(most.max(1));
        self.count
    }
}

impl Weighs for Failures {
    /// The count, and among equals the latest.
    type Weight = (u32, Instant);

    fn weight(&self, now: Instant) -> Self::Weight {
        (self.at(now), self.since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULE: PenaltyRule = PenaltyRule {
        free: 5,
        most: Duration::from_secs(15),
    };

    #[test]
    fn delays_double_from_a_second_up_to_the_longest() {
        let seconds: Vec<_> = (0..=12)
            .map(|count| RULE.delay(count).map(|delay| delay.as_secs()))
            .collect();
        let free = [None; 6];
        let later = [1, 2, 4, 8, 15, 15, 15].map(Some);
        assert_eq!(seconds, [&free[..], &later[..]].concat());
        let none_is_free = PenaltyRule { free: 0, ..RULE };
        assert_eq!(none_is_free.delay(0), None);
        assert_eq!(none_is_free.delay(1), Some(FIRST));
        assert_eq!(RULE.delay(u32::MAX), Some(RULE.most));
    }

    #[test]
    fn an_hour_after_the_last_failure_the_next_is_answered_at_once() {
        let began = Instant::now();
        let mut failures = Failures::none(began);
        let mut now = began;
        for _ in 0..10_000 {
            failures.add(RULE.most_failures(), now);
            now += Duration::from_secs(1);
        }
        assert_eq!(RULE.delay(failures.at(now)), Some(RULE.most));
        assert!(failures.at(now) <= RULE.most_failures());
        let hour_later = now + Duration::from_secs(3600) + LEAK;
        let mut next = failures;
        let next = next.add(RULE.most_failures(), hour_later);
        assert_eq!(RULE.delay(next), None);
        let forgotten = now + LEAK * RULE.most_failures();
        assert_eq!(failures.at(forgotten), 0);
    }

    #[test]
    fn failures_do_not_put_off_the_next_step_back() {
        let began = Instant::now();
        let mut failures = Failures::none(began);
        for _ in 0..4 {
            failures.add(9, began);
        }
        let almost = began + LEAK - Duration::from_secs(1);
        assert_eq!(failures.add(9, almost), 5);
        assert_eq!(failures.at(began + LEAK), 4);
        assert_eq!(failures.add(9, began + LEAK * 2), 4);
        assert_eq!(failures.at(began + LEAK * 3), 3);
        // What was forgotten begins anew.
        let later = began + LEAK * 100;
        assert_eq!(failures.add(9, later), 1);
        assert_eq!(failures.at(later + LEAK), 0);
        // A time before the first failure is as good as none.
        assert_eq!(failures.at(began), 1);
    }
}
