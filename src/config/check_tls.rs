//! Rules about TLS: which of its lines do nothing, and everything the TLS engines find wrong.
//!
//! The engines read keys and certificates and are built here for the sake of their complaints; what
//! was built is dropped. Values by themselves were checked by their setters.

use super::check::{at, warn_unless};
use super::draft::{Draft, Drafts};
use super::source::{At, Report, Section};
use super::{ProxySsl, Starttls};
use crate::protocol::Protocol;
use crate::tls::{Acceptor, Connector, LoginFrom, Problem, SessionCaches, VerifyClient};

const PROXY: &str = "proxy_ssl_";
const AUTH_HTTP: &str = "auth_http_ssl_";

const LOGIN_FROM: &str = "ssl_login_from";

/// Own keys that are for client certificates alone.
const OF_CLIENT_CERTIFICATES: [&str; 4] = [
    "ssl_client_certificate",
    "ssl_trusted_certificate",
    "ssl_verify_depth",
    "ssl_crl",
];

/// Warns of lines that do nothing. No file is read.
pub(super) fn check_effect(drafts: &Drafts<'_>, report: &mut Report) {
    let text = "has no effect without listen … ssl or starttls";
    let is_ours = |key: &str| key.starts_with("ssl_");
    warn_unless(drafts, is_ours, may_have_tls, text, report);

    let text = "has no effect without an https:// auth_http";
    let is_ours = |key: &str| key.starts_with(AUTH_HTTP);
    let may_ask = |draft: &Draft| asks_over_tls(draft) || draft.has_failed("auth_http");
    warn_unless(drafts, is_ours, may_ask, text, report);

    let text = "has no effect without TLS and ssl_verify_client";
    let has_certificates = |draft: &Draft| {
        let server = &draft.server;
        !server.auth_http_pass_client_cert
            || (may_have_tls(draft) && server.tls.ssl_verify_client != VerifyClient::Off)
            || draft.has_failed("ssl_verify_client")
    };
    let is_ours = |key: &str| key == "auth_http_pass_client_cert";
    warn_unless(drafts, is_ours, has_certificates, text, report);

    let text = "has no effect: no client is offered external";
    let is_ours = |key: &str| key == LOGIN_FROM;
    let offers_external = |draft: &Draft| {
        let of_protocol = &draft.server.of_protocol;
        let listed = Protocol::ALL.into_iter();
        let mut listed = listed.flat_map(|protocol| &of_protocol[protocol].auth.sasl);
        draft.server.tls.ssl_login_from == LoginFrom::Off
            || listed.any(|mechanism| mechanism.is_proven_outside())
    };
    warn_unless(drafts, is_ours, offers_external, text, report);

    for (section, draft) in &drafts.servers {
        check_effect_in_server(section, draft, report);
        check_login_from(section, drafts.mail, draft, report);
        check_trust(section, drafts.mail, draft, report);
    }
    for (section, draft) in &drafts.backends {
        check_trust(section, None, draft, report);
    }
}

fn check_effect_in_server(section: &Section, draft: &Draft, report: &mut Report) {
    let server = &draft.server;
    let has_own = |key: &str| section.lines(key).next().is_some();
    let listeners = &server.listen;
    if server.starttls != Starttls::Off
        && has_own("starttls")
        && !listeners.is_empty()
        && listeners.iter().all(|listen| listen.ssl)
    {
        let text = "has no effect: every listener has ssl";
        report.warning(at(section, "starttls"), text);
    }
    let unasked =
        server.tls.ssl_verify_client == VerifyClient::Off && !draft.has_failed("ssl_verify_client");
    if server.has_tls() && unasked {
        for key in OF_CLIENT_CERTIFICATES
            .into_iter()
            .filter(|key| has_own(key))
        {
            report.warning(at(section, key), "has no effect without ssl_verify_client");
        }
    }
}

/// A certificate that nobody asks for names nobody.
fn check_login_from(section: &Section, mail: Option<&Section>, draft: &Draft, report: &mut Report) {
    const VERIFY: &str = "ssl_verify_client";
    let tls = &draft.server.tls;
    let is_asked = tls.ssl_verify_client != VerifyClient::Off || draft.has_failed(VERIFY);
    if tls.ssl_login_from == LoginFrom::Off || is_asked || !may_have_tls(draft) {
        return;
    }
    // The one line of [mail] may be for other servers, the other of this one.
    let said_in = source(section, mail, LOGIN_FROM);
    let verify_in = source(section, mail, VERIFY);
    let has_own = verify_in.line == section.line && verify_in.lines(VERIFY).next().is_some();
    if said_in.line == section.line || !has_own {
        let text = "needs ssl_verify_client = on or optional beside it";
        report.mistake(at(said_in, LOGIN_FROM), text);
    }
}

/// A trusted issuer is for nothing where nothing is verified.
fn check_trust(section: &Section, mail: Option<&Section>, draft: &Draft, report: &mut Report) {
    for settings in [&draft.server.proxy_tls, &draft.server.auth_http_tls] {
        let (trusted, verify) = (
            settings.directives.trusted_certificate,
            settings.directives.verify,
        );
        if settings.proxy_ssl_verify || settings.proxy_ssl_trusted_certificate.is_none() {
            continue;
        }
        // The one line of [mail] may be for other servers, the other of this one.
        let trusted_in = source(section, mail, trusted);
        if trusted_in.line == section.line || source(section, mail, verify).line == trusted_in.line
        {
            let text = format!("has no effect with {verify} = off");
            report.warning(at(trusted_in, trusted), &text);
        }
    }
}

/// Reports what the engines of all servers and backends find wrong. Files are read.
pub(super) fn check_engines(drafts: &Drafts<'_>, report: &mut Report) {
    /// All protocols have the same mistakes.
    const ALPN: &str = "imap";
    let caches = SessionCaches::default();
    for (section, draft) in &drafts.servers {
        if draft.has_failed("tls_library") {
            continue;
        }
        let lines = Lines {
            own: section,
            mail: drafts.mail,
            draft,
        };
        let server = &draft.server;
        if server.has_tls() {
            let built = Acceptor::new(server.tls.clone(), ALPN, &section.name, &caches);
            lines.tell(built.map(|(_, warnings)| warnings), report);
        }
        // An answer of the auth server can ask for TLS although proxy_ssl is off.
        if server.proxy_ssl != ProxySsl::Off || lines.has_any(PROXY) {
            let built = Connector::new(server.proxy_tls.clone());
            lines.tell(built.map(|(_, warnings)| warnings), report);
        }
        if asks_over_tls(draft) {
            let built = Connector::new(server.auth_http_tls.clone());
            lines.tell(built.map(|(_, warnings)| warnings), report);
        }
    }
    for (section, draft) in &drafts.backends {
        let lines = Lines {
            own: section,
            mail: None,
            draft,
        };
        let server = &draft.server;
        let own = Protocol::ALL.map(|protocol| draft.backend.own_ssl[protocol]);
        let mut kinds = own.into_iter().flatten().chain([server.proxy_ssl]);
        let asked = kinds.any(|ssl| ssl != ProxySsl::Off) || lines.has_any(PROXY);
        if asked && !draft.has_failed("tls_library") {
            let built = Connector::new(server.proxy_tls.clone());
            lines.tell(built.map(|(_, warnings)| warnings), report);
        }
    }
}

/// The lines that the engines of one server or backend were made from.
struct Lines<'a> {
    own: &'a Section,
    mail: Option<&'a Section>,
    draft: &'a Draft,
}

impl Lines<'_> {
    /// Whether a key that begins like this is set, here or in `[mail]`.
    fn has_any(&self, prefix: &str) -> bool {
        let entries = self.own.entries.iter();
        let mut entries = entries.chain(self.mail.iter().flat_map(|mail| &mail.entries));
        entries.any(|entry| entry.key.starts_with(prefix))
    }

    /// Reports mistakes, or the warnings of a success.
    fn tell(&self, found: Result<Vec<Problem>, Vec<Problem>>, report: &mut Report) {
        let is_mistake = found.is_err();
        for problem in found.unwrap_or_else(|mistakes| mistakes) {
            let key = problem.directive;
            if self.is_aftermath(key) {
                continue;
            }
            let here = self.place(key, problem.entry);
            if is_mistake {
                report.mistake(here, &problem.text);
            } else {
                report.warning(here, &problem.text);
            }
        }
    }

    /// The line of an entry; without one that of the certificate whose key is missing, or else the
    /// server's header.
    fn place<'k>(&'k self, key: &'k str, entry: usize) -> At<'k> {
        let section = source(self.own, self.mail, key);
        if let Some(entry) = section.lines(key).nth(entry) {
            return At {
                line: entry.line,
                ..at(section, key)
            };
        }
        let certificate = key.strip_suffix("_key").unwrap_or(key);
        let section = source(self.own, self.mail, certificate);
        At {
            key,
            ..at(section, certificate)
        }
    }

    /// Whether a complaint may merely follow from a line that was refused already.
    fn is_aftermath(&self, key: &str) -> bool {
        let (owner, name) = key.split_at(key.find("ssl_").unwrap_or(0));
        let needs: &[&str] = match name {
            "ssl_certificate" | "ssl_certificate_key" => &[
                "ssl_certificate",
                "ssl_certificate_key",
                "ssl_password_file",
            ],
            "ssl_verify_client" => &["ssl_client_certificate", "ssl_trusted_certificate"],
            _ => &[],
        };
        let mut needs = needs.iter().map(|need| format!("{owner}{need}"));
        self.draft.has_failed(key) || needs.any(|need| self.draft.has_failed(&need))
    }
}

/// The section whose lines of a key hold; the server's own if there are none.
pub(super) fn source<'a>(own: &'a Section, mail: Option<&'a Section>, key: &str) -> &'a Section {
    let has = |section: &&Section| section.lines(key).next().is_some();
    let mut sections = [Some(own), mail].into_iter().flatten();
    sections.find(has).unwrap_or(own)
}

/// Whether there is TLS, as far as refused lines tell.
fn may_have_tls(draft: &Draft) -> bool {
    draft.server.has_tls() || draft.has_failed("listen") || draft.has_failed("starttls")
}

fn asks_over_tls(draft: &Draft) -> bool {
    draft.server.auth_http.iter().any(|url| url.tls)
}
