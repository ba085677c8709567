//! What nodes that serve the same users have in common: counts of failed logins and sessions per user.
//! `memory` is this process, `redis` all nodes, `shared` both together.
//!
//! Nothing here is derived from a password: which failures are counted at all is settled before (`guesses`).
//! What only this node needs, such as who has logged in from where, is not kept here.

use std::fmt;

use crate::net::address::LimitKey;
use crate::protocol::Protocol;

/// Where counts are kept. Calls come from workers and from threads that end a session, at any time
/// and from several at once; each blocks for 125 ms at most.
///
/// Who calls treats an error as "nothing is known": a store that is gone neither refuses nor delays anybody.
pub(crate) trait Store: fmt::Debug + Send + Sync {
    /// Counts one failed login and returns the count, which is never above `most`. It goes back by one every
    /// `penalty::LEAK`, by the store's own clock.
    ///
    /// # Errors
    /// The store cannot be asked.
    fn add_failure(&self, of: FailuresOf<'_>, most: u32) -> Result<u32, StoreError>;

    /// The count of failed logins, with what has gone back.
    ///
    /// # Errors
    /// The store cannot be asked.
    fn failures(&self, of: FailuresOf<'_>) -> Result<u32, StoreError>;

    /// Counts a session in, unless a limit is reached. Every session that was begun is ended once by
    /// `end_session`, with the same values.
    ///
    /// # Errors
    /// The store cannot be asked; then the session was not begun.
    fn begin_session(
        &self,
        session: &UserSession,
        limits: SessionLimits,
    ) -> Result<Begun, StoreError>;

    /// Counts it out.
    ///
    /// # Errors
    /// The store cannot be asked.
    fn end_session(&self, session: &UserSession) -> Result<(), StoreError>;
}

/// Whose failed logins are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum FailuresOf<'a> {
    /// Those that came from an address (IPv6: from a /64).
    Address(LimitKey),
    /// Those of a login, in lower case, whether such a user exists or not.
    User(&'a [u8]),
}

/// One session of a user that has logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UserSession {
    /// What it speaks: a mail program's IMAP connections are no reason to refuse its SMTP.
    pub protocol: Protocol,
    /// `Grant::user`: in lower case, with its domain.
    pub user: Vec<u8>,
    /// Where it comes from (IPv6: the /64).
    pub address: LimitKey,
    /// The session's number, which no other one of this process has.
    pub number: u64,
}

/// Most sessions of a user and protocol; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct SessionLimits {
    /// `max_sessions_per_user`
    pub of_user: Option<u32>,
    /// `max_sessions_per_user_per_ip`
    pub of_user_and_address: Option<u32>,
}

impl SessionLimits {
    /// Whether there is none: then nothing is counted.
    pub(crate) fn is_off(self) -> bool {
        self == Self::default()
    }

    /// What becomes of one more where the user has so many, and so many of them from its address.
    pub(crate) fn judge(self, of_user: u32, of_user_and_address: u32) -> Begun {
        let reached = |most: Option<u32>, count| most.is_some_and(|most| count >= most);
        if reached(self.of_user_and_address, of_user_and_address) {
            return Begun::Reached("max_sessions_per_user_per_ip");
        }
        match reached(self.of_user, of_user) {
            true => Begun::Reached("max_sessions_per_user"),
            false => Begun::Counted,
        }
    }
}

/// What became of a session that was to be counted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Begun {
    /// It is counted.
    Counted,
    /// It is not: the limit of this directive is reached.
    Reached(&'static str),
}

/// The store cannot be asked, or cannot do this; for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoreError(pub String);

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_the_address_is_named_before_that_of_the_user() {
        let limits = SessionLimits {
            of_user: Some(4),
            of_user_and_address: Some(2),
        };
        assert_eq!(limits.judge(3, 1), Begun::Counted);
        let per_ip = Begun::Reached("max_sessions_per_user_per_ip");
        assert_eq!(limits.judge(4, 2), per_ip);
        assert_eq!(limits.judge(4, 0), Begun::Reached("max_sessions_per_user"));
        assert!(SessionLimits::default().is_off() && !limits.is_off());
        assert_eq!(SessionLimits::default().judge(9, 9), Begun::Counted);
    }
}
