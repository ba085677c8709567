//! `auth = passthrough`: the backend decides. The route says which one; the client's credentials are
//! tried there, and its refusal is the client's.

use std::sync::Arc;

use super::names::Names;
use super::{AuthError, Authenticator, LoginRefusal, Note, Request, Verdict};
use crate::backend::grant::Grant;
use crate::backend::route::{Router, Way};
use crate::config;
use crate::protocol::Protocol;

/// Passing credentials on to the backend of a route.
#[derive(Debug)]
pub(crate) struct Passthrough {
    router: Arc<Router>,
    protocol: Protocol,
    names: Names,
}

impl Passthrough {
    /// Routes by `router`, and changes logins as the server's directives say.
    pub(crate) fn new(conf: &config::Server, router: Arc<Router>) -> Self {
        Self {
            router,
            protocol: conf.protocol,
            names: Names::new(conf),
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
        let full = self.names.with_domain(&credentials.login);
        let backend = match self.router.route(&full) {
            Way::To(backend) => backend,
            Way::Rejected(text) => {
                note(&Note::info(file!(), "a route rejects the login"));
                return Ok(Verdict::Refused(LoginRefusal::ours(&text)));
            }
            Way::None => {
                note(&Note::info(file!(), "no route fits"));
                return Ok(Verdict::Refused(LoginRefusal::failed_unseen()));
            }
        };
        let mut grant = Grant::to_backend(&backend, self.protocol, credentials);
        // The backend cannot decide about a login that it is not shown.
        grant.smtp_auth = self.protocol.record().backend_login.is_optional();
        grant.passthrough = true;
        grant.authzid = credentials.authzid.clone();
        let named = credentials.authzid.as_deref();
        let acts_for = named.map_or_else(|| full.clone(), |named| self.names.with_domain(named));
        grant.user = acts_for.to_ascii_lowercase();
        grant.login = self.names.for_backend(full, &credentials.login);
        if !grant.has_password() {
            return Ok(Verdict::Refused(LoginRefusal::failed_unseen()));
        }
        Ok(Verdict::Granted(Box::new(grant)))
    }

    fn is_own(&self) -> bool {
        true
    }
}
