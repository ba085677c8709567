//! What a login is called with a domain of the server's, and towards a backend: `login_domain`,
//! `login_domain_pass` and `strip_domain`.

use crate::config;

/// The directives of one server.
#[derive(Debug)]
pub(super) struct Names {
    /// `login_domain`
    login_domain: Option<String>,
    /// `login_domain_pass`
    login_domain_pass: bool,
    /// `strip_domain`
    strip_domain: bool,
}

impl Names {
    /// Those of the server.
    pub(super) fn new(conf: &config::Server) -> Self {
        Self {
            login_domain: conf.login_domain.clone(),
            login_domain_pass: conf.login_domain_pass,
            strip_domain: conf.strip_domain,
        }
    }

    /// The login with its domain: by it the route is chosen, and a user of a file is looked for.
    pub(super) fn with_domain(&self, login: &[u8]) -> Vec<u8> {
        match &self.login_domain {
            Some(domain) if !login.contains(&b'@') => [login, b"@", domain.as_bytes()].concat(),
            Some(_) | None => login.to_vec(),
        }
    }

    /// The login that the backend is shown; `full` is the one with the domain, `said` the client's.
    pub(super) fn for_backend(&self, full: Vec<u8>, said: &[u8]) -> Vec<u8> {
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
