//! The dialogues that are played to both proxies: those of `tests/dialogues` for which nginx can be
//! configured, and those of `dialogues.txt` beside this file, whose head says what it adds to
//! `tests/dialogues/FORMAT.txt`. Nothing is sent here.

use std::fs;
use std::path::Path;

use crate::dialogues::script::{Script, Step as Said};

/// The directives of nginx 1.22 that dialogues set.
const KNOWN: &[&str] = &[
    "auth_http_header",
    "auth_http_pass_client_cert",
    "auth_http_timeout",
    "imap_auth",
    "imap_capabilities",
    "imap_client_buffer",
    "max_errors",
    "pop3_auth",
    "pop3_capabilities",
    "proxy_pass_error_message",
    "proxy_protocol",
    "proxy_smtp_auth",
    "proxy_timeout",
    "resolver",
    "server_name",
    "set_real_ip_from",
    "smtp_auth",
    "smtp_capabilities",
    "smtp_client_buffer",
    "smtp_greeting_delay",
    "ssl_client_certificate",
    "ssl_verify_client",
    "ssl_verify_depth",
    "starttls",
    "timeout",
    "xclient",
];

/// One dialogue, with what it needs around it.
pub(crate) struct Dialogue {
    /// `PROTOCOL/NAME`.
    pub(crate) name: String,
    /// `imap`, `pop3` or `smtp`.
    pub(crate) protocol: String,
    /// Directives of its server, as nginx writes them.
    pub(crate) config: Vec<String>,
    /// Flags of its `listen`.
    pub(crate) listen: String,
    /// How the backend behaves; empty is properly.
    pub(crate) backend: String,
    /// Answers of the auth server in turn.
    pub(crate) auth: Vec<Vec<String>>,
    /// What happens, in order.
    pub(crate) steps: Vec<Step>,
    ways: Vec<String>,
}

/// One step.
pub(crate) enum Step {
    /// As in any dialogue. What is expected tells only how many lines to wait for.
    Said(Said),
    /// A TLS handshake, with this certificate.
    Tls(Identity),
}

/// What a client shows of itself in a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Identity {
    /// Nothing.
    Nobody,
    /// A certificate of the authority that servers trust.
    Known,
    /// A certificate that it has made itself.
    Stranger,
}

impl Dialogue {
    /// Whether it is played this way.
    pub(crate) fn goes(&self, way: &str) -> bool {
        self.ways.is_empty() || self.ways.iter().any(|wanted| wanted == way)
    }
}

/// All of them.
///
/// # Panics
/// When a file cannot be read as dialogues.
pub(crate) fn all() -> Vec<Dialogue> {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut dialogues = Vec::new();
    for protocol in ["imap", "pop3", "smtp"] {
        let folder = tests.join("dialogues").join(protocol);
        let entries = fs::read_dir(&folder).expect("the folder is part of the source");
        let mut files: Vec<_> = entries
            .map(|entry| entry.expect("an entry").path())
            .collect();
        files.sort();
        for file in files {
            let stem = file.file_stem().unwrap_or_default().to_string_lossy();
            let text = fs::read_to_string(&file).expect("a listed file can be read");
            let dialogue = read(&format!("{protocol}/{stem}"), &text);
            if nginx_knows(&dialogue) {
                dialogues.push(dialogue);
            }
        }
    }
    let more = fs::read_to_string(tests.join("side_by_side/dialogues.txt"));
    let more = more.expect("the file is part of the source");
    for part in more.split("\n== ").skip(1) {
        let (name, text) = part.split_once('\n').unwrap_or((part, ""));
        let dialogue = read(name.trim(), text);
        assert!(nginx_knows(&dialogue), "{name}: nginx does not know that");
        dialogues.push(dialogue);
    }
    dialogues
}

fn nginx_knows(dialogue: &Dialogue) -> bool {
    dialogue.config.iter().all(|line| {
        let key = line.split(' ').next().unwrap_or_default();
        KNOWN.contains(&key) && !line.contains("oauth")
    })
}

fn read(name: &str, text: &str) -> Dialogue {
    let mut dialogue = Dialogue {
        name: name.to_owned(),
        protocol: name.split('/').next().unwrap_or_default().to_owned(),
        config: Vec::new(),
        listen: String::new(),
        backend: String::new(),
        auth: Vec::new(),
        steps: Vec::new(),
        ways: Vec::new(),
    };
    let mut plain = String::new();
    for line in text.lines() {
        let identity = match line {
            "tls" => Identity::Nobody,
            "tls known" => Identity::Known,
            "tls stranger" => Identity::Stranger,
            _ => {
                plain.push_str(&dialogue.header(line));
                continue;
            }
        };
        dialogue.say(&std::mem::take(&mut plain));
        dialogue.steps.push(Step::Tls(identity));
    }
    dialogue.say(&plain);
    dialogue
}

impl Dialogue {
    /// Takes a header of our own; any other line comes back as `Script` reads it.
    fn header(&mut self, line: &str) -> String {
        if let Some(flags) = line.strip_prefix("listen: ") {
            flags.clone_into(&mut self.listen);
        } else if let Some(kind) = line.strip_prefix("backend: ") {
            kind.clone_into(&mut self.backend);
        } else if let Some(count) = line.strip_prefix("S ") {
            let count = count.parse().expect("S and a number");
            return "S: <ANY>\n".repeat(count);
        } else {
            return format!("{line}\n");
        }
        String::new()
    }

    fn say(&mut self, text: &str) {
        let script = Script::parse(text).unwrap_or_else(|why| panic!("{}: {why}", self.name));
        for line in script.config {
            let (key, value) = line.split_once(" = ").expect("KEY = VALUE");
            self.config.push(format!("{key} {value}"));
        }
        self.auth.extend(script.auth);
        self.ways.extend(script.ways);
        self.steps.extend(script.steps.into_iter().map(Step::Said));
    }
}
