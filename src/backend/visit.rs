//! A short visit to a host without a client: the same dialogue as a login up to the credentials, and a
//! goodbye, so that backends log nothing alarming.
//!
//! When visits are made and what follows from them is decided in `check` and `capabilities`.

use super::conn::{BackendConn, Dial, Origin};
use super::deadlines::Deadlines;
use super::error::BackendError;
use super::talk::{Dialogue, Talk, open};
use super::{Backend, Candidate};
use crate::config::ProxySsl;
use crate::protocol::Purpose;

/// Who visits: in which protocol, under which name.
#[derive(Debug, Clone)]
pub(crate) struct Visitor {
    /// What the host is wanted for.
    pub purpose: Purpose,
    /// How its protocol is spoken.
    pub dialogue: Dialogue,
    /// `server_name`: what SMTP backends are greeted with.
    pub own_name: String,
}

impl Visitor {
    /// Finds out whether a host welcomes.
    ///
    /// # Errors
    /// Why it does not.
    pub(super) fn greet(&self, backend: &Backend, host: &Candidate) -> Result<(), BackendError> {
        let mut talk = (self.dialogue.begin)(&self.own_name);
        let mut conn = dial(backend, host)?;
        let greeted = talk.greet(&mut conn);
        talk.quit(conn);
        greeted
    }

    /// Asks a host what it offers, behind TLS where it is spoken to so.
    ///
    /// # Errors
    /// Why that is not known.
    pub(super) fn ask_capabilities(
        &self,
        backend: &Backend,
        host: &Candidate,
    ) -> Result<Vec<String>, BackendError> {
        let mut talk = (self.dialogue.begin)(&self.own_name);
        let mut conn = dial(backend, host)?;
        let list = open_and_ask(&mut *talk, &mut conn);
        talk.quit(conn);
        list
    }
}

fn dial<'a>(backend: &'a Backend, host: &'a Candidate) -> Result<BackendConn<'a>, BackendError> {
    if backend.conf.proxy_ssl != ProxySsl::Off {
        backend.refresh_tls();
    }
    let dial = Dial {
        candidate: host,
        proxy_protocol: backend.conf.proxy_protocol,
        origin: Origin::Ourselves,
        ssl: backend.conf.proxy_ssl,
        connector: &backend.connector,
        deadlines: Deadlines::of_visit(backend.conf.connect_timeout),
        watcher: None,
        pass_on: false,
    };
    Ok(dial.connect()?)
}

fn open_and_ask(
    talk: &mut dyn Talk,
    conn: &mut BackendConn<'_>,
) -> Result<Vec<String>, BackendError> {
    open(talk, conn)?;
    talk.ask_capabilities(conn)
}
