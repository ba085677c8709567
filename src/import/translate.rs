//! From the tree to the document: which block becomes which section, and what they are called.
//!
//! Single directives are converted by `directives`; what all servers share is brought together by
//! `share`.

use super::Losses;
use super::directives::{ADD_UP, Converted, Origin, Surroundings, convert, convert_main, path};
use super::error_log;
use super::limits;
use super::listen::{is_ssl, port, with_ssl};
use super::share::{Group, share};
use super::stream;
use super::tree::{Block, Directive, Tree};
use super::write::{Document, Entry, Section};
use crate::protocol::Protocol;

/// What nginx and Angie do by default and Postern does otherwise, as far as a client can tell.
const CLIENT_BUFFER: &str = "4k";

/// The document for a tree. What has no counterpart goes to `losses`.
///
/// # Errors
/// `FILE:LINE: text` if there is nothing to take over.
pub(super) fn translate(tree: &mut Tree, losses: &mut Losses) -> Result<Document, String> {
    let header = take_header(tree);
    let around = Surroundings::of(tree);
    let footer = left_aside(tree, losses);
    let mut groups = Vec::new();
    for directive in &tree.main.directives {
        if let ("mail", Some(block)) = (directive.name.as_str(), &directive.block) {
            groups.push(group(directive, block, &around, losses));
        }
    }
    check_for_servers(tree, &groups)?;
    name_servers(&mut groups);
    for server in groups.iter_mut().flat_map(|group| &mut group.servers) {
        server.title.insert_str(0, "server ");
    }

    let process = process(tree, &around, losses);
    let (mut mail, servers) = share(groups);
    add_defaults(&mut mail, &servers, &around);
    let sections = vec![process, mail];
    let mut document = Document {
        header,
        sections,
        footer,
    };
    document.sections.extend(servers);
    lose_servers(&mut document, losses);
    Ok(document)
}

/// Servers outside `mail {}`, as comments for the end of the text.
fn left_aside(tree: &Tree, losses: &mut Losses) -> Vec<String> {
    let mut comments = Vec::new();
    let mut lose = |directive: &Directive, reason: &str| {
        let origin = Origin::of(directive);
        let place = tree.show(origin.place);
        comments.push(format!(
            "# {place}: {}: not carried over: {reason}.",
            origin.name
        ));
        losses.add(&origin, reason);
    };
    for (server, reason) in stream::servers(tree) {
        lose(server, &reason);
    }
    let has_mail = tree
        .main
        .directives
        .iter()
        .any(|directive| directive.name == "mail");
    let outside = tree
        .main
        .directives
        .iter()
        .filter(|other| has_mail && other.is_server());
    for server in outside {
        lose(
            server,
            "it stands outside mail {}; put it into one, or name the file that includes this one",
        );
    }
    for server in &tree.astray {
        lose(server, "no include leads to its file; put it into mail {}");
    }
    comments
}

/// The comments at the top of the file, if an empty line stands behind them.
fn take_header(tree: &mut Tree) -> Vec<String> {
    let Some(first) = tree.main.directives.first_mut() else {
        return Vec::new();
    };
    let end = first.comments.iter().position(String::is_empty);
    first.comments.drain(..end.unwrap_or(0)).collect()
}

fn check_for_servers(tree: &Tree, groups: &[Group]) -> Result<(), String> {
    if groups.iter().any(|group| !group.servers.is_empty()) {
        return Ok(());
    }
    let directives = &tree.main.directives;
    let place = |name: &str| directives.iter().find(|directive| directive.name == name);
    if let Some(mail) = place("mail") {
        let at = tree.show(mail.place);
        return Err(format!("{at}: mail: there is no server {{}} in it"));
    }
    if let Some(server) = directives.iter().find(|directive| directive.is_server()) {
        let at = tree.show(server.place);
        return Err(format!(
            "{at}: server: it stands outside mail {{}}; name the file that includes this one"
        ));
    }
    let file = &tree.files[0];
    Err(format!(
        "{file}:1: there is no mail {{}}, so there is nothing to take over"
    ))
}

/// `[postern]`.
fn process(tree: &Tree, around: &Surroundings, losses: &mut Losses) -> Section {
    let mut section = Section::new("postern");
    let directives = &tree.main.directives;
    for directive in directives {
        let Some(converted) = convert_main(directive, around) else {
            continue;
        };
        let comments = directive.comments.clone();
        add(&mut section.entries, directive, comments, converted, losses);
    }
    let shares_pid = directives
        .iter()
        .any(|directive| ["http", "stream"].contains(&directive.name.as_str()));
    for entry in section
        .entries
        .iter_mut()
        .filter(|entry| entry.key == "pid")
    {
        if shares_pid {
            entry.comments.push(format!(
                "# Give Postern a file of its own if {} goes on running for http or stream.",
                around.product()
            ));
        }
    }
    let others: Vec<&str> = ["http", "stream"]
        .into_iter()
        .filter(|name| directives.iter().any(|directive| directive.name == *name))
        .collect();
    if !others.is_empty() {
        section.comments.push(format!(
            "# Postern is a mail proxy only: {} goes on serving {} {{}}.",
            around.product(),
            others.join(" {} and ")
        ));
    }
    section.entries.extend(limits::sessions(tree, around));
    add_process_defaults(&mut section, around);
    section
}

fn add_process_defaults(section: &mut Section, around: &Surroundings) {
    let mut defaults = Vec::new();
    if section.values("user").is_empty() {
        defaults.push(Entry::of_default("user", "nobody"));
    }
    // nginx opens its own file also when there is only syslog.
    if !section
        .values("error_log")
        .into_iter()
        .any(error_log::is_file)
    {
        let file = match around.prefix == around.folder {
            true => format!(
                "/var/log/{}/error.log",
                around.product().to_ascii_lowercase()
            ),
            false => path("logs/error.log", &around.prefix),
        };
        defaults.push(Entry::of_default("error_log", &format!("{file} error")));
    }
    if !around.angie {
        let mut layout = Entry::of_default("log_format", "nginx");
        let text =
            "# Log lines as nginx writes them, client: ADDRESS, for the ban rules that read them.";
        layout.comments.push(text.to_owned());
        defaults.push(layout);
    }
    if section.values("shutdown_timeout").is_empty() {
        // As near as possible to "for ever".
        defaults.push(Entry::of_default("shutdown_timeout", "365d"));
    }
    // nginx counts nobody's connections.
    defaults.push(Entry::of_default("max_prelogin_per_ip", "off"));
    explain(&mut defaults, around);
    section.entries.extend(defaults);
}

/// A page of memory there, four times as much here: longer commands would get another answer.
fn add_defaults(mail: &mut Section, servers: &[Section], around: &Surroundings) {
    let mut defaults = Vec::new();
    for (protocol, key) in [
        ("imap", "imap_client_buffer"),
        ("smtp", "smtp_client_buffer"),
    ] {
        let needs = |server: &&Section| {
            protocol_of(server).is_some_and(|its| its.name() == protocol)
                && server.values(key).is_empty()
        };
        if mail.values(key).is_empty() && servers.iter().any(|server| needs(&server)) {
            defaults.push(Entry::of_default(key, CLIENT_BUFFER));
        }
    }
    let sections = servers.iter().chain([&*mail]);
    if sections
        .flat_map(|section| section.values("starttls"))
        .any(|value| value == "only")
    {
        defaults.push(Entry::of_default("plain_login_answer", "bad"));
    }
    // A failed login costs nothing there.
    defaults.push(Entry::of_default("auth_penalty_max", "off"));
    // Only the backends of protocols that look the client's name up are told of it there.
    let is_told =
        |server: &Section| protocol_of(server).is_some_and(|its| !its.record().looks_up_client);
    if servers.iter().any(is_told) {
        defaults.push(Entry::of_default("send_client_id", "off"));
    }
    explain(&mut defaults, around);
    mail.entries.extend(defaults);
}

fn explain(defaults: &mut [Entry], around: &Surroundings) {
    if let Some(first) = defaults.first_mut() {
        let text = format!("# What {} does by default:", around.product());
        first.comments.insert(0, text);
    }
}

/// One `mail {}`, its servers named by nothing yet.
fn group(mail: &Directive, block: &Block, around: &Surroundings, losses: &mut Losses) -> Group {
    let mut group = Group {
        mail: Section::new("mail"),
        servers: Vec::new(),
    };
    group.mail.comments = mail.comments.clone();
    let ssl = fill(&mut group.mail, block, around, losses);
    for directive in &block.directives {
        if let ("server", Some(inner)) = (directive.name.as_str(), &directive.block) {
            let mut server = Section::new("");
            server.comments = directive.comments.clone();
            server.origin = Some(Origin::of(directive));
            let own = fill(&mut server, inner, around, losses);
            finish_server(&mut server, own.or(ssl).unwrap_or(false));
            group.servers.push(server);
        }
    }
    group
}

/// Converts what stands in a block, other than servers; returns its `ssl on`.
fn fill(
    section: &mut Section,
    block: &Block,
    around: &Surroundings,
    losses: &mut Losses,
) -> Option<bool> {
    let mut ssl = None;
    let mut carried = Vec::new();
    for directive in &block.directives {
        let name = directive.name.as_str();
        if name == "server" && directive.block.is_some() && section.title == "mail" {
            continue;
        }
        carried.extend(directive.comments.iter().cloned());
        // `proxy` has meant nothing for long, `ssl` is a parameter of `listen` today.
        if name == "proxy" || name == "ssl" {
            if name == "ssl" {
                let on = directive.arguments.first();
                ssl = Some(on.is_some_and(|on| on.eq_ignore_ascii_case("on")));
            }
            continue;
        }
        let converted = match name {
            "listen" | "protocol" if section.title == "mail" => {
                Err("it belongs into a server; write it there".to_owned())
            }
            _ => convert(directive, around),
        };
        let comments = std::mem::take(&mut carried);
        add(&mut section.entries, directive, comments, converted, losses);
    }
    section.end = carried;
    section.end.extend(block.comments.iter().cloned());
    ssl
}

/// Appends what a directive became, or adds its words to those that stand there already.
fn add(
    entries: &mut Vec<Entry>,
    directive: &Directive,
    comments: Vec<String>,
    converted: Result<Converted, String>,
    losses: &mut Losses,
) {
    let origin = Origin::of(directive);
    let mut entry = Entry {
        comments,
        key: "",
        value: String::new(),
        origin: Some(origin.clone()),
    };
    let converted = match converted {
        Ok(converted) => converted,
        Err(reason) => {
            entry.lose(&reason);
            entries.push(entry);
            losses.add(&origin, &reason);
            return;
        }
    };
    for reason in &converted.left_out {
        entry.note(reason);
        losses.add(&origin, reason);
    }
    for reason in &converted.needless {
        entry.note(reason);
    }
    if converted.settings.is_empty() {
        if !(converted.left_out.is_empty() && converted.needless.is_empty()) {
            entry.comments.push(format!("# {}", origin.source));
        }
        entries.push(entry);
        return;
    }
    for setting in converted.settings {
        let known = entries.iter_mut().find(|entry| entry.key == setting.key);
        if let Some(known) = known.filter(|_| ADD_UP.contains(&setting.key)) {
            known.value = format!("{} {}", known.value, setting.value);
            known.comments.append(&mut entry.comments);
            continue;
        }
        let comments = std::mem::take(&mut entry.comments);
        entries.push(Entry {
            comments,
            key: setting.key,
            value: setting.value,
            origin: Some(origin.clone()),
        });
    }
}

/// What nginx understands from several lines together.
fn finish_server(server: &mut Section, ssl: bool) {
    let listeners = server.entries.iter_mut();
    for entry in listeners.filter(|entry| ssl && entry.key == "listen") {
        entry.value = with_ssl(&entry.value);
    }
    // nginx takes the first port that tells; ports that contradict each other need the word here.
    let ports = server.values("listen").into_iter().filter_map(port);
    let implied: Vec<Protocol> = ports.filter_map(Protocol::of_port).collect();
    let unsaid = server.values("protocol").is_empty();
    if let Some(first) = implied.first()
        && unsaid
        && implied.iter().any(|other| other != first)
    {
        let last = server
            .entries
            .iter()
            .rposition(|entry| entry.key == "listen");
        let entry = Entry::of_default("protocol", first.name());
        server
            .entries
            .insert(last.map_or(0, |last| last + 1), entry);
    }
}

/// The protocol that a server speaks, if anything tells.
pub(super) fn protocol_of(server: &Section) -> Option<Protocol> {
    if let Some(word) = server.values("protocol").last() {
        return Protocol::by_name(word);
    }
    let mut ports = server.values("listen").into_iter().filter_map(port);
    ports.find_map(Protocol::of_port)
}

/// Names from protocol and port, each once.
fn name_servers(groups: &mut [Group]) {
    let mut taken: Vec<String> = Vec::new();
    for server in groups.iter_mut().flat_map(|group| &mut group.servers) {
        let base = readable_name(server);
        let others = (2..).map(|number| format!("{base}-{number}"));
        let mut names = std::iter::once(base.clone()).chain(others);
        let name = names.find(|name| !taken.contains(name)).unwrap_or(base);
        taken.push(name.clone());
        server.title = name;
    }
}

fn readable_name(server: &Section) -> String {
    let listeners = server.values("listen");
    let first = listeners.iter().find(|line| port(line).is_some());
    let first = first.or(listeners.first()).copied().unwrap_or_default();
    let (protocol, ssl) = (protocol_of(server), is_ssl(first));
    let word = protocol.map_or("mail", Protocol::name);
    match (port(first), ssl) {
        (Some(143 | 110 | 25), false) => word.to_owned(),
        (Some(993 | 995), true) => format!("{word}s"),
        (Some(587), false) => "submission".to_owned(),
        (Some(465), true) => "submissions".to_owned(),
        (Some(port), true) => format!("{word}s-{port}"),
        (Some(port), false) => format!("{word}-{port}"),
        (None, _) if first.starts_with("unix:") => format!("{word}-unix"),
        (None, _) => word.to_owned(),
    }
}

/// Turns servers that nginx would not start with either into comments; says whether there was one.
pub(super) fn lose_servers(document: &mut Document, losses: &mut Losses) -> bool {
    let (process_and_mail, servers) = document.sections.split_at_mut(2);
    let mail = &process_and_mail[1];
    let mut found = false;
    for server in servers.iter_mut().filter(|server| !server.off) {
        let Some(reason) = missing(server, mail) else {
            continue;
        };
        if let Some(origin) = &server.origin {
            losses.add(origin, &reason);
        }
        server.lose(&reason);
        found = true;
    }
    found
}

fn missing(server: &Section, mail: &Section) -> Option<String> {
    let values = |key: &str| {
        let own = server.values(key);
        if own.is_empty() {
            mail.values(key)
        } else {
            own
        }
    };
    let listeners = values("listen");
    if listeners.is_empty() {
        return Some("it listens nowhere; add a listen".to_owned());
    }
    if protocol_of(server).is_none() {
        let text = "no port tells its protocol; add protocol imap, pop3 or smtp";
        return Some(text.to_owned());
    }
    if values("auth_http").is_empty() {
        return Some("nobody decides about its logins; add auth_http".to_owned());
    }
    let starttls = values("starttls");
    let starttls = starttls.iter().any(|value| ["on", "only"].contains(value));
    if !starttls && !listeners.iter().any(|line| is_ssl(line)) {
        return None;
    }
    for key in ["ssl_certificate", "ssl_certificate_key"] {
        if values(key).is_empty() {
            return Some(format!("it speaks TLS without a certificate; add {key}"));
        }
    }
    if values("ssl_certificate").len() != values("ssl_certificate_key").len() {
        let text = "not every ssl_certificate has its ssl_certificate_key; write as many of both";
        return Some(text.to_owned());
    }
    let verifies = values("ssl_verify_client");
    let verifies = verifies
        .iter()
        .any(|value| ["on", "optional"].contains(value));
    let issuers = ["ssl_client_certificate", "ssl_trusted_certificate"];
    if verifies && issuers.iter().all(|key| values(key).is_empty()) {
        let text = "it has no issuer to trust for ssl_verify_client; add ssl_client_certificate";
        return Some(text.to_owned());
    }
    None
}
