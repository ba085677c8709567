//! nginx and Postern side by side: Debian's nginx, and Postern with what `postern import-nginx` makes
//! of its configuration, play the same dialogues in front of the same auth servers and backends.
//!
//! Every line that the client, the auth server and the backend see is compared. What differs must
//! stand in `side_by_side/differences.rs`, and what stands there must differ.

mod dialogue;
mod differences;
mod play;
mod stage;

use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use self::differences::{Difference, Met, TABLE};
use self::play::{NO_TLS, Patience, WAYS};
use self::stage::{Seen, Stage};
use crate::common::ports::free_port;
use crate::common::postern::Postern;
use crate::servers::dnsmasq::{Dnsmasq, named};
use crate::servers::local;
use crate::servers::nginx::Nginx;
use crate::servers::pki::Pki;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Dialogues played at a time; a proxy takes 32 clients of one address.
const PLAYERS: usize = 20;

const BRISK: Patience = Patience {
    line: Duration::from_millis(2500),
    silence: Duration::from_millis(60),
};

/// For what went otherwise at first: a machine that is busy makes no difference.
const SLOW: Patience = Patience {
    line: Duration::from_secs(5),
    silence: Duration::from_millis(800),
};

const UNUSED_ROOTS: &str = "proxy_ssl_trusted_certificate = ";

#[test]
fn nginx_and_postern_say_the_same() {
    raise_limit();
    let names = named(1, "client.example.test");
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let dns = Dnsmasq::start(&names);
    let stages: Vec<Stage> = dialogue::all()
        .into_iter()
        .map(|dialogue| Stage::new(dialogue, free_port()))
        .collect();
    let servers: String = stages
        .iter()
        .map(|stage| stage.server(dns.address))
        .collect();
    let mail = format!("mail {{\nserver_name proxy.test;\n{servers}}}\n");
    let nginx = Nginx::start(&mail, stages.last().expect("there are dialogues").port);
    let (postern, addresses) = imported(&nginx);
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Found::default());
    thread::scope(|scope| {
        for _ in 0..PLAYERS {
            scope.spawn(|| {
                while let Some(stage) = stages.get(next.fetch_add(1, Ordering::Relaxed)) {
                    compare(stage, addresses[&stage.port], &found);
                }
            });
        }
    });
    let found = found.into_inner().expect("no holder panics");
    let complaints = found.complaints();
    assert!(
        complaints.is_empty(),
        "{complaints}\n--- the end of Postern's log\n{}\n--- the end of nginx's log\n{}",
        tail(&postern.log()),
        tail(&fs::read_to_string(&nginx.log).unwrap_or_default())
    );
}

/// All these servers and backends are more descriptors than a shell allows by itself.
fn raise_limit() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("every process has limits");
    setrlimit(Resource::RLIMIT_NOFILE, most.min(8192), most).expect("it may be raised so far");
}

/// Starts Postern with nginx's configuration; where its listeners are by nginx's port.
fn imported(nginx: &Nginx) -> (Postern, HashMap<u16, SocketAddr>) {
    let ini = import(&nginx.config);
    let authority = Pki::shared().authority();
    let mut sections = HashMap::new();
    let mut section = "";
    let mut text = String::new();
    for line in ini.lines() {
        if let Some(name) = line.strip_prefix("[server ") {
            section = name.trim_end_matches(']');
        }
        let line = match line.strip_prefix("listen = 127.0.0.1:") {
            None if line.starts_with("error_log") => "error_log = stderr info".to_owned(),
            // Two processes cannot share it.
            None if line.starts_with("pid") => String::new(),
            // No backend here has TLS, and hundreds of servers need not read the system's store.
            None if line == "[mail]" => format!("[mail]\n{UNUSED_ROOTS}{}", authority.display()),
            None => line.to_owned(),
            Some(rest) => {
                let (port, flags) = rest.split_once(' ').unwrap_or((rest, ""));
                let port: u16 = port.parse().expect("it was a port");
                sections.insert(port, section);
                format!("listen = 127.0.0.1:0 {flags}")
            }
        };
        writeln!(text, "{line}").expect("a String takes everything");
    }
    let postern = Postern::start(&text);
    let addresses = sections
        .into_iter()
        .map(|(port, section)| (port, postern.address(section)))
        .collect();
    (postern, addresses)
}

fn import(config: &Path) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_postern"))
        .arg("import-nginx")
        .arg(config)
        .output()
        .expect("postern runs");
    let warnings = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{warnings}");
    String::from_utf8(output.stdout).expect("configurations are UTF-8")
}

/// What became of all dialogues.
#[derive(Default)]
struct Found {
    /// What of the table was met.
    met: HashSet<Met>,
    unlisted: Vec<String>,
}

impl Found {
    fn complaints(&self) -> String {
        let mut unlisted = self.unlisted.clone();
        unlisted.sort();
        let mut text = unlisted.concat();
        for (number, row) in TABLE.iter().enumerate() {
            let missing = row.all(number).into_iter();
            let missing = missing.filter(|met| !self.met.contains(met));
            text.extend(missing.map(|met| row.complaint(met)));
        }
        text
    }
}

fn compare(stage: &Stage, postern: SocketAddr, found: &Mutex<Found>) {
    for way in WAYS {
        if !stage.dialogue.goes(way) {
            continue;
        }
        let name = format!("{} {way}", stage.dialogue.name);
        let mut result = Found::default();
        for patience in [BRISK, SLOW] {
            let theirs = stage.play(way, local(stage.port), patience);
            let ours = stage.play(way, postern, patience);
            result = judge(&name, &theirs, &ours);
            if result.unlisted.is_empty() {
                break;
            }
        }
        let mut found = found.lock().expect("no holder panics");
        found.met.extend(result.met);
        found.unlisted.extend(result.unlisted);
    }
}

fn judge(name: &str, nginx: &Seen, postern: &Seen) -> Found {
    let mut result = Found::default();
    // Were both alike in that, the dialogue would be wrong.
    if postern.client.iter().any(|line| line.starts_with(NO_TLS)) {
        result.unlisted.push(format!("{name}: no TLS\n"));
    }
    let pairs = [
        ("client", &nginx.client, &postern.client),
        ("auth", &nginx.auth, &postern.auth),
        ("backend", &nginx.backend, &postern.backend),
    ];
    for (party, theirs, ours) in pairs {
        for difference in differences::between(theirs, ours) {
            match differences::met(name, party, &difference) {
                Some(met) => drop(result.met.insert(met)),
                None => result.unlisted.push(report(name, party, &difference)),
            }
        }
    }
    result
}

fn report(name: &str, party: &str, difference: &Difference) -> String {
    let Difference { nginx, postern } = difference;
    let short = |text: &str| text.chars().take(400).collect::<String>();
    let (nginx, postern) = (short(nginx), short(postern));
    format!("{name}, {party}\n    nginx:   {nginx}\n    Postern: {postern}\n")
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(5)..].join("\n")
}
