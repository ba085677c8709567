//! The IMAP server of the demonstration (RFC 3501), enough for curl, imaplib and a mail program.
//!
//! Folders are fixed, keywords are not kept, nothing survives the process. Before a login only
//! this file counts, after it `session` and `folders`.

mod command;
mod fetch;
mod folders;
mod message;
mod search;
mod session;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::peer::{Gone, Peer};
use super::store::{self, Store, UserId};
use crate::sasl::plain;
use command::{Bad, Cursor};
use session::Session;

/// Wrong passwords before the connection closes.
const MAX_FAILURES: u32 = 3;

/// What the server can do; the proxy announces the same.
pub(super) const CAPABILITIES: &str =
    "IMAP4rev1 LITERAL- UIDPLUS MOVE IDLE NAMESPACE UNSELECT ID SASL-IR";

/// Why a command has no answer of its own.
enum Trouble {
    Bad,
    Gone,
}

impl From<Bad> for Trouble {
    fn from(Bad: Bad) -> Self {
        Self::Bad
    }
}

impl From<Gone> for Trouble {
    fn from(Gone: Gone) -> Self {
        Self::Gone
    }
}

/// What follows the tag in the last line of an answer.
type Answer = Result<String, Trouble>;

/// Serves one connection.
pub(super) fn serve(peer: &mut Peer, store: &Store) -> Result<(), Gone> {
    peer.send(format!(
        "* OK [CAPABILITY {CAPABILITIES} AUTH=PLAIN] Postern's demo IMAP server ready\r\n"
    ))?;
    let user = log_in(peer)?;
    let mut session = Session::new(store, user);
    loop {
        let (tag, word, command) = read(peer)?;
        let answer = session.run(peer, &word, Cursor(&command));
        let answer = spoken(answer)?;
        let expunges = !matches!(word.as_str(), "FETCH" | "STORE" | "SEARCH");
        peer.send(session.changes(expunges))?;
        peer.send(format!("{tag} {answer}\r\n"))?;
        if word == "LOGOUT" {
            return Ok(());
        }
    }
}

/// The next command that has at least a tag and a word: these two, and what follows.
fn read(peer: &mut Peer) -> Result<(String, String, Vec<u8>), Gone> {
    loop {
        let command = command::read(peer)?;
        let mut cursor = Cursor(&command);
        let is_tag = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._/:$!".contains(byte);
        let tag = cursor.run(b" ").ok();
        let tag = tag.filter(|tag| tag.len() <= 64 && tag.iter().all(is_tag));
        let word = cursor.space().and_then(|()| cursor.word());
        if let (Some(tag), Ok(word)) = (tag, word) {
            let tag = String::from_utf8_lossy(tag).into_owned();
            return Ok((tag, word, cursor.0.to_vec()));
        }
        peer.send("* BAD invalid command\r\n")?;
    }
}

fn spoken(answer: Answer) -> Result<String, Gone> {
    match answer {
        Ok(answer) => Ok(answer),
        Err(Trouble::Bad) => Ok("BAD invalid command".into()),
        Err(Trouble::Gone) => Err(Gone),
    }
}

/// Commands up to a login.
fn log_in(peer: &mut Peer) -> Result<UserId, Gone> {
    let mut failures = 0;
    while failures < MAX_FAILURES {
        let (tag, word, command) = read(peer)?;
        let cursor = Cursor(&command);
        let user = match word.as_str() {
            "LOGIN" => login(cursor),
            "AUTHENTICATE" => authenticate(peer, cursor),
            _ => {
                let answer = spoken(any_time(peer, &word))?;
                peer.send(format!("{tag} {answer}\r\n"))?;
                if word == "LOGOUT" {
                    return Err(Gone);
                }
                continue;
            }
        };
        match user {
            Ok(Some(user)) => {
                peer.send(format!(
                    "{tag} OK [CAPABILITY {CAPABILITIES}] Logged in\r\n"
                ))?;
                return Ok(user);
            }
            Ok(None) => {
                failures += 1;
                peer.send(format!(
                    "{tag} NO [AUTHENTICATIONFAILED] Invalid login or password\r\n"
                ))?;
            }
            Err(Trouble::Bad) => peer.send(format!("{tag} BAD invalid command\r\n"))?,
            Err(Trouble::Gone) => return Err(Gone),
        }
    }
    Err(Gone)
}

/// Commands that are good in every state.
fn any_time(peer: &mut Peer, word: &str) -> Answer {
    match word {
        "CAPABILITY" => peer.send(format!("* CAPABILITY {CAPABILITIES}\r\n"))?,
        "NOOP" => {}
        "ID" => peer.send("* ID (\"name\" \"Postern demo\")\r\n")?,
        "LOGOUT" => peer.send("* BYE Bye\r\n")?,
        _ => return Err(Trouble::Bad),
    }
    Ok(format!("OK {word} completed"))
}

fn login(mut cursor: Cursor<'_>) -> Result<Option<UserId>, Trouble> {
    cursor.space()?;
    let login = cursor.string()?;
    cursor.space()?;
    let password = cursor.string()?;
    cursor.end()?;
    Ok(store::log_in(&login, &password))
}

fn authenticate(peer: &mut Peer, mut cursor: Cursor<'_>) -> Result<Option<UserId>, Trouble> {
    cursor.space()?;
    if cursor.word()? != "PLAIN" {
        return Err(Trouble::Bad);
    }
    let message = match cursor.take(b' ') {
        true => cursor.0.to_vec(),
        false => {
            peer.send("+ \r\n")?;
            peer.read_line()?
        }
    };
    let message = STANDARD.decode(message).map_err(|_| Trouble::Bad)?;
    let credentials = plain::parse(&message).map_err(|_| Trouble::Bad)?;
    Ok(store::log_in(
        &credentials.login,
        credentials.secret.expose(),
    ))
}
