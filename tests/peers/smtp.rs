//! A small SMTP server that takes all mail but that for nobody.

use std::io;

use super::Talk;

/// Takes XCLIENT, AUTH and mail; its answers say "backend". RCPT for `nobody` is refused with a
/// reply of two lines.
pub(crate) fn smtp_server(talk: &mut Talk) -> io::Result<()> {
    serve(talk, "220 backend ESMTP again")
}

/// The same, but XCLIENT is refused.
pub(crate) fn smtp_server_without_xclient(talk: &mut Talk) -> io::Result<()> {
    serve(talk, "550 5.7.0 backend: insufficient authorization")
}

fn serve(talk: &mut Talk, to_xclient: &str) -> io::Result<()> {
    talk.say("220 backend ESMTP")?;
    loop {
        let line = talk.line()?;
        let word = line.split([' ', ':']).next().unwrap_or_default();
        match word.to_ascii_uppercase().as_str() {
            "EHLO" => {
                talk.say("250-backend")?;
                talk.say(
                    "250-XCLIENT NAME ADDR PROTO HELO REVERSE_NAME PORT LOGIN DESTADDR DESTPORT",
                )?;
                talk.say("250-AUTH PLAIN LOGIN")?;
                talk.say("250 8BITMIME")?;
            }
            "XCLIENT" => talk.say(to_xclient)?,
            "AUTH" => talk.say("235 2.7.0 backend AUTH")?,
            "RCPT" if line.contains("nobody") => {
                talk.say("550-5.1.1 backend knows")?;
                talk.say("550 5.1.1 nobody of that name")?;
            }
            "DATA" => {
                talk.say("354 backend DATA")?;
                while talk.line()? != "." {}
                talk.say("250 2.0.0 backend queued")?;
            }
            "QUIT" => return talk.say("221 2.0.0 backend QUIT"),
            "HELO" | "MAIL" | "RCPT" | "RSET" | "NOOP" => {
                talk.say(&format!("250 2.0.0 backend {word}"))?;
            }
            _ => talk.say("500 5.5.1 backend")?,
        }
    }
}
