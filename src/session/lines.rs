//! What lines of a session's log may say, and how many of them there may be: peers' texts without the
//! login's secrets, a line for each step on level debug, and a brake for what a client causes at will.
//!
//! How a line is put together is in `log`.

use super::error::Cause;
use super::{Runtime, Session, Shown};
use crate::log::{Allowance, Log, Severity, Whose, escape};
use crate::net::address::{Address, LimitKey};
use crate::net::client_conn::ClientConn;
use crate::net::error::NetError;
use crate::net::line::without_end;
use crate::tls::{Facts, Verdict};

impl Session {
    /// Says something to the client, and on level debug to the log.
    pub(crate) fn say(&self, client: &mut ClientConn, line: &[u8]) -> Result<(), NetError> {
        self.log_debug(file!(), || {
            format!("sent to client: \"{}\"", self.quote(without_end(line)))
        });
        client.send(line)
    }

    /// A peer's text for a message: escaped, and without the secrets that it may say back.
    pub(crate) fn quote(&self, text: &[u8]) -> String {
        self.secrets.quote(text)
    }

    /// What a failure is, for the log.
    pub(crate) fn describe(&self, cause: &Cause) -> String {
        cause.describe(&self.secrets)
    }

    /// Writes a line on level debug, and to rawlogs; the text is only made where somebody wants it.
    pub(crate) fn log_debug(&self, src: &'static str, text: impl FnOnce() -> String) {
        let is_logged = self.service.log.enabled(Severity::Debug);
        let is_read = self.runtime.rawlogs.want(&self.entry);
        if !is_logged && !is_read {
            return;
        }
        let text = text();
        if is_read {
            self.runtime.rawlogs.say(&self.entry, &text);
        }
        if is_logged {
            self.write_log(Severity::Debug, src, &text, None, Shown::Action);
        }
    }

    /// Whether one more line of a kind that clients cause at will may be written.
    pub(crate) fn may_log(&self, severity: Severity, kind: &'static str) -> bool {
        (self.runtime).may_log(self.client(), severity, kind, &self.service.log)
    }

    /// On level debug: what a handshake came to.
    pub(super) fn log_tls(&self, whom: &str, facts: &Facts) {
        self.log_debug(file!(), || {
            let certificate = facts.peer.as_ref().map(|peer| {
                let judged = match facts.verdict {
                    Verdict::Success => "verified",
                    _ => "not verified",
                };
                format!(", {}, {judged}", escape(peer.in_words().as_bytes()))
            });
            let certificate = certificate.unwrap_or_default();
            format!(
                "TLS with {whom}: {} {}{certificate}",
                facts.protocol, facts.cipher
            )
        });
    }
}

impl Runtime {
    /// Whether one more line of a kind that this client causes at will may be written to this log.
    pub(crate) fn may_log(
        &self,
        client: Address,
        severity: Severity,
        kind: &'static str,
        log: &Log,
    ) -> bool {
        if !log.enabled(severity) {
            return false;
        }
        let whose = match client.limit_key() {
            LimitKey::Ip(address) => Whose::Address(address),
            LimitKey::Unix => Whose::UnixSocket,
        };
        match self.brake.allows(whose, kind, severity, log) {
            Allowance::Write => true,
            Allowance::LeaveOut { is_first } => {
                if is_first {
                    self.hibernation.look_soon();
                }
                false
            }
        }
    }
}
