//! Every thread of the program starts here; those of relays are taken from a cache of idle ones, since
//! starting a pair takes longer than a short session.
//!
//! There is no limit here: the number of sessions has one (`max_sessions`).

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

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

type Job = Box<dyn FnOnce() + Send>;

/// A cache of idle threads.
#[derive(Debug, Clone)]
pub(crate) struct Threads {
    /// Holds nothing: a job is taken only by a thread that waits for one.
    jobs: Sender<Job>,
    waiting: Receiver<Job>,
    idle: Arc<AtomicUsize>,
}

impl Default for Threads {
    fn default() -> Self {
        let (jobs, waiting) = bounded(0);
        Self {
            jobs,
            waiting,
            idle: Arc::default(),
        }
    }
}

impl Threads {
    /// Runs a job on an idle thread or on a new one.
    ///
    /// # Errors
    /// The system starts no more threads; the job has not run.
    pub(crate) fn run(&self, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let job = match self.jobs.try_send(Box::new(job)) {
            Ok(()) => return Ok(()),
            Err(TrySendError::Full(job) | TrySendError::Disconnected(job)) => job,
        };
        let cache = self.clone();
        let started = std::thread::Builder::new()
            .name("relay".into())
            .stack_size(STACK)
            .spawn(move || {
                let mut job = job;
                loop {
                    job();
                    rename("idle");
                    job = match cache.wait() {
                        Some(job) => job,
                        None => return,
                    };
                }
            });
        started.map(drop)
    }

    /// The next job for a thread that has nothing to do, if one comes before it ends.
    fn wait(&self) -> Option<Job> {
        let idle = self.idle.fetch_add(1, Ordering::Relaxed);
        let limit = IDLE.iter().find(|(most, _)| idle < *most);
        let job = limit.and_then(|(_, limit)| self.waiting.recv_timeout(*limit).ok());
        self.idle.fetch_sub(1, Ordering::Relaxed);
        job
    }
}

/// Gives the current thread a name, of which the kernel keeps 15 bytes.
pub(crate) fn rename(name: &str) {
    let short: Vec<u8> = name.bytes().filter(|&byte| byte != 0).take(15).collect();
    if let Ok(name) = std::ffi::CString::new(short) {
        let _ = nix::sys::prctl::set_name(&name);
    }
}
