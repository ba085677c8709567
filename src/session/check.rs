//! A login's place among those of its address that are checked at a time (`limits`), and what its refusal
//! costs. A place is given back, or the line left, when it is dropped.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::{Cause, Halt};
use super::{Runtime, Session};
use crate::config::Server;
use crate::limits::penalty::PenaltyRule;
use crate::limits::store::StoreError;
use crate::limits::{Attempt, GateKey, Rules, Taken};
use crate::log::Severity;
use crate::metrics::add;
use crate::net::address::Address;
use crate::net::client_conn::ClientConn;
use crate::net::socket::Deadline;
use crate::sasl::{Credentials, Method};
use crate::secret::Secret;

/// One login's claim.
pub(super) struct Check {
    runtime: Arc<Runtime>,
    session: u64,
    attempt: Attempt,
    rules: Rules,
    gates: Vec<(GateKey, Claim)>,
}

/// How far it is at one gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Claim {
    None,
    /// With this ticket.
    InLine(u64),
    Taken,
}

/// What failed logins of this client cost; `None` is nothing: penalties are off, the address is exempt, or there
/// is none, since the client came through a Unix socket.
fn rules(conf: &Server, client: Address) -> Option<Rules> {
    let ip = client.ip()?;
    let most = conf.auth_penalty_max?;
    if conf.auth_penalty_exempt.iter().any(|net| net.contains(&ip)) {
        return None;
    }
    let rule = |free| PenaltyRule { free, most };
    Some(Rules {
        of_address: rule(conf.auth_penalty_free),
        of_user: conf.auth_failures_per_user.map(rule),
    })
}

/// Sleeps until the login may be checked.
///
/// # Errors
/// It sleeps; or its time is over, or the client gone.
pub(super) fn await_place(
    session: &Session,
    client: &mut ClientConn,
    credentials: &Credentials,
    check: &mut Option<Check>,
) -> Result<(), Halt> {
    if check.is_none() {
        *check = Check::of(session, credentials);
    }
    let Some(check) = check else {
        return Ok(());
    };
    let Some(look_at) = check.take(session) else {
        return Ok(());
    };
    let own = session.budget.deadline();
    if own.remaining().is_none() {
        return Err(Cause::TooManyLogins.into());
    }
    session.log_debug(file!(), || {
        "login waits: too many of its address failed, or are being checked".into()
    });
    let deadline = Deadline {
        at: look_at.unwrap_or(own.at).min(own.at),
        ..own
    };
    Err(client.sleep_unless_gone(deadline).into())
}

impl Check {
    /// Nothing is taken yet. `None` where nothing is limited.
    fn of(session: &Session, credentials: &Credentials) -> Option<Self> {
        if credentials.method == Method::NONE {
            return None;
        }
        let conf = &session.service.conf;
        let rules = rules(conf, session.client())?;
        let mut login = credentials.login.to_ascii_lowercase();
        if let Some(domain) = &conf.login_domain
            && !login.contains(&b'@')
        {
            login.push(b'@');
            login.extend_from_slice(domain.as_bytes());
        }
        let attempt = Attempt {
            address: session.client().limit_key(),
            login,
        };
        let gates = session.runtime.limiter.gates(&attempt, rules);
        Some(Self {
            runtime: Arc::clone(&session.runtime),
            session: session.entry.number,
            attempt,
            rules,
            gates: gates.into_iter().map(|key| (key, Claim::None)).collect(),
        })
    }

    /// Whether it stands in line.
    pub(super) fn waits(&self) -> bool {
        let in_line = |(_, claim): &(GateKey, Claim)| matches!(claim, Claim::InLine(_));
        self.gates.iter().any(in_line)
    }

    /// Takes a place at each gate. If there is none at one, it returns when to ask again, as far as that is
    /// known; and the session is woken when it is its turn.
    fn take(&mut self, session: &Session) -> Option<Option<Instant>> {
        let limiter = &self.runtime.limiter;
        for (key, claim) in &mut self.gates {
            let ticket = match claim {
                Claim::Taken => continue,
                Claim::InLine(ticket) => Some(*ticket),
                Claim::None => None,
            };
            let (taken, woken, error) = limiter.take(*key, &self.attempt, (self.session, ticket));
            session.log_store_error(error.as_ref());
            if let Some(woken) = woken {
                self.runtime.wake(woken);
            }
            match taken {
                Taken::Yes => *claim = Claim::Taken,
                Taken::InLine(ticket, look_at) => {
                    *claim = Claim::InLine(ticket);
                    return Some(look_at);
                }
            }
        }
        None
    }

    /// The login was refused: how late the client is told. Until then its places are taken, whether the client
    /// waits or not.
    pub(super) fn refuse(mut self, session: &Session, secret: &Secret) -> Option<Duration> {
        let limiter = &self.runtime.limiter;
        let noted = limiter.note_failure(&self.attempt, secret.expose(), self.rules);
        let (penalty, error) = noted;
        session.log_store_error(error.as_ref());
        let delay = penalty.delay?;
        const LATER: &str = "failed logins of this address are answered later from now on";
        if penalty.begins && session.may_log(Severity::Info, LATER) {
            session.log(Severity::Info, file!(), LATER);
        }
        add(&session.service.metrics.delayed, 1);
        let until = Instant::now() + delay;
        for (key, claim) in std::mem::take(&mut self.gates) {
            if claim == Claim::Taken
                && let Some(next) = limiter.hold(key, until)
            {
                self.runtime.wake(next);
            }
        }
        Some(delay)
    }

    /// The login has succeeded.
    pub(super) fn succeed(self) {
        self.runtime.limiter.note_success(&self.attempt);
    }
}

impl Drop for Check {
    fn drop(&mut self) {
        let limiter = &self.runtime.limiter;
        for (key, claim) in &self.gates {
            let next = match claim {
                Claim::None => None,
                Claim::InLine(ticket) => limiter.leave_line(*key, *ticket),
                Claim::Taken => limiter.give_back(*key),
            };
            if let Some(next) = next {
                self.runtime.wake(next);
            }
        }
    }
}

impl Session {
    /// What is shared with other nodes cannot be asked: the session goes on as if nothing was known.
    pub(super) fn log_store_error(&self, error: Option<&StoreError>) {
        const GONE: &str = "the store of limits cannot be asked";
        if let Some(error) = error
            && self.may_log(Severity::Warn, GONE)
        {
            self.log(Severity::Warn, file!(), &format!("{GONE}: {error}"));
        }
    }
}
