//! Tells an SMTP backend that is a proxy like this one how many its login has come through, so that a loop ends.
//!
//! Such a proxy believes no XCLIENT and offers none; another Postern takes note of the TTL all the same, and all of
//! them refuse the command. It is a question of our own, which fails no login.

use super::backend::reply_line;
use crate::backend::conn::BackendConn;
use crate::backend::error::BackendError;
use crate::backend::silent::Answered;
use crate::backend::talk::{BackendStep, Introduction};
use crate::dialect::caller::Caller;
use crate::net::line::{line, without_end};

/// Most lines of the answer.
const LINES: usize = 100;

/// What is known of one backend.
#[derive(Debug, Default)]
pub(super) struct Counting {
    /// Its greeting is that of a proxy of our kind.
    is_proxy: bool,
    /// It has left the command without an answer.
    is_given_up: bool,
}

impl Counting {
    /// The backend has greeted with this reply, on a connection of its own.
    pub(super) fn has_greeted(&mut self, greeting: &[u8]) {
        let mut words = without_end(greeting).split(|&byte| byte == b' ');
        let form = [words.next(), words.nth(1), words.next(), words.next()];
        self.is_proxy = form == [Some(&b"220"[..]), Some(b"ESMTP"), Some(b"ready"), None];
    }

    /// Sends the TTL to a proxy, and takes the answer off the stream.
    pub(super) fn send_ttl(
        &mut self,
        backend: &mut BackendConn<'_>,
        caller: &Caller,
    ) -> Introduction {
        if !self.is_proxy || self.is_given_up || backend.is_silent() {
            return Introduction::Over;
        }
        match ask(backend, caller) {
            Ok(Introduction::Over) => {
                backend.note_question(Answered::Yes);
                Introduction::Over
            }
            Ok(Introduction::Unanswered) | Err(_) => {
                backend.note_question(Answered::No);
                self.is_given_up = true;
                Introduction::Unanswered
            }
        }
    }
}

fn ask(backend: &mut BackendConn<'_>, caller: &Caller) -> Result<Introduction, BackendError> {
    backend.set_step(BackendStep::SendingXclient);
    let ttl = caller.ttl.to_string();
    backend.send(&line(&[b"XCLIENT TTL=", ttl.as_bytes()]))?;
    let limit = backend.question_limit();
    for _ in 0..LINES {
        let line = backend.read_line_within(limit)?;
        match reply_line(&line) {
            Some((_, true, _)) => return Ok(Introduction::Over),
            Some((_, false, _)) => {}
            None => break,
        }
    }
    Ok(Introduction::Unanswered)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_is_known_by_its_greeting() {
        let is_proxy = |greeting: &[u8]| {
            let mut counting = Counting::default();
            counting.has_greeted(greeting);
            counting.is_proxy
        };
        assert!(is_proxy(b"220 mail.example.org ESMTP ready\r\n"));
        for other in [
            &b"220 mail.example.org ESMTP Postfix\r\n"[..],
            b"220 mail.example.org ESMTP ready now\r\n",
            b"220-mail.example.org ESMTP ready\r\n220 more\r\n",
            b"220 ESMTP ready\r\n",
        ] {
            assert!(!is_proxy(other), "{other:?}");
        }
    }
}
