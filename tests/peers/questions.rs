//! Backends that take ID (IMAP) or XCLIENT (POP3) in a manner of their own before the login, and let everybody
//! in then; their answers say "backend".

use std::io;

use super::Talk;
use super::imap::command;

/// Plays IMAP and offers ID. `to_id` is called with the tag and the whole command.
pub(crate) fn imap_with_id(
    talk: &mut Talk,
    to_id: impl Fn(&mut Talk, &str, &str) -> io::Result<()>,
) -> io::Result<()> {
    imap_greeting(talk, "* OK [CAPABILITY IMAP4rev1 ID] backend ready", to_id)
}

/// The same with this greeting.
pub(crate) fn imap_greeting(
    talk: &mut Talk,
    greeting: &str,
    to_id: impl Fn(&mut Talk, &str, &str) -> io::Result<()>,
) -> io::Result<()> {
    talk.say(greeting)?;
    loop {
        let line = command(talk)?;
        let (tag, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let word = rest.split(' ').next().unwrap_or_default();
        match word.to_ascii_uppercase().as_str() {
            "ID" => to_id(talk, tag, rest)?,
            "CAPABILITY" => {
                talk.say("* CAPABILITY IMAP4rev1 ID")?;
                talk.say(&format!("{tag} OK backend CAPABILITY"))?;
            }
            "LOGIN" => talk.say(&format!("{tag} OK [CAPABILITY IMAP4rev1] backend login"))?,
            _ => talk.say(&format!("{tag} OK backend {word}"))?,
        }
    }
}

/// Plays POP3 and offers XCLIENT. `to_xclient` is called with the whole command.
pub(crate) fn pop3_with_xclient(
    talk: &mut Talk,
    to_xclient: impl Fn(&mut Talk, &str) -> io::Result<()>,
) -> io::Result<()> {
    talk.say("+OK [XCLIENT] backend ready.")?;
    loop {
        let line = talk.line()?;
        let word = line.split(' ').next().unwrap_or_default();
        match word {
            "XCLIENT" => to_xclient(talk, &line)?,
            _ => talk.say(&format!("+OK backend {word}"))?,
        }
    }
}
