//! The table of directives for people: the reference, the sample configuration and the manual page.
//!
//! All come from the table alone; the committed sample and page are compared with it by a test.

use std::fmt::Write;

use super::directives::{DIRECTIVES, DefaultValue, Directive, SectionKind, Setter};
use super::draft::show_section;
use crate::protocol::Protocol;

const WIDTH: usize = 78;

/// Every directive with its sections, type, default and help, in the order of the table. Plain text;
/// names stand in the first column, everything else is indented by four spaces.
pub fn reference() -> String {
    let entries: Vec<String> = DIRECTIVES.iter().map(describe).collect();
    entries.join("\n")
}

/// The whole of `etc/postern.ini`: a small office's set-up, and every other directive commented out
/// with its default.
pub fn sample() -> String {
    let mut text = prose(INTRODUCTION);
    for kind in SectionKind::ALL {
        text.push('\n');
        match kind {
            SectionKind::Server => sample_servers(&mut text),
            SectionKind::Postern | SectionKind::Mail => sample_section(&mut text, kind),
            SectionKind::Backend | SectionKind::Routes => sample_remark(&mut text, kind),
        }
    }
    text
}

const INTRODUCTION: &str = "Postern: a proxy in front of IMAP, POP3 and SMTP servers.\n\
    \n\
    Lines that begin with # are remarks. Lines that begin with ; are settings with their default, \
    or with an example where another default is named: take the ; away and change them. Look at \
    the result with `postern check --config FILE` before you start or reload Postern.\n\
    \n\
    Times are 500ms, 30s, 5m, 24h, 1d or sums such as 1h30m; a bare number is seconds. Sizes are \
    bytes, 4k or 1m. Items of a list are separated by spaces or commas; an item with spaces stands \
    in double quotes. File names are relative to the folder of this file.";

const OF_MAIL: &str = "Settings of all servers. Each may stand in a [server NAME] section too, \
    where it replaces what stands here for that server.";

const OF_PROCESS: &str = "Settings of the whole process.";

const OF_SERVERS: &str = "The servers: one section for each, with a name of your choice. What \
    stands above in [mail] may stand here too.";

const OF_BACKENDS: &str = "Backends by name: one section for each, needed with auth = passthrough or file, and \
    for the Auth-Backend of an auth server. proxy_ssl, proxy_ssl_…, proxy_protocol, send_client_id, \
    tls_library, xclient and master_… may stand here too, as in [mail]; what stands there does not hold here.";

const OF_ROUTES: &str = "Which backend takes whom, with auth = passthrough, and with auth = file for users without backend=. A single backend takes \
    everyone without this section.";

const RESERVED: &str = "Known, but refused by this version:";

/// The manual page postern.ini(5), in mdoc(7).
pub fn manual() -> String {
    let mut text = MANUAL_BEGINS.to_owned();
    for paragraph in INTRODUCTION
        .split('\n')
        .skip(2)
        .filter(|line| !line.is_empty())
    {
        text.push_str(".Pp\n");
        sentences(&mut text, paragraph);
    }
    for kind in SectionKind::ALL {
        let about = match kind {
            SectionKind::Postern => OF_PROCESS,
            SectionKind::Mail => OF_MAIL,
            SectionKind::Server => OF_SERVERS,
            SectionKind::Backend => OF_BACKENDS,
            SectionKind::Routes => OF_ROUTES,
        };
        let title = match kind.is_named() {
            true => format!("[{} NAME]", kind.word()),
            false => format!("[{}]", kind.word()),
        };
        // Writing to a String cannot fail.
        let _ = writeln!(text, ".Ss {title}");
        sentences(&mut text, about);
        text.push_str(".Bl -tag -width Ds\n");
        let here = |d: &&Directive| d.stands_in(kind) && !in_earlier(d, kind);
        for directive in DIRECTIVES.iter().filter(here) {
            let _ = writeln!(
                text,
                ".It Ic {} = Ar {}",
                directive.name,
                plain(&directive.kind_text())
            );
            let mut about = directive.help.to_owned();
            if directive.repeatable {
                about.push_str(" May stand several times.");
            }
            let sections: Vec<String> = directive
                .sections
                .iter()
                .map(|p| show_section(*p))
                .collect();
            let _ = write!(
                about,
                " Default: {}. Stands in {}.",
                directive.default_text(),
                sections.join(" ")
            );
            sentences(&mut text, &about);
        }
        text.push_str(".El\n");
    }
    text.push_str(MANUAL_ENDS);
    text
}

const MANUAL_BEGINS: &str = r#".\" Generated from the table of directives; see packaging/man.
.Dd $Mdocdate$
.Dt POSTERN.INI 5
.Os
.Sh NAME
.Nm postern.ini
.Nd configuration of the mail proxy postern
.Sh SYNOPSIS
.Pa /etc/postern/postern.ini
.Sh DESCRIPTION
The file has sections in square brackets with lines
.Ql key = value
below them.
"#;

const MANUAL_ENDS: &str = r#".Sh FILES
.Bl -tag -width Ds
.It Pa /etc/postern/postern.ini
The configuration.
.It Pa /usr/share/doc/postern/examples/postern.ini
Every directive with its default.
.El
.Sh EXAMPLES
A small office whose mail server decides who may log in:
.Bd -literal -offset indent
[server imap]
listen = 143

[server submission]
listen = 587

[backend office]
hosts = mail.internal
.Ed
.Sh SEE ALSO
.Xr postern 8
"#;

/// A line for each sentence, as mdoc(7) wants it, so that the distance between them is right.
fn sentences(text: &mut String, paragraph: &str) {
    let paragraph = plain(paragraph);
    let mut rest = paragraph.as_str();
    while let Some(at) = rest.find(". ") {
        let (sentence, others) = rest.split_at(at + 1);
        line(text, sentence);
        rest = others.trim_start();
    }
    line(text, rest);
}

/// No line of text may begin like a request, or end in a space.
fn line(text: &mut String, sentence: &str) {
    let sentence = sentence.trim();
    if sentence.is_empty() {
        return;
    }
    if sentence.starts_with(['.', '\'']) {
        text.push_str("\\&");
    }
    text.push_str(sentence);
    text.push('\n');
}

/// Characters that roff takes for something else.
fn plain(text: &str) -> String {
    text.replace('\\', "\\e")
        .replace('…', "\\[u2026]")
        .replace('–', "\\(en")
        .replace('×', "\\(mu")
}

fn describe(directive: &'static Directive) -> String {
    let mut text = format!("{}\n", directive.name);
    let sections: Vec<String> = directive
        .sections
        .iter()
        .map(|p| show_section(*p))
        .collect();
    let mut field = |name: &str, value: &str| {
        let first = format!("    {name:<10}");
        wrap(&mut text, value, &first, &" ".repeat(14));
    };
    field("Sections:", &sections.join(" "));
    let repeat = if directive.repeatable {
        "; may stand several times"
    } else {
        ""
    };
    field("Type:", &format!("{}{repeat}", directive.kind_text()));
    field("Default:", &directive.default_text());
    if let Some(protocol) = directive.only {
        field("Only for:", protocol.name());
    }
    if matches!(directive.setter, Setter::NotYet) {
        field("Status:", "not supported yet by this version");
    }
    wrap(&mut text, directive.help, "    ", "    ");
    text
}

fn sample_section(text: &mut String, kind: SectionKind) {
    let about = if kind == SectionKind::Mail {
        OF_MAIL
    } else {
        OF_PROCESS
    };
    text.push_str(&prose(about));
    // Writing to a String cannot fail.
    let _ = writeln!(text, "{}", show_section(kind));

    let here = |directive: &&Directive| directive.stands_in(kind) && !in_earlier(directive, kind);
    for directive in DIRECTIVES.iter().filter(here).filter(is_supported) {
        text.push('\n');
        text.push_str(&prose(directive.help));
        default_remark(text, directive);
        let setting = setting(directive);
        let mark = if directive.name == "auth_http" {
            ""
        } else {
            ";"
        };
        let _ = writeln!(text, "{mark}{setting}");
    }
    reserved(text, DIRECTIVES.iter().filter(here));
}

fn sample_servers(text: &mut String) {
    text.push_str(&prose(OF_SERVERS));
    for (at, record) in Protocol::ALL.map(Protocol::record).iter().enumerate() {
        let port = record.login_port;
        let _ = writeln!(text, "[server {}]", record.name);
        if at == 0 {
            let own = |d: &&Directive| {
                d.stands_in(SectionKind::Server) && !d.stands_in(SectionKind::Mail)
            };
            for directive in DIRECTIVES.iter().filter(own).filter(is_supported) {
                text.push('\n');
                text.push_str(&prose(directive.help));
                let _ = match directive.name {
                    "listen" => writeln!(text, "listen = {port}\n;listen = [::]:{port}"),
                    _ => {
                        let default = format!("Default: {}.", directive.default_text());
                        text.push_str(&prose(&default));
                        writeln!(text, ";{}", setting(directive))
                    }
                };
            }
        } else {
            let _ = writeln!(text, "listen = {port}\n;listen = [::]:{port}");
        }
        text.push('\n');
    }
    text.pop();
}

/// A section that is wholly commented out.
fn sample_remark(text: &mut String, kind: SectionKind) {
    let (about, header) = match kind {
        SectionKind::Routes => (OF_ROUTES, "[routes]"),
        SectionKind::Postern | SectionKind::Mail | SectionKind::Server | SectionKind::Backend => {
            (OF_BACKENDS, "[backend office]")
        }
    };
    text.push_str(&prose(about));
    let _ = writeln!(text, ";{header}");
    let here = |d: &&Directive| d.stands_in(kind) && !in_earlier(d, kind);
    for directive in DIRECTIVES.iter().filter(here) {
        text.push('\n');
        text.push_str(&prose(directive.help));
        default_remark(text, directive);
        let _ = writeln!(text, ";{}", setting(directive));
    }
}

/// The default, where it is not what the setting shows.
fn default_remark(text: &mut String, directive: &Directive) {
    if let DefaultValue::HostName
    | DefaultValue::Unset(_)
    | DefaultValue::InBackend(..)
    | DefaultValue::OrAuto(_) = directive.default
    {
        let default = format!("Default: {}.", directive.default_text());
        text.push_str(&prose(&default));
    }
}

fn reserved<'a>(text: &mut String, directives: impl Iterator<Item = &'a Directive>) {
    let directives: Vec<&Directive> = directives.filter(|d| !is_supported(d)).collect();
    if directives.is_empty() {
        return;
    }
    text.push('\n');
    text.push_str(&prose(RESERVED));
    for directive in directives {
        let _ = writeln!(text, ";{}", setting(directive));
    }
}

fn is_supported(directive: &&Directive) -> bool {
    matches!(directive.setter, Setter::Is(_))
}

/// Whether the sample has the directive in a section above already.
fn in_earlier(directive: &Directive, kind: SectionKind) -> bool {
    let mut earlier = SectionKind::ALL
        .iter()
        .take_while(|earlier| **earlier != kind);
    earlier.any(|earlier| directive.stands_in(*earlier))
}

fn setting(directive: &Directive) -> String {
    let value = match directive.default {
        DefaultValue::Text(text)
        | DefaultValue::OfProcess(text)
        | DefaultValue::Implied(text)
        | DefaultValue::InBackend(_, text) => text,
        DefaultValue::OrAuto(text) if !text.is_empty() => text,
        _ if directive.example.is_empty() => "…",
        _ => directive.example,
    };
    format!("{} = {value}", directive.name)
}

fn prose(text: &str) -> String {
    let mut lines = String::new();
    for paragraph in text.split('\n') {
        wrap(&mut lines, paragraph, "# ", "# ");
    }
    lines.replace("# \n", "#\n")
}

/// Adds a paragraph, broken at spaces.
fn wrap(text: &mut String, paragraph: &str, first: &str, other: &str) {
    let mut line = first.to_owned();
    let mut empty = true;
    for word in paragraph.split_whitespace() {
        if !empty && line.chars().count() + 1 + word.chars().count() > WIDTH {
            text.push_str(&line);
            text.push('\n');
            line = other.to_owned();
            empty = true;
        }
        if !empty {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    text.push_str(&line);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/etc/postern.ini");

    #[test]
    fn the_committed_sample_comes_from_the_table() {
        if std::env::var_os("UPDATE_SAMPLE").is_some() {
            std::fs::write(SAMPLE, sample()).expect("the sample can be written");
        }
        let committed = std::fs::read_to_string(SAMPLE).expect("etc/postern.ini");
        let differs = committed
            .lines()
            .zip(sample().lines().map(str::to_owned).collect::<Vec<_>>())
            .position(|(committed, generated)| committed != generated);
        assert!(
            committed == sample(),
            "etc/postern.ini differs from the table (line {differs:?}, from 0); \
             UPDATE_SAMPLE=1 cargo test --lib the_committed_sample rewrites it"
        );
    }

    #[test]
    fn the_committed_page_comes_from_the_table() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/man/postern.ini.5");
        if std::env::var_os("UPDATE_SAMPLE").is_some() {
            std::fs::write(page, manual()).expect("the page can be written");
        }
        let committed = std::fs::read_to_string(page).expect("packaging/man/postern.ini.5");
        assert!(
            committed == manual(),
            "postern.ini.5 differs from the table; \
             UPDATE_SAMPLE=1 cargo test --lib the_committed_page rewrites it"
        );
    }

    #[test]
    fn the_sample_is_a_good_configuration() {
        let config = super::super::parse(&sample(), Path::new("postern.ini"));
        let config = config.expect("no mistakes");
        assert_eq!(config.warnings, Vec::<String>::new());
        assert_eq!(config.servers.len(), 3);
    }

    #[test]
    fn the_sample_and_the_reference_name_every_directive() {
        let (sample, reference) = (sample(), reference());
        for directive in DIRECTIVES {
            let name = directive.name;
            let in_sample = sample.lines().any(|line| {
                line.trim_start_matches(';')
                    .starts_with(&format!("{name} = "))
            });
            assert!(in_sample, "{name} is not in the sample");
            assert!(
                reference.lines().any(|line| line == name),
                "{name} is not in the reference"
            );
        }
    }

    #[test]
    fn no_line_is_too_wide() {
        for line in sample().lines().chain(reference().lines()) {
            assert!(line.chars().count() <= 100, "{line}");
        }
    }
}
