//! How long a session has been silent in both directions together, and how long it may be.
//!
//! It knows times and counts alone: what moves, what has not been acknowledged, and what follows from a
//! silence, it is told or asked.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The silence of both directions together.
pub(super) struct Clock {
    began: Instant,
    /// Milliseconds after `began` at which a byte last moved: that of the session's entry.
    active: Arc<AtomicU64>,
    /// Longest silence, in milliseconds.
    limit: AtomicU64,
    /// `hibernate_timeout`, in milliseconds.
    hibernate: Option<u64>,
    /// What the peers had not acknowledged when the silence was last found too long.
    unacknowledged: AtomicU64,
    /// Nobody is to wait any more.
    stopped: AtomicBool,
}

/// Nothing has moved for a while, and nobody has looked yet at what is not acknowledged.
const NOT_LOOKED: u64 = u64::MAX;

impl Clock {
    /// `active` is moved on by others as well; `limit` is the longest silence, `hibernate` the one after
    /// which to sleep.
    pub(super) fn new(
        began: Instant,
        active: Arc<AtomicU64>,
        limit: Duration,
        hibernate: Option<Duration>,
    ) -> Self {
        Self {
            began,
            active,
            limit: AtomicU64::new(millis(limit)),
            hibernate: hibernate.map(millis),
            unacknowledged: AtomicU64::new(NOT_LOOKED),
            stopped: AtomicBool::new(false),
        }
    }

    /// A byte has moved.
    pub(super) fn touch(&self) {
        self.unacknowledged.store(NOT_LOOKED, Ordering::Relaxed);
        self.active.store(self.now(), Ordering::SeqCst);
    }

    /// The silence is too long for what we see: neither side has sent anything, and the kernel has taken
    /// nothing. But a slow reader behind a large buffer is not silent: as long as it acknowledges
    /// something of what is under way, it has half of the time again: a window opens in steps.
    pub(super) fn notice_progress(&self, unacknowledged: u64) {
        let before = self.unacknowledged.swap(unacknowledged, Ordering::Relaxed);
        if unacknowledged == 0 || unacknowledged >= before {
            return;
        }
        let again = self.limit.load(Ordering::Relaxed) / 2;
        let limit = self.limit.load(Ordering::Relaxed);
        let active = self.now().saturating_sub(limit - again.max(1).min(limit));
        self.active.fetch_max(active, Ordering::SeqCst);
    }

    /// A shorter limit, if it is one, and all of it from now on.
    pub(super) fn begin_shorter_limit(&self, limit: Duration) {
        let limit = millis(limit);
        if self.limit.load(Ordering::Relaxed) > limit {
            self.touch();
            // Whoever sees this sees the touch as well.
            self.limit.fetch_min(limit, Ordering::Release);
        }
    }

    /// Nobody is to wait any more.
    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::Release);
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Acquire)
    }

    fn now(&self) -> u64 {
        millis(self.began.elapsed())
    }

    fn silence(&self) -> u64 {
        let active = self.active.load(Ordering::SeqCst);
        self.now().saturating_sub(active)
    }

    /// What is left of the longest silence.
    pub(super) fn patience(&self) -> Option<Duration> {
        if self.is_stopped() {
            return None;
        }
        let left = self
            .limit
            .load(Ordering::Acquire)
            .saturating_sub(self.silence());
        (left > 0).then(|| Duration::from_millis(left))
    }

    /// Whether the silence is long enough to sleep.
    pub(super) fn is_silent(&self) -> bool {
        self.hibernate.is_some_and(|limit| self.silence() >= limit)
    }

    /// Whether so much silence would be enough.
    pub(super) fn may_sleep_within(&self, time: Duration) -> bool {
        self.hibernate.is_some_and(|limit| limit <= millis(time))
    }

    /// How long until that; where it is over already, and somebody could not leave, the whole time again.
    pub(super) fn until_sleep(&self) -> Option<Duration> {
        let limit = self.hibernate?.max(1);
        let left = limit.saturating_sub(self.silence());
        Some(Duration::from_millis(if left == 0 { limit } else { left }))
    }

    /// When the silence has been too long.
    pub(super) fn end(&self) -> Instant {
        let limit = self.limit.load(Ordering::Acquire);
        let end = self.active.load(Ordering::SeqCst).saturating_add(limit);
        let end = self.began.checked_add(Duration::from_millis(end));
        // Longer than the clock can tell is as good as never.
        end.unwrap_or_else(|| Instant::now() + Duration::from_secs(1 << 30))
    }
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    /// One that may be silent for ten minutes, has been for `silence`, and sleeps after one.
    fn silent_for(silence: Duration) -> Clock {
        let began = Instant::now().checked_sub(silence).expect("a moment");
        Clock::new(began, Arc::default(), 10 * MINUTE, Some(MINUTE))
    }

    fn is_about(time: Option<Duration>, expected: Duration) -> bool {
        // Time goes on while a test runs.
        time.is_some_and(|time| time <= expected && time + MINUTE / 2 > expected)
    }

    #[test]
    fn patience_is_what_is_left_since_a_byte_moved() {
        let clock = silent_for(4 * MINUTE);
        assert!(is_about(clock.patience(), 6 * MINUTE));
        clock.touch();
        assert!(is_about(clock.patience(), 10 * MINUTE));
        clock.stop();
        assert_eq!(clock.patience(), None);
        assert_eq!(silent_for(10 * MINUTE).patience(), None);
    }

    #[test]
    fn who_acknowledges_something_has_half_of_the_time_again() {
        let clock = silent_for(11 * MINUTE);
        clock.notice_progress(1000);
        assert!(is_about(clock.patience(), 5 * MINUTE), "first look");
        let clock = silent_for(11 * MINUTE);
        clock.notice_progress(0);
        assert_eq!(clock.patience(), None, "nothing is under way");
        clock.notice_progress(1000);
        assert_eq!(clock.patience(), None, "it has become more");
        clock.notice_progress(999);
        assert!(is_about(clock.patience(), 5 * MINUTE));
    }

    #[test]
    fn a_shorter_limit_begins_anew_and_a_longer_one_changes_nothing() {
        let clock = silent_for(4 * MINUTE);
        clock.begin_shorter_limit(20 * MINUTE);
        assert!(is_about(clock.patience(), 6 * MINUTE));
        clock.begin_shorter_limit(3 * MINUTE);
        assert!(is_about(clock.patience(), 3 * MINUTE));
    }

    #[test]
    fn who_could_not_sleep_in_time_waits_for_all_of_it_again() {
        let clock = silent_for(MINUTE / 4);
        assert!(!clock.is_silent());
        assert!(is_about(clock.until_sleep(), MINUTE * 3 / 4));
        let clock = silent_for(2 * MINUTE);
        assert!(clock.is_silent());
        assert!(is_about(clock.until_sleep(), MINUTE));
        assert!(clock.may_sleep_within(MINUTE));
        assert!(!clock.may_sleep_within(MINUTE / 2));
    }
}
