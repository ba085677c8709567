//! POP3 (RFC 1939, RFC 2449, RFC 5034) up to the end of PASS, APOP or AUTH.

mod backend;
mod capabilities;
mod client;
mod introduce;
mod parse;

use super::Dialect;
use crate::auth::LoginRefusal;
use crate::backend::talk::{Dialogue, Talk};
use crate::net::client_conn::ClientConn;
use crate::net::line::{Line, line};
use crate::protocol::Protocol;
use crate::sasl::{Credentials, Exchange, Mechanism, Opening};
use crate::session::Session;
use crate::session::error::{Cause, Halt};

/// How visits speak it.
pub(super) const DIALOGUE: Dialogue = Dialogue {
    begin: backend::begin,
    before_login: capabilities::before_login,
};

/// One client's dialogue.
#[derive(Debug, Default)]
pub(super) struct Pop3 {
    /// What USER said, while PASS may follow.
    user: Option<Vec<u8>>,
    /// The SASL exchange that awaits the client's next line.
    exchange: Option<Exchange>,
}

impl Dialect for Pop3 {
    fn greeting(&self, session: &mut Session) -> Result<Line, Cause> {
        let listed = session.service.conf.mechanisms();
        // APOP answers the greeting (RFC 1939, section 7), and so can every exchange that begins with a
        // salt.
        let takes_salt = |row: &&Mechanism| row.opening == Opening::Server;
        if listed.own_login || listed.sasl.iter().any(takes_salt) {
            let salt = session.salt()?;
            return Ok(line(&[b"+OK POP3 ready ", salt.as_bytes()]));
        }
        Ok(line(&[b"+OK POP3 ready"]))
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
        // RFC 3206
        let code: &[u8] = if refusal.is_ours { b"[AUTH] " } else { b"" };
        line(&[b"-ERR ", code, &refusal.text])
    }

    fn bad_command(&self) -> Line {
        line(&[b"-ERR invalid command"])
    }

    fn cancelled(&self) -> Line {
        self.bad_command()
    }

    fn challenge(&self, challenge: &[u8]) -> Line {
        line(&[b"+ ", challenge])
    }

    fn talk(&self, session: &mut Session) -> Box<dyn Talk> {
        Box::new(backend::Pop3Talk::for_client(session))
    }

    fn failure_line(&self, cause: &Cause, own_method: bool) -> Option<Line> {
        let lines = super::FailureLines {
            unavailable: line(&[b"-ERR [SYS/TEMP] mail server is not available"]),
            // RFC 2449, section 8.1.1
            user_limit: line(&[b"-ERR [IN-USE] too many sessions of this user, close one of them"]),
        };
        super::failure_line(Protocol::Pop3.record(), cause, own_method, lines)
    }
}
