//! The commands for a process that runs: what is asked over the control socket, what is printed of the
//! answer, and the exit status.
//!
//! 0 is success, 1 that something is wrong or was refused, 2 wrong usage, 3 that no process was reached.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::table::{Table, plain};
use super::{FAILED, bans, complain, print};
use crate::control::client::{self, Asking, Said};
use crate::session::snapshot::address_or_range;

/// No process was reached.
const UNREACHED: u8 = 3;

/// How much longer than it says itself a process may take to end.
const LATE: Duration = Duration::from_secs(5);

/// How the process is reached, and how it is told what was said.
#[derive(Debug, Args)]
pub(super) struct Reach {
    /// The configuration file that says where the control socket is.
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The control socket itself.
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    /// Prints JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// Which sessions are meant: those that all of it fits.
#[derive(Debug, Args)]
pub(super) struct Whom {
    /// Those of this login.
    #[arg(long)]
    user: Option<String>,
    /// Those whose client has this address, or one of this range.
    #[arg(long)]
    address: Option<String>,
    /// Those of [server NAME].
    #[arg(long, value_name = "NAME")]
    server: Option<String>,
    /// Those with a backend at this address, with or without its port.
    #[arg(long)]
    backend: Option<String>,
}

impl Whom {
    fn members(self) -> Map<String, Value> {
        let said = [
            ("user", self.user),
            ("address", self.address),
            ("server", self.server),
            ("backend", self.backend),
        ];
        let said = said.into_iter();
        said.filter_map(|(name, value)| Some((name.to_owned(), value?.into())))
            .collect()
    }
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(super) enum Operate {
    /// Says how the running process is; the exit status is 1 when something is wrong with it.
    Status {
        #[command(flatten)]
        reach: Reach,
    },
    /// Lists the sessions, or some of them.
    Sessions {
        #[command(flatten)]
        whom: Whom,
        #[command(flatten)]
        reach: Reach,
    },
    /// Ends sessions; the exit status is 1 when there are none.
    Kick {
        /// A session by its number, or those of an address, a range, or a login.
        #[arg(required_unless_present_any = ["user", "address", "server", "backend"])]
        who: Option<String>,
        #[command(flatten)]
        whom: Whom,
        #[command(flatten)]
        reach: Reach,
    },
    /// Keeps an address or a range out from now on, and ends its sessions.
    Ban {
        /// The address, or a range such as 192.0.2.0/24.
        address: String,
        /// For how long, such as 90s, 1h30m or 7d; until it is unbanned if nothing is said.
        #[arg(value_parser = bans::time)]
        time: Option<Duration>,
        #[command(flatten)]
        reach: Reach,
    },
    /// Lets an address or a range in again; the exit status is 1 when it is not banned.
    Unban {
        /// What was banned.
        address: String,
        #[command(flatten)]
        reach: Reach,
    },
    /// Lists the bans.
    Bans {
        #[command(flatten)]
        reach: Reach,
    },
    /// Reads the configuration anew, as the signal HUP does, and prints what is wrong with it.
    Reload {
        #[command(flatten)]
        reach: Reach,
    },
    /// Ends the process at once, as the signal TERM does, and waits until it is gone.
    Stop {
        #[command(flatten)]
        reach: Reach,
    },
    /// Lets nobody in any more, as the signal QUIT does, and waits until the process is gone.
    Drain {
        #[command(flatten)]
        reach: Reach,
    },
    /// Sets one level for all logs, until the next reload or restart.
    LogLevel {
        /// A level of error_log, or `configured` for what the configuration says.
        level: String,
        #[command(flatten)]
        reach: Reach,
    },
    /// Writes what both sides say of some sessions into a file, without credentials.
    Rawlog {
        #[command(subcommand)]
        switch: Rawlog,
    },
}

/// What is done about rawlogs.
#[derive(Debug, Subcommand)]
pub(super) enum Rawlog {
    /// Begins one. Without content a relay shows commands and answers by their words alone.
    #[command(group = clap::ArgGroup::new("whom").required(true).multiple(true)
        .args(["user", "address", "server", "backend"]))]
    On {
        #[command(flatten)]
        whom: Whom,
        /// The file, which must not be there yet.
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
        /// Everything that passes is shown, messages too.
        #[arg(long)]
        with_content: bool,
        /// Most bytes of the file, 10 MiB if nothing is said.
        #[arg(long, value_name = "BYTES")]
        size: Option<u64>,
        /// Most seconds that it goes on, an hour if nothing is said.
        #[arg(long, value_name = "SECONDS")]
        time: Option<u64>,
        #[command(flatten)]
        reach: Reach,
    },
    /// Ends the one that was begun for these sessions, or all.
    Off {
        #[command(flatten)]
        whom: Whom,
        #[command(flatten)]
        reach: Reach,
    },
}

/// Carries a command out.
pub(super) fn run(command: Operate) -> ExitCode {
    match command {
        Operate::Status { reach } => one(&reach, "status", Map::new(), show_status),
        Operate::Sessions { whom, reach } => sessions(&reach, whom.members()),
        Operate::Kick { who, whom, reach } => {
            let mut members = whom.members();
            if let Some(who) = who {
                let (name, value) = meant(&who);
                members.insert(name.to_owned(), value);
            }
            kick(&reach, members)
        }
        Operate::Ban {
            address,
            time,
            reach,
        } => bans::ban(&reach, address, time),
        Operate::Unban { address, reach } => bans::unban(&reach, address),
        Operate::Bans { reach } => bans::list(&reach),
        Operate::Reload { reach } => one(&reach, "reload", Map::new(), |answer| {
            for warning in texts(&answer["warnings"]) {
                complain(&format!("warning: {warning}\n"));
            }
            print("the configuration was read anew\n");
            ExitCode::SUCCESS
        }),
        Operate::Rawlog { switch } => rawlog(switch),
        Operate::Stop { reach } => end(&reach, "stop"),
        Operate::Drain { reach } => end(&reach, "drain"),
        Operate::LogLevel { level, reach } => {
            let mut members = Map::new();
            members.insert("level".to_owned(), level.into());
            one(&reach, "log-level", members, |answer| {
                let level = text(&answer["level"]);
                print(&format!("the log level is {level}\n"));
                ExitCode::SUCCESS
            })
        }
    }
}

fn rawlog(switch: Rawlog) -> ExitCode {
    let (whom, to, with_content, size, time, reach) = match switch {
        Rawlog::On {
            whom,
            to,
            with_content,
            size,
            time,
            reach,
        } => (whom, to, with_content, size, time, reach),
        Rawlog::Off { whom, reach } => {
            return one(&reach, "rawlog-off", whom.members(), |answer| {
                let ended = answer["rawlogs"].as_u64().unwrap_or_default();
                print(&format!("{ended} rawlogs ended\n"));
                ExitCode::SUCCESS
            });
        }
    };
    let mut members = whom.members();
    members.insert("with_content".to_owned(), with_content.into());
    for (name, value) in [("size", size), ("time", time)] {
        members.extend(value.map(|value| (name.to_owned(), value.into())));
    }
    // A new file of ours alone, and whatever stands under its name is followed nowhere.
    let opened = File::options()
        .append(true)
        .create_new(true)
        .mode(0o600)
        .open(&to);
    let file = match opened {
        Ok(file) => file,
        Err(error) => {
            complain(&format!(
                "postern: {} cannot be made: {error}\n",
                to.display()
            ));
            return ExitCode::from(FAILED);
        }
    };
    let asked = ask_with(&reach, "rawlog", members, Some(file));
    match asked {
        Ok((_, answer, _)) if reach.json => print(&format!("{answer}\n")),
        Ok((_, answer, _)) => {
            let most = |name: &str| answer[name].as_u64().unwrap_or_default();
            let (bytes, time) = (size_text(most("size")), duration(most("time")));
            print(&format!(
                "what they say goes into {} until it has {bytes} or {time} are over\n",
                to.display()
            ));
        }
        Err(code) => {
            // Nothing was written to it.
            let _ = std::fs::remove_file(&to);
            return code;
        }
    }
    ExitCode::SUCCESS
}

/// The member of a filter that an argument without a name stands for.
fn meant(who: &str) -> (&'static str, Value) {
    if let Ok(number) = who.parse::<u64>() {
        return ("id", number.into());
    }
    match address_or_range(who) {
        Some(_) => ("address", who.into()),
        None => ("user", who.into()),
    }
}

fn begin(
    reach: &Reach,
    command: &str,
    members: Map<String, Value>,
    file: Option<File>,
) -> Result<Asking, ExitCode> {
    let place = match &reach.control {
        Some(path) => Ok(path.clone()),
        None => client::place(reach.config.as_deref()),
    };
    let asking = place.and_then(|place| Asking::begin(&place, command, members, file));
    asking.map_err(|error| failed(reach, &error))
}

fn failed(reach: &Reach, error: &str) -> ExitCode {
    match reach.json {
        true => print(&format!("{}\n", json!({ "error": error }))),
        false => complain(&format!("postern: {error}\n")),
    }
    ExitCode::from(UNREACHED)
}

fn refused(reach: &Reach, answer: &Value) -> ExitCode {
    if reach.json {
        print(&format!("{answer}\n"));
        return ExitCode::from(FAILED);
    }
    for mistake in texts(&answer["mistakes"]) {
        complain(&format!("{mistake}\n"));
    }
    complain(&format!("postern: {}\n", text(&answer["error"])));
    ExitCode::from(FAILED)
}

/// Asks, and gives all items and the last line.
pub(super) fn ask(
    reach: &Reach,
    command: &str,
    members: Map<String, Value>,
) -> Result<(Vec<Value>, Value, Asking), ExitCode> {
    ask_with(reach, command, members, None)
}

/// The same, and passes a file on.
fn ask_with(
    reach: &Reach,
    command: &str,
    members: Map<String, Value>,
    file: Option<File>,
) -> Result<(Vec<Value>, Value, Asking), ExitCode> {
    let mut asking = begin(reach, command, members, file)?;
    let mut items = Vec::new();
    loop {
        match asking.next() {
            Ok(Said::Item(item)) => items.push(item),
            Ok(Said::Done(answer)) => return Ok((items, answer, asking)),
            Ok(Said::Refused(answer)) => return Err(refused(reach, &answer)),
            Err(error) => return Err(failed(reach, &error)),
        }
    }
}

/// A command whose answer is one line.
pub(super) fn one(
    reach: &Reach,
    command: &str,
    members: Map<String, Value>,
    show: fn(&Value) -> ExitCode,
) -> ExitCode {
    let answer = match ask(reach, command, members) {
        Ok((_, answer, _)) => answer,
        Err(code) => return code,
    };
    if !reach.json {
        return show(&answer);
    }
    print(&format!("{answer}\n"));
    problems_code(&answer)
}

fn problems_code(answer: &Value) -> ExitCode {
    match texts(&answer["status"]["problems"]).next() {
        None => ExitCode::SUCCESS,
        Some(_) => ExitCode::from(FAILED),
    }
}

fn show_status(answer: &Value) -> ExitCode {
    let status = &answer["status"];
    let number = |value: &Value| value.as_u64().unwrap_or_default();
    let draining = match status["draining"].as_bool() {
        Some(true) => ", about to end",
        _ => "",
    };
    print(&format!(
        "Postern {}, process {}, up {}{draining}\n",
        text(&status["version"]),
        number(&status["pid"]),
        duration(number(&status["uptime"])),
    ));
    for listener in status["listeners"].as_array().into_iter().flatten() {
        let (address, server) = (text(&listener["address"]), text(&listener["server"]));
        print(&format!("listens on {address} for server \"{server}\"\n"));
    }
    let sessions = &status["sessions"];
    let parts = |value: &Value| {
        let parts = value.as_object().into_iter().flatten();
        let parts = parts.filter(|(_, count)| number(count) > 0);
        let parts = parts.map(|(name, count)| format!(", {} {}", number(count), plain(name)));
        parts.collect::<String>().replace('_', " ")
    };
    print(&format!(
        "sessions: {} of at most {}{}{}\n",
        number(&sessions["all"]),
        number(&sessions["most"]),
        parts(&sessions["by_protocol"]),
        parts(&sessions["by_state"]),
    ));
    for backend in status["backends"].as_array().into_iter().flatten() {
        let down: Vec<String> = texts(&backend["down"]).collect();
        let how = match down.is_empty() {
            true => "no host is known to be down".to_owned(),
            false => format!("down: {}", down.join(", ")),
        };
        print(&format!("backend \"{}\": {how}\n", text(&backend["name"])));
    }
    let reload = &status["last_reload"];
    if let Some(ago) = reload["ago"].as_u64() {
        let how = match reload["ok"].as_bool() {
            Some(true) => "came about",
            _ => "was refused",
        };
        print(&format!("the last reload {how} {} ago\n", duration(ago)));
        for mistake in texts(&reload["mistakes"]) {
            print(&format!("  {mistake}\n"));
        }
    }
    print(&format!("log level: {}\n", text(&status["log_level"])));
    for problem in texts(&status["problems"]) {
        print(&format!("problem: {problem}\n"));
    }
    problems_code(answer)
}

fn sessions(reach: &Reach, members: Map<String, Value>) -> ExitCode {
    match ask(reach, "sessions", members) {
        Err(code) => code,
        Ok((items, _, _)) => {
            match reach.json {
                true => print_array(&items, "session"),
                false => print(&table(&items)),
            }
            ExitCode::SUCCESS
        }
    }
}

fn kick(reach: &Reach, members: Map<String, Value>) -> ExitCode {
    let items = match ask(reach, "kick", members) {
        Err(code) => return code,
        Ok((items, _, _)) => items,
    };
    if reach.json {
        print_array(&items, "session");
    } else if items.is_empty() {
        complain("postern: there is no such session\n");
    } else {
        print(&table(&items));
    }
    match items.is_empty() {
        true => ExitCode::from(FAILED),
        false => ExitCode::SUCCESS,
    }
}

fn end(reach: &Reach, command: &str) -> ExitCode {
    let (answer, asking) = match ask(reach, command, Map::new()) {
        Err(code) => return code,
        Ok((_, answer, asking)) => (answer, asking),
    };
    let most = answer["most"].as_u64().unwrap_or_default();
    let pid = answer["pid"].as_u64().unwrap_or_default();
    if !reach.json {
        let within = duration(most);
        print(&format!("process {pid} ends, within {within}\n"));
    }
    let is_gone = asking.wait_for_end(Duration::from_secs(most) + LATE);
    match (is_gone, reach.json) {
        (true, true) => print(&format!("{answer}\n")),
        (true, false) => print("it has ended\n"),
        (false, true) => print(&format!("{}\n", json!({ "error": "it has not ended" }))),
        (false, false) => complain("postern: it has not ended\n"),
    }
    match is_gone {
        true => ExitCode::SUCCESS,
        false => ExitCode::from(FAILED),
    }
}

/// One document, and still a line an item.
pub(super) fn print_array(items: &[Value], name: &str) {
    let lines: Vec<String> = items.iter().map(|item| item[name].to_string()).collect();
    print(&format!("[{}]\n", lines.join(",\n")));
}

fn table(items: &[Value]) -> String {
    let mut table = Table::new([
        "ID", "PROTO", "SERVER", "CLIENT", "USER", "STATE", "BACKEND", "TLS", "AGE", "IDLE", "IN",
        "OUT",
    ]);
    for item in items {
        let session = &item["session"];
        let seconds = |name: &str| duration(session[name].as_f64().unwrap_or_default() as u64);
        let bytes = |name: &str| size_text(session[name].as_u64().unwrap_or_default());
        let or_dash = |name: &str| match &session[name] {
            Value::Null => "-".to_owned(),
            value => text(value),
        };
        table.row([
            session["id"].to_string(),
            or_dash("protocol"),
            or_dash("server"),
            or_dash("client"),
            or_dash("user"),
            or_dash("state").replace('_', " "),
            or_dash("backend"),
            or_dash("tls"),
            seconds("age"),
            seconds("idle"),
            bytes("bytes_in"),
            bytes("bytes_out"),
        ]);
    }
    table.fit(super::table::width())
}

fn texts(value: &Value) -> impl Iterator<Item = String> {
    value.as_array().into_iter().flatten().map(text)
}

pub(super) fn text(value: &Value) -> String {
    plain(value.as_str().unwrap_or_default())
}

/// `3d4h`, `5m12s`, `7s`.
pub(super) fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m{}s", seconds % 60),
        (0, _, _) => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

/// `312`, `4.0K`, `1.2M`.
fn size_text(bytes: u64) -> String {
    let mut left = bytes as f64;
    for unit in ["", "K", "M", "G"] {
        if left < 1024.0 {
            return match unit {
                "" => bytes.to_string(),
                unit => format!("{left:.1}{unit}"),
            };
        }
        left /= 1024.0;
    }
    format!("{left:.1}T")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whom_an_argument_means_follows_from_what_it_looks_like() {
        assert_eq!(meant("17"), ("id", 17.into()));
        assert_eq!(meant("192.0.2.0/24"), ("address", "192.0.2.0/24".into()));
        assert_eq!(meant("2001:db8::1"), ("address", "2001:db8::1".into()));
        assert_eq!(meant("bob@example.org"), ("user", "bob@example.org".into()));
    }

    #[test]
    fn times_and_sizes_are_short() {
        let times = [0, 59, 61, 3600, 90_061].map(duration);
        assert_eq!(times, ["0s", "59s", "1m1s", "1h0m", "1d1h"]);
        let sizes = [0, 1023, 4096, 5 << 20, 7 << 40].map(size_text);
        assert_eq!(sizes, ["0", "1023", "4.0K", "5.0M", "7.0T"]);
    }
}
