//! A short visit to a host without a client: the same dialogue as a login up to the credentials, and a
//! goodbye, so that backends log nothing alarming.
//!
//! When visits are made is decided in `check` and `capabilities`. What they find goes into what is known of
//! the backend, and changes of it into the log, from here.

use super::conn::{BackendConn, Dial, Origin};
use super::deadlines::Deadlines;
use super::error::{BackendError, BeforeCredentials};
use super::talk::{Dialogue, Talk, open};
use super::{Backend, Candidate};
use crate::config::{ProxyProtocol, ProxySsl};
use crate::protocol::{Protocol, Purpose};
use crate::sasl::shown::LoginSecrets;
use crate::tls::Facts;

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
    /// Finds out whether a host welcomes, and speaks TLS as a login needs it.
    pub(super) fn look_at(&self, backend: &Backend, host: &Candidate) {
        let mut talk = (self.dialogue.begin)(&self.own_name);
        if let Some(conn) = self.enter(&mut *talk, backend, host) {
            talk.quit(conn);
        }
    }

    /// Asks a host what it offers, behind TLS where it is spoken to so. Whether it has answered.
    pub(super) fn ask_capabilities(&self, backend: &Backend, host: &Candidate) -> bool {
        let mut talk = (self.dialogue.begin)(&self.own_name);
        let Some(mut conn) = self.enter(&mut *talk, backend, host) else {
            return false;
        };
        let answer = talk.ask_capabilities(&mut conn);
        talk.quit(conn);
        let failure = answer
            .as_ref()
            .err()
            .map(|error| error.in_full(&LoginSecrets::default()));
        let subject = format!("the question to {} for its capabilities", host.address);
        backend.note_outcome(&subject, failure.as_deref());
        let Ok(items) = answer else {
            return false;
        };
        let ssl = backend.conf.ssl(self.purpose.protocol);
        let offers = &backend.known.offers;
        offers.note(self.purpose, host.address, ssl, items);
        true
    }

    /// What a host shows to somebody who looks on, and notes nothing: its TLS, and what it offers behind that.
    pub(crate) fn inspect(
        &self,
        backend: &Backend,
        host: &Candidate,
    ) -> Result<(Option<Facts>, Vec<String>), BackendError> {
        let mut talk = (self.dialogue.begin)(&self.own_name);
        let mut conn = self.begin(&mut *talk, backend, host)?;
        let facts = conn.tls_facts();
        let mut offers = talk.ask_capabilities(&mut conn);
        // Whoever takes the header for a command is one answer behind from then on.
        if backend.conf.proxy_protocol != ProxyProtocol::Off
            && let Ok(first) = &offers
        {
            let again = talk.ask_capabilities(&mut conn);
            if again.is_ok_and(|again| again != *first) {
                let text = "the PROXY header was taken for a command";
                offers = Err(BackendError::Internal(text.to_owned()));
            }
        }
        talk.quit(conn);
        Ok((facts, offers?))
    }

    /// Begins a dialogue as a login would.
    fn begin<'a>(
        &self,
        talk: &mut dyn Talk,
        backend: &'a Backend,
        host: &'a Candidate,
    ) -> Result<BackendConn<'a>, BeforeCredentials> {
        let mut conn = dial(backend, self.purpose.protocol, host)?;
        match open(talk, &mut conn) {
            Ok(()) => Ok(conn),
            Err(error) => {
                talk.quit(conn);
                Err(BeforeCredentials::new(error))
            }
        }
    }

    /// Begins a dialogue as a login would, and notes whether the host serves.
    fn enter<'a>(
        &self,
        talk: &mut dyn Talk,
        backend: &'a Backend,
        host: &'a Candidate,
    ) -> Option<BackendConn<'a>> {
        let subject = format!("the visit to {}", host.address);
        match self.begin(talk, backend, host) {
            Ok(conn) => {
                backend.note_outcome(&subject, None);
                backend.note_answer(host.address);
                Some(conn)
            }
            Err(failure) if failure.is_of_host() => {
                backend.note_failure(host, &failure);
                None
            }
            // Ours, or an answer that only the administrator can explain.
            Err(failure) => {
                backend.note_outcome(
                    &subject,
                    Some(&failure.cause().in_full(&LoginSecrets::default())),
                );
                None
            }
        }
    }
}

fn dial<'a>(
    backend: &'a Backend,
    protocol: Protocol,
    host: &'a Candidate,
) -> Result<BackendConn<'a>, BeforeCredentials> {
    let ssl = backend.conf.ssl(protocol);
    if ssl != ProxySsl::Off {
        backend.refresh_tls();
    }
    let dial = Dial {
        candidate: host,
        proxy_protocol: backend.conf.proxy_protocol,
        origin: Origin::Ourselves,
        ssl,
        connector: &backend.connector,
        deadlines: Deadlines::of_visit(backend.conf.connect_timeout),
        watcher: None,
        silent: None,
        pass_on: false,
    };
    dial.connect()
}
