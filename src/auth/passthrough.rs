//! `auth = passthrough`: the backend decides. The route says which one; the client's credentials are
//! tried there, and its refusal is the client's.

use std::sync::Arc;

use super::{Authenticator, Refusal, Verdict};
use crate::backend::grant::Grant;
use crate::backend::route::{Router, Way};
use crate::config;
use crate::protocol::Protocol;
use crate::sasl::Credentials;
use crate::session::Session;
use crate::session::error::Cause;

/// Logins that a session may try.
pub const ATTEMPTS: u32 = 5;

/// Passing credentials on to the backend of a route.
#[derive(Debug)]
pub struct Passthrough {
    router: Arc<Router>,
}

impl Passthrough {
    /// Routes by `router`.
    pub fn new(router: Arc<Router>) -> Self {
        Self { router }
    }
}

impl Authenticator for Passthrough {
    fn authenticate(
        &self,
        session: &mut Session,
        credentials: &Credentials,
    ) -> Result<Verdict, Cause> {
        let conf = &session.service.conf;
        let full = with_domain(conf, &credentials.login);
        let backend = match self.router.route(&full) {
            Way::To(backend) => backend,
            Way::Rejected(text) => return Ok(Verdict::Refused(Refusal::ours(&text))),
            Way::None => return Ok(Verdict::Refused(Refusal::failed())),
        };
        let mut grant = Grant::to_backend(&backend, credentials);
        // The backend cannot decide about a login that it is not shown.
        grant.smtp_auth = conf.protocol == Protocol::Smtp;
        grant.passthrough = true;
        grant.authzid = credentials.authzid.clone();
        grant.login = for_backend(conf, full, &credentials.login);
        if !grant.has_password() {
            return Ok(Verdict::Refused(Refusal::failed()));
        }
        Ok(Verdict::Granted(Box::new(grant)))
    }

    fn is_own(&self) -> bool {
        true
    }
}

/// The login by which the route is chosen.
fn with_domain(conf: &config::Server, login: &[u8]) -> Vec<u8> {
    match &conf.login_domain {
        Some(domain) if !login.contains(&b'@') => [login, b"@", domain.as_bytes()].concat(),
        _ => login.to_vec(),
    }
}

/// The login that the backend is shown.
fn for_backend(conf: &config::Server, full: Vec<u8>, said: &[u8]) -> Vec<u8> {
    let login = if conf.login_domain_pass {
        full
    } else {
        said.to_vec()
    };
    match login.iter().rposition(|&byte| byte == b'@') {
        Some(at) if conf.strip_domain && at > 0 => login[..at].to_vec(),
        _ => login,
    }
}
