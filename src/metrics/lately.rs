//! What happened lately: how many logins of each minute of the last hour succeeded and failed, and the
//! last ones that failed.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use jiff::Timestamp;

use super::{Outcome, ServerMetrics};
use crate::net::address::Address;

/// How many minutes are kept.
pub(crate) const MINUTES: usize = 60;

/// How many failed logins are kept.
const FAILURES: usize = 50;

/// Bytes that a login or a reason may take there.
const LONGEST: usize = 300;

/// The logins of the process.
#[derive(Debug)]
pub(crate) struct Lately {
    began: Instant,
    succeeded: [Slot; MINUTES],
    failed: [Slot; MINUTES],
    failures: Mutex<VecDeque<Arc<FailedLogin>>>,
}

/// The count of one minute: its number above, the count below, so that both change as one.
type Slot = AtomicU64;

/// How many logins of a minute succeeded and failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Minute {
    /// Those that let the client in.
    pub succeeded: u32,
    /// Those that failed.
    pub failed: u32,
}

/// A login that failed.
#[derive(Debug)]
pub(crate) struct FailedLogin {
    /// When.
    pub at: Timestamp,
    /// The server that it was tried at.
    pub server: Arc<ServerMetrics>,
    /// Who tried it.
    pub client: Address,
    /// The login, escaped.
    pub login: String,
    /// How it was tried.
    pub method: &'static str,
    /// What became of it.
    pub outcome: Outcome,
    /// What else is known, escaped; may be empty.
    pub detail: String,
}

impl Default for Lately {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            succeeded: std::array::from_fn(|_| Slot::new(0)),
            failed: std::array::from_fn(|_| Slot::new(0)),
            failures: Mutex::default(),
        }
    }
}

impl Lately {
    /// A login succeeded.
    pub(crate) fn note_success(&self) {
        note(&self.succeeded, self.minute());
    }

    /// A login failed.
    pub(crate) fn note_failure(&self, mut failed: FailedLogin) {
        note(&self.failed, self.minute());
        shorten(&mut failed.login);
        shorten(&mut failed.detail);
        let failed = Arc::new(failed);
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() == FAILURES {
            failures.pop_back();
        }
        failures.push_front(failed);
    }

    /// The last hour by minutes, the current one last.
    pub(crate) fn minutes(&self) -> [Minute; MINUTES] {
        self.minutes_until(self.minute())
    }

    /// The last failures, the latest first.
    pub(crate) fn failures(&self) -> Vec<Arc<FailedLogin>> {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.iter().cloned().collect()
    }

    fn minutes_until(&self, last: u64) -> [Minute; MINUTES] {
        std::array::from_fn(|at| {
            let Some(minute) = (last + 1 + at as u64).checked_sub(MINUTES as u64) else {
                return Minute::default();
            };
            Minute {
                succeeded: count(&self.succeeded, minute),
                failed: count(&self.failed, minute),
            }
        })
    }

    /// The number of the current minute, from 1 on.
    fn minute(&self) -> u64 {
        self.began.elapsed().as_secs() / 60 + 1
    }
}

fn note(slots: &[Slot; MINUTES], minute: u64) {
    let slot = &slots[(minute % MINUTES as u64) as usize];
    let next = |value: u64| match value >> 32 == minute {
        true => Some(value.saturating_add(1)),
        false => Some(minute << 32 | 1),
    };
    // It always has a next value.
    let _ = slot.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
}

fn count(slots: &[Slot; MINUTES], minute: u64) -> u32 {
    let value = slots[(minute % MINUTES as u64) as usize].load(Ordering::Relaxed);
    match value >> 32 == minute {
        true => (value & u64::from(u32::MAX)) as u32,
        false => 0,
    }
}

fn shorten(text: &mut String) {
    if text.len() > LONGEST {
        let mut end = LONGEST;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        text.push('…');
    }
    text.shrink_to_fit();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::Protocol;

    #[test]
    fn an_hour_is_kept_by_minutes_and_what_is_older_is_forgotten() {
        let lately = Lately::default();
        for minute in [1, 1, 60, 61, 61, 61] {
            note(&lately.succeeded, minute);
        }
        note(&lately.failed, 60);
        let at_60 = lately.minutes_until(60);
        // The place of minute 1 has been taken by minute 61.
        assert_eq!(at_60[0], Minute::default());
        let at_61 = lately.minutes_until(61);
        let shown = |minute: Minute| (minute.succeeded, minute.failed);
        assert_eq!(shown(at_61[59]), (3, 0));
        assert_eq!(shown(at_61[58]), (1, 1));
        assert_eq!(at_61.iter().map(|minute| minute.succeeded).sum::<u32>(), 4);
        assert_eq!(lately.minutes_until(200), [Minute::default(); MINUTES]);
    }

    #[test]
    fn fifty_failures_are_kept_and_none_of_them_is_long() {
        let lately = Lately::default();
        let server = Arc::new(ServerMetrics::new("mail", Protocol::Imap));
        for at in 0..60 {
            lately.note_failure(FailedLogin {
                at: Timestamp::UNIX_EPOCH,
                server: Arc::clone(&server),
                client: Address::Unix,
                login: format!("{at}{}", "é".repeat(10_000)),
                method: "plain",
                outcome: Outcome::Refused,
                detail: String::new(),
            });
        }
        let failures = lately.failures();
        assert_eq!(failures.len(), FAILURES);
        assert!(failures[0].login.starts_with("59é") && failures[49].login.starts_with("10é"));
        assert!(failures[0].login.len() <= LONGEST + 3);
        assert_eq!(lately.minutes()[59].failed, 60);
    }
}
