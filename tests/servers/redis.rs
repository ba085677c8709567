//! Redis, or Valkey where that is what is installed: a store that nodes share.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::Signal;

use super::{START, local};
use crate::common::ports::free_port;
use crate::common::process::Process;
use crate::common::temp::TempDir;
use crate::common::tools::run;
use crate::common::wait;
use crate::servers::pki::Pki;

/// A running store, over TCP, TLS and a Unix socket.
pub(crate) struct Redis {
    /// Where it listens without TLS.
    pub(crate) address: SocketAddr,
    tls_port: u16,
    password: Option<&'static str>,
    folder: TempDir,
    process: Process,
}

impl Redis {
    /// Starts one that lets everybody in.
    pub(crate) fn start() -> Redis {
        Redis::start_with(free_port(), None)
    }

    /// Starts one at this port that wants this password.
    pub(crate) fn start_with(port: u16, password: Option<&'static str>) -> Redis {
        let folder = TempDir::new("redis");
        let pair = Pki::shared().server();
        let tls_port = free_port();
        let dir = folder.path().display();
        let mut config = format!(
            "bind 127.0.0.1\nport {port}\ntls-port {tls_port}\ntls-cert-file {}\ntls-key-file {}\n\
             tls-ca-cert-file {}\ntls-auth-clients no\nunixsocket {dir}/redis.sock\nunixsocketperm 777\n\
             dir {dir}\nsave \"\"\nappendonly no\ndaemonize no\nprotected-mode no\nlogfile {dir}/redis.log\n",
            pair.certificate.display(),
            pair.key.display(),
            Pki::shared().authority().display(),
        );
        if let Some(password) = password {
            config.push_str(&format!("requirepass {password}\n"));
        }
        let file = folder.write("redis.conf", config);
        let process = Process::start_silent(program("server"), [file]);
        let mut redis = Redis {
            address: local(port),
            tls_port,
            password,
            folder,
            process,
        };
        redis.wait_until_it_answers();
        redis
    }

    fn wait_until_it_answers(&mut self) {
        wait::until("the store answers", START, || {
            if let Some(status) = self.process.try_status() {
                let log = std::fs::read_to_string(self.folder.path().join("redis.log"));
                panic!(
                    "the store ended with {status}:\n{}",
                    log.unwrap_or_default()
                );
            }
            let said = run(program("cli"), &self.arguments(&["PING"]), b"");
            (said.success && said.stdout.starts_with(b"PONG")).then_some(())
        });
    }

    /// `limits_store` for it.
    pub(crate) fn url(&self) -> String {
        format!("redis://{}{}", self.login(), self.address)
    }

    /// The same over TLS; the certificate names localhost.
    pub(crate) fn tls_url(&self) -> String {
        format!("rediss://{}localhost:{}", self.login(), self.tls_port)
    }

    /// The same over its Unix socket.
    pub(crate) fn unix_url(&self) -> String {
        format!("redis+unix://{}{}", self.login(), self.socket().display())
    }

    fn login(&self) -> String {
        self.password
            .map_or(String::new(), |password| format!(":{password}@"))
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    /// What it answers to a command, a line each.
    pub(crate) fn ask(&self, command: &[&str]) -> Vec<String> {
        let said = run(program("cli"), &self.arguments(command), b"").text();
        said.lines().map(str::to_owned).collect()
    }

    fn arguments<'a>(&'a self, command: &[&'a str]) -> Vec<&'a str> {
        let port: &str = Box::leak(self.address.port().to_string().into_boxed_str());
        let mut arguments = vec!["-h", "127.0.0.1", "-p", port];
        if let Some(password) = self.password {
            arguments.extend(["--no-auth-warning", "-a", password]);
        }
        arguments.extend(command);
        arguments
    }

    /// Its keys that begin so.
    pub(crate) fn keys(&self, beginning: &str) -> Vec<String> {
        let mut keys = self.ask(&["KEYS", &format!("{beginning}*")]);
        keys.retain(|key| !key.is_empty());
        keys
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    /// Kills it, and waits until it is gone; gives its port.
    pub(crate) fn kill(mut self) -> u16 {
        self.signal(Signal::SIGKILL);
        self.process.wait(Duration::from_secs(10));
        self.address.port()
    }
}

/// `redis-server` or `valkey-server`, and the like.
fn program(what: &str) -> &'static str {
    let is_there = |name: &str| {
        let found = Command::new("sh")
            .args(["-c", &format!("command -v {name}")])
            .output();
        found.is_ok_and(|found| found.status.success())
    };
    let (redis, valkey) = match what {
        "server" => ("redis-server", "valkey-server"),
        _ => ("redis-cli", "valkey-cli"),
    };
    match is_there(valkey) {
        true => valkey,
        false => redis,
    }
}
