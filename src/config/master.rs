//! `master_user`, `master_password`, `master_separator`: the login by which Postern enters backends in the
//! name of users that it has found good. The values, and the rules about them.
//!
//! How they are said to a backend is `backend::grant`'s and the dialects'.

use std::sync::Arc;

use super::check::{at, warn_unless};
use super::check_backends::{auth_of, name};
use super::check_tls::source;
use super::draft::{Draft, Drafts};
use super::source::{Report, Section};
use super::value::rest_of_line;
use super::{AuthKind, AuthMechanism, RouteLine, RouteTarget};
use crate::secret::Secret;

const USER: &str = "master_user";
const PASSWORD: &str = "master_password";
const SEPARATOR: &str = "master_separator";

/// Longest name or password, in bytes: it stands on lines of backends, in base64.
const MAX: usize = 1024;

/// The login by which a backend is entered in the name of somebody else.
#[derive(Debug, Clone)]
pub struct MasterLogin {
    /// `master_user`: who logs in.
    pub(crate) user: String,
    /// `master_password`
    pub(crate) password: Secret,
    /// `master_separator`: what stands between the user and `user` in the login; without one SASL PLAIN
    /// says apart from the login as whom.
    pub(crate) separator: Option<char>,
}

/// What the lines of a section say of it, before the rules.
#[derive(Debug, Default)]
pub(super) struct MasterDraft {
    user: Option<String>,
    password: Option<Secret>,
    separator: Option<char>,
}

impl MasterDraft {
    /// The login, where there is one.
    pub(super) fn finish(self) -> Option<Arc<MasterLogin>> {
        let (user, password) = self.user.zip(self.password)?;
        Some(Arc::new(MasterLogin {
            user,
            password,
            separator: self.separator,
        }))
    }

    /// Sets `master_user`.
    pub(super) fn set_user(&mut self, text: &str) -> Result<(), String> {
        self.user = Some(word(text)?);
        Ok(())
    }

    /// Sets `master_password`. What is wrong is told without the value.
    pub(super) fn set_password(&mut self, text: &str) -> Result<(), String> {
        self.password = Some(Secret::new(word(text)?.into_bytes()));
        Ok(())
    }

    /// Sets `master_separator`.
    pub(super) fn set_separator(&mut self, text: &str) -> Result<(), String> {
        let text = rest_of_line(text)?;
        let mut chars = text.chars();
        let (Some(only), None) = (chars.next(), chars.next()) else {
            return Err("must be one character".to_owned());
        };
        if !only.is_ascii_punctuation() || "@.-_".contains(only) {
            return Err(
                "must be an ASCII punctuation mark, and none that user names have: not @ . - _"
                    .to_owned(),
            );
        }
        self.separator = Some(only);
        Ok(())
    }
}

fn word(text: &str) -> Result<String, String> {
    let text = rest_of_line(text)?;
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    if text.len() > MAX {
        return Err(format!("has more than {MAX} bytes"));
    }
    match text.chars().any(char::is_control) {
        true => Err("has a control character in it".to_owned()),
        false => Ok(text),
    }
}

/// The rules about it.
pub(super) fn check(drafts: &Drafts<'_>, report: &mut Report) {
    for (section, draft) in &drafts.servers {
        check_section(section, drafts.mail, draft, report);
    }
    for (section, draft) in &drafts.backends {
        check_section(section, None, draft, report);
        check_mechanism(section, draft, report);
    }
    check_passthrough(drafts, report);

    let is_ours = |key: &str| [USER, PASSWORD, SEPARATOR].contains(&key);
    let may_be_http = |draft: &Draft| auth_of(draft).is_none_or(AuthKind::asks_auth_servers);
    let text =
        "has no effect here without auth = http: it is for servers that an auth server names";
    warn_unless(drafts, is_ours, may_be_http, text, report);
}

/// Whether the lines of one section go together.
fn check_section(section: &Section, mail: Option<&Section>, draft: &Draft, report: &mut Report) {
    let said_in = |key: &'static str| {
        let section = source(section, mail, key);
        section.lines(key).next().map(|_| at(section, key))
    };
    let user = said_in(USER);
    match (user, said_in(PASSWORD)) {
        (Some(user), None) => report.mistake(user, "needs master_password beside it"),
        (None, Some(password)) => report.mistake(password, "needs master_user beside it"),
        _ => {}
    }
    let Some(separator) = said_in(SEPARATOR) else {
        return;
    };
    if user.is_none() {
        report.mistake(separator, "needs master_user beside it");
    }
    let master = &draft.master;
    if let (Some(user), Some(separator)) = (&master.user, master.separator)
        && user.contains(separator)
    {
        let text = format!("must not contain `{separator}`, which is master_separator");
        report.mistake(at(source(section, mail, USER), USER), &text);
    }
}

/// Whether the mechanism towards a backend can say in whose name the login is.
fn check_mechanism(section: &Section, draft: &Draft, report: &mut Report) {
    if draft.master.user.is_none() {
        return;
    }
    let has_separator = draft.master.separator.is_some() || draft.has_failed(SEPARATOR);
    let text = match draft.backend.auth_mechanism {
        AuthMechanism::Fixed(row) if has_separator && row.method.is_oauth() => {
            "takes a token, which a master user does not have: write auto"
        }
        AuthMechanism::Fixed(row) if !has_separator && !row.carries_authzid() => {
            "cannot say for whom master_user logs in: write auto, or a master_separator"
        }
        AuthMechanism::Off if !has_separator => {
            "cannot say for whom master_user logs in: write auto, or a master_separator"
        }
        AuthMechanism::Auto | AuthMechanism::Fixed(_) | AuthMechanism::Off => return,
    };
    report.mistake(at(section, "auth_mechanism"), text);
}

/// With `auth = passthrough` it is the backend that checks a user's password. A backend that is entered
/// without one would let everybody in.
fn check_passthrough(drafts: &Drafts<'_>, report: &mut Report) {
    let mut servers = drafts.servers.iter();
    let passes = |draft: &Draft| auth_of(draft).is_some_and(AuthKind::passes_through);
    let Some((server, _)) = servers.find(|(_, draft)| passes(draft)) else {
        return;
    };
    for (section, draft) in &drafts.backends {
        if draft.master.user.is_some() && can_be_routed_to(name(section), drafts) {
            let text = format!(
                "would let everyone in at [{}]: with auth = passthrough the backend checks the \
                 user's own password; leave it out, or have routes lead to another backend",
                server.name
            );
            report.mistake(at(section, USER), &text);
        }
    }
}

/// Whether a route names the backend, or may come to: maps change while the process runs.
fn can_be_routed_to(backend: &str, drafts: &Drafts<'_>) -> bool {
    let Some((_, routes)) = &drafts.routes else {
        return true;
    };
    let leads_there = |line: &RouteLine| match line {
        RouteLine::Map(_) => true,
        RouteLine::Route(route) => match &route.target {
            RouteTarget::Backend(name) => name == backend,
            RouteTarget::Reject(_) => false,
        },
    };
    let mut lines = routes.routes.iter();
    routes.routes.is_empty() || lines.any(|(_, line)| leads_there(line))
}
