//! `postern ban`, `unban` and `bans`: who is kept out of a process that runs.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Map, Value};

use super::operate::{Reach, ask, duration, one, print_array, text};
use super::print;
use super::table::Table;
use crate::config;

/// A time as the configuration has it, such as `1h30m`.
///
/// # Errors
/// For people: what is wrong with it.
pub(super) fn time(text: &str) -> Result<Duration, String> {
    config::time_from_a_second(text)
}

/// Bans an address or a range.
pub(super) fn ban(reach: &Reach, address: String, time: Option<Duration>) -> ExitCode {
    let mut members = Map::new();
    members.insert("address".to_owned(), address.into());
    if let Some(time) = time {
        members.insert("time".to_owned(), time.as_secs().into());
    }
    one(reach, "ban", members, |answer| {
        let address = text(&answer["address"]);
        let ended = answer["sessions"].as_u64().unwrap_or_default();
        let time = match answer["time"].as_u64() {
            Some(seconds) => format!("for {}", duration(seconds)),
            None => "until it is unbanned".to_owned(),
        };
        print(&format!(
            "{address} is banned {time}; {ended} sessions were ended\n"
        ));
        ExitCode::SUCCESS
    })
}

/// Ends a ban.
pub(super) fn unban(reach: &Reach, address: String) -> ExitCode {
    let mut members = Map::new();
    members.insert("address".to_owned(), address.into());
    one(reach, "unban", members, |answer| {
        print(&format!(
            "{} is banned no longer\n",
            text(&answer["address"])
        ));
        ExitCode::SUCCESS
    })
}

/// Lists the bans.
pub(super) fn list(reach: &Reach) -> ExitCode {
    match ask(reach, "bans", Map::new()) {
        Err(code) => code,
        Ok((items, _, _)) => {
            match reach.json {
                true => print_array(&items, "ban"),
                false => print(&table(&items)),
            }
            ExitCode::SUCCESS
        }
    }
}

fn table(items: &[Value]) -> String {
    let mut table = Table::new(["ADDRESS", "LEFT"]);
    for item in items {
        let ban = &item["ban"];
        let left = match ban["left"].as_u64() {
            Some(seconds) => duration(seconds),
            None => "-".to_owned(),
        };
        table.row([text(&ban["address"]), left]);
    }
    table.fit(super::table::width())
}
