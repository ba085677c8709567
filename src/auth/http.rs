//! `auth_http`: an HTTP service decides. The protocol is that of nginx's ngx_mail_auth_http_module
//! and Angie's, to the byte.
//!
//! It fails closed: what is not a complete and consistent OK lets nobody in.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{AuthError, Authenticator, LoginRefusal, Note, Request, Verdict};
use crate::append;
use crate::backend::grant::{AddressSettings, Grant};
use crate::backend::route::Router;
use crate::config::{self, ProxySsl};
use crate::log::Severity;
use crate::net::http::{HttpClient, HttpError, Response};
use crate::net::line::{Line, without_end};
use crate::net::socket::Deadline;
use crate::protocol::Protocol;
use crate::sasl::shown::{BLOT, LoginSecrets, percent_encoded};
use crate::sasl::{Credentials, Envelope};
use crate::tls::{Connector, Facts, Verdict as Certificate};

/// Longest `Auth-Wait` that is believed.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3600);

/// The header with the secret, in questions and answers.
const PASSWORD: &str = "Auth-Pass";

/// The headers that have a meaning; sent twice with different values, they have none.
const MEANINGFUL: [&str; 12] = [
    "Auth-Status",
    "Auth-Server",
    "Auth-Port",
    "Auth-User",
    PASSWORD,
    "Auth-Wait",
    "Auth-Error-Code",
    "Auth-Error-SASL",
    "Auth-SMTP-Auth",
    "Auth-SSL-Backend",
    "Auth-Backend",
    "Auth-Authzid",
];

/// The auth servers of one `[server]`, in the order in which they are tried.
#[derive(Debug)]
pub(crate) struct AuthHttp {
    servers: Vec<HttpClient>,
    protocol: Protocol,
    /// `auth_http_timeout`
    timeout: Duration,
    /// `auth_http_header`
    headers: Vec<(String, String)>,
    /// `auth_http_pass_client_cert`
    passes_certificate: bool,
    /// The backends that an answer can name.
    router: Arc<Router>,
    /// How addresses are spoken to that an answer names.
    addresses: AddressSettings,
}

impl Authenticator for AuthHttp {
    /// Asks about one login.
    ///
    /// # Errors
    /// No server answered in time, or the answer is unusable.
    fn authenticate(
        &self,
        request: &Request<'_>,
        note: &dyn Fn(&Note),
    ) -> Result<Verdict, AuthError> {
        let head = self.head(request);
        let debug = |text: &dyn Fn() -> String| {
            if request.is_debugged {
                note(&Note::debug(file!(), text()));
            }
        };
        debug(&|| self.shown_question(request, &head));
        let deadline = Deadline::after(self.timeout, "auth_http_timeout");
        let (client, response) = self.ask(&head, deadline, note)?;
        let answer = Answer {
            method: self,
            client,
            response,
            secrets: request.secrets,
        };
        debug(&|| answer.shown());
        answer.verdict(request.credentials)
    }

    fn is_own(&self) -> bool {
        false
    }
}

impl AuthHttp {
    /// At least one server. `connector` is for TLS towards the addresses that they name.
    pub(crate) fn new(
        conf: &config::Server,
        servers: Vec<HttpClient>,
        router: Arc<Router>,
        connector: Result<Connector, String>,
    ) -> Self {
        Self {
            servers,
            protocol: conf.protocol,
            timeout: conf.auth_http_timeout,
            headers: conf.auth_http_header.clone(),
            passes_certificate: conf.auth_http_pass_client_cert,
            router,
            addresses: AddressSettings {
                proxy_protocol: conf.proxy_protocol,
                xclient: conf.xclient,
                send_client_id: conf.send_client_id,
                ssl: conf.proxy_ssl,
                connector,
                smtp_auth: conf.proxy_smtp_auth,
                master: conf.master.clone(),
            },
        }
    }

    /// The question for the log. A header of the operator's (`auth_http_header`) may be a password too.
    fn shown_question(&self, request: &Request<'_>, head: &[u8]) -> String {
        let lines = head.split(|&byte| byte == b'\n').map(without_end);
        let headers = lines.filter_map(|line| {
            let colon = line.iter().position(|&byte| byte == b':')?;
            Some((&line[..colon], line[colon + 1..].trim_ascii()))
        });
        let configured = || self.headers.iter().map(|(name, _)| name.as_str());
        let is_hidden = |name: &[u8]| is_one_of(name, configured().chain([PASSWORD]));
        let shown = shown_headers(request.secrets, headers, is_hidden);
        format!("sent to auth http server: \"{shown}\"")
    }

    /// The first answer. A server that does not answer leaves its successors an equal share of the
    /// time.
    fn ask(
        &self,
        head: &[u8],
        deadline: Deadline,
        note: &dyn Fn(&Note),
    ) -> Result<(&HttpClient, Response), AuthError> {
        let mut failed = None;
        for (at, client) in self.servers.iter().enumerate() {
            let others = u32::try_from(self.servers.len() - at).unwrap_or(1);
            let share = deadline.remaining().unwrap_or_default() / others;
            let error = match client.get(head, Deadline::after(share, "auth_http_timeout")) {
                Ok(response) => return Ok((client, response)),
                Err(error) => error,
            };
            if others > 1 {
                let name = client.name();
                note(&Note {
                    severity: Severity::Warn,
                    src: file!(),
                    text: format!("auth http server {name}: {error}, trying the next"),
                    error: error.into_io(),
                });
            } else {
                failed = Some(failure(client, error));
            }
        }
        Err(failed.unwrap_or(AuthError::NoServer))
    }

    /// The headers of one request, in their fixed order and spelling.
    fn head(&self, request: &Request<'_>) -> Line {
        let credentials = request.credentials;
        let mut head = Head(Line::new(Vec::with_capacity(512)));
        head.add("Auth-Method", credentials.method.name);
        head.add_encoded("Auth-User", &credentials.login);
        head.add_encoded(PASSWORD, credentials.secret.expose());
        if let Some(salt) = &credentials.salt {
            head.add("Auth-Salt", salt);
        }
        head.add("Auth-Protocol", self.protocol.name());
        head.add_number("Auth-Login-Attempt", request.attempt);
        match request.client.ip() {
            Some(ip) => head.add_ip("Client-IP", ip),
            None => head.add("Client-IP", "unix:"),
        }
        if let Some(name) = &request.client_host {
            head.add("Client-Host", &name.to_string());
        }
        if let Some((source, destination)) = request.proxied {
            let addresses = [
                ("Addr", "Port", source),
                ("Server-Addr", "Server-Port", destination),
            ];
            for (addr, port, address) in addresses {
                head.add_ip(&format!("Proxy-Protocol-{addr}"), address.ip());
                head.add_number(&format!("Proxy-Protocol-{port}"), address.port());
            }
        }
        if let Some(envelope) = &credentials.envelope {
            head.add_envelope(envelope);
        }
        if let Some(tls) = request.tls {
            head.add_tls(tls, self.passes_certificate);
        }
        if let Some(authzid) = &credentials.authzid {
            head.add_encoded("Auth-Authzid", authzid);
        }
        for (name, value) in &self.headers {
            head.add(name, value);
        }
        head.0
    }
}

/// Headers for the log: of those that may carry a secret only the names.
fn shown_headers<'a>(
    secrets: &LoginSecrets,
    headers: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    is_hidden: impl Fn(&[u8]) -> bool,
) -> String {
    let shown = headers.map(|(name, value)| {
        let shown_name = secrets.quote(name);
        match is_hidden(name) {
            true => format!("{shown_name}: {BLOT}"),
            false => format!("{shown_name}: {}", secrets.quote(value)),
        }
    });
    shown.collect::<Vec<_>>().join(", ")
}

fn is_one_of<'a>(name: &[u8], names: impl IntoIterator<Item = &'a str>) -> bool {
    let mut names = names.into_iter();
    names.any(|other| name.eq_ignore_ascii_case(other.as_bytes()))
}

/// The last server's failure, in the words that nginx has for it.
fn failure(client: &HttpClient, error: HttpError) -> AuthError {
    let server = client.name();
    let text = match &error {
        HttpError::Timeout => format!("auth http server {server} timed out"),
        HttpError::Connect(_) => "recv() failed".to_owned(),
        other => format!("auth http server {server}: {other}"),
    };
    AuthError::Service(text, error.into_io())
}

/// Header lines under construction.
struct Head(Line);

impl Head {
    fn add(&mut self, name: &str, value: &str) {
        self.add_bytes(name, value.as_bytes());
    }

    fn add_number(&mut self, name: &str, number: impl Into<u32>) {
        let mut text = String::new();
        append::number(&mut text, number.into());
        self.add(name, &text);
    }

    fn add_ip(&mut self, name: &str, ip: IpAddr) {
        let mut text = String::new();
        append::ip(&mut text, ip);
        self.add(name, &text);
    }

    fn add_bytes(&mut self, name: &str, value: &[u8]) {
        self.make_room(name.len() + value.len() + 4);
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b": ");
        self.0.extend_from_slice(value);
        self.0.extend_from_slice(b"\r\n");
    }

    /// A vector that grew by itself would leave copies of a password behind.
    fn make_room(&mut self, more: usize) {
        let needed = self.0.len() + more;
        if needed > self.0.capacity() {
            let mut larger = Line::new(Vec::with_capacity(needed.max(2 * self.0.capacity())));
            larger.extend_from_slice(&self.0);
            self.0 = larger;
        }
    }

    /// Percent-encoding of exactly the controls, space and `%`.
    fn add_encoded(&mut self, name: &str, value: &[u8]) {
        self.add_bytes(name, &percent_encoded(value));
    }

    fn add_envelope(&mut self, envelope: &Envelope) {
        self.add_bytes("Auth-SMTP-Helo", &envelope.helo);
        self.add_bytes("Auth-SMTP-From", &envelope.from);
        self.add_bytes("Auth-SMTP-To", &envelope.to);
    }

    fn add_tls(&mut self, tls: &Facts, passes_certificate: bool) {
        self.add("Auth-SSL", "on");
        self.add_filled("Auth-SSL-Protocol", &tls.protocol);
        self.add_filled("Auth-SSL-Cipher", &tls.cipher);
        if tls.verdict == Certificate::NotAsked {
            return;
        }
        self.add_filled("Auth-SSL-Verify", &tls.verdict.to_string());
        let Some(peer) = &tls.peer else {
            return;
        };
        self.add_filled("Auth-SSL-Subject", &peer.subject);
        self.add_filled("Auth-SSL-Issuer", &peer.issuer);
        self.add_filled("Auth-SSL-Serial", &peer.serial);
        self.add_filled("Auth-SSL-Fingerprint", &peer.fingerprint);
        if passes_certificate {
            self.add_encoded("Auth-SSL-Cert", peer.pem.as_bytes());
        }
    }

    /// Names in certificates are a stranger's text: what could end the line is left out.
    fn add_filled(&mut self, name: &str, value: &str) {
        let value: String = value.chars().filter(|c| !c.is_control()).collect();
        if !value.is_empty() {
            self.add(name, &value);
        }
    }
}

/// One auth server's answer.
struct Answer<'a> {
    method: &'a AuthHttp,
    client: &'a HttpClient,
    response: Response,
    secrets: &'a LoginSecrets,
}

impl Answer<'_> {
    fn verdict(&self, credentials: &Credentials) -> Result<Verdict, AuthError> {
        self.check_headers()?;
        match self.header("Auth-Status") {
            None | Some(b"") => Err(self.unusable("did not send Auth-Status")),
            Some(b"WAIT") => Ok(Verdict::Wait(self.wait().unwrap_or(Duration::from_secs(1)))),
            Some(b"OK") if !(200..300).contains(&self.response.status) => {
                let status = self.response.status;
                Err(self.unusable(&format!("sent OK with HTTP status {status}")))
            }
            Some(b"OK") => self.grant(credentials),
            Some(text) => Ok(Verdict::Refused(LoginRefusal {
                line: None,
                as_if_seen: false,
                text: text.to_vec(),
                code: self
                    .header("Auth-Error-Code")
                    .filter(|code| is_error_code(code))
                    .map(<[u8]>::to_vec),
                sasl: self
                    .header("Auth-Error-SASL")
                    .filter(|_| credentials.method.is_oauth())
                    .map(<[u8]>::to_vec),
                is_ours: false,
                again: self.wait(),
            })),
        }
    }

    /// The answer for the log; of headers without a meaning nobody knows what they carry.
    fn shown(&self) -> String {
        let headers = self.response.headers();
        let is_hidden = |name: &[u8]| is_one_of(name, [PASSWORD]) || !is_one_of(name, MEANINGFUL);
        let shown = shown_headers(self.secrets, headers, is_hidden);
        let (server, status) = (self.client.name(), self.response.status);
        format!("received from auth http server {server}: \"{status}, {shown}\"")
    }

    fn grant(&self, credentials: &Credentials) -> Result<Verdict, AuthError> {
        let mut grant = self.target(credentials)?;
        if let Some(value) = self.header("Auth-SMTP-Auth") {
            grant.smtp_auth = value.eq_ignore_ascii_case(b"on");
        }
        match self.header("Auth-SSL-Backend") {
            None => {}
            Some(b"off") => grant.ssl = ProxySsl::Off,
            Some(b"on") => grant.ssl = ProxySsl::On,
            Some(b"starttls") => grant.ssl = ProxySsl::StartTls,
            Some(_) => {
                return Err(self.unusable("sent an Auth-SSL-Backend other than off, on, starttls"));
            }
        }
        if let Some(login) = self.filled("Auth-User") {
            grant.user = login.to_ascii_lowercase();
            grant.login = login.to_vec();
        }
        if let Some(password) = self.filled(PASSWORD) {
            grant.set_password(password);
        }
        if grant.needs_login(self.method.protocol) && !grant.has_password() {
            return Err(self.unusable("did not send password"));
        }
        if credentials.authzid.is_some() {
            let repeated = self.header("Auth-Authzid").map(<[u8]>::to_vec);
            if repeated != credentials.authzid {
                return Ok(Verdict::Refused(LoginRefusal::ours(
                    "authorization identity refused",
                )));
            }
            grant.authzid = repeated;
            grant.user = grant.acts_for().to_ascii_lowercase();
        }
        Ok(Verdict::Granted(Box::new(grant)))
    }

    /// `Auth-Backend`, or else an address and port.
    fn target(&self, credentials: &Credentials) -> Result<Grant, AuthError> {
        if let Some(name) = self.filled("Auth-Backend") {
            let name = String::from_utf8_lossy(name);
            let Some(backend) = self.method.router.backend(&name) else {
                let name = self.secrets.quote(name.as_bytes());
                return Err(self.unusable(&format!("named an unknown backend:\"{name}\"")));
            };
            let mut grant = Grant::to_backend(&backend, self.method.protocol, credentials);
            grant.smtp_auth = self.method.addresses.smtp_auth;
            return Ok(grant);
        }
        let (Some(host), Some(port)) = (self.header("Auth-Server"), self.header("Auth-Port"))
        else {
            return Err(self.unusable("did not send server or port"));
        };
        let host = self.backend_host(host)?;
        let port = self.backend_port(port)?;
        let settings = &self.method.addresses;
        Ok(Grant::to_address(host, port, settings, credentials))
    }

    /// An address or a host name.
    fn backend_host(&self, host: &[u8]) -> Result<String, AuthError> {
        let text = std::str::from_utf8(host).unwrap_or_default();
        let bare = text
            .strip_prefix('[')
            .and_then(|text| text.strip_suffix(']'))
            .unwrap_or(text);
        let is_name = |name: &str| {
            let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
            !name.is_empty() && name.len() <= 253 && name.chars().all(ok)
        };
        if bare.parse::<std::net::IpAddr>().is_ok() || is_name(bare) {
            return Ok(bare.to_owned());
        }
        Err(self.unusable(&format!(
            "sent invalid server address:\"{}\"",
            self.secrets.quote(host)
        )))
    }

    fn backend_port(&self, port: &[u8]) -> Result<u16, AuthError> {
        let digits = std::str::from_utf8(port).unwrap_or_default();
        digits
            .parse()
            .ok()
            .filter(|&number| number > 0 && digits.bytes().all(|byte| byte.is_ascii_digit()))
            .ok_or_else(|| {
                self.unusable(&format!(
                    "sent invalid server port:\"{}\"",
                    self.secrets.quote(port)
                ))
            })
    }

    /// Seconds; 0 or no number counts as absent.
    fn wait(&self) -> Option<Duration> {
        let seconds = std::str::from_utf8(self.header("Auth-Wait")?)
            .ok()?
            .parse()
            .ok()?;
        let wait = Duration::from_secs(seconds).min(LONGEST_WAIT);
        (!wait.is_zero()).then_some(wait)
    }

    fn header(&self, name: &str) -> Option<&[u8]> {
        self.response.header(name)
    }

    fn filled(&self, name: &str) -> Option<&[u8]> {
        self.header(name).filter(|value| !value.is_empty())
    }

    fn check_headers(&self) -> Result<(), AuthError> {
        for name in MEANINGFUL {
            let of_name = |(header, _): &(&[u8], _)| header.eq_ignore_ascii_case(name.as_bytes());
            let headers = self.response.headers();
            let mut values = headers.filter(of_name).map(|(_, value)| value);
            let first = values.next();
            if values.any(|value| Some(value) != first) {
                return Err(self.unusable(&format!("sent two different {name}")));
            }
        }
        Ok(())
    }

    fn unusable(&self, what: &str) -> AuthError {
        let server = self.client.name();
        AuthError::Service(format!("auth http server {server} {what}"), None)
    }
}

/// An SMTP code that refuses (RFC 5321, section 4.2.1), perhaps with an enhanced one behind it.
fn is_error_code(code: &[u8]) -> bool {
    let (Some(digits), rest) = (code.get(..3), code.get(3..).unwrap_or_default()) else {
        return false;
    };
    matches!(digits[0], b'4' | b'5')
        && digits.iter().all(u8::is_ascii_digit)
        && rest.first().is_none_or(|&byte| byte == b' ')
}

#[cfg(test)]
mod tests;
