//! One directive of nginx or Angie as settings of ours.
//!
//! Which directives are taken over follows from our own table of them; the rows here are those whose
//! value or place changes. Whether a value is good is left to our own parser, which sees everything
//! that is written. `listen`, `error_log` and what Zimbra added to nginx have files of their own.

use std::path::{Path, PathBuf};

use super::error_log::error_log;
use super::listen::listen;
use super::tree::{Directive, FileLine, Tree};
use super::zimbra;
use crate::config::{KnownDirective, ValueShape, known_directive};

/// What conversions need to know of the configuration as a whole.
#[derive(Debug)]
pub(super) struct Surroundings {
    /// What names of keys and certificates are relative to.
    pub(super) folder: PathBuf,
    /// What names of logs and of the `pid` file are relative to.
    pub(super) prefix: PathBuf,
    /// Whether Angie was meant, whose defaults are other ones in places.
    pub(super) angie: bool,
    /// Every tag that a log line can have.
    pub(super) tags: Vec<String>,
    /// Where Zimbra's nginx looks up its users: URLs.
    pub(super) zimbra_lookups: Vec<String>,
}

/// One `key = value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    /// Ours.
    pub(super) key: &'static str,
    /// As it is written.
    pub(super) value: String,
}

/// Settings, and what of the directive they leave out.
#[derive(Debug, Default)]
pub(super) struct Converted {
    /// In the order in which they are written.
    pub(super) settings: Vec<Setting>,
    /// A sentence for each part without counterpart.
    pub(super) left_out: Vec<String>,
    /// Likewise for those that nobody will miss.
    pub(super) needless: Vec<String>,
}

impl Converted {
    /// One setting, complete.
    pub(super) fn one(key: &'static str, value: String) -> Self {
        Self {
            settings: vec![Setting { key, value }],
            ..Self::default()
        }
    }

    /// Nothing, and nothing is missed.
    fn needless(reason: &str) -> Self {
        Self {
            needless: vec![reason.to_owned()],
            ..Self::default()
        }
    }
}

impl Surroundings {
    /// Gathers them.
    pub(super) fn of(tree: &Tree) -> Self {
        let path = std::path::absolute(&tree.path).unwrap_or_else(|_| tree.path.clone());
        let folder = path.parent().unwrap_or(Path::new("/")).to_owned();
        // An installation from source has its configuration in PREFIX/conf, a package in PREFIX.
        let prefix = match (folder.file_name(), folder.parent()) {
            (Some(name), Some(parent)) if name == "conf" => parent.to_owned(),
            _ => folder.clone(),
        };
        let mut surroundings = Self {
            folder,
            prefix,
            angie: path.to_string_lossy().contains("angie"),
            tags: vec!["mail".to_owned()],
            zimbra_lookups: Vec::new(),
        };
        surroundings.look_at(&tree.main.directives);
        surroundings
    }

    fn look_at(&mut self, directives: &[Directive]) {
        for directive in directives {
            let arguments = &directive.arguments;
            let has = |start: &str| arguments.iter().any(|word| word.starts_with(start));
            match directive.name.as_str() {
                "error_log_user_tag" => {
                    self.angie = true;
                    self.tags.extend(arguments.iter().cloned());
                }
                "zm_lookup_handlers" => self.zimbra_lookups.extend(arguments.iter().cloned()),
                "max_commands" => self.angie = true,
                "error_log" => self.angie |= has("format=") || has("filter=") || has("rate="),
                "imap_auth" | "pop3_auth" | "smtp_auth" => {
                    self.angie |= has("xoauth2") || has("oauthbearer");
                }
                _ => {}
            }
            if let Some(block) = &directive.block {
                self.look_at(&block.directives);
            }
        }
    }

    /// What the program calls itself.
    pub(super) fn product(&self) -> &'static str {
        if self.angie { "Angie" } else { "nginx" }
    }
}

/// What becomes of a directive whose value does not go over as it is.
#[derive(Debug, Clone, Copy)]
pub(super) enum How {
    /// As the function says, which is given our key.
    By(fn(&'static str, &Directive, &Surroundings) -> Result<Converted, String>),
    /// Not taken over, and not missed, for this reason.
    Needless(&'static str),
    /// Not taken over, for this reason.
    Lost(&'static str),
}

use How::{By, Lost, Needless};

/// What may stand in `mail {}` and `server {}` and changes on its way. Everything else goes over if
/// `[mail]` or `[server NAME]` have a directive of that name.
const TABLE: &[(&str, How)] = &[
    (
        "listen",
        By(|_, directive, around| listen(&directive.arguments, &around.folder)),
    ),
    ("server_name", By(server_name)),
    ("resolver", By(resolver)),
    ("auth_http", By(auth_http)),
    ("auth_http_header", By(auth_http_header)),
    (
        "error_log",
        By(|_, directive, around| error_log(directive, around)),
    ),
    ("imap_auth", By(mechanisms)),
    ("pop3_auth", By(mechanisms)),
    ("smtp_auth", By(mechanisms)),
    // nginx before 0.5.15, for POP3.
    (
        "auth",
        By(|_, directive, around| mechanisms("pop3_auth", directive, around)),
    ),
    ("ssl_certificate_key", By(certificate_key)),
    ("proxy_ssl_certificate_key", By(certificate_key)),
    ("auth_http_ssl_certificate_key", By(certificate_key)),
    ("ssl_protocols", By(protocols)),
    ("proxy_ssl_protocols", By(protocols)),
    ("auth_http_ssl_protocols", By(protocols)),
    (
        "ssl_dhparam",
        Needless(
            "Postern exchanges keys over elliptic curves only, for which ssl_ecdh_curve is; \
             nothing needs to be done",
        ),
    ),
    (
        "ssl_conf_command",
        Lost(
            "it speaks to OpenSSL, which Postern does not use for connections; say it with \
             ssl_protocols, ssl_ciphers, ssl_ecdh_curve or ssl_session_tickets",
        ),
    ),
    (
        "status_zone",
        Needless("Postern keeps no such statistics; nothing needs to be done"),
    ),
];

/// Keys whose words add up when the directive stands several times in one block.
pub(super) const ADD_UP: [&str; 10] = [
    "imap_auth",
    "imap_capabilities",
    "pop3_auth",
    "pop3_capabilities",
    "smtp_auth",
    "smtp_capabilities",
    "error_log_user_tag",
    "ssl_protocols",
    "proxy_ssl_protocols",
    "auth_http_ssl_protocols",
];

/// A directive of `mail {}` or `server {}`; an error says why it is not taken over.
pub(super) fn convert(directive: &Directive, around: &Surroundings) -> Result<Converted, String> {
    let rows = TABLE.iter().chain(zimbra::TABLE);
    let row = rows.into_iter().find(|(name, _)| *name == directive.name);
    let converted = match (row, known_directive(&directive.name)) {
        (Some((_, Lost(reason))), _) => Err((*reason).to_owned()),
        (Some((_, Needless(reason))), _) => Ok(Converted::needless(reason)),
        (None, None) => Err(
            "Postern has no such directive; leave it out, or look into `postern reference` for \
             what comes near"
                .to_owned(),
        ),
        (None, Some(ours)) if !ours.is_of_mail() => {
            let sections = ours.sections();
            Err(format!(
                "Postern's {} stands in {sections} only; write it there",
                ours.name()
            ))
        }
        _ if directive.block.is_some() => {
            Err("it is no block; write a `;` behind its value".to_owned())
        }
        (Some((key, By(function))), _) => function(key, directive, around),
        (None, Some(ours)) => as_it_is(ours, directive, around),
    };
    converted.and_then(checked)
}

fn as_it_is(
    ours: KnownDirective,
    directive: &Directive,
    around: &Surroundings,
) -> Result<Converted, String> {
    let value = value(ours.shape(), &directive.arguments, around)?;
    Ok(Converted::one(ours.name(), value))
}

/// Words as a value of ours; whether it is a good one is for our own parser to say.
fn value(shape: ValueShape, words: &[String], around: &Surroundings) -> Result<String, String> {
    let single = || match words {
        [value] => Ok(value.clone()),
        _ => Err("it takes one value".to_owned()),
    };
    Ok(match shape {
        ValueShape::File => path(&single()?, &around.folder),
        ValueShape::Time => single()?.replace(' ', ""),
        ValueShape::List => list(words),
        ValueShape::Word => single()?.to_ascii_lowercase(),
        ValueShape::Text => words.join(" "),
    })
}

/// A directive outside `mail {}` that Postern has too; `None` for all others.
pub(super) fn convert_main(
    directive: &Directive,
    around: &Surroundings,
) -> Option<Result<Converted, String>> {
    let arguments = &directive.arguments;
    let single = || match &arguments[..] {
        [value] => Ok(value.clone()),
        _ => Err("it takes one value".to_owned()),
    };
    let converted = match directive.name.as_str() {
        "user" => user(arguments),
        "error_log" => error_log(directive, around),
        "pid" => single().map(|file| Converted::one("pid", path(&file, &around.prefix))),
        "worker_shutdown_timeout" => single().map(|time| shutdown_timeout(&time)),
        name => {
            let ours = known_directive(name).filter(|ours| ours.is_of_process());
            as_it_is(
                ours.filter(|_| directive.block.is_none())?,
                directive,
                around,
            )
        }
    };
    Some(converted.and_then(checked))
}

/// No line of ours can hold a control character, and replaced bytes would name something else.
fn checked(converted: Converted) -> Result<Converted, String> {
    for setting in &converted.settings {
        if setting.value.chars().any(char::is_control) {
            return Err("its value holds a control character; write it without".to_owned());
        }
        if setting.value.contains(char::REPLACEMENT_CHARACTER) {
            return Err("its value is not UTF-8; write it so".to_owned());
        }
    }
    Ok(converted)
}

fn user(arguments: &[String]) -> Result<Converted, String> {
    let (user, group) = match arguments {
        [user] => (user, None),
        [user, group] => (user, Some(group)),
        _ => return Err("it takes a user and perhaps a group".to_owned()),
    };
    let mut converted = Converted::one("user", user.clone());
    converted.settings.extend(group.map(|group| Setting {
        key: "group",
        value: group.clone(),
    }));
    Ok(converted)
}

fn shutdown_timeout(time: &str) -> Converted {
    let time = time.replace(' ', "");
    // Zero is nginx's "for ever", its default, which is written elsewhere.
    if time
        .bytes()
        .all(|byte| byte == b'0' || byte.is_ascii_alphabetic())
    {
        return Converted::default();
    }
    let keys = ["shutdown_timeout", "reload_timeout"];
    let settings = keys.map(|key| Setting {
        key,
        value: time.clone(),
    });
    Converted {
        settings: settings.into(),
        ..Converted::default()
    }
}

fn server_name(
    key: &'static str,
    directive: &Directive,
    _: &Surroundings,
) -> Result<Converted, String> {
    match &directive.arguments[..] {
        // The host's name, which is the default.
        [name] if name.is_empty() => Ok(Converted::default()),
        [name] => Ok(Converted::one(key, name.clone())),
        _ => Err("it takes one name".to_owned()),
    }
}

fn resolver(
    key: &'static str,
    directive: &Directive,
    _: &Surroundings,
) -> Result<Converted, String> {
    let mut needless = Vec::new();
    let mut words = Vec::new();
    for word in &directive.arguments {
        if word.starts_with("status_zone=") {
            needless.push(
                "`status_zone`: Postern keeps no such statistics; nothing needs to be done"
                    .to_owned(),
            );
        } else {
            words.push(word.as_str());
        }
    }
    let mut converted = Converted::one(key, words.join(" "));
    converted.needless = needless;
    Ok(converted)
}

fn auth_http(
    key: &'static str,
    directive: &Directive,
    around: &Surroundings,
) -> Result<Converted, String> {
    let [url] = &directive.arguments[..] else {
        return Err("it takes one URL".to_owned());
    };
    let socket = url.strip_prefix("http://").unwrap_or(url);
    let value = match socket.strip_prefix("unix:") {
        Some(socket) => format!("unix:{}", path(socket, &around.folder)),
        None => url.clone(),
    };
    Ok(Converted::one(key, value))
}

fn auth_http_header(
    key: &'static str,
    directive: &Directive,
    _: &Surroundings,
) -> Result<Converted, String> {
    let [name, value] = &directive.arguments[..] else {
        return Err("it takes a name and a value".to_owned());
    };
    let bare = !value.is_empty() && value.trim() == value && !value.starts_with('"');
    let value = if bare { value.clone() } else { quoted(value) };
    Ok(Converted::one(key, format!("{name} {value}")))
}

fn certificate_key(
    key: &'static str,
    directive: &Directive,
    around: &Surroundings,
) -> Result<Converted, String> {
    match &directive.arguments[..] {
        [file] if file.starts_with("engine:") || file.starts_with("store:") => {
            Err("Postern reads keys from files only; name a PEM file".to_owned())
        }
        [file] => Ok(Converted::one(key, path(file, &around.folder))),
        _ => Err("it takes one file name".to_owned()),
    }
}

/// Zimbra's nginx has Kerberos too, for which Postern has nothing.
fn mechanisms(
    key: &'static str,
    directive: &Directive,
    _: &Surroundings,
) -> Result<Converted, String> {
    let words = directive.arguments.iter().cloned();
    let (lost, kept): (Vec<_>, Vec<_>) =
        words.partition(|word| word.eq_ignore_ascii_case("gssapi"));
    let reason = "gssapi: Postern has no Kerberos; clients log in with a password or a token";
    if kept.is_empty() && !lost.is_empty() {
        return Err(reason.to_owned());
    }
    let mut converted = Converted::one(key, list(&kept).to_ascii_lowercase());
    converted
        .left_out
        .extend(lost.first().map(|_| reason.to_owned()));
    Ok(converted)
}

/// rustls, Postern's choice, begins with TLS 1.2.
fn protocols(
    key: &'static str,
    directive: &Directive,
    _: &Surroundings,
) -> Result<Converted, String> {
    let old = ["sslv2", "sslv3", "tlsv1", "tlsv1.1"];
    let is_old = |word: &&String| old.contains(&word.to_ascii_lowercase().as_str());
    let (left, kept): (Vec<&String>, Vec<&String>) = directive.arguments.iter().partition(is_old);
    let left: Vec<&str> = left.into_iter().map(String::as_str).collect();
    let reason = format!(
        "{}: Postern speaks TLSv1.2 and TLSv1.3 only; for old devices see tls_library in \
         `postern reference`",
        left.join(" ")
    );
    if kept.is_empty() {
        return Err(reason);
    }
    let kept: Vec<&str> = kept.into_iter().map(String::as_str).collect();
    let mut converted = Converted::one(key, kept.join(" "));
    if !left.is_empty() {
        converted.left_out.push(reason);
    }
    Ok(converted)
}

/// An absolute file name.
pub(super) fn path(name: &str, folder: &Path) -> String {
    folder.join(name).to_string_lossy().into_owned()
}

/// Words as a list of ours.
fn list(words: &[String]) -> String {
    let item = |word: &String| {
        let bare =
            !word.is_empty() && !word.contains(|c: char| c.is_whitespace() || c == ',' || c == '"');
        if bare { word.clone() } else { quoted(word) }
    };
    words.iter().map(item).collect::<Vec<_>>().join(" ")
}

/// In quotes, as items of our lists and fields take them.
pub(super) fn quoted(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{escaped}\"")
}

/// A directive as it stood in its file, on one line.
pub(super) fn source(directive: &Directive) -> String {
    let word = |word: &String| {
        let bare = !word.is_empty()
            && !word.contains(|c: char| c.is_whitespace() || ";{}\"'#".contains(c));
        let word = word.replace(char::is_control, " ");
        if bare { word } else { quoted(&word) }
    };
    let mut text = directive.name.replace(char::is_control, " ");
    for argument in &directive.arguments {
        text.push(' ');
        text.push_str(&word(argument));
    }
    text.push_str(if directive.block.is_some() {
        " { … }"
    } else {
        ";"
    });
    text
}

/// Where a directive stands and what it is called, for messages.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    /// Its file and line.
    pub(super) place: FileLine,
    /// nginx's name of it.
    pub(super) name: String,
    /// The directive on one line.
    pub(super) source: String,
}

impl Origin {
    /// Of this directive.
    pub(super) fn of(directive: &Directive) -> Self {
        Self {
            place: directive.place,
            name: directive.name.replace(char::is_control, " "),
            source: source(directive),
        }
    }
}
