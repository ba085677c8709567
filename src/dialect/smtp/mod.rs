//! SMTP (RFC 5321, RFC 4954) up to the end of AUTH, or to the first RCPT where no login is asked for.

mod backend;
mod capabilities;
mod client;
mod counting;
mod parse;
mod xclient;

use std::time::Duration;

use super::Dialect;
use crate::auth::LoginRefusal;
use crate::backend::talk::{Dialogue, Talk};
use crate::net::client_conn::ClientConn;
use crate::net::line::{Line, line};
use crate::protocol::Protocol;
use crate::sasl::{Credentials, Exchange};
use crate::session::Session;
use crate::session::error::{Cause, Halt};

/// How visits speak it.
pub(super) const DIALOGUE: Dialogue = Dialogue {
    begin: backend::begin,
    before_login: capabilities::before_login,
};

/// One client's dialogue: what it has said so far. STARTTLS makes all of it forgotten.
#[derive(Debug, Default)]
pub(super) struct Smtp {
    /// The name behind the last HELO or EHLO.
    helo: Option<Vec<u8>>,
    /// Whether EHLO was ever said.
    esmtp: bool,
    /// The accepted MAIL line, where no login is asked for.
    mail: Option<Vec<u8>>,
    /// The RCPT line that the auth server is asked about.
    rcpt: Option<Vec<u8>>,
    /// Bytes of a message text that are still to be skipped, behind a refused BDAT.
    text_left: u64,
    /// The SASL exchange that awaits the client's next line.
    exchange: Option<Exchange>,
}

impl Dialect for Smtp {
    fn greeting(&self, session: &mut Session) -> Result<Line, Cause> {
        let name = session.service.conf.server_name.as_bytes();
        Ok(line(&[b"220 ", name, b" ESMTP ready"]))
    }

    fn greeting_delay(&self, session: &Session) -> Option<(Duration, Line)> {
        let delay = session.service.conf.smtp_greeting_delay;
        let refusal = b"503 5.5.0 Improper use of SMTP command pipelining";
        (!delay.is_zero()).then(|| (delay, line(&[refusal])))
    }

    fn read_login(
        &mut self,
        session: &mut Session,
        client: &mut ClientConn,
    ) -> Result<Credentials, Halt> {
        client::read_login(self, session, client)
    }

    fn exchange(&mut self) -> &mut Option<Exchange> {
        &mut self.exchange
    }

    fn refuse_login(&mut self, refusal: &LoginRefusal) -> Line {
        self.rcpt = None;
        // RFC 4954, section 6; Angie's default lacks the detail.
        let default: &[u8] = if refusal.is_ours {
            b"535 5.7.8"
        } else {
            b"535 5.7.0"
        };
        let code = refusal.code.as_deref().unwrap_or(default);
        line(&[code, b" ", &refusal.text])
    }

    fn bad_command(&self) -> Line {
        line(&[b"500 5.5.1 Invalid command"])
    }

    fn cancelled(&self) -> Line {
        line(&[b"501 5.7.0 Authentication cancelled"])
    }

    fn challenge(&self, challenge: &[u8]) -> Line {
        line(&[b"334 ", challenge])
    }

    fn talk(&self, session: &mut Session) -> Box<dyn Talk> {
        Box::new(backend::SmtpTalk::for_client(self, session))
    }

    fn failure_line(&self, cause: &Cause, own_method: bool) -> Option<Line> {
        let lines = super::FailureLines {
            unavailable: line(&[b"454 4.7.0 mail server is not available"]),
            user_limit: line(&[b"421 4.7.0 too many sessions of this user, close one of them"]),
        };
        super::failure_line(Protocol::Smtp.record(), cause, own_method, lines)
    }
}
