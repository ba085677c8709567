//! A session's place among those of its user (`max_sessions_per_user`): taken once the backend has accepted
//! the login, so that the user is proven, and given back when the session is dropped.

use std::sync::Arc;

use super::{Runtime, Session};
use crate::backend::grant::Grant;
use crate::limits::store::{Begun, SessionLimits, UserSession};

/// One session, counted in.
#[derive(Debug)]
pub(crate) struct UserPlace {
    runtime: Arc<Runtime>,
    counted: UserSession,
}

/// The directive whose limit is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reached(pub &'static str);

impl UserPlace {
    /// Counts the session in. `None` where nothing is limited: then nothing is counted either.
    ///
    /// # Errors
    /// A limit is reached.
    pub(super) fn take(session: &Session, grant: &Grant) -> Result<Option<Self>, Reached> {
        let conf = &session.service.conf;
        let limits = SessionLimits {
            of_user: conf.max_sessions_per_user,
            of_user_and_address: conf.max_sessions_per_user_per_ip,
        };
        if limits.is_off() || grant.without_login {
            return Ok(None);
        }
        let counted = UserSession {
            protocol: conf.protocol,
            user: grant.user.clone(),
            address: session.client().limit_key(),
            number: session.entry.number,
        };
        let runtime = Arc::clone(&session.runtime);
        match runtime.limiter.store().begin_session(&counted, limits) {
            Ok(Begun::Counted) => Ok(Some(Self { runtime, counted })),
            Ok(Begun::Reached(directive)) => Err(Reached(directive)),
            Err(error) => {
                session.log_store_error(Some(&error));
                Ok(None)
            }
        }
    }
}

impl Drop for UserPlace {
    fn drop(&mut self) {
        // What a shared store has not heard runs out there by itself.
        let _ = self.runtime.limiter.store().end_session(&self.counted);
    }
}
