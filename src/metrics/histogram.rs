//! Times, counted by how long they were.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use super::{add, read};

/// Upper bounds in milliseconds.
type Bounds = &'static [u64];

/// For the steps of a login: from what a machine next door takes to what a client waits for at most.
pub(crate) const STEPS: Bounds = &[
    1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000,
];

/// For whole sessions, up to a day.
pub(crate) const SESSIONS: Bounds = &[
    100, 1000, 10_000, 60_000, 300_000, 1_800_000, 3_600_000, 14_400_000, 86_400_000,
];

/// How often which time was taken.
#[derive(Debug)]
pub(crate) struct Histogram {
    bounds: Bounds,
    /// One for each bound, and one for what is beyond the last.
    counts: Box<[AtomicU64]>,
    microseconds: AtomicU64,
}

impl Histogram {
    /// Nothing yet.
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            counts: (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect(),
            microseconds: AtomicU64::new(0),
        }
    }

    /// It took so long once more.
    pub(crate) fn note(&self, time: Duration) {
        let is_beyond = |bound: &u64| time > Duration::from_millis(*bound);
        let at = self.bounds.partition_point(is_beyond);
        add(&self.counts[at], 1);
        let micros = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        add(&self.microseconds, micros);
    }

    /// Each bound in seconds with how many took no longer, the last being without bound.
    pub(crate) fn buckets(&self) -> Vec<(f64, u64)> {
        let bounds = self.bounds.iter().map(|bound| *bound as f64 / 1e3);
        let bounds = bounds.chain([f64::INFINITY]);
        let mut sum = 0;
        let buckets = bounds.zip(&self.counts).map(|(bound, count)| {
            sum += read(count);
            (bound, sum)
        });
        buckets.collect()
    }

    /// All of them together, in seconds.
    pub(crate) fn seconds(&self) -> f64 {
        read(&self.microseconds) as f64 / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_counts_for_every_bound_that_it_does_not_exceed() {
        let histogram = Histogram::new(&[1, 100]);
        for millis in [0, 1, 2, 100, 101, 5000] {
            histogram.note(Duration::from_millis(millis));
        }
        let expected = [(0.001, 2), (0.1, 4), (f64::INFINITY, 6)];
        assert_eq!(histogram.buckets(), expected);
        assert!((histogram.seconds() - 5.204).abs() < 1e-9);
    }
}
