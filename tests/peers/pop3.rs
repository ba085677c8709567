//! A small POP3 server that lets everybody in.

use std::io;

use super::Talk;

/// Answers USER, PASS, CAPA, NOOP and QUIT; its answers say "backend". A login with the password
/// `refused` is refused.
pub(crate) fn pop3_server(talk: &mut Talk) -> io::Result<()> {
    talk.say("+OK backend ready")?;
    loop {
        let line = talk.line()?;
        let word = line.split(' ').next().unwrap_or_default();
        match word.to_ascii_uppercase().as_str() {
            "PASS" if line.ends_with(" refused") => talk.say("-ERR [AUTH] backend refuses")?,
            "USER" | "PASS" | "NOOP" => talk.say(&format!("+OK backend {word}"))?,
            "CAPA" => {
                talk.say("+OK backend CAPA")?;
                talk.say("UIDL")?;
                talk.say(".")?;
            }
            "QUIT" => return talk.say("+OK backend QUIT"),
            _ => talk.say("-ERR backend")?,
        }
    }
}
