//! The DNS thread: a tokio runtime on one thread that is started with the first look-up.
//!
//! A look-up that stalls costs a task there and delays nobody. Should the thread end, look-ups fail
//! instead of hanging, and the next one starts a new thread.

use std::future::Future;
use std::io;
use std::sync::{Mutex, PoisonError};
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, bounded};
use tokio::runtime::{Builder, Handle};
use tokio::task::AbortHandle;

use crate::system::threads::spawn;

/// A look-up on the DNS thread; dropping it ends the look-up.
#[derive(Debug)]
pub(super) struct Running<T> {
    /// Gets the one result, or is disconnected if there never will be one.
    pub(super) answer: Receiver<T>,
    task: AbortHandle,
}

impl<T> Drop for Running<T> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Runs `lookup` on the DNS thread.
pub(super) fn start<T, F>(lookup: F) -> io::Result<Running<T>>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    start_and_tell(lookup, || {})
}

/// The same; `done` is called once the answer is there.
pub(super) fn start_and_tell<T, F>(
    lookup: F,
    done: impl FnOnce() + Send + 'static,
) -> io::Result<Running<T>>
where
    T: Send + 'static,
    F: Future<Output = T> + Send + 'static,
{
    let (sender, answer) = bounded(1);
    let task = handle()?.spawn(async move {
        // Nobody waits any more: nothing to do.
        let _ = sender.try_send(lookup.await);
        done();
    });
    Ok(Running {
        answer,
        task: task.abort_handle(),
    })
}

struct DnsThread {
    handle: Handle,
    thread: JoinHandle<()>,
}

static THREAD: Mutex<Option<DnsThread>> = Mutex::new(None);

fn handle() -> io::Result<Handle> {
    let mut slot = THREAD.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(dns) = slot.as_ref().filter(|dns| !dns.thread.is_finished()) {
        return Ok(dns.handle.clone());
    }
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let handle = runtime.handle().clone();
    let thread = spawn("dns", move || {
        runtime.block_on(std::future::pending::<()>());
    })?;
    *slot = Some(DnsThread {
        handle: handle.clone(),
        thread,
    });
    Ok(handle)
}
