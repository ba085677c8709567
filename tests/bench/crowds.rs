//! How postern does under crowds, and what a session costs, beside Debian's nginx in the same run.
//!
//! ```text
//! cargo bench --bench crowds -- SCENARIO...      one or more of those below, or `all`
//!   --workers N            postern's `workers`; 4 is the hard case
//!   --backlog N            `backlog` of every listener (postern: 4096, nginx: 511)
//!   --set KEY=VALUE        a setting of postern's [postern], or with mail.KEY=VALUE of [mail]
//!   --postern FILE         another binary of postern instead of the one just built
//!   --before FILE          a second binary, called "before", which gets no --set
//!   --only postern|before|nginx
//!   --seconds N            how long logins come in (10)
//!   --settle N             seconds between the last login and the measurement of `idle` (8)
//!   --percent N            smaller crowds, for a quick look
//! ```
//!
//! | scenario | who comes | what must be true |
//! |---|---|---|
//! | `herd` | 1000, 2000, 3000 honest clients at once, rtt 20, 50, 100 ms; 200 of one address | all get in, p99 ≤ 1 s |
//! | `silent` | 5000 connections that say nothing and come back | honest logins beside: all, p99 ≤ 20 ms |
//! | `chatty` | 132 and 1000 connections that say NOOP every 100 ms | the same |
//! | `one-address` | 125 to 1200 logins a second of one address, rtt 250 ms | all, until the machine is full |
//! | `greeting-delay` | 10, 16, 200 SMTP clients a second that wait for 2 s | all get in, none early |
//! | `slow-backend` | 16 logins to a backend that never greets, 16 workers | clients of another: all, p99 ≤ 20 ms |
//! | `auth-wait` | 40 connections that guess under `Auth-Wait: 3` | 13 guesses a second, none known early |
//! | `idle` | 5000 silent sessions, plain and TLS | threads, memory a session, all answer NOOP |
//! | `cpu` | 4000 short sessions, 8 and 64 at a time; NOOP there and back | figures to compare |
//!
//! A login's time is what its client waited for the proxy, without the waits of its own (`rtt`) between
//! an answer and the next line. The clients of a run are one thread of this process, a crowd beside them
//! is another; auth server and backends are one thread of a second process; so a proxy's processes hold
//! nothing but the proxy. Clients come from 127.1.0.0/16. Both proxies log at level info to a file.
//! Verdicts are words, not an exit status: a machine that does something else at the same time makes
//! them wrong.

mod backends;
mod client;
#[expect(dead_code, reason = "the tests use the rest")]
#[path = "../common/mod.rs"]
mod common;
mod load;
mod memory;
mod proxies;
mod report;
mod scenarios;
#[expect(dead_code, reason = "the tests use the rest")]
#[path = "../servers/mod.rs"]
mod servers;
mod stage;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use backends::Backends;
use common::temp::TempDir;
use proxies::Program;
use scenarios::Scenario;
use servers::certificate;
use stage::Stage;

/// How postern does under crowds, beside nginx.
#[derive(Parser)]
struct Options {
    /// What to run, or `all`
    #[arg(value_name = "SCENARIO")]
    scenarios: Vec<String>,
    /// postern's `workers`
    #[arg(long)]
    workers: Option<usize>,
    /// `backlog` of every listener, of both programs
    #[arg(long)]
    backlog: Option<usize>,
    /// A setting of postern's [postern], or with mail.KEY=VALUE of [mail]
    #[arg(long, value_name = "KEY=VALUE", value_parser = setting)]
    set: Vec<(String, String, String)>,
    /// Another binary of postern instead of the one just built
    #[arg(long, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_postern"))]
    postern: PathBuf,
    /// A second binary, which gets no --set
    #[arg(long, value_name = "FILE")]
    before: Option<PathBuf>,
    /// Only this one: postern, before or nginx
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// How long logins come in
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Seconds between the last login and the measurement of `idle`
    #[arg(long, default_value_t = 8)]
    settle: u64,
    /// Smaller crowds, for a quick look
    #[arg(long, default_value_t = 100)]
    percent: usize,
    /// What cargo says to each benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() == Some(backends::COMMAND) {
        return outcome(backends::serve().map_err(|error| error.to_string()));
    }
    outcome(run(Options::parse()))
}

#[expect(clippy::print_stderr, reason = "it has no log")]
fn outcome(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("crowds: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: Options) -> Result<(), String> {
    let scenarios = chosen(&options.scenarios)?;
    if scenarios.is_empty() {
        let names = Scenario::value_variants().iter().map(|one| name(*one));
        let names: Vec<String> = names.collect();
        report::run(&format!("Name a scenario: {}, or all.", names.join(", ")));
        return Ok(());
    }
    memory::raise_descriptor_limit()?;
    let folder = TempDir::new("bench-tls");
    let stage = Stage {
        programs: programs(&options)?,
        backends: Backends::start(),
        certificate: certificate::make(folder.path()),
        workers: options.workers,
        backlog: options.backlog,
        seconds: options.seconds,
        settle: Duration::from_secs(options.settle),
        percent: options.percent,
    };
    for program in &stage.programs {
        report::run(&program.description());
    }
    report::run(&memory::machine());
    for scenario in scenarios {
        scenario.play(&stage);
    }
    Ok(())
}

fn chosen(names: &[String]) -> Result<Vec<Scenario>, String> {
    if names.iter().any(|name| name == "all") {
        return Ok(Scenario::value_variants().to_vec());
    }
    let scenarios = names.iter().map(|name| Scenario::from_str(name, true));
    scenarios.collect()
}

fn name(scenario: Scenario) -> String {
    let value = scenario.to_possible_value();
    value.map_or_else(String::new, |value| value.get_name().to_owned())
}

/// nginx is the last, so that the others can be compared with it.
fn programs(options: &Options) -> Result<Vec<Program>, String> {
    let before = options.before.clone();
    let before = before.map(|file| Program::Postern("before", file, Vec::new()));
    let postern = Program::Postern("postern", options.postern.clone(), options.set.clone());
    let mut all: Vec<Program> = before.into_iter().collect();
    all.extend([postern, Program::Nginx]);
    if let Some(only) = &options.only {
        all.retain(|program| program.name() == only);
    }
    if all.is_empty() {
        return Err("--only names none of postern, before, nginx".to_owned());
    }
    Ok(all)
}

/// `KEY=VALUE` or `SECTION.KEY=VALUE`.
fn setting(text: &str) -> Result<(String, String, String), String> {
    let (key, value) = text
        .split_once('=')
        .ok_or("it has the form KEY=VALUE or mail.KEY=VALUE")?;
    let (section, key) = key.split_once('.').unwrap_or(("postern", key));
    if !matches!(section, "postern" | "mail") {
        return Err(format!("[{section}] is neither [postern] nor [mail]"));
    }
    Ok((
        section.to_owned(),
        key.trim().to_owned(),
        value.trim().to_owned(),
    ))
}
