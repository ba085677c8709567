//! How long backends take to refuse a login, so that one which no backend sees is refused as late: a stranger
//! shall not learn from the time which logins exist.
//!
//! What waits, and for what, is decided in `session::run`.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Refusals that are remembered.
const REMEMBERED: usize = 16;

/// Longest time that is remembered: a slow backend, or a client that makes one slow, shall not hold up
/// everyone else's refusals for longer.
const LONGEST: Duration = Duration::from_secs(3);

/// What holds before a backend has refused anything: Dovecot's `auth_failure_delay`.
const UNKNOWN: Duration = Duration::from_secs(2);

/// The last refusals of a server's backends.
#[derive(Debug, Default)]
pub(crate) struct RefusalTime {
    last: Mutex<VecDeque<Duration>>,
}

impl RefusalTime {
    /// A backend has refused a login after this time.
    pub(crate) fn note(&self, time: Duration) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.len() == REMEMBERED {
            last.pop_front();
        }
        last.push_back(time.min(LONGEST));
    }

    /// The time that one of the last refusals took, any of them: an average, always the same, would
    /// be told from the scattered times of a backend.
    pub(crate) fn any(&self) -> Duration {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let mut random = [0];
        // Without randomness it is the oldest one.
        let _ = getrandom::fill(&mut random);
        let at = usize::from(random[0]) % last.len().max(1);
        last.get(at).copied().unwrap_or(UNKNOWN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn it_is_one_of_the_last_times_and_bounded() {
        let times = RefusalTime::default();
        assert_eq!(times.any(), UNKNOWN);
        times.note(400 * MS);
        assert_eq!(times.any(), 400 * MS);
        times.note(Duration::MAX);
        let all: Vec<_> = (0..100).map(|_| times.any()).collect();
        assert!(all.contains(&(400 * MS)) && all.contains(&LONGEST));
        assert!(all.iter().all(|time| [400 * MS, LONGEST].contains(time)));
        (0..16).for_each(|_| times.note(MS));
        assert!((0..100).all(|_| times.any() == MS));
    }
}
