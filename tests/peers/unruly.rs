//! Backends that break rules, wait for ever or die; a function each, named by what it does.

use std::io;
use std::thread;
use std::time::Duration;

use super::Talk;
use super::imap::command;

/// Takes the connection and says nothing.
pub(crate) fn never_greets(talk: &mut Talk) -> io::Result<()> {
    talk.wait_for_end()
}

/// Greets with this line and never answers.
pub(crate) fn stalls_after_greeting(
    greeting: &'static str,
) -> impl Fn(&mut Talk) -> io::Result<()> {
    move |talk| {
        talk.say(greeting)?;
        talk.wait_for_end()
    }
}

/// Says one line and closes.
pub(crate) fn says_and_closes(line: &'static str) -> impl Fn(&mut Talk) -> io::Result<()> {
    move |talk| talk.say(line)
}

/// Claims in IMAP that its client is logged in already.
pub(crate) fn says_preauth(talk: &mut Talk) -> io::Result<()> {
    talk.say("* PREAUTH backend knows you")?;
    talk.wait_for_end()
}

/// Refuses every connection in IMAP's way.
pub(crate) fn says_bye(talk: &mut Talk) -> io::Result<()> {
    talk.say("* BYE backend is full")
}

/// An IMAP server whose greeting and login answers come one byte at a time.
pub(crate) fn one_byte_at_a_time(talk: &mut Talk) -> io::Result<()> {
    talk.say_bytewise("* OK slow backend")?;
    let line = talk.line()?;
    let tag = line.split(' ').next().unwrap_or_default().to_owned();
    talk.say_bytewise("+ go on")?;
    talk.line()?;
    talk.say_bytewise("+ go on")?;
    talk.line()?;
    talk.say_bytewise("* CAPABILITY IMAP4rev1 SLOW")?;
    talk.say_bytewise(&format!("{tag} OK slow login"))?;
    talk.wait_for_end()
}

/// Logs everybody in, with untagged lines before and more of them behind in the same segment.
pub(crate) fn says_more_behind_its_ok(talk: &mut Talk) -> io::Result<()> {
    talk.say("* OK ready")?;
    let line = command(talk)?;
    let tag = line.split(' ').next().unwrap_or_default();
    talk.send(
        format!("* 1 EXISTS\r\n* CAPABILITY IMAP4rev1\r\n{tag} OK in\r\n* 2 EXISTS\r\n").as_bytes(),
    )?;
    talk.wait_for_end()
}

/// Floods the login with untagged lines, for ever.
pub(crate) fn floods_untagged(talk: &mut Talk) -> io::Result<()> {
    talk.say("* OK ready")?;
    talk.line()?;
    loop {
        talk.say("* OK and another thing that you should know about")?;
    }
}

/// Begins a line that never ends.
pub(crate) fn never_ends_its_line(talk: &mut Talk) -> io::Result<()> {
    loop {
        talk.send(&[b'x'; 4096])?;
    }
}

/// Logs everybody in and answers the first command with half a literal, then dies.
pub(crate) fn closes_in_literal(talk: &mut Talk) -> io::Result<()> {
    talk.say("* OK ready")?;
    let line = command(talk)?;
    let tag = line.split(' ').next().unwrap_or_default();
    talk.say(&format!("{tag} OK in"))?;
    talk.line()?;
    talk.send(b"* 1 FETCH (BODY[] {1000}\r\nhalf of it")
}

/// An IMAP server; the length of what it says after the login is `size` bytes, sent as fast as the
/// other side takes them, whatever comes, then it closes.
pub(crate) fn pours_after_login(size: usize) -> impl Fn(&mut Talk) -> io::Result<()> {
    move |talk| {
        talk.say("* OK ready")?;
        let line = command(talk)?;
        let tag = line.split(' ').next().unwrap_or_default();
        talk.say(&format!("{tag} OK in"))?;
        let mut left = size;
        while left > 0 {
            let count = left.min(65_536);
            talk.send(&pattern(size - left, count))?;
            left -= count;
        }
        Ok(())
    }
}

/// An IMAP server that after the login sends back every byte it gets.
pub(crate) fn echoes_after_login(talk: &mut Talk) -> io::Result<()> {
    talk.say("* OK ready")?;
    let line = command(talk)?;
    let tag = line.split(' ').next().unwrap_or_default();
    talk.say(&format!("{tag} OK in"))?;
    loop {
        let byte = talk.bytes(1)?;
        let mut all = byte;
        all.append(&mut talk.buffer);
        talk.send(&all)?;
    }
}

/// An IMAP server that after the login says a full stop whenever so much time has passed.
pub(crate) fn trickles_after_login(pause: Duration) -> impl Fn(&mut Talk) -> io::Result<()> {
    move |talk| {
        talk.say("* OK ready")?;
        let line = command(talk)?;
        let tag = line.split(' ').next().unwrap_or_default();
        talk.say(&format!("{tag} OK in"))?;
        loop {
            thread::sleep(pause);
            talk.send(b".")?;
        }
    }
}

/// An IMAP server that is silent after the login, reads everything and, when the other side has
/// ended its stream, says how many bytes there were.
pub(crate) fn counts_until_the_end(talk: &mut Talk) -> io::Result<()> {
    talk.say("* OK ready")?;
    let line = command(talk)?;
    let tag = line.split(' ').next().unwrap_or_default();
    talk.say(&format!("{tag} OK in"))?;
    let mut count = 0;
    while talk.bytes(1).is_ok() {
        count += 1 + talk.buffer.len();
        talk.buffer.clear();
    }
    talk.say(&format!("* {count} bytes"))
}

/// A POP3 server that answers QUIT only after its client has ended its stream.
pub(crate) fn says_quit_late(talk: &mut Talk) -> io::Result<()> {
    talk.say("+OK ready")?;
    for _ in ["USER", "PASS"] {
        talk.line()?;
        talk.say("+OK")?;
    }
    talk.line()?;
    talk.wait_for_end()?;
    talk.say("+OK deleted 3 messages, bye")
}

/// `count` bytes of an endless sequence in which every place can be told from its neighbours.
pub(crate) fn pattern(from: usize, count: usize) -> Vec<u8> {
    (from..from + count)
        .map(|at| (at.wrapping_mul(31) ^ (at >> 8) ^ (at >> 16)) as u8)
        .collect()
}

/// Welcomes everybody and answers every login with this, as soon as it has the password; a CRLF is added.
pub(crate) fn answers_logins_with(
    protocol: &'static str,
    answer: &'static str,
) -> impl Fn(&mut Talk) -> io::Result<()> {
    move |talk| {
        match protocol {
            "imap" => talk.say("* OK hi")?,
            "pop3" => talk.say("+OK hi")?,
            _ => talk.say("220 hi")?,
        }
        loop {
            let line = talk.line()?;
            match (protocol, line.split(' ').next().unwrap_or_default()) {
                ("smtp", "EHLO") => talk.say("250-b\r\n250 AUTH PLAIN")?,
                ("pop3", "USER") => talk.say("+OK")?,
                ("imap", _) if line.ends_with('}') => talk.say("+ go on")?,
                _ => talk.say(answer)?,
            }
        }
    }
}
