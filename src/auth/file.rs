//! `auth = file`: users of one's own, in a file that Postern reads. What stands there is `users`.
//!
//! Each login costs one check of one password, whether it is there or not and whatever else is against it: a
//! stranger learns neither which logins exist nor why one was refused. Which hashes are slow is up to the
//! file; how many are calculated at once, up to `session::run`, which asks for a place first.

pub(crate) mod source;

use std::sync::Arc;

use super::names::Names;
use super::{AuthError, Authenticator, LoginRefusal, Note, Request, Verdict};
use crate::backend::Backend;
use crate::backend::grant::Grant;
use crate::backend::route::{Router, Way};
use crate::config;
use crate::log::Severity;
use crate::protocol::Protocol;
use crate::sasl::Proof;
use crate::secret::Secret;
use crate::users::{Entry, Users};
use source::UserFile;

/// The users of one `[server]`.
#[derive(Debug)]
pub(crate) struct AuthFile {
    file: Arc<UserFile>,
    router: Arc<Router>,
    protocol: Protocol,
    names: Names,
    /// `proxy_smtp_auth`
    smtp_auth: bool,
}

/// Of a user whose proof was a certificate.
const NO_PASSWORD: &str = "the user shows no password, and has none for the backend: give it pass=, or the backend a master_user";

/// Why a login may not pass, for the log.
type Against = &'static str;

/// Whose password is checked.
enum Found<'a> {
    /// The user's.
    User(Entry<'a>),
    /// Somebody else's: there is no such user, and the time is not to tell.
    StandIn(Entry<'a>),
}

/// What is against a user who has the right password.
fn may_come(entry: &Entry<'_>, request: &Request<'_>) -> Result<(), Against> {
    if entry.nologin {
        return Err("nologin stands behind the user");
    }
    if !entry.allows(request.client.ip()) {
        return Err("allow_nets does not have the client's address");
    }
    if request.credentials.authzid.is_some() {
        return Err("the client wants to be somebody else (authorization identity)");
    }
    Ok(())
}

impl AuthFile {
    /// The users of `file`; where a line does not say its backend, `router` does.
    pub(crate) fn new(conf: &config::Server, file: Arc<UserFile>, router: Arc<Router>) -> Self {
        Self {
            file,
            router,
            protocol: conf.protocol,
            names: Names::new(conf),
            smtp_auth: conf.proxy_smtp_auth,
        }
    }

    /// The user of a login as it was said, or with `login_domain` behind it; else somebody in its place. One
    /// line is read either way. `None` where the file has no users.
    fn find<'a>(&self, users: &'a Users, login: &[u8]) -> Option<Found<'a>> {
        let with_domain = || users.find(&self.names.with_domain(login));
        let found = users.find(login).or_else(with_domain);
        found
            .map(Found::User)
            .or_else(|| users.stand_in().map(Found::StandIn))
    }

    /// What is against the login.
    fn judge(
        found: Option<&Found<'_>>,
        request: &Request<'_>,
        note: &dyn Fn(&Note),
    ) -> Result<(), Against> {
        let credentials = request.credentials;
        let Some(Found::User(checked) | Found::StandIn(checked)) = found else {
            return Err("there are no users");
        };
        let debug = |text: &dyn Fn() -> String| {
            if request.is_debugged {
                note(&Note::debug(file!(), text()));
            }
        };
        let fits = match credentials.method.proof {
            Proof::Password => {
                debug(&|| format!("a password is checked by {}", checked.hash.scheme));
                checked.hash.fits(credentials.secret.expose())
            }
            proof @ Proof::Answer(_) => {
                debug(&|| "an answer to a challenge is checked".to_owned());
                let plain = checked.hash.plain();
                let password = plain.map(Secret::expose);
                proof.is_answered(password.unwrap_or_default(), credentials) && plain.is_some()
            }
            Proof::Nothing if credentials.by_certificate => true,
            Proof::Token { .. } | Proof::Nothing => {
                return Err("a file of users can decide about passwords and certificates alone");
            }
        };
        match found {
            Some(Found::User(entry)) if fits => may_come(entry, request),
            Some(Found::User(_)) => Err("the password does not fit"),
            Some(Found::StandIn(_)) | None => Err("no such user"),
        }
    }

    /// Where a user goes who may pass.
    fn backend(&self, entry: &Entry<'_>, full: &[u8]) -> Way {
        match entry.backend {
            Some(name) => self.router.backend(name).map_or(Way::None, Way::To),
            None => self.router.route(full),
        }
    }

    fn grant(&self, backend: &Arc<Backend>, entry: &Entry<'_>, request: &Request<'_>) -> Grant {
        let credentials = request.credentials;
        let full = self.names.with_domain(&credentials.login);
        let mut grant = Grant::to_backend(backend, self.protocol, credentials);
        grant.smtp_auth = self.smtp_auth;
        let by_master = grant.is_by_master();
        // A password of the client's own is judged by the backend as well: its refusal is the client's.
        grant.passthrough = entry.pass.is_none() && !by_master;
        grant.user = full.to_ascii_lowercase();
        grant.login = match entry.user {
            Some(user) => user.as_bytes().to_vec(),
            None => self.names.for_backend(full, &credentials.login),
        };
        let known = match credentials.method.can_be_passed_on() || by_master {
            true => None,
            false => entry.hash.plain(),
        };
        if let Some(password) = entry.pass.as_ref().or(known) {
            grant.set_password(password.expose());
        }
        grant
    }
}

impl Authenticator for AuthFile {
    fn authenticate(
        &self,
        request: &Request<'_>,
        note: &dyn Fn(&Note),
    ) -> Result<Verdict, AuthError> {
        let users = self.file.users();
        let login = &request.credentials.login;
        let found = self.find(&users, login);
        let file = self.file.path().display();
        let judged = Self::judge(found.as_ref(), request, note);
        let entry = match (judged, found) {
            (Ok(()), Some(Found::User(entry))) => entry,
            (judged, _) => {
                let why = judged.err().unwrap_or_default();
                note(&Note::info(file!(), format!("{file}: {why}")));
                return Ok(Verdict::Refused(LoginRefusal::failed()));
            }
        };
        match self.backend(&entry, &self.names.with_domain(login)) {
            Way::To(backend) => {
                let grant = self.grant(&backend, &entry, request);
                if grant.needs_login(self.protocol) && !grant.has_password() {
                    note(&Note::info(file!(), format!("{file}: {NO_PASSWORD}")));
                    return Ok(Verdict::Refused(LoginRefusal::failed()));
                }
                Ok(Verdict::Granted(Box::new(grant)))
            }
            Way::Rejected(text) => {
                note(&Note::info(file!(), "a route rejects the login"));
                Ok(Verdict::Refused(LoginRefusal::ours(&text)))
            }
            Way::None => {
                note(&Note::info(file!(), "no route fits"));
                Ok(Verdict::Refused(LoginRefusal::failed()))
            }
        }
    }

    fn generation(&self) -> u64 {
        // Neither ever becomes less, so that a sum stays the same only where both do.
        self.file.changes().wrapping_add(self.router.changes())
    }

    fn tend(&self) -> Vec<(Severity, String)> {
        self.file.refresh().into_iter().collect()
    }

    fn is_own(&self) -> bool {
        true
    }
}
