//! Waiting for a fact instead of for a time.

use std::thread;
use std::time::{Duration, Instant};

/// How long a test waits for something that should happen at once.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// Looks until `probe` has found something.
///
/// # Panics
/// When nothing was found within `limit`.
pub(crate) fn until<T>(what: &str, limit: Duration, mut probe: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(start.elapsed() < limit, "not within {limit:?}: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Looks until `probe` is true.
pub(crate) fn until_true(what: &str, limit: Duration, mut probe: impl FnMut() -> bool) {
    until(what, limit, || probe().then_some(()));
}

/// Looks until a count has come down to `wanted`.
pub(crate) fn until_at_most(
    what: &str,
    wanted: usize,
    limit: Duration,
    mut count: impl FnMut() -> usize,
) {
    let start = Instant::now();
    loop {
        let now = count();
        if now <= wanted {
            return;
        }
        assert!(
            start.elapsed() < limit,
            "{what}: {now} instead of {wanted} after {limit:?}"
        );
        thread::sleep(Duration::from_millis(20));
    }
}
