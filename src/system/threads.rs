//! Every thread of the program starts here; those of relays are taken from a cache of idle ones, since
//! starting a pair takes longer than a short session.
//!
//! There is no limit here: the number of sessions has one (`max_sessions`).

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long an idle thread waits for another job: a few for a while, more of them for a moment, and no
/// more than that when thousands of sessions fall silent at once.
const IDLE: [(usize, Duration); 2] = [
    (16, Duration::from_secs(5)),
    (256, Duration::from_millis(500)),
];

/// Stack of a relay thread. It copies with a buffer on the heap; TLS wants some depth.
const STACK: usize = 256 * 1024;

/// Starts a thread of this name; it may be left to itself.
///
/// # Errors
/// The system starts no more threads.
pub(crate) fn spawn<T: Send + 'static>(
    name: &str,
    job: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name.into()).spawn(job)
}

/// Something to do.
pub(crate) type Job = Box<dyn FnOnce() + Send>;

/// Where one thread waits for its next job. Whoever keeps seats on a stack calls the thread that came last:
/// its memory is still in the caches, and those below it are the ones that are not needed.
pub(crate) struct Seat {
    thread: Thread,
    job: Mutex<Option<Job>>,
}

impl Seat {
    /// The seat of the thread that asks.
    pub(crate) fn of_this_thread() -> Arc<Seat> {
        Arc::new(Seat {
            thread: std::thread::current(),
            job: Mutex::new(None),
        })
    }

    /// Gives the thread its next job. At most one: whoever gives it has taken the seat from its stack.
    pub(crate) fn give(&self, job: Job) {
        *lock(&self.job) = Some(job);
        self.thread.unpark();
    }

    /// Waits for a job, for so long. `None` says only that none has come yet.
    pub(crate) fn wait(&self, limit: Duration) -> Option<Job> {
        let end = Instant::now() + limit;
        loop {
            if let Some(job) = lock(&self.job).take() {
                return Some(job);
            }
            let left = end.checked_duration_since(Instant::now())?;
            std::thread::park_timeout(left);
        }
    }
}

impl std::fmt::Debug for Seat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Seat({:?})", self.thread.id())
    }
}

/// Takes a seat from a stack; whether it was still there.
pub(crate) fn leave(seats: &mut Vec<Arc<Seat>>, seat: &Arc<Seat>) -> bool {
    let at = seats.iter().position(|other| Arc::ptr_eq(other, seat));
    at.map(|at| seats.remove(at)).is_some()
}

/// A cache of idle threads.
#[derive(Debug, Clone, Default)]
pub(crate) struct Threads {
    idle: Arc<Mutex<Vec<Arc<Seat>>>>,
}

impl Threads {
    /// Runs a job on an idle thread or on a new one.
    ///
    /// # Errors
    /// The system starts no more threads; the job has not run.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let idle = lock(&self.idle).pop();
        if let Some(seat) = idle {
            seat.give(Box::new(job));
            return Ok(());
        }
        let cache = self.clone();
        let started = std::thread::Builder::new()
            .name("relay".into())
            .stack_size(STACK)
            .spawn(move || {
                job();
                let seat = Seat::of_this_thread();
                while let Some(job) = cache.wait(&seat) {
                    job();
                }
            });
        started.map(drop)
    }

    /// The next job for a thread that has nothing to do, if one comes before it ends.
    fn wait(&self, seat: &Arc<Seat>) -> Option<Job> {
        let limit = {
            let mut idle = lock(&self.idle);
            let (_, limit) = IDLE.iter().find(|(most, _)| idle.len() < *most)?;
            idle.push(Arc::clone(seat));
            *limit
        };
        rename("idle");
        loop {
            if let Some(job) = seat.wait(limit) {
                return Some(job);
            }
            // Where it has been taken already, the job is on its way.
            if leave(&mut lock(&self.idle), seat) {
                return None;
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Gives the current thread a name, of which the kernel keeps 15 bytes.
pub(crate) fn rename(name: &str) {
    let short: Vec<u8> = name.bytes().filter(|&byte| byte != 0).take(15).collect();
    if let Ok(name) = std::ffi::CString::new(short) {
        let _ = nix::sys::prctl::set_name(&name);
    }
}
