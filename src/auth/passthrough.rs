//! `auth = passthrough`: the backend decides. The route says which one; the client's credentials are
//! tried there, and its refusal is the client's.

use std::sync::Arc;

use super::{AuthError, Authenticator, LoginRefusal, Note, Request, Verdict};
use crate::backend::grant::Grant;
use crate::backend::route::{Router, Way};
use crate::config;
use crate::log::Severity;
use crate::protocol::Protocol;

/// Logins that a session may try.
pub(crate) const ATTEMPTS: u32 = 5;

/// Passing credentials on to the backend of a route.
#[derive(Debug)]
pub(crate) struct Passthrough {
    router: Arc<Router>,
    protocol: Protocol,
    /// `login_domain`
    login_domain: Option<String>,
    /// `login_domain_pass`
    login_domain_pass: bool,
    /// `strip_domain`
    strip_domain: bool,
}

impl Passthrough {
    /// Routes by `router`, and changes logins as the server's directives say.
    pub(crate) fn new(conf: &config::Server, router: Arc<Router>) -> Self {
        Self {
            router,
            protocol: conf.protocol,
            login_domain: conf.login_domain.clone(),
            login_domain_pass: conf.login_domain_pass,
            strip_domain: conf.strip_domain,
        }
    }

    /// The login by which the route is chosen.
    fn with_domain(&self, login: &[u8]) -> Vec<u8> {
        match &self.login_domain {
            Some(domain) if !login.contains(&b'@') => [login, b"@", domain.as_bytes()].concat(),
            Some(_) | None => login.to_vec(),
        }
    }

    /// The login that the backend is shown.
    fn for_backend(&self, full: Vec<u8>, said: &[u8]) -> Vec<u8> {
        let login = if self.login_domain_pass {
            full
        } else {
            said.to_vec()
        };
        match login.iter().rposition(|&byte| byte == b'@') {
            Some(at) if self.strip_domain && at > 0 => login[..at].to_vec(),
            Some(_) | None => login,
        }
    }
}

impl Authenticator for Passthrough {
    fn authenticate(
        &self,
        request: &Request<'_>,
        note: &dyn Fn(&Note),
    ) -> Result<Verdict, AuthError> {
        let credentials = request.credentials;
        let full = self.with_domain(&credentials.login);
        let backend = match self.router.route(&full) {
            Way::To(backend) => backend,
            Way::Rejected(text) => {
                note(&of_route("a route rejects the login"));
                return Ok(Verdict::Refused(LoginRefusal::ours(&text)));
            }
            Way::None => {
                note(&of_route("no route fits"));
                return Ok(Verdict::Refused(LoginRefusal::failed_unseen()));
            }
        };
        let mut grant = Grant::to_backend(&backend, self.protocol, credentials);
        // The backend cannot decide about a login that it is not shown.
        grant.smtp_auth = self.protocol.record().backend_login.is_optional();
        grant.passthrough = true;
        grant.authzid = credentials.authzid.clone();
        let named = credentials.authzid.as_deref();
        let acts_for = named.map_or_else(|| full.clone(), |named| self.with_domain(named));
        grant.user = acts_for.to_ascii_lowercase();
        grant.login = self.for_backend(full, &credentials.login);
        if !grant.has_password() {
            return Ok(Verdict::Refused(LoginRefusal::failed_unseen()));
        }
        Ok(Verdict::Granted(Box::new(grant)))
    }

    fn is_own(&self) -> bool {
        true
    }
}

fn of_route(text: &str) -> Note {
    Note {
        severity: Severity::Info,
        src: file!(),
        text: text.to_owned(),
        error: None,
    }
}
