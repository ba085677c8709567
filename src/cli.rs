//! The command line: which command, which file, and the exit status.
//!
//! 0 is success, 1 a failure while running, 2 a wrong configuration or usage, 3 an import that left
//! something out, or that no running process was reached. The commands for such a process are in `operate`.

mod bans;
mod operate;
mod passwd;
mod table;
mod try_login;

use std::fmt::Display;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config;
use crate::daemon::{self, Failure};
use crate::demo;
use crate::import;
use crate::keeper;
use crate::survey::{self, State};

use self::table::plain;

const CONFIG: &str = config::USUAL_FILE;

const FAILED: u8 = 1;
const WRONG: u8 = 2;
const INCOMPLETE: u8 = 3;

/// A mail proxy for IMAP, POP3 and SMTP.
#[derive(Debug, Parser)]
#[command(
    name = "postern",
    version,
    about,
    args_conflicts_with_subcommands = true
)]
struct Cli {
    /// The configuration file.
    #[arg(long, short, value_name = "FILE", default_value = CONFIG)]
    config: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Validates the configuration and prints what would listen where.
    Check {
        /// The configuration file.
        #[arg(long, short, value_name = "FILE", default_value = CONFIG)]
        config: PathBuf,
        /// Looks also at ports, certificates, auth servers and backends; the exit status is 1 when one fails.
        #[arg(long)]
        live: bool,
    },
    /// Tries a login as a client of the configuration, and prints each step and what is wrong.
    ///
    /// No process has to run for it. Auth server and backends are asked as for any client, from 127.0.0.1, and
    /// count a login that fails. The exit status is 0 when it is logged in.
    TryLogin(try_login::TryLogin),
    /// Sets the password of a user in the file of auth_file, or adds the user.
    ///
    /// Asks for it twice at the terminal, or reads a line from standard input where that is none. What else
    /// stands in the file stays as it is; a running process reads it within a second or two.
    Passwd(passwd::Passwd),
    /// Prints every directive with its sections, type, default and meaning.
    Reference,
    /// Turns an nginx or Angie configuration of a mail proxy into ours, on standard output.
    ///
    /// What cannot be carried over is a comment there and a warning here; the exit status is 3 then.
    /// Lines that begin with `warning:` are about what was written, as `postern check` has them, and
    /// leave the exit status 0.
    ImportNginx {
        /// The main file, such as /etc/nginx/nginx.conf; what it includes is read too. Or what nginx -T
        /// printed.
        file: PathBuf,
    },
    /// Runs on loopback ports with a small mail store behind it, and prints what to try.
    Demo,
    #[command(flatten)]
    Operate(operate::Operate),
}

/// What a Postern that is started as root runs beside itself. For nobody else, so neither the help nor the
/// completion of shells knows of it.
#[derive(Debug, Parser)]
#[command(name = "postern keeper")]
struct KeeperCli {
    /// The configuration file.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Whom it opens files for.
    #[arg(long)]
    user: String,
    /// The group of that, if it is not the user's own.
    #[arg(long)]
    group: Option<String>,
}

/// Runs the command that the arguments name.
pub fn main() -> ExitCode {
    let done = match std::env::args_os().nth(1) {
        Some(word) if word == "keeper" => {
            let cli = KeeperCli::try_parse_from(std::env::args_os().skip(1));
            cli.map(|cli| {
                let ran = keeper::run(&cli.config, cli.user, cli.group);
                ended(ran.map_err(Failure::Running))
            })
        }
        _ => Cli::try_parse().map(run),
    };
    done.unwrap_or_else(|error| {
        // Help and version come this way too.
        let _ = error.print();
        match error.use_stderr() {
            true => ExitCode::from(WRONG),
            false => ExitCode::SUCCESS,
        }
    })
}

fn run(cli: Cli) -> ExitCode {
    match cli.command {
        None => ended(daemon::run(&cli.config)),
        Some(Command::Check { config, live }) => check(&config, live),
        Some(Command::TryLogin(command)) => try_login::run(command),
        Some(Command::Passwd(command)) => passwd::run(&command),
        Some(Command::Reference) => {
            print(&config::reference());
            ExitCode::SUCCESS
        }
        Some(Command::ImportNginx { file }) => import_nginx(&file),
        Some(Command::Operate(command)) => operate::run(command),
        Some(Command::Demo) => ended(demo::run(print)),
    }
}

fn ended(how: Result<(), Failure>) -> ExitCode {
    match how {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Configuration(mistakes)) => wrong(&mistakes),
        Err(Failure::Running(error)) => {
            complain(&format!("postern: {error}\n"));
            ExitCode::from(FAILED)
        }
    }
}

fn check(file: &std::path::Path, live: bool) -> ExitCode {
    let config = match config::load(file) {
        Ok(config) => config,
        Err(mistakes) => return wrong(&mistakes),
    };
    for warning in &config.warnings {
        complain(&format!("warning: {warning}\n"));
    }
    print(&config::describe(&config));
    let mut is_good = true;
    if live {
        let mut show = |state: State, text: &str| {
            is_good &= state != State::Failed;
            let word = match state {
                State::Good => "ok",
                State::Warning => "warning",
                State::Failed => "failed",
            };
            print(&format!("{word:7}  {}\n", plain(text)));
        };
        let looked = survey::run(&config, file, &mut show);
        if let Err(error) = looked {
            return ended(Err(Failure::Running(error)));
        }
    }
    match is_good {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(FAILED),
    }
}

fn import_nginx(file: &std::path::Path) -> ExitCode {
    let imported = match import::import(file) {
        Ok(imported) => imported,
        Err(errors) => return wrong(&errors),
    };
    // Half a configuration must not pass for a whole one.
    let mut out = std::io::stdout();
    let written = out.write_all(imported.ini.as_bytes());
    if let Err(error) = written.and_then(|()| out.flush()) {
        complain(&format!("postern: cannot be written: {error}\n"));
        return ExitCode::from(FAILED);
    }
    for warning in &imported.warnings {
        complain(&format!("{warning}\n"));
    }
    for remark in &imported.remarks {
        complain(&format!("warning: {remark}\n"));
    }
    match imported.warnings.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(INCOMPLETE),
    }
}

fn wrong(errors: &[impl Display]) -> ExitCode {
    for error in errors {
        complain(&format!("{error}\n"));
    }
    ExitCode::from(WRONG)
}

/// A closed standard output is nobody's mistake.
fn print(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

fn complain(text: &str) {
    let _ = std::io::stderr().write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use clap::CommandFactory;
    use clap_complete::{Shell, generate};

    use super::*;

    #[test]
    fn the_committed_completion_fits_the_command_line() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/completion");
        for (shell, name) in [
            (Shell::Bash, "postern.bash"),
            (Shell::Zsh, "_postern"),
            (Shell::Fish, "postern.fish"),
        ] {
            let mut script = Vec::new();
            generate(shell, &mut Cli::command(), "postern", &mut script);
            let file = folder.join(name);
            if std::env::var_os("UPDATE_SAMPLE").is_some() {
                std::fs::write(&file, &script).expect("the file can be written");
            }
            let committed = std::fs::read(&file).unwrap_or_default();
            assert!(
                committed == script,
                "{name} is old; UPDATE_SAMPLE=1 cargo test --lib the_committed_completion rewrites it"
            );
        }
    }
}
