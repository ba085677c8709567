//! The commands for a process that runs, as an operator gives them.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

use super::postern::Postern;

/// Runs a command for the process, by its configuration.
pub(crate) fn operate(postern: &Postern, arguments: &[&str]) -> Output {
    let file = postern.folder().path().join("postern.ini");
    command(&file, arguments)
        .output()
        .expect("it can be started")
}

/// The command, to be run later.
pub(crate) fn command(file: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_postern"));
    command.args(arguments).arg("--config").arg(file);
    command.env_remove("COLUMNS");
    command
}

/// Its exit status.
pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().expect("no signal ended it")
}

/// What it printed.
pub(crate) fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// What it complained of.
pub(crate) fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// What it printed, which must have gone well.
pub(crate) fn well(output: Output) -> String {
    assert_eq!(code(&output), 0, "{}{}", out(&output), err(&output));
    out(&output)
}

/// JSON out of that.
pub(crate) fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}
