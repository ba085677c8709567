//! The threads that work: as many as are needed, up to `workers`, and fewer again afterwards.
//!
//! `threadpool` runs the jobs. Its `set_num_threads` starts threads; those that wait for a job do not
//! learn from it that they are too many (1.8), so a smaller pool takes the place of a large one, whose
//! threads end with their last job.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use threadpool::ThreadPool;

/// Threads that are always there.
const FEWEST: usize = 4;

/// Stack of a worker.
const STACK: usize = 512 * 1024;

/// How often it is looked whether there are too many, and how long a failed start is not repeated.
pub(super) const LOOK: Duration = Duration::from_secs(5);

/// The workers of the process.
#[derive(Debug)]
pub(super) struct Workers {
    pool: ThreadPool,
    size: usize,
    most: usize,
    busy: usize,
    /// The most that were busy at a time since the last look.
    peak: usize,
    looked: Instant,
    /// The system had no more threads at this moment.
    failed: Option<Instant>,
}

impl Workers {
    /// At most so many; a few are started.
    pub(super) fn new(most: usize) -> Self {
        let size = FEWEST.min(most).max(1);
        Self {
            pool: pool(size),
            size,
            most: most.max(1),
            busy: 0,
            peak: 0,
            looked: Instant::now(),
            failed: None,
        }
    }

    /// Runs a job for one of `queued` who wait; another thread is started if all are busy.
    pub(super) fn run(&mut self, queued: usize, job: impl FnOnce() + Send + 'static) {
        // A few at a time, where threads could not be started for a while.
        for _ in 0..4 {
            if self.busy + queued > self.size && self.size < self.most {
                self.start_another();
            }
        }
        self.pool.execute(job);
    }

    fn start_another(&mut self) {
        if self.failed.is_some_and(|failed| failed.elapsed() < LOOK) {
            return;
        }
        let wanted = self.size + 1;
        // It panics where the system has no more threads. Then there are enough to go on.
        let started = catch_unwind(AssertUnwindSafe(|| self.pool.set_num_threads(wanted)));
        match started {
            Ok(()) => self.size = wanted,
            Err(_) => {
                self.failed = Some(Instant::now());
                self.pool.set_num_threads(self.size);
            }
        }
    }

    /// A worker has begun a job.
    pub(super) fn begin(&mut self) {
        self.busy += 1;
        self.peak = self.peak.max(self.busy);
    }

    /// It has ended it.
    pub(super) fn end(&mut self) {
        self.busy -= 1;
    }

    /// Those at work.
    pub(super) fn busy(&self) -> usize {
        self.busy
    }

    /// The most that there may be.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Whether there are more than are always there.
    pub(super) fn are_many(&self) -> bool {
        self.size > FEWEST
    }

    /// Another maximum from now on.
    pub(super) fn set_most(&mut self, most: usize) {
        self.most = most.max(1);
        if self.size > self.most {
            self.replace();
        }
    }

    /// Lets threads go that were not needed lately. Returns when to look again, if there are any to let
    /// go.
    pub(super) fn shrink(&mut self) -> Option<Duration> {
        let idle_since = self.looked.elapsed();
        if let Some(left) = LOOK.checked_sub(idle_since) {
            return self.are_many().then_some(left);
        }
        let enough = (2 * self.peak).max(FEWEST).min(self.most);
        self.peak = self.busy;
        self.looked = Instant::now();
        if self.size > enough {
            self.replace();
        }
        self.are_many().then_some(LOOK)
    }

    /// The new pool begins small and grows with need.
    fn replace(&mut self) {
        let size = FEWEST.min(self.most);
        if let Ok(smaller) = catch_unwind(|| pool(size)) {
            self.pool = smaller;
            self.size = size;
        }
    }
}

fn pool(threads: usize) -> ThreadPool {
    threadpool::Builder::new()
        .num_threads(threads)
        .thread_name("worker".into())
        .thread_stack_size(STACK)
        .build()
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::{bounded, unbounded};

    use super::*;

    #[test]
    fn threads_are_started_as_they_are_needed_and_no_more_than_allowed() {
        let mut workers = Workers::new(6);
        let (began, begun) = unbounded();
        let (release, held) = bounded::<()>(0);
        for queued in 1..=8 {
            let (began, held) = (began.clone(), held.clone());
            workers.run(queued, move || {
                began.send(()).expect("the test listens");
                // Ends when the test lets go.
                let _ = held.recv();
            });
        }
        for _ in 0..6 {
            begun
                .recv_timeout(Duration::from_secs(10))
                .expect("six at a time");
        }
        assert_eq!(workers.size, 6);
        assert!(begun.recv_timeout(Duration::from_millis(50)).is_err());
        drop(release);
        for _ in 0..2 {
            begun
                .recv_timeout(Duration::from_secs(10))
                .expect("then the others");
        }
    }

    #[test]
    fn a_smaller_pool_takes_over_and_runs_jobs() {
        let mut workers = Workers::new(64);
        for queued in 1..=64 {
            workers.run(queued, || {});
        }
        assert!(workers.size > FEWEST);
        workers.looked = Instant::now()
            .checked_sub(LOOK)
            .expect("the clock runs for longer");
        workers.shrink();
        assert_eq!(workers.size, FEWEST);
        let (done, is_done) = bounded(1);
        workers.run(1, move || done.send(()).expect("the test listens"));
        is_done
            .recv_timeout(Duration::from_secs(10))
            .expect("the job runs");
    }
}
