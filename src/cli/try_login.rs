//! `postern try-login`: whose login is tried, and what is printed of it.
//!
//! 0 is logged in, 1 that it was refused or failed, 2 wrong usage or configuration.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::table::plain;
use super::{CONFIG, FAILED, WRONG, complain, print, wrong};
use crate::config;
use crate::metrics::Outcome;
use crate::secret::Secret;
use crate::system::terminal;
use crate::trial::{self, State, Step};

/// Whose login, and where.
#[derive(Debug, Args)]
pub(super) struct TryLogin {
    /// The login, as the mail program sends it.
    user: String,
    /// [server NAME]; needed where there are several.
    #[arg(long, value_name = "NAME")]
    server: Option<String>,
    /// The configuration file.
    #[arg(long, short, value_name = "FILE", default_value = CONFIG)]
    config: PathBuf,
    /// Reads the password from standard input, instead of asking for it at the terminal.
    #[arg(long)]
    password_stdin: bool,
    /// Prints JSON: a line for each step, and one for what it came to.
    #[arg(long)]
    json: bool,
}

/// Carries it out.
pub(super) fn run(command: TryLogin) -> ExitCode {
    let config = match config::load(&command.config) {
        Ok(config) => config,
        Err(mistakes) => return wrong(&mistakes),
    };
    let prepared = trial::choose(&config, command.server.as_deref()).and_then(|server| {
        let password = ask(&command)?;
        let message = trial::message(&command.user, &password)?;
        Ok((server, message))
    });
    let (server, message) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            complain(&format!("postern: {error}\n"));
            return ExitCode::from(WRONG);
        }
    };
    if !command.json {
        let (user, name, file) = (&command.user, &server.name, command.config.display());
        let text = format!("{user} logs in at [server {name}] of {file}, from 127.0.0.1");
        print(&(plain(&text) + "\n"));
    }
    let show = |step: &Step| match command.json {
        true => print(&format!("{}\n", step.line)),
        false => print(&line_of(step)),
    };
    let finding = match trial::run(&config, server, &message, show) {
        Ok(finding) => finding,
        Err(error) => {
            complain(&format!("postern: {error}\n"));
            return ExitCode::from(FAILED);
        }
    };
    let is_in = finding.outcome == Outcome::Success;
    if command.json {
        let (outcome, text) = (finding.outcome.label(), &finding.text);
        let found = json!({"outcome": outcome, "message": text, "advice": finding.advice});
        print(&format!("{found}\n"));
    } else {
        let word = if is_in { "ok" } else { "failed" };
        print(&format!("{word}: {}\n", plain(&finding.text)));
        if !finding.advice.is_empty() {
            print(&format!("what to do: {}\n", finding.advice));
        }
    }
    match is_in {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(FAILED),
    }
}

fn ask(command: &TryLogin) -> Result<Secret, String> {
    let line = match command.password_stdin {
        true => terminal::line_of_stdin(),
        false => {
            let question = format!("Password of {}: ", plain(&command.user));
            terminal::ask_without_echo(&question)
        }
    };
    let line = line.map_err(|error| match command.password_stdin {
        true => format!("no password on standard input: {error}"),
        false => format!("no password from the terminal (--password-stdin reads one): {error}"),
    })?;
    Ok(Secret::from(line.as_slice()))
}

fn line_of(step: &Step) -> String {
    let state = match step.state {
        State::Said => "",
        State::Done => "ok",
        State::Failed => "failed",
    };
    format!("{:>7} ms  {state:6}  {}\n", step.millis, plain(&step.text))
}
