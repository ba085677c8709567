//! A place among the logins in progress towards one backend or auth server (`admission`): taken, or waited
//! for in line. It is given back, or the line left, when it is dropped.

use std::sync::Arc;

use super::{Runtime, Session};
use crate::net::address::LimitKey;
use crate::service::LoginTarget;

/// One session's claim.
#[derive(Debug)]
pub(super) struct Slot {
    runtime: Arc<Runtime>,
    target: LoginTarget,
    session: u64,
    address: LimitKey,
    is_taken: bool,
}

impl Slot {
    /// Nothing is taken yet.
    pub(super) fn new(session: &Session, target: LoginTarget) -> Self {
        Self {
            runtime: Arc::clone(&session.runtime),
            target,
            session: session.entry.number,
            address: session.client().limit_key(),
            is_taken: false,
        }
    }

    /// Takes the place, if there is one. If not, the session is woken when there is.
    pub(super) fn take(&mut self) -> bool {
        let who = (self.session, self.address);
        self.is_taken = self.is_taken || self.runtime.admission.take_slot(&self.target, who);
        self.is_taken
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let admission = &self.runtime.admission;
        let next = match self.is_taken {
            true => admission.release_slot(&self.target.name),
            false => admission.leave_line(&self.target.name, self.session),
        };
        if let Some(next) = next {
            self.runtime.wake(next);
        }
    }
}
