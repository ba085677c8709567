//! From sections to typed settings: known keys, inheritance from `[mail]`, defaults.
//!
//! Each line passes its directive's setter and leaves a value or a mistake behind. Rules that need
//! more than one directive are `check`'s.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::log::{LogTarget, TextLayout};

use super::directives::{self, DIRECTIVES, DefaultValue, Directive, SectionKind, Setter};
use super::listen::Lookup;
use super::master::MasterDraft;
use super::mistake::{MistakeKind, WrongValue};
use super::route::REJECT;
use super::source::{At, Report, Section};
use super::value::{nearest, not_yet, shown};
use super::{
    AuthKind, AuthMechanism, Backend, Balance, Control, Listen, PlainLoginAnswer, Process,
    ProxyProtocol, ProxySsl, RouteLine, SendClientId, Server, Starttls, Xclient,
};
use crate::protocol::{PerProtocol, Protocol};
use crate::tls::{ClientDirectives, ClientSettings, ServerSettings};

/// Most listeners of one server; each is a socket and a thread.
const MAX_LISTENERS: usize = 4096;

/// What setters write into: a process, a server, a backend or routes, whichever the section is for.
#[derive(Debug)]
pub(super) struct Draft {
    /// `[postern]`.
    pub(super) process: Process,
    /// `[server NAME]`; its protocol and `auth` are not settled before `check`. What `[backend NAME]`
    /// has under the same keys stands here too.
    pub(super) server: Server,
    /// `[backend NAME]`, but for those keys.
    pub(super) backend: Backend,
    /// `[routes]` and the line of each, by key before `assemble` is done, then in file order.
    pub(super) routes: Vec<(usize, RouteLine)>,
    /// `protocol`, if it is said.
    pub(super) protocol: Option<Protocol>,
    /// `auth`, if it is said.
    pub(super) auth: Option<AuthKind>,
    /// `master_user` and what belongs to it.
    pub(super) master: MasterDraft,
    /// Of the process or the server.
    pub(super) error_log: Vec<LogTarget>,
    /// Of the process or the server.
    pub(super) error_log_user_tag: Vec<String>,
    /// The line of each of the server's listeners.
    pub(super) listen_lines: Vec<usize>,
    /// Directives of which a line was refused.
    pub(super) failed: Vec<&'static str>,
    /// What the line now being set says without effect.
    pub(super) warnings: Vec<String>,
    /// What relative file names are relative to.
    pub(super) folder: PathBuf,
    /// How host names become addresses.
    pub(super) lookup: Lookup,
    /// Whether there is any `[backend NAME]`.
    pub(super) has_backends: bool,
    line: usize,
}

/// Everything that the sections say, before the rules across directives.
#[derive(Debug)]
pub(super) struct Drafts<'a> {
    /// `[postern]`, or its defaults.
    pub(super) process: Draft,
    /// Its section, if there is one.
    pub(super) postern: Option<&'a Section>,
    /// `[mail]`, if there is one.
    pub(super) mail: Option<&'a Section>,
    /// The servers, in file order.
    pub(super) servers: Vec<(&'a Section, Draft)>,
    /// The backends, in file order.
    pub(super) backends: Vec<(&'a Section, Draft)>,
    /// `[routes]`, if there is one.
    pub(super) routes: Option<(&'a Section, Draft)>,
}

impl Draft {
    /// Nothing set yet: the setters of all defaults have to follow.
    pub(super) fn new(folder: &Path, lookup: Lookup) -> Self {
        Self {
            process: empty_process(),
            server: empty_server(),
            backend: empty_backend(),
            routes: Vec::new(),
            protocol: None,
            auth: None,
            master: MasterDraft::default(),
            error_log: Vec::new(),
            error_log_user_tag: Vec::new(),
            listen_lines: Vec::new(),
            failed: Vec::new(),
            warnings: Vec::new(),
            folder: folder.to_owned(),
            lookup,
            has_backends: false,
            line: 0,
        }
    }

    /// A draft that asks nobody for addresses.
    #[cfg(test)]
    pub(super) fn for_tests() -> Self {
        Self::new(Path::new("/etc/postern"), |_| Vec::new())
    }

    /// Adds the listeners of the line now being set.
    pub(super) fn add_listeners(&mut self, listeners: Vec<Listen>) -> Result<(), String> {
        if self.server.listen.len() + listeners.len() > MAX_LISTENERS {
            return Err(format!("a server has at most {MAX_LISTENERS} listeners"));
        }
        for listener in listeners {
            self.server.listen.push(listener);
            self.listen_lines.push(self.line);
        }
        Ok(())
    }

    /// Adds the route of the line now being set.
    pub(super) fn add_route(&mut self, route: RouteLine) {
        self.routes.push((self.line, route));
    }

    /// Whether a line of this directive was refused.
    pub(super) fn has_failed(&self, directive: &str) -> bool {
        self.failed.contains(&directive)
    }

    /// Sets every supported directive of a kind of section: from the section's own lines, else from the
    /// inherited ones, else from its default.
    fn fill(
        &mut self,
        kind: SectionKind,
        own: &Section,
        inherited: Option<&Section>,
        report: &mut Report,
    ) {
        for directive in DIRECTIVES.iter().filter(|d| d.stands_in(kind)) {
            let Setter::Is(set) = directive.setter else {
                continue;
            };
            let from = std::iter::once(own).chain(inherited.filter(|_| inherits(directive)));
            let from = from.filter(|section| section.lines(directive.name).next().is_some());
            match from.into_iter().next() {
                Some(section) => self.set_lines(directive, set, section, report),
                None => self.set_default(directive, set, kind, own, report),
            }
        }
    }

    fn set_lines(
        &mut self,
        directive: &'static Directive,
        set: fn(&mut Self, &str) -> Result<(), WrongValue>,
        section: &Section,
        report: &mut Report,
    ) {
        let allowed = if directive.repeatable { usize::MAX } else { 1 };
        for entry in section.lines(directive.name).take(allowed) {
            let at = At {
                line: entry.line,
                section: &section.name,
                key: directive.name,
            };
            self.line = entry.line;
            if let Err(wrong) = set(self, &entry.value) {
                report.mistake_of_kind(wrong.kind, at, &wrong.text);
                self.failed.push(directive.name);
            }
            for text in self.warnings.drain(..) {
                report.warning(at, &text);
            }
        }
    }

    fn set_default(
        &mut self,
        directive: &'static Directive,
        set: fn(&mut Self, &str) -> Result<(), WrongValue>,
        kind: SectionKind,
        own: &Section,
        report: &mut Report,
    ) {
        let result = match directive.default {
            DefaultValue::Text(text) => set(self, text),
            DefaultValue::OfProcess(text) if kind == SectionKind::Postern => set(self, text),
            DefaultValue::InBackend(text, _) if kind == SectionKind::Backend => set(self, text),
            DefaultValue::InBackend(_, text) => set(self, text),
            DefaultValue::OrAuto(_) if self.has_backends => set(self, "auto"),
            DefaultValue::OrAuto(text) => set(self, text),
            DefaultValue::HostName => set(self, &directives::host_name()),
            DefaultValue::OfProcess(_)
            | DefaultValue::Implied(_)
            | DefaultValue::Unset(_)
            | DefaultValue::Required => Ok(()),
        };
        if let Err(wrong) = result {
            let at = At {
                line: own.line,
                section: &own.name,
                key: directive.name,
            };
            report.mistake(at, &format!("its default: {}", wrong.text));
        }
    }
}

fn inherits(directive: &Directive) -> bool {
    directive.stands_in(SectionKind::Mail)
}

/// Sorts the sections, looks at every key and sets every value.
pub(super) fn assemble<'a>(
    sections: &'a [Section],
    folder: &Path,
    lookup: Lookup,
    report: &mut Report,
) -> Drafts<'a> {
    let known: Vec<(SectionKind, &Section)> = sections
        .iter()
        .filter_map(|section| Some((kind_of(section, report)?, section)))
        .collect();
    let first = |name: &str| known.iter().find(|(_, s)| s.name == name).map(|(_, s)| *s);
    let mail = first(SectionKind::Mail.word());
    let has_backends = known.iter().any(|(kind, _)| *kind == SectionKind::Backend);

    let mut drafts = Drafts {
        process: Draft::new(folder, lookup),
        postern: first(SectionKind::Postern.word()),
        mail,
        servers: Vec::new(),
        backends: Vec::new(),
        routes: None,
    };
    if drafts.postern.is_none() {
        let nothing = Section {
            name: SectionKind::Postern.word().to_owned(),
            line: 1,
            entries: Vec::new(),
        };
        drafts
            .process
            .fill(SectionKind::Postern, &nothing, None, report);
    }
    for (kind, section) in &known {
        check_keys(*kind, section, report);
        // A section that stands twice is looked at all the same: its mistakes are to come now.
        let mut draft = Draft::new(folder, lookup);
        draft.has_backends = has_backends;
        let inherited = mail.filter(|_| *kind == SectionKind::Server);
        draft.fill(*kind, section, inherited, report);
        draft.routes.sort_by_key(|(line, _)| *line);
        if let Some(first) = first(&section.name).filter(|first| first.line < section.line) {
            let text = format!("stands twice; first in line {}", first.line);
            report.mistake_of_kind(MistakeKind::StandsTwice, section_at(section), &text);
            continue;
        }
        match kind {
            SectionKind::Postern => drafts.process = draft,
            SectionKind::Mail => {}
            SectionKind::Server => drafts.servers.push((section, draft)),
            SectionKind::Backend => drafts.backends.push((section, draft)),
            SectionKind::Routes => drafts.routes = Some((section, draft)),
        }
    }
    drafts
}

fn section_at(section: &Section) -> At<'_> {
    At {
        line: section.line,
        section: &section.name,
        key: "",
    }
}

/// The kind of a section, or a mistake.
fn kind_of(section: &Section, report: &mut Report) -> Option<SectionKind> {
    let words: Vec<&str> = section.name.split(' ').collect();
    let kind = SectionKind::ALL.into_iter().find(|p| p.word() == words[0]);
    let text = match kind {
        Some(kind) if kind.is_named() => match words[..] {
            [_, name] if name.contains('"') => "NAME takes no quotes".to_owned(),
            [_, name] if kind == SectionKind::Backend && name.eq_ignore_ascii_case(REJECT) => {
                "NAME cannot be this word: routes have a use for it".to_owned()
            }
            [_, _] => return Some(kind),
            _ => format!("write [{} NAME], NAME being one word", kind.word()),
        },
        Some(kind) if words.len() == 1 => return Some(kind),
        Some(kind) => format!("takes no name: write [{}]", kind.word()),
        None => {
            let known: Vec<&str> = SectionKind::ALL.iter().map(|kind| kind.word()).collect();
            let hint = nearest(words[0], &known).map(|word| (word, SectionKind::Server.word()));
            match hint {
                Some((word, server)) if word == server => {
                    "unknown section; did you mean `server NAME`?".to_owned()
                }
                Some((word, _)) => format!("unknown section; did you mean `{word}`?"),
                None => "unknown section; sections are postern, mail, server NAME, backend NAME, \
                         routes"
                    .to_owned(),
            }
        }
    };
    report.mistake(section_at(section), &text);
    None
}

/// Whether each key is known, may stand here, stands once and is supported.
fn check_keys(kind: SectionKind, section: &Section, report: &mut Report) {
    let mut seen = std::collections::HashMap::new();
    for entry in &section.entries {
        let at = At {
            line: entry.line,
            section: &section.name,
            key: &entry.key,
        };
        let Some(directive) = directives::find(&entry.key) else {
            report.mistake(at, &unknown_key(kind, &entry.key));
            continue;
        };
        if !directive.stands_in(kind) {
            report.mistake(at, &misplaced(directive));
            continue;
        }
        if let Some(first) = seen.insert(directive.name, entry.line)
            && !directive.repeatable
        {
            seen.insert(directive.name, first);
            let text = format!("stands twice; first in line {first}");
            report.mistake_of_kind(MistakeKind::StandsTwice, at, &text);
        } else if matches!(directive.setter, Setter::NotYet) {
            report.mistake(at, &not_yet(&shown(directive.name)));
        }
    }
}

fn unknown_key(kind: SectionKind, key: &str) -> String {
    let here = DIRECTIVES.iter().filter(|d| d.stands_in(kind));
    let here: Vec<&str> = here.map(|directive| directive.name).collect();
    let elsewhere: Vec<&str> = DIRECTIVES.iter().map(|directive| directive.name).collect();
    let hint = nearest(key, &here).or_else(|| nearest(key, &elsewhere));
    match hint {
        Some(name) => format!("unknown key; did you mean `{name}`?"),
        None => "unknown key".to_owned(),
    }
}

fn misplaced(directive: &Directive) -> String {
    let sections: Vec<String> = directive
        .sections
        .iter()
        .map(|p| show_section(*p))
        .collect();
    format!("may not stand here, but in {}", sections.join(" or "))
}

/// A kind of section for people: `[server NAME]`.
pub(super) fn show_section(kind: SectionKind) -> String {
    let name = if kind.is_named() { " NAME" } else { "" };
    format!("[{}{name}]", kind.word())
}

fn empty_process() -> Process {
    Process {
        workers: 0,
        client_wait: Duration::ZERO,
        send_timeout: Duration::ZERO,
        max_sessions: 0,
        max_prelogin_per_ip: None,
        deny: Vec::new(),
        limits_store: None,
        limits_store_trusted_certificate: None,
        shutdown_timeout: Duration::ZERO,
        reload_timeout: None,
        user: None,
        group: None,
        pid: None,
        landlock: false,
        control: Control::WhereFolderExists,
        control_group: None,
        status: None,
        error_log: Vec::new(),
        error_log_user_tag: Vec::new(),
        log_format: TextLayout::Angie,
    }
}

fn empty_server() -> Server {
    Server {
        name: String::new(),
        protocol: Protocol::Imap,
        listen: Vec::new(),
        server_name: String::new(),
        timeout: Duration::ZERO,
        max_errors: 0,
        max_commands: 0,
        resolver: None,
        resolver_timeout: Duration::ZERO,
        auth: AuthKind::Http,
        auth_http: Vec::new(),
        auth_http_timeout: Duration::ZERO,
        auth_http_keepalive: 0,
        auth_http_header: Vec::new(),
        auth_http_pass_client_cert: false,
        auth_file: None,
        auth_cache: None,
        login_domain: None,
        login_domain_pass: false,
        strip_domain: false,
        auth_penalty_free: 0,
        auth_penalty_max: None,
        auth_penalty_exempt: Vec::new(),
        auth_failures_per_user: None,
        max_sessions_per_user: None,
        max_sessions_per_user_per_ip: None,
        of_protocol: PerProtocol::default(),
        smtp_greeting_delay: Duration::ZERO,
        proxy_buffer: None,
        proxy_timeout: Duration::ZERO,
        hibernate_timeout: None,
        proxy_pass_error_message: false,
        proxy_protocol: ProxyProtocol::Off,
        proxy_smtp_auth: false,
        xclient: Xclient::Off,
        master: None,
        send_client_id: SendClientId::Off,
        set_real_ip_from: Vec::new(),
        plain_login_answer: PlainLoginAnswer::Said,
        starttls: Starttls::Off,
        tls: ServerSettings::default(),
        proxy_ssl: ProxySsl::Off,
        proxy_tls: ClientSettings::default(),
        auth_http_tls: ClientSettings {
            directives: &ClientDirectives::AUTH_HTTP_SSL,
            ..ClientSettings::default()
        },
        error_log: Vec::new(),
        error_log_user_tag: Vec::new(),
    }
}

fn empty_backend() -> Backend {
    Backend {
        name: String::new(),
        place: String::new(),
        hosts: Vec::new(),
        own_hosts: PerProtocol::default(),
        ports: PerProtocol::default(),
        proxy_ssl: ProxySsl::Off,
        own_ssl: PerProtocol::default(),
        proxy_tls: ClientSettings::default(),
        proxy_protocol: ProxyProtocol::Off,
        xclient: Xclient::Off,
        master: None,
        send_client_id: SendClientId::Off,
        auth_mechanism: AuthMechanism::Auto,
        balance: Balance::Failover,
        connect_timeout: Duration::ZERO,
        fail_timeout: Duration::ZERO,
        health_check: None,
    }
}
