//! The process: what is done in which order at the start, on a signal, and at the end.

mod checks;
mod reload;
mod rights;

use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, after, never, select};

use crate::admission::Limits;
use crate::backend::Visits;
use crate::blocklist::Denied;
use crate::config::{self, Config, Mistake};
use crate::control::status::{self, LastReload};
use crate::control::{Asked, Control, Desk, Wanted};
use crate::dialect;
use crate::front::{self, Fronts, Listening};
use crate::limits::redis::Prepared;
use crate::log::{Log, Severity};
use crate::service::{self, Kept, Service};
use crate::session::Runtime;
use crate::session::live::Ending;
use crate::status::{Door, Shown, Site};
use crate::system::pid_file::PidFile;
use crate::system::signals::{self, Wish};
use crate::system::{keeper, privileges, service_manager};

/// How long threads get to end when the process is told to stop.
const STOP: Duration = Duration::from_millis(1500);

/// How much of that relays get to end in good order.
const IN_ORDER: Duration = Duration::from_millis(300);

/// How long the store that nodes share may take to hear of the sessions that have ended.
const LAST_WORD: Duration = Duration::from_millis(200);

/// The service manager hears of us at least so often.
const LONGEST_PULSE: Duration = Duration::from_secs(10);

/// Why the process cannot go on.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The configuration; every mistake in it.
    Configuration(Vec<Mistake>),
    /// Anything that came later.
    Running(String),
}

/// Runs in the foreground until a signal ends it.
///
/// # Errors
/// What kept it from starting.
pub(crate) fn run(file: &Path) -> Result<(), Failure> {
    let config = config::load(file).map_err(Failure::Configuration)?;
    let process = start(&config, Some(file)).map_err(Failure::Running)?;
    process.wait_for_end()
}

/// The same with a configuration that is there already. `ready` is called once all is running.
///
/// # Errors
/// What kept it from starting.
pub(crate) fn run_with(config: &Config, ready: impl FnOnce(&[Listening])) -> Result<(), Failure> {
    let process = start(config, None).map_err(Failure::Running)?;
    ready(&process.fronts.listening());
    process.wait_for_end()
}

/// The start, in its order. Without a file there is nothing to be read again, and no keeper.
fn start(config: &Config, file: Option<&Path>) -> Result<Process, String> {
    // Before a log is opened, which could get the number of a socket that is announced and not there.
    let passed = service_manager::passed()
        .map_err(|error| format!("cannot take the sockets that were handed over: {error}"))?;
    let process = &config.process;
    let log = Log::open_process(
        &process.error_log,
        &process.error_log_user_tag,
        process.log_format,
    )?;
    for warning in &config.warnings {
        log.write(Severity::Warn, file!(), warning, None, None);
    }
    // This and what follows up to the signals holds for threads that start later, so it comes first.
    privileges::renounce_new()?;
    // Who opens for us what we no longer may once we are this user.
    let become_user = privileges::target(&process.user, &process.group)?;
    let keeper = match (file, &become_user) {
        (Some(file), Some((user, _))) if !user.uid.is_root() => {
            let group = process.group.as_deref();
            Some(keeper::start(file, &user.name, group)?)
        }
        _ => None,
    };
    // The demo has threads already, and servers that need files of their own.
    let landlock = match file {
        Some(_) => {
            if let Some(group) = &process.control_group {
                // Where it fails the socket says what it lacks.
                let _ = privileges::join(group);
            }
            privileges::limit_capabilities(become_user.as_ref().map(|(user, _)| user))?;
            Some(rights::confine(config))
        }
        None => None,
    };
    // First: who reads that we listen may send a signal at once.
    let wishes = signals::listen()?;
    let _ = privileges::forbid_core_files();
    checks::check_descriptors(config)?;
    let denied = Denied::read(&process.deny, &log)?;
    let store = Prepared::new(process, &log)?;
    let kept = Kept::default().next(config);
    let services = service::build(config, &kept)?;
    let mut fronts = Fronts::new(passed);
    let bound = fronts.bind(&services)?;
    let status = open_status(config, None)?;
    let pid_file = PidFile::write(process.pid.as_deref())?;
    let control = Control::bind(process, &log)?;
    if let Some((user, group)) = become_user {
        // What was opened as root must be writable afterwards too, to be opened again (USR1).
        for error in crate::log::hand_over(user.uid, group) {
            log.write(Severity::Warn, file!(), &error, None, None);
        }
        pid_file.hand_over(&user, group);
        front::hand_over(&bound, user.uid, group);
        if let Some(control) = &control {
            control.hand_over(user.uid)?;
        }
        if let Some(door) = &status {
            front::hand_over_socket(door.socket(), user.uid, group);
        }
        privileges::drop_root(&user, group)?;
    }
    checks::warn_of_root(&log);
    if let Some(landlock) = landlock {
        rights::say_what_holds(&landlock, &log);
    }
    checks::warn_of_few_threads(process, &log);
    checks::warn_of_wrong_clock(&log);
    let runtime = Runtime::start(admission_limits(process))
        .map_err(|error| format!("cannot start the threads for sessions: {error}"))?;
    runtime.blocklist.deny(denied);
    runtime.blocklist.follow_files().map_err(no_thread)?;
    runtime.share(store, &log).map_err(no_thread)?;
    let visits = visit_backends(&services)?;
    let prepared = Fronts::prepare(bound, &runtime, &log)?;
    fronts.change_to(prepared, &log);
    let (desk, asked) = Desk::new(&runtime, &log);
    if let Some(control) = &control {
        control.serve(&desk).map_err(no_thread)?;
    }
    let shown = Shown::new(config, services, fronts.listening(), &log);
    let site = Site::new(&runtime, shown)?;
    if let Some(door) = &status {
        begin_status(door, &site, &log);
    }
    log.write(Severity::Notice, file!(), "ready", None, None);
    let process = Process {
        file: file.map(Path::to_owned),
        keeper,
        log,
        runtime,
        wishes,
        fronts,
        status,
        site,
        _visits: visits,
        kept,
        conf: process.clone(),
        pulse: Pulse::new(),
        began: Instant::now(),
        last_reload: None,
        control,
        desk,
        asked,
        _pid_file: pid_file,
    };
    process.tell(service_manager::ready);
    Ok(process)
}

/// The listener of `status`, unless that is off or stays where it is.
fn open_status(config: &Config, before: Option<&Door>) -> Result<Option<Door>, String> {
    let wanted = config.process.status.as_ref();
    let stays = |door: &Door| wanted.is_some_and(|status| door.is_for(&status.listen));
    match wanted {
        Some(status) if !before.is_some_and(stays) => Door::open(status, before).map(Some),
        Some(_) | None => Ok(None),
    }
}

fn begin_status(door: &Door, site: &Arc<Site>, log: &Log) {
    door.begin(site);
    let text = format!("the status page is at http://{}/", door.address());
    log.write(Severity::Notice, file!(), &text, None, None);
}

fn visit_backends(services: &[Arc<Service>]) -> Result<Arc<Visits>, String> {
    service::visit_backends(services, dialect::dialogue).map_err(no_thread)
}

fn no_thread(error: std::io::Error) -> String {
    format!("cannot start a thread: {error}")
}

/// What bounds the sessions of a process.
pub(crate) fn admission_limits(process: &config::Process) -> Limits {
    Limits {
        workers: process.workers,
        max_sessions: process.max_sessions,
        max_prelogin_per_ip: process.max_prelogin_per_ip,
        client_wait: process.client_wait,
        send_timeout: process.send_timeout,
    }
}

/// A running process.
struct Process {
    /// What HUP reads again.
    file: Option<PathBuf>,
    keeper: Option<Child>,
    log: Log,
    runtime: Arc<Runtime>,
    wishes: Receiver<Wish>,
    fronts: Fronts,
    /// The listener of `status`.
    status: Option<Door>,
    /// What is shown there.
    site: Arc<Site>,
    /// Those of the configuration in use; to be held, not read.
    _visits: Arc<Visits>,
    /// What those after the next HUP go on with.
    kept: Kept,
    conf: config::Process,
    pulse: Option<Pulse>,
    began: Instant,
    last_reload: Option<LastReload>,
    control: Option<Control>,
    desk: Arc<Desk>,
    /// What is asked for over the control socket.
    asked: Receiver<Asked>,
    _pid_file: PidFile,
}

/// What the main thread is waiting for.
enum Event {
    Signal(Wish),
    Asked(Asked),
    /// The service manager is to hear of us.
    Pulse,
}

/// When the service manager is to hear of us next.
#[derive(Debug, Clone, Copy)]
struct Pulse {
    every: Duration,
    next: Instant,
}

impl Pulse {
    /// `None` where nobody wants to be told.
    fn new() -> Option<Pulse> {
        let every = match service_manager::watchdog() {
            // As sd_watchdog_enabled(3) advises, and once more.
            Some(limit) => (limit / 3).min(LONGEST_PULSE),
            None => LONGEST_PULSE,
        };
        let next = Instant::now() + every;
        service_manager::listens().then_some(Pulse { every, next })
    }
}

impl Process {
    /// Does what signals ask for, until one asks for the end.
    ///
    /// # Errors
    /// It had to end, without having been told to.
    fn wait_for_end(mut self) -> Result<(), Failure> {
        // It may have ended before signals were listened for.
        while !self.keeper_has_ended() {
            match self.next() {
                Event::Pulse => self.beat(),
                Event::Signal(Wish::Reopen) => self.reopen(),
                Event::Signal(Wish::Reload) => drop(self.reload()),
                Event::Signal(Wish::LookAfterChild) => {}
                Event::Signal(Wish::Drain) => {
                    self.drain();
                    return Ok(());
                }
                Event::Signal(Wish::Stop) => {
                    self.stop();
                    return Ok(());
                }
                Event::Asked(asked) => match asked.wanted {
                    Wanted::Status => self.answer_status(asked, false),
                    Wanted::Reload => {
                        let done = self.reload();
                        asked.answer(status::of_reload(&done));
                    }
                    Wanted::Drain => {
                        asked.answer_before_the_end(status::of_end(
                            self.conf.shutdown_timeout + STOP,
                        ));
                        self.drain();
                        return Ok(());
                    }
                    Wanted::Stop => {
                        asked.answer_before_the_end(status::of_end(STOP));
                        self.stop();
                        return Ok(());
                    }
                },
            }
        }
        // Renewed keys, logs and the configuration itself would be out of reach from now on.
        let text = "the keeper has ended";
        self.log.write(Severity::Alert, file!(), text, None, None);
        self.stop();
        Err(Failure::Running(text.to_owned()))
    }

    /// Waits for the next thing to do.
    fn next(&self) -> Event {
        let pulse = match self.pulse {
            None => never(),
            Some(pulse) => after(pulse.next.saturating_duration_since(Instant::now())),
        };
        select! {
            recv(self.wishes) -> wish => Event::Signal(wish.unwrap_or(Wish::Stop)),
            recv(self.asked) -> asked => match asked {
                Ok(asked) => Event::Asked(asked),
                // The desk is there as long as we are.
                Err(_) => Event::Pulse,
            },
            recv(pulse) -> _ => Event::Pulse,
        }
    }

    fn answer_status(&self, asked: Asked, is_draining: bool) {
        asked.answer(status::answer(&status::Process {
            runtime: &self.runtime,
            fronts: &self.fronts,
            max_sessions: self.conf.max_sessions,
            began: self.began,
            last_reload: self.last_reload.as_ref(),
            is_draining,
        }));
    }

    /// Whether there was one, and it is gone.
    fn keeper_has_ended(&mut self) -> bool {
        let ended = self.keeper.as_mut().map(Child::try_wait);
        matches!(ended, Some(Ok(Some(_)) | Err(_)))
    }

    /// Tells the service manager that all is well, if the doors answer, and how many are here.
    fn beat(&mut self) {
        let Some(pulse) = &mut self.pulse else {
            return;
        };
        if pulse.next > Instant::now() {
            return;
        }
        pulse.next = Instant::now() + pulse.every;
        let is_well = self.fronts.are_awake();
        self.tell(|status| {
            if is_well {
                service_manager::alive()?;
            }
            service_manager::status(status)
        });
    }

    /// Tells the service manager something, with a line of numbers.
    fn tell(&self, what: impl FnOnce(&str) -> std::io::Result<()>) {
        if !service_manager::listens() {
            return;
        }
        let relayed = self.runtime.live.all();
        let relayed = relayed.iter().filter(|entry| entry.is_relayed()).count();
        let status = format!(
            "{} sessions, {relayed} of them logged in; {} listeners{}",
            self.runtime.admission.sessions(),
            self.fronts.listening().len(),
            match self
                .last_reload
                .as_ref()
                .is_some_and(LastReload::is_refused)
            {
                true => "; the last reload failed, see the log",
                false => "",
            },
        );
        if let Err(error) = what(&status) {
            let text = "cannot tell the service manager how we are";
            self.log
                .write(Severity::Warn, file!(), text, Some(&error), None);
        }
    }

    /// USR1: log files have been moved away.
    fn reopen(&self) {
        for error in crate::log::reopen() {
            self.log.write(Severity::Error, file!(), &error, None, None);
        }
    }

    /// QUIT: no new sessions, and those in their relay get `shutdown_timeout`.
    fn drain(mut self) {
        self.say("shutting down: sessions may end by themselves");
        self.close_door();
        let end = Instant::now() + self.conf.shutdown_timeout;
        let step = Duration::from_millis(100);
        while Instant::now() < end && !self.runtime.admission.wait_empty(Instant::now() + step) {
            self.beat();
            match self.wishes.try_recv() {
                // A second signal does not want to wait that long.
                Ok(Wish::Stop) => break,
                Ok(Wish::Reopen) => self.reopen(),
                _ => {}
            }
            let Ok(asked) = self.asked.try_recv() else {
                continue;
            };
            let left = end.saturating_duration_since(Instant::now());
            match asked.wanted {
                Wanted::Status => self.answer_status(asked, true),
                Wanted::Reload => asked.answer(status::of_reload(&Err(vec![
                    "the process is about to end, and reads nothing anew".to_owned(),
                ]))),
                Wanted::Drain => asked.answer_before_the_end(status::of_end(left + STOP)),
                Wanted::Stop => {
                    asked.answer_before_the_end(status::of_end(STOP));
                    break;
                }
            }
        }
        self.finish(Ending::ShutdownTimeout);
    }

    /// INT and TERM: everything ends now, in good order.
    fn stop(mut self) {
        self.say("stopping");
        self.close_door();
        self.finish(Ending::Stop);
    }

    /// Nobody comes in any more; who is not logged in is sent away.
    fn close_door(&mut self) {
        self.tell(|_| service_manager::stopping());
        // First: who is not accepted waits in a socket that the next process may take over.
        self.fronts.close();
        self.status = None;
        self.runtime.admission.stop();
        for entry in self.runtime.live.all() {
            if !entry.is_relayed() {
                self.runtime.end(&entry, Ending::Stop);
            }
        }
    }

    fn finish(self, ending: Ending) {
        let end = Instant::now() + STOP;
        let runtime = &self.runtime;
        // In good order first: what was read is delivered, and both sides hear that it is the end.
        for entry in runtime.live.all() {
            runtime.end(&entry, ending);
        }
        runtime.admission.wait_empty(Instant::now() + IN_ORDER);
        for entry in runtime.live.all() {
            runtime.cut(&entry, ending);
        }
        runtime.admission.wait_empty(end);
        let left = runtime.admission.sessions();
        runtime.shared.finish(LAST_WORD);
        runtime.hibernation.stop();
        runtime.brake.tell_all_counts();
        let text = format!("stopped; sessions cut off: {left}");
        self.log.write(Severity::Notice, file!(), &text, None, None);
    }

    fn say(&self, text: &str) {
        self.log.write(Severity::Notice, file!(), text, None, None);
    }
}
