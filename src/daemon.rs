//! The process: what is done in which order at the start, on a signal, and at the end.

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::eventfd::EventFd;

use crate::accept::Acceptor;
use crate::admission::{Admission, Limits};
use crate::config::{self, Config};
use crate::log::{Log, Severity};
use crate::net::listen::Listener;
use crate::net::relay::Relays;
use crate::service::{self, Service};
use crate::session;
use crate::system::privileges;
use crate::system::signals::{self, Wish};
use crate::system::threads::{Threads, rename};

/// How long threads get to end when the process is told to stop.
const STOP: Duration = Duration::from_millis(1500);

/// Descriptors that are no session's: logs, listeners, DNS, auth servers.
const DESCRIPTORS_ASIDE: u64 = 256;

/// Why the process cannot go on.
#[derive(Debug)]
pub enum Failure {
    /// The configuration; every mistake in it.
    Configuration(Vec<String>),
    /// Anything that came later.
    Running(String),
}

/// Runs in the foreground until a signal ends it.
///
/// # Errors
/// What kept it from starting.
pub fn run(file: &Path) -> Result<(), Failure> {
    let config = config::load(file).map_err(Failure::Configuration)?;
    run_with(&config, |_| {})
}

/// A listener that is open.
#[derive(Debug)]
pub struct Listening {
    /// NAME of its `[server NAME]`.
    pub server: String,
    /// Where it really listens: port 0 has become a port.
    pub address: String,
}

/// The same with a configuration that is there already. `ready` is called once all is running.
///
/// # Errors
/// What kept it from starting.
pub fn run_with(config: &Config, ready: impl FnOnce(&[Listening])) -> Result<(), Failure> {
    let process = start(config).map_err(Failure::Running)?;
    ready(&process.listening);
    process.wait_for_end().map_err(Failure::Running)
}

/// The start, in its order.
fn start(config: &Config) -> Result<Process, String> {
    let process = &config.process;
    let log = Log::open_process(&process.error_log, &process.error_log_user_tag)?;
    for warning in &config.warnings {
        log.write(Severity::Warn, file!(), warning, None, None);
    }
    let _ = privileges::forbid_core_files();
    check_descriptors(config)?;
    let threads = Threads::default();
    let relays = Arc::new(Relays::default());
    let services = service::build(config, &threads, &relays)?;
    let listeners = bind(&services, &log)?;
    let pid_file = write_pid(process.pid.as_deref())?;
    privileges::drop_root(process.user.as_deref(), process.group.as_deref())?;
    let wishes = signals::listen()?;

    let admission = Admission::new(Limits {
        accept_queue: process.accept_queue,
        max_sessions: process.max_sessions,
        max_prelogin_per_ip: process.max_prelogin_per_ip,
    });
    let pool = start_workers(process.workers, &admission, &log);
    let watch = Arc::clone(&admission);
    let door = spawn("door", move || watch.watch())?;
    let wake = EventFd::new().map_err(|error| format!("cannot make an eventfd: {error}"))?;
    let wake = Arc::new(wake);
    let mut acceptors = vec![door];
    let mut listening = Vec::new();
    for (service, listener) in listeners {
        listening.push(Listening {
            server: service.conf.name.clone(),
            address: listener.name(),
        });
        let acceptor = Acceptor {
            listener: Arc::new(listener),
            service,
            admission: Arc::clone(&admission),
            wake: Arc::clone(&wake),
            log: log.clone(),
        };
        acceptors.push(spawn("accept", move || acceptor.run())?);
    }
    log.write(Severity::Notice, file!(), "ready", None, None);
    Ok(Process {
        log,
        admission,
        relays,
        wishes,
        wake,
        acceptors,
        listening,
        pool,
        shutdown_timeout: process.shutdown_timeout,
        _pid_file: pid_file,
    })
}

/// A running process.
struct Process {
    log: Log,
    admission: Arc<Admission>,
    relays: Arc<Relays>,
    wishes: crossbeam_channel::Receiver<Wish>,
    wake: Arc<EventFd>,
    acceptors: Vec<JoinHandle<()>>,
    listening: Vec<Listening>,
    pool: threadpool::ThreadPool,
    shutdown_timeout: Duration,
    _pid_file: PidFile,
}

impl Process {
    /// Does what signals ask for, until one asks for the end.
    fn wait_for_end(self) -> Result<(), String> {
        loop {
            match self.wishes.recv() {
                Ok(Wish::Reopen) => {
                    for error in crate::log::reopen() {
                        self.log.write(Severity::Error, file!(), &error, None, None);
                    }
                }
                Ok(Wish::Reload) => {
                    let text = "HUP: reading the configuration anew is not supported yet by this \
                                version; restart instead";
                    self.log.write(Severity::Warn, file!(), text, None, None);
                }
                Ok(Wish::Drain) => {
                    self.drain();
                    return Ok(());
                }
                Ok(Wish::Stop) | Err(_) => {
                    self.stop();
                    return Ok(());
                }
            }
        }
    }

    /// QUIT: no new sessions, and those in their relay get `shutdown_timeout`.
    fn drain(self) {
        self.say("shutting down: sessions may end by themselves");
        self.close_door();
        let end = Instant::now() + self.shutdown_timeout;
        while Instant::now() < end
            && !self
                .admission
                .wait_empty(Instant::now() + Duration::from_millis(100))
        {
            // A second signal does not want to wait that long.
            if matches!(self.wishes.try_recv(), Ok(Wish::Stop)) {
                break;
            }
        }
        self.finish("shutdown timeout");
    }

    /// INT and TERM: everything ends now, in good order.
    fn stop(self) {
        self.say("stopping");
        self.close_door();
        self.finish("stopped");
    }

    fn close_door(&self) {
        // Cannot fail: the counter does not overflow from one.
        let _ = self.wake.write(1);
        self.admission.stop();
    }

    fn finish(self, reason: &'static str) {
        let end = Instant::now() + STOP;
        self.relays.stop_all(reason);
        let ended = self.admission.wait_empty(end);
        for thread in self.acceptors {
            let _ = thread.join();
        }
        if ended {
            self.pool.join();
        }
        let left = self.admission.sessions();
        let text = format!("stopped; sessions cut off: {left}");
        self.log.write(Severity::Notice, file!(), &text, None, None);
    }

    fn say(&self, text: &str) {
        self.log.write(Severity::Notice, file!(), text, None, None);
    }
}

/// Two descriptors a session; a limit that is too low would show itself on the busiest day.
fn check_descriptors(config: &Config) -> Result<(), String> {
    let wanted = config.process.max_sessions as u64;
    let needed = 2 * wanted + DESCRIPTORS_ASIDE;
    let limit = privileges::raise_open_files();
    if limit >= needed {
        return Ok(());
    }
    let possible = limit.saturating_sub(DESCRIPTORS_ASIDE) / 2;
    Err(format!(
        "`max_sessions = {wanted}` needs {needed} open files, but the limit is {limit}: raise it \
         (systemd: LimitNOFILE={needed}; shell: ulimit -n {needed}) or set `max_sessions = {possible}`"
    ))
}

fn bind(services: &[Arc<Service>], log: &Log) -> Result<Vec<(Arc<Service>, Listener)>, String> {
    let mut bound = Vec::new();
    for service in services {
        for listen in &service.conf.listen {
            let listener = Listener::bind(listen).map_err(|error| {
                format!(
                    "server \"{}\" cannot listen on {}: {error}",
                    service.conf.name, listen.address
                )
            })?;
            let text = format!(
                "listening on {} for server \"{}\"",
                listener.name(),
                service.conf.name
            );
            log.write(Severity::Notice, file!(), &text, None, None);
            bound.push((Arc::clone(service), listener));
        }
    }
    Ok(bound)
}

/// `workers` endless jobs. A session that panics costs itself alone.
fn start_workers(workers: usize, admission: &Arc<Admission>, log: &Log) -> threadpool::ThreadPool {
    let pool = threadpool::Builder::new()
        .num_threads(workers)
        .thread_name("worker".into())
        .thread_stack_size(512 * 1024)
        .build();
    for _ in 0..workers {
        let admission = Arc::clone(admission);
        let log = log.clone();
        pool.execute(move || {
            while let Some(arrival) = admission.next() {
                let id = arrival.place.id();
                rename(&format!("{} {id:x}", arrival.service.record.name));
                let serve = std::panic::AssertUnwindSafe(|| session::run::serve(arrival));
                if std::panic::catch_unwind(serve).is_err() {
                    let text = format!("*{id} session ended by a fault in the program");
                    log.write(Severity::Alert, file!(), &text, None, None);
                }
                rename("worker");
            }
        });
    }
    pool
}

fn spawn(name: &str, job: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, String> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(job)
        .map_err(|error| format!("cannot start thread `{name}`: {error}"))
}

/// The file of `pid`, removed at the end.
struct PidFile(Option<std::path::PathBuf>);

fn write_pid(path: Option<&Path>) -> Result<PidFile, String> {
    let Some(path) = path else {
        return Ok(PidFile(None));
    };
    std::fs::write(path, format!("{}\n", std::process::id()))
        .map_err(|error| format!("cannot write the pid file {}: {error}", path.display()))?;
    Ok(PidFile(Some(path.to_owned())))
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = std::fs::remove_file(path);
        }
    }
}
