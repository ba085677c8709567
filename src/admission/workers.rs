//! The threads that work: as many as are needed, up to `workers`, and fewer again afterwards.
//!
//! `threadpool` runs them. The job of each is to take one turn after another, for as long as it is needed:
//! one that is handed a turn while it waits is woken by that alone, and the one that came last is called
//! first.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use threadpool::ThreadPool;

use crate::system::threads::{Job, Seat, leave};

/// Threads that are always there.
pub(super) const FEWEST: usize = 4;

/// Stack of a worker.
const STACK: usize = 512 * 1024;

/// One that has waited for so long is not needed.
pub(super) const IDLE: Duration = Duration::from_secs(5);

/// How long a failed start is not repeated.
const AGAIN: Duration = Duration::from_secs(5);

/// The workers of the process.
#[derive(Debug)]
pub(super) struct Workers {
    pool: ThreadPool,
    /// Those that were started and have not left.
    size: usize,
    most: usize,
    busy: usize,
    /// Those that wait, the last one to come at the end.
    idle: Vec<Arc<Seat>>,
    /// The system had no more threads at this moment.
    failed: Option<Instant>,
}

impl Workers {
    /// At most so many; none is started yet.
    pub(super) fn new(most: usize) -> Self {
        let pool = threadpool::Builder::new()
            .num_threads(1)
            .thread_name("worker".into())
            .thread_stack_size(STACK)
            .build();
        Self {
            pool,
            size: 0,
            most: most.max(1),
            busy: 0,
            idle: Vec::new(),
            failed: None,
        }
    }

    /// Starts another for one of `queued` turns, if all are busy and it is allowed.
    pub(super) fn start_if_needed(
        &mut self,
        queued: usize,
        work: impl Fn() + Clone + Send + 'static,
    ) {
        // A few at a time, where threads could not be started for a while.
        for _ in 0..4 {
            if self.busy + queued > self.size && self.may_grow() {
                self.start(work.clone());
            }
        }
    }

    /// Whether another may be started for whoever waits for a turn.
    pub(super) fn may_grow(&self) -> bool {
        let has_failed = self.failed.is_some_and(|failed| failed.elapsed() < AGAIN);
        self.size < self.most && !has_failed
    }

    fn start(&mut self, work: impl Fn() + Send + 'static) {
        let wanted = self.size + 1;
        // It panics where the system has no more threads. Then there are enough to go on.
        let started = catch_unwind(AssertUnwindSafe(|| self.pool.set_num_threads(wanted)));
        if started.is_err() {
            self.failed = Some(Instant::now());
            return self.pool.set_num_threads(self.size.max(1));
        }
        self.size = wanted;
        self.pool.execute(work);
    }

    /// A worker has nothing to do.
    pub(super) fn sit(&mut self, seat: &Arc<Seat>) {
        self.idle.push(Arc::clone(seat));
    }

    /// The worker that is to have the next job, and is at work from now on.
    pub(super) fn call(&mut self) -> Option<Arc<Seat>> {
        let seat = self.idle.pop()?;
        self.begin();
        Some(seat)
    }

    /// A worker has waited for a while: whether it is to end. Not if a job is on its way to it.
    pub(super) fn may_leave(&mut self, seat: &Arc<Seat>) -> bool {
        if self.size <= FEWEST.min(self.most) || !leave(&mut self.idle, seat) {
            return false;
        }
        self.leave();
        true
    }

    /// A worker has begun a job.
    pub(super) fn begin(&mut self) {
        self.busy += 1;
    }

    /// It has ended it; whether it is to end as well, since there are more than allowed.
    pub(super) fn end(&mut self) -> bool {
        self.busy -= 1;
        let is_too_many = self.size > self.most;
        if is_too_many {
            self.leave();
        }
        is_too_many
    }

    /// The thread that says so ends: the pool lets go of it when its job is done.
    fn leave(&mut self) {
        self.size -= 1;
        self.pool.set_num_threads(self.size.max(1));
    }

    /// Those at work.
    pub(super) fn busy(&self) -> usize {
        self.busy
    }

    /// Those that there are, busy or not.
    pub(super) fn size(&self) -> usize {
        self.size
    }

    /// The most that there may be.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Another maximum from now on. Those beyond it that wait end at once, others after their job.
    pub(super) fn set_most(&mut self, most: usize) {
        self.most = most.max(1);
        for _ in self.most..self.size {
            if let Some(seat) = self.call() {
                let nothing: Job = Box::new(|| {});
                seat.give(nothing);
            }
        }
    }
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
            workers.start_if_needed(queued, move || {
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
    }

    #[test]
    fn the_worker_that_came_last_is_called_first_and_those_below_it_may_leave() {
        let mut workers = Workers::new(64);
        workers.size = FEWEST + 1;
        let [first, last] = [Seat::of_this_thread(), Seat::of_this_thread()];
        workers.sit(&first);
        workers.sit(&last);
        let called = workers.call().expect("two wait");
        assert!(Arc::ptr_eq(&called, &last));
        assert_eq!(workers.busy(), 1);
        assert!(!workers.may_leave(&last), "a job is on its way to it");
        assert!(workers.may_leave(&first));
        assert_eq!(workers.size, FEWEST);
        assert!(workers.call().is_none());
        assert!(!workers.end());
        workers.sit(&last);
        assert!(!workers.may_leave(&last), "a few are always there");
    }

    #[test]
    fn those_beyond_a_lower_maximum_end() {
        let mut workers = Workers::new(3);
        workers.size = 3;
        let seats = [Seat::of_this_thread(), Seat::of_this_thread()];
        workers.begin();
        seats.iter().for_each(|seat| workers.sit(seat));
        workers.set_most(1);
        for seat in &seats {
            let job = seat.wait(Duration::ZERO).expect("it is called to end");
            job();
            assert!(workers.end());
        }
        assert!(!workers.end(), "the last one stays");
        assert_eq!(workers.size, 1);
    }
}
