//! IMAP (RFC 3501, RFC 9051) up to the end of LOGIN or AUTHENTICATE.

mod backend;
mod capabilities;
mod client;
mod id;
mod introduce;
mod parse;

use self::id::Fields;
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

/// What is said of a backend that does not serve (RFC 5530).
const UNAVAILABLE: &[u8] = b"NO [UNAVAILABLE] mail server is not available";

/// What is said of a login that was refused, with this text (RFC 5530).
fn failed(text: &[u8]) -> Vec<u8> {
    [b"NO [AUTHENTICATIONFAILED] ", text].concat()
}

/// One client's dialogue.
#[derive(Debug, Default)]
pub(super) struct Imap {
    /// Tag of the command being answered; empty while there is no usable one.
    tag: Vec<u8>,
    /// Where the bytes of the last synchronizing literal begin that was answered in the command under
    /// way; 0 if there was none.
    answered: usize,
    /// What an incomplete command waits for.
    awaited: Option<Awaited>,
    /// The SASL exchange that awaits the client's next line.
    exchange: Option<Exchange>,
    /// What the client has said in ID.
    id: Option<Identity>,
}

/// What a client has said of itself, and what it was told.
#[derive(Debug, Clone, Default)]
struct Identity {
    fields: Fields,
    /// The list of the answer that it got.
    told: Vec<u8>,
}

/// An incomplete command, as far as it was looked at.
#[derive(Debug, Clone, Copy)]
struct Awaited {
    /// How many bytes it needs; 0 stands for a line end.
    needs: usize,
    /// How many of them have been looked at.
    held: usize,
}

impl Imap {
    /// A tagged line, or an untagged one where no tag could be read.
    fn tagged(&self, text: &[u8]) -> Line {
        match self.tag.as_slice() {
            [] => line(&[b"* ", text]),
            tag => line(&[tag, b" ", text]),
        }
    }
}

impl Dialect for Imap {
    fn greeting(&self, _: &mut Session) -> Result<Line, Cause> {
        Ok(line(&[b"* OK IMAP4 ready"]))
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
        match refusal.is_ours {
            true => self.tagged(&failed(&refusal.text)),
            false => self.tagged(&[b"NO ", &refusal.text[..]].concat()),
        }
    }

    fn bad_command(&self) -> Line {
        self.tagged(b"BAD invalid command")
    }

    fn cancelled(&self) -> Line {
        self.bad_command()
    }

    fn challenge(&self, challenge: &[u8]) -> Line {
        line(&[b"+ ", challenge])
    }

    fn talk(&self, session: &mut Session) -> Box<dyn Talk> {
        Box::new(backend::ImapTalk::for_client(self, session))
    }

    fn failure_line(&self, cause: &Cause, own_method: bool) -> Option<Line> {
        let lines = super::FailureLines {
            unavailable: self.tagged(UNAVAILABLE),
            // RFC 5530
            user_limit: self
                .tagged(b"NO [LIMIT] too many sessions of this user, close one of them"),
        };
        super::failure_line(Protocol::Imap.record(), cause, own_method, lines)
    }
}
