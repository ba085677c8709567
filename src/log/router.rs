//! The open destinations, and the way of a finished line through simplelog to one of them.
//!
//! simplelog's combined logger cannot change its targets once it runs, ours change (reload, USR1).
//! So each destination has a logger of its own, to which its lines are given. None is installed as
//! the logger of the process: records of dependencies reach nobody.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock, PoisonError, RwLock, Weak};

use nix::unistd::{Gid, Uid};

use ::log::{Level, LevelFilter, Log, Record};
use simplelog::{Config, ConfigBuilder, WriteLogger};

use super::LogDestination;
use super::Severity;
use super::sink::{Output, Sink};

/// The open destinations; one that no section uses any more is closed, its entry goes at the next `open`.
static DESTINATIONS: LazyLock<RwLock<HashMap<String, Weak<Destination>>>> =
    LazyLock::new(RwLock::default);

/// Opens every file by its name once more (USR1). What cannot be opened keeps its old descriptor and is
/// returned, one text a file.
pub(crate) fn reopen() -> Vec<String> {
    let open: Vec<Arc<Destination>> = read().values().filter_map(Weak::upgrade).collect();
    open.iter()
        .filter_map(|destination| destination.output.reopen().err())
        .collect()
}

/// Gives the open files that belong to root to the user that the process is about to become, so that
/// `reopen` works afterwards. What cannot be given away is returned, one text a file.
pub(crate) fn hand_over(user: Uid, group: Gid) -> Vec<String> {
    let open: Vec<Arc<Destination>> = read().values().filter_map(Weak::upgrade).collect();
    open.iter()
        .filter_map(|destination| destination.output.hand_over(user, group).err())
        .collect()
}

/// The destination, opened now unless it is open already.
pub(super) fn open(destination: &LogDestination) -> Result<Arc<Destination>, String> {
    let name = name_of(destination);
    if let Some(open) = find(&name) {
        return Ok(open);
    }
    // Without the lock: a look-up of a name may take a while, and lines must go on.
    let output = Output::open(destination)?;
    Ok(register(name, output))
}

fn register(name: String, output: Output) -> Arc<Destination> {
    let mut destinations = DESTINATIONS.write().unwrap_or_else(PoisonError::into_inner);
    if let Some(open) = destinations.get(&name).and_then(Weak::upgrade) {
        return open;
    }
    let output = Arc::new(output);
    let logger = WriteLogger::new(
        LevelFilter::Trace,
        line_only(),
        Sink::new(Arc::clone(&output)),
    );
    let destination = Arc::new(Destination {
        name: name.clone(),
        output,
        logger,
    });
    destinations.retain(|_, destination| destination.strong_count() > 0);
    destinations.insert(name, Arc::downgrade(&destination));
    destination
}

fn find(name: &str) -> Option<Arc<Destination>> {
    read().get(name).and_then(Weak::upgrade)
}

fn read() -> std::sync::RwLockReadGuard<'static, HashMap<String, Weak<Destination>>> {
    DESTINATIONS.read().unwrap_or_else(PoisonError::into_inner)
}

fn name_of(destination: &LogDestination) -> String {
    format!("error_log {destination:?}")
}

/// simplelog's own columns all off: our lines are finished.
fn line_only() -> Config {
    ConfigBuilder::new()
        .set_max_level(LevelFilter::Off)
        .set_time_level(LevelFilter::Off)
        .set_thread_level(LevelFilter::Off)
        .set_target_level(LevelFilter::Off)
        .set_location_level(LevelFilter::Off)
        .build()
}

/// One open destination with simplelog's logger for it.
pub(super) struct Destination {
    name: String,
    output: Arc<Output>,
    logger: Box<WriteLogger<Sink>>,
}

impl Destination {
    /// What is opened under it is shared.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Sends a finished line, without newline, on its way.
    pub(super) fn write(&self, severity: Severity, line: &str) {
        self.logger.log(
            &Record::builder()
                .level(level(severity))
                .args(format_args!("{line}"))
                .build(),
        );
    }
}

/// `log` has five levels only; ours stands in the line, this one decides nothing.
fn level(severity: Severity) -> Level {
    match severity {
        Severity::Debug => Level::Debug,
        Severity::Info | Severity::Notice => Level::Info,
        Severity::Warn => Level::Warn,
        Severity::Error | Severity::Crit | Severity::Alert | Severity::Emerg => Level::Error,
    }
}
