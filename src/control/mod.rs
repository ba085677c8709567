//! The control socket (`control`): how an operator asks a running Postern, and tells it what to do.
//!
//! A client connects to the Unix socket, writes one line, reads lines until one has `ok` or `error` in it,
//! and is done: a connection is one request. Every line is a JSON object.
//!
//! ```text
//! {"postern":1,"do":"sessions","user":"bob"}
//! {"session":{"id":7,"protocol":"imap","server":"imap","client":"192.0.2.1:50100","user":"bob",...}}
//! {"ok":true,"sessions":1}
//! ```
//!
//! `postern` is the version of this language, [`VERSION`]; new members of answers do not change it. What is
//! refused is answered with `{"error":"...","versions":[1],"commands":[...]}`. The commands and their members
//! are in `request`, the connections in `serve`, the socket's file in `socket`; `client` is the other end.
//!
//! What concerns sessions is done here. What concerns the process (`Wanted`) is asked of its main thread,
//! which does it between two signals.

pub(crate) mod client;
mod request;
mod serve;
mod socket;
pub(crate) mod status;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use nix::unistd::{Gid, Group, Uid};
use serde_json::Value;

use crate::config;
use crate::log::{Log, Severity};
use crate::session::Runtime;
use crate::system::confinement::{Use, explain};
use crate::system::threads::spawn;

use self::socket::ControlSocket;

/// Version of the language that is spoken here.
pub(crate) const VERSION: u64 = 1;

/// What only the main thread can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// Says how the process is.
    Status,
    /// As HUP; the answer comes when it is done.
    Reload,
    /// As TERM; the answer comes before it is done.
    Stop,
    /// As QUIT; the answer comes before it is done.
    Drain,
}

/// A request to the main thread.
#[derive(Debug)]
pub(crate) struct Asked {
    /// What is to be done.
    pub wanted: Wanted,
    answer: Sender<Value>,
    /// Disconnected as soon as the answer is written.
    written: Receiver<()>,
}

impl Asked {
    /// Answers it. Whoever has asked may be gone.
    pub(crate) fn answer(self, answer: Value) {
        let _ = self.answer.send(answer);
    }

    /// The same, and waits a moment until it is written: the process is about to end.
    pub(crate) fn answer_before_the_end(self, answer: Value) {
        /// Whoever does not read does not hold the end up.
        const MOMENT: Duration = Duration::from_secs(1);
        let _ = self.answer.send(answer);
        let _ = self.written.recv_timeout(MOMENT);
    }
}

/// What connections share with the main thread.
#[derive(Debug)]
pub(crate) struct Desk {
    runtime: Arc<Runtime>,
    log: Mutex<Log>,
    to_main: Sender<Asked>,
}

impl Desk {
    /// A desk, and what its requests come out of.
    pub(crate) fn new(runtime: &Arc<Runtime>, log: &Log) -> (Arc<Desk>, Receiver<Asked>) {
        // As many as there are connections.
        let (to_main, asked) = unbounded();
        let desk = Arc::new(Desk {
            runtime: Arc::clone(runtime),
            log: Mutex::new(log.clone()),
            to_main,
        });
        (desk, asked)
    }

    /// Where lines go from now on.
    pub(crate) fn set_log(&self, log: &Log) {
        *self.log.lock().unwrap_or_else(PoisonError::into_inner) = log.clone();
    }

    fn log(&self, severity: Severity, text: &str) {
        self.current_log()
            .write(severity, file!(), text, None, None);
    }

    fn current_log(&self) -> Log {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        log.clone()
    }
}

/// Where the socket is to be, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    path: PathBuf,
    group: Option<String>,
    /// Whether somebody has asked for it.
    is_required: bool,
}

impl Place {
    fn of(conf: &config::Process) -> Option<Place> {
        let place = |path: &Path, is_required| Place {
            path: path.to_owned(),
            group: conf.control_group.clone(),
            is_required,
        };
        match &conf.control {
            config::Control::Off => None,
            config::Control::At(path) => Some(place(path, true)),
            config::Control::WhereFolderExists => {
                let usual = Path::new(config::Control::USUAL);
                let is_there = usual.parent().is_some_and(Path::is_dir);
                is_there.then(|| place(usual, false))
            }
        }
    }
}

/// The socket of a process. Dropped, its file is removed.
#[derive(Debug)]
pub(crate) struct Control {
    place: Place,
    socket: Arc<ControlSocket>,
}

/// What a reload makes of the socket.
#[derive(Debug)]
pub(crate) enum Change {
    /// It stays as it is.
    None,
    /// It has this group already.
    Group(Option<String>),
    /// This takes its place.
    To(Option<Control>),
}

impl Control {
    /// Binds the socket that the configuration wants; nobody is answered yet. One that nobody has asked for
    /// and that cannot be bound is no failure, but worth a line in the log.
    ///
    /// # Errors
    /// For people: why it cannot be bound.
    pub(crate) fn bind(conf: &config::Process, log: &Log) -> Result<Option<Control>, String> {
        let Some(place) = Place::of(conf) else {
            return Ok(None);
        };
        let bound = group_id(place.group.as_deref()).and_then(|group| {
            let bound = ControlSocket::bind(&place.path, group);
            bound.map_err(|error| explain(error, &place.path, Use::Socket).to_string())
        });
        match bound {
            Ok(socket) => {
                let socket = Arc::new(socket);
                Ok(Some(Control { place, socket }))
            }
            Err(error) => {
                let path = place.path.display();
                let text = format!("cannot make the control socket {path}: {error}");
                if place.is_required {
                    return Err(text);
                }
                log.write(Severity::Warn, file!(), &text, None, None);
                Ok(None)
            }
        }
    }

    /// Gives its file to the user that the process is about to become.
    ///
    /// # Errors
    /// For people: the system refused.
    pub(crate) fn hand_over(&self, user: Uid) -> Result<(), String> {
        self.socket.give_to(user).map_err(|error| {
            let path = self.place.path.display();
            format!("cannot give the control socket {path} away: {error}")
        })
    }

    /// Begins to answer.
    ///
    /// # Errors
    /// The system starts no more threads.
    pub(crate) fn serve(&self, desk: &Arc<Desk>) -> std::io::Result<()> {
        let (socket, desk) = (Arc::clone(&self.socket), Arc::clone(desk));
        let text = format!("control socket is {}", self.place.path.display());
        desk.log(Severity::Notice, &text);
        spawn("control", move || serve::run(&socket, &desk)).map(drop)
    }

    /// What a new configuration makes of the socket of the old one; where it is new, it answers already.
    ///
    /// # Errors
    /// For people: why the new one cannot be had; then nothing has changed.
    pub(crate) fn change(
        old: Option<&Control>,
        conf: &config::Process,
        desk: &Arc<Desk>,
        log: &Log,
    ) -> Result<Change, String> {
        let wanted = Place::of(conf);
        if let (Some(old), Some(new)) = (old, &wanted)
            && old.place.path == new.path
        {
            if old.place.group == new.group {
                return Ok(Change::None);
            }
            let path = new.path.display();
            let given = group_id(new.group.as_deref()).and_then(|group| {
                let opened = old.socket.open_to(group);
                opened.map_err(|error| error.to_string())
            });
            given.map_err(|error| format!("cannot change the group of {path}: {error}"))?;
            return Ok(Change::Group(new.group.clone()));
        }
        let new = Control::bind(conf, log)?;
        if let Some(new) = &new {
            let serves = new.serve(desk);
            serves.map_err(|error| format!("cannot start a thread: {error}"))?;
        }
        Ok(Change::To(new))
    }

    /// The second half of a change, which cannot fail.
    pub(crate) fn change_to(own: &mut Option<Control>, change: Change) {
        match (change, own) {
            (Change::To(new), own) => *own = new,
            (Change::Group(group), Some(own)) => own.place.group = group,
            (Change::Group(_), None) | (Change::None, _) => {}
        }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.socket.close();
    }
}

fn group_id(name: Option<&str>) -> Result<Option<Gid>, String> {
    let Some(name) = name else {
        return Ok(None);
    };
    match Group::from_name(name) {
        Ok(Some(group)) => Ok(Some(group.gid)),
        Ok(None) => Err(format!("there is no group `{name}`")),
        Err(error) => Err(format!("cannot look up group `{name}`: {error}")),
    }
}
