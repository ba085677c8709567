//! `postern passwd`: makes, changes or removes a line of a file of users.
//!
//! 0 is done, 1 that the file could not be written, 2 wrong usage, or no file to be found.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use nix::unistd::{Gid, Group, Uid, User};
use zeroize::Zeroizing;

use super::table::plain;
use super::{CONFIG, FAILED, WRONG, complain, print};
use crate::config::{self, UserFiles};
use crate::system::replace::Replacing;
use crate::system::terminal;
use crate::users::edit::{self, Done};
use crate::users::{self, Users};

/// Whose line, and where.
#[derive(Debug, Args)]
pub(super) struct Passwd {
    /// The login, as the mail program sends it; its case does not matter.
    login: String,
    /// The file of users; without it, the only auth_file of the configuration.
    #[arg(long, value_name = "PATH")]
    file: Option<PathBuf>,
    /// The configuration file.
    #[arg(long, short, value_name = "FILE", default_value = CONFIG)]
    config: PathBuf,
    /// Takes the user out.
    #[arg(long)]
    delete: bool,
}

/// Carries it out.
pub(super) fn run(command: &Passwd) -> ExitCode {
    let prepared = prepare(command);
    let (place, field) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => {
            complain(&format!("postern: {error}\n"));
            return ExitCode::from(WRONG);
        }
    };
    match change(command, &place, field.as_ref().map(|field| field.as_str())) {
        Ok(text) => {
            print(&(plain(&text) + "\n"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            complain(&format!("postern: {error}\n"));
            ExitCode::from(FAILED)
        }
    }
}

/// Which file is meant, and whose group may read a new one.
struct Place {
    file: PathBuf,
    group: Option<Gid>,
}

/// The file, and the new password field, if there is to be one.
fn prepare(command: &Passwd) -> Result<(Place, Option<Zeroizing<String>>), String> {
    users::check_login(&command.login)?;
    let place = place(command)?;
    if command.delete {
        return Ok((place, None));
    }
    let password = ask(&command.login)?;
    let field = users::make(&password)?;
    Ok((place, Some(Zeroizing::new(field))))
}

fn place(command: &Passwd) -> Result<Place, String> {
    let shown = command.config.display();
    let known = config::user_files(&command.config);
    let group = known.as_ref().ok().and_then(group);
    if let Some(file) = &command.file {
        let file = file.clone();
        return Ok(Place { file, group });
    }
    let known = known.map_err(|error| format!("{shown}: {error}; --file names a file of users"))?;
    match known.files.as_slice() {
        [file] => Ok(Place {
            file: file.clone(),
            group,
        }),
        [] => Err(format!(
            "{shown} has no auth_file; --file names a file of users"
        )),
        files => {
            let files: Vec<String> = files
                .iter()
                .map(|file| file.display().to_string())
                .collect();
            let files = files.join(", ");
            Err(format!(
                "{shown} has several: choose one with --file: {files}"
            ))
        }
    }
}

/// The group of whom the service is; nobody's where it is root, or we could not give it a file.
fn group(known: &UserFiles) -> Option<Gid> {
    /// Whom the service of the packages is, without `user`.
    const OF_PACKAGES: &str = "postern";
    if !Uid::effective().is_root() {
        return None;
    }
    let user = known.user.as_deref().unwrap_or(OF_PACKAGES);
    let user = User::from_name(user).ok()??;
    match &known.group {
        None => Some(user.gid),
        Some(group) => Some(Group::from_name(group).ok()??.gid),
    }
}

/// Twice at the terminal; once where somebody else writes to us.
fn ask(login: &str) -> Result<Zeroizing<Vec<u8>>, String> {
    if !std::io::stdin().is_terminal() {
        let line = terminal::line_of_stdin();
        return line.map_err(|error| format!("no password on standard input: {error}"));
    }
    let ask = |question: &str| {
        let line = terminal::ask_without_echo(question);
        line.map_err(|error| format!("no password from the terminal: {error}"))
    };
    let first = ask(&format!("New password of {}: ", plain(login)))?;
    let second = ask("The same again: ")?;
    match first == second {
        true => Ok(first),
        false => Err("the two passwords differ; nothing was changed".to_owned()),
    }
}

/// Writes the file; says what was done.
fn change(command: &Passwd, place: &Place, field: Option<&str>) -> Result<String, String> {
    let shown = place.file.display();
    let failed = |error: std::io::Error| format!("{shown}: {error}");
    let replacing = Replacing::begin(&place.file).map_err(failed)?;
    let old = match replacing.is_there() {
        true => users::read(replacing.path()).map_err(|error| format!("{shown}: {error}"))?,
        false => crate::secret::Wiped(Vec::new()),
    };
    let login = &command.login;
    let (new, done) = match field {
        Some(field) => edit::set(&old, login, field),
        None => edit::remove(&old, login),
    }
    .map_err(|error| format!("{shown}: {error}"))?;
    replacing.finish(&new, place.group).map_err(failed)?;
    warn_of_mistakes(&place.file, new);
    Ok(match done {
        Done::Added => format!("{login} was added to {shown}"),
        Done::Changed => format!("{login} has a new password in {shown}"),
        Done::Removed => format!("{login} was taken out of {shown}"),
    })
}

/// Other lines are as they were; where one is wrong, nobody takes the file. Which backends there are is for
/// `check` to say.
fn warn_of_mistakes(file: &Path, text: crate::secret::Wiped<Vec<u8>>) {
    let Err(wrong) = Users::parse(text, &|_| true) else {
        return;
    };
    for wrong in wrong {
        let line = wrong.line.map_or(String::new(), |line| format!(":{line}"));
        let text = format!("{}{line}: {}", file.display(), wrong.text);
        complain(&format!("warning: {}\n", plain(&text)));
    }
    complain("warning: no Postern takes the file before that is put right\n");
}
