//! A small IMAP server that lets everybody in.

use std::io;

use super::Talk;

/// Answers LOGIN (literals, quoted, atoms), NOOP, CAPABILITY and LOGOUT; its answers say "backend".
/// A login with the password `refused` is refused.
pub(crate) fn imap_server(talk: &mut Talk) -> io::Result<()> {
    talk.say("* OK backend ready")?;
    loop {
        let line = command(talk)?;
        let (tag, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let word = rest.split(' ').next().unwrap_or_default();
        match word.to_ascii_uppercase().as_str() {
            "LOGIN" if rest.ends_with("refused") => {
                talk.say(&format!("{tag} NO [AUTHENTICATIONFAILED] backend refuses"))?;
            }
            "LOGIN" => talk.say(&format!("{tag} OK [CAPABILITY IMAP4rev1] backend login"))?,
            "CAPABILITY" => {
                talk.say("* CAPABILITY IMAP4rev1 IDLE")?;
                talk.say(&format!("{tag} OK backend CAPABILITY"))?;
            }
            "NOOP" => talk.say(&format!("{tag} OK backend NOOP"))?,
            "LOGOUT" => {
                talk.say("* BYE backend")?;
                return talk.say(&format!("{tag} OK backend LOGOUT"));
            }
            _ => talk.say(&format!("{tag} BAD backend"))?,
        }
    }
}

/// A whole command, its literals put in where they stand.
pub(super) fn command(talk: &mut Talk) -> io::Result<String> {
    let mut whole = String::new();
    loop {
        let line = talk.line()?;
        let Some((length, waits)) = literal(&line) else {
            whole.push_str(&line);
            return Ok(whole);
        };
        if waits {
            talk.say("+ backend waits")?;
        }
        whole.push_str(&line[..line.rfind('{').unwrap_or(line.len())]);
        let bytes = talk.bytes(length)?;
        whole.push_str(&String::from_utf8_lossy(&bytes));
    }
}

/// Length of the literal announced at the end of `line`, and whether its sender waits for a `+`.
fn literal(line: &str) -> Option<(usize, bool)> {
    let (_, length) = line.strip_suffix('}')?.rsplit_once('{')?;
    match length.strip_suffix('+') {
        Some(length) => Some((length.parse().ok()?, false)),
        None => Some((length.parse().ok()?, true)),
    }
}
