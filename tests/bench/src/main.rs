//! Measures Postern beside other mail proxies on one machine, in the same run: `tests/bench/run`.
//!
//! | measure | what | which figures |
//! |---|---|---|
//! | `login` | short sessions: IMAP plain and over TLS, POP3, SMTP | CPU seconds, rate, p50, p99 |
//! | `relay` | contents down and up, plain and TLS, one and four streams | CPU seconds, MiB/s |
//! | `round-trip` | NOOP and its answer, one and fifty sessions | p50, p99, CPU seconds |
//! | `idle` | 1000 and 5000 sessions that are silent, plain and TLS | memory, threads, who still answers |
//! | `siege` | honest clients beside crowds, and herds of them | success, p50, p99 |
//! | `one-address` | 125 to 1200 logins a second of one address, rtt 250 ms | the same |
//! | `greeting-delay` | SMTP clients that wait 2 s for their greeting | the same; who was greeted early |
//! | `slow-backend` | logins beside 16 to a backend that never greets, 16 workers | the same |
//! | `auth-wait` | 40 connections that guess under `Auth-Wait: 3` | guesses a second |
//!
//! The last four are taken when they are named, or in a quick look.
//!
//! CPU seconds count most: generator, stub servers and proxy share the cores. A login's time is what
//! its client waited for the proxy, without the waits of its own. The clients of a run are one thread
//! of this process, a crowd beside them is another; auth server and mail servers are one thread of a
//! second process; so a proxy's processes hold nothing but the proxy. "direct" is without a proxy: no
//! proxy can be better than that. Clients come from 127.1.0.0/16.
//!
//! No figure is judged here: a machine that does something else at the same time makes them wrong. The
//! exit status is 1 only where something could not be measured at all.

mod arithmetic;
mod client;
mod load;
mod measures;
mod meter;
mod process;
mod proxies;
mod report;
mod results;
mod stage;
mod stub;
mod system;
mod table;
mod tls;
mod wire;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};

use measures::Measure;
use proxies::{Program, Setting};
use results::Results;
use stage::{Extent, Stage};
use stub::Stubs;
use table::Surroundings;
use tls::{Certificate, KeyKind};

/// Measures Postern beside nginx, Dovecot and HAProxy.
#[derive(Parser)]
#[command(name = "tests/bench/run")]
struct Options {
    /// A small run of every measure, to see that it works; its figures say little
    #[arg(long)]
    quick: bool,
    /// Only this measure; may be given several times
    #[arg(long, value_name = "NAME")]
    only: Vec<Measure>,
    /// Only the cases of this name, such as IMAP; may be given several times
    #[arg(long, value_name = "NAME")]
    case: Vec<String>,
    /// Only this program of the tables; may be given several times
    #[arg(long, value_name = "NAME")]
    program: Vec<String>,
    /// How often each program runs (5; at most 3 in idle and siege)
    #[arg(long, value_name = "N")]
    rounds: Option<usize>,
    /// Another binary of postern instead of the one just built
    #[arg(long, value_name = "FILE")]
    postern: Option<PathBuf>,
    /// A second binary, called "before", which gets no --set
    #[arg(long, value_name = "FILE")]
    before: Option<PathBuf>,
    /// A setting of postern's `[postern]`, or with mail.KEY=VALUE of `[mail]`
    #[arg(long, value_name = "KEY=VALUE", value_parser = Setting::parse)]
    set: Vec<Setting>,
    /// Where results.json and readme.md are written
    #[arg(long, value_name = "FOLDER", default_value = "target/bench")]
    out: PathBuf,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some((stub::COMMAND, files)) = arguments
        .split_first()
        .map(|(command, files)| (command.as_str(), files))
    {
        let Some(files) = stub::Files::from(files) else {
            return failure("the stub servers need four files");
        };
        return match stub::serve(&files) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failure(&error.to_string()),
        };
    }
    match run(&Options::parse()) {
        Ok(errors) if errors.is_empty() => ExitCode::SUCCESS,
        Ok(errors) => failure(&format!(
            "{} could not be measured:\n{}",
            errors.len(),
            errors.join("\n")
        )),
        Err(error) => failure(&error),
    }
}

#[expect(clippy::print_stderr, reason = "it has no log")]
fn failure(error: &str) -> ExitCode {
    eprintln!("tests/bench/run: {error}");
    ExitCode::FAILURE
}

/// Gives what could not be measured.
fn run(options: &Options) -> Result<Vec<String>, String> {
    system::raise_descriptor_limit()?;
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let ecdsa = Certificate::make(KeyKind::Ecdsa, folder.path())?;
    let rsa = Certificate::make(KeyKind::Rsa, folder.path())?;
    let stubs = Stubs::start(&ecdsa, &rsa);
    let stubs = stubs.map_err(|error| format!("the stub servers do not start: {error}"))?;
    let stage = Stage {
        programs: programs(options)?,
        cases: options.case.clone(),
        stubs,
        ecdsa,
        rsa,
        began: Instant::now(),
        rounds: options.rounds.unwrap_or(if options.quick { 1 } else { 5 }),
        seconds: if options.quick { 1 } else { 5 },
        settle: Duration::from_secs(if options.quick { 0 } else { 8 }),
        extent: if options.quick {
            Extent::Quick
        } else {
            Extent::Full
        },
    };
    let surroundings = Surroundings {
        machine: system::machine(),
        versions: versions(&stage.programs)?,
        rounds: stage.rounds,
    };
    let mut results = Results::default();
    for measure in chosen(options) {
        measure.play(&stage, &mut results);
    }
    show(&results, &surroundings, &options.out)?;
    Ok(results.errors)
}

fn chosen(options: &Options) -> Vec<Measure> {
    if !options.only.is_empty() {
        return options.only.clone();
    }
    let all = Measure::value_variants().iter().copied();
    let all = all.filter(|measure| options.quick || measure.is_in_a_full_run());
    all.collect()
}

fn programs(options: &Options) -> Result<Vec<Program>, String> {
    let postern = match &options.postern {
        Some(binary) => binary.clone(),
        None => std::env::current_exe()
            .map_err(|error| error.to_string())?
            .with_file_name("postern"),
    };
    let mut all = Program::all(&postern, options.before.as_deref(), &options.set);
    for name in &options.program {
        if !all.iter().any(|program| program.name == name) {
            let names: Vec<&str> = all.iter().map(|program| program.name).collect();
            return Err(format!("--program is one of: {}", names.join("; ")));
        }
    }
    if !options.program.is_empty() {
        all.retain(|program| options.program.iter().any(|name| name == program.name));
    }
    Ok(all)
}

fn versions(programs: &[Program]) -> Result<Vec<String>, String> {
    let mut versions = Vec::new();
    for program in programs {
        let version = program.version()?;
        versions.extend(version.filter(|version| !versions.contains(version)));
    }
    Ok(versions)
}

#[expect(clippy::print_stdout, reason = "it is what this program is for")]
fn show(results: &Results, surroundings: &Surroundings, folder: &Path) -> Result<(), String> {
    let Surroundings {
        machine, versions, ..
    } = surroundings;
    println!("{machine}. {}.", versions.join(", "));
    print!("{}", table::text(results));
    let write = |name: &str, content: &str| {
        let file = folder.join(name);
        fs::write(&file, content).map_err(|error| format!("{}: {error}", file.display()))
    };
    fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let json = table::json(results, surroundings);
    write("results.json", &format!("{json:#}\n"))?;
    write("readme.md", &table::markdown(results, surroundings))
}
