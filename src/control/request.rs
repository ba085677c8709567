//! What can be asked over the control socket: one line in, one request out, or what is wrong with it.
//!
//! | `do` | members | answer |
//! |---|---|---|
//! | `status` | | `{"ok":true,"status":{...}}` |
//! | `sessions` | those of a filter | a line `{"session":{...}}` each, then `{"ok":true,"sessions":N}` |
//! | `kick` | those of a filter, at least one | the same for those that were told to end |
//! | `reload` | | `{"ok":true,"warnings":[...]}`, or `{"error":"...","mistakes":[...]}` |
//! | `stop`, `drain` | | `{"ok":true,"pid":N}`; the connection stays open until the process is gone |
//! | `rawlog` | those of a filter, at least one; `with_content`, `size` in bytes, `time` in seconds | `{"ok":true,"size":N,"time":N}` |
//! | `rawlog-off` | those of the filter that it began with; none means all | `{"ok":true,"rawlogs":N}` |
//! | `ban` | `address` (or a range), `time` in seconds; without it until it is unbanned | `{"ok":true,"address":"...","time":N,"sessions":N}`: so many were ended |
//! | `unban` | `address`: exactly what was banned | `{"ok":true,"address":"..."}` |
//! | `bans` | | a line `{"ban":{"address":"...","left":N}}` each, in seconds or null, then `{"ok":true,"bans":N}` |
//! | `log-level` | `level`: a level of `error_log`, or `configured` | `{"ok":true,"level":"..."}` |
//!
//! The members of a filter: `id` (a number), `user`, `address` (or a range), `server`, `backend`. A member that
//! is not known is refused: a filter that is written wrongly must not mean everybody.
//!
//! With `rawlog` comes a descriptor (SCM_RIGHTS, unix(7)): the file, opened for writing by whoever asks.

use std::time::Duration;

use ipnet::IpNet;
use serde_json::{Map, Value};

use super::VERSION;
use crate::log::Severity;
use crate::session::rawlog::Wanted;
use crate::session::snapshot::{Filter, address_or_range};

/// Every command.
pub(super) const COMMANDS: [&str; 12] = [
    "status",
    "sessions",
    "kick",
    "reload",
    "stop",
    "drain",
    "log-level",
    "rawlog",
    "rawlog-off",
    "ban",
    "unban",
    "bans",
];

const OF_FILTER: [&str; 5] = ["id", "user", "address", "server", "backend"];

/// Bytes of a rawlog: by default 10 MiB, at most 1 GiB.
const SIZE: (u64, u64) = (10 << 20, 1 << 30);

/// Seconds of a rawlog: by default an hour, at most a day.
const TIME: (u64, u64) = (3600, 86400);

/// Most seconds of a ban that has an end: a year.
const LONGEST_BAN: u64 = 365 * 86400;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Request {
    Status,
    Sessions(Filter),
    Kick(Filter),
    Reload,
    Stop,
    Drain,
    /// `None` is what the configuration says.
    LogLevel(Option<Severity>),
    Rawlog(Wanted),
    RawlogOff(Filter),
    /// A range without low bits, and for how long if it has an end.
    Ban(IpNet, Option<Duration>),
    Unban(IpNet),
    Bans,
}

impl Request {
    /// Reads a line, without its end.
    ///
    /// # Errors
    /// What is wrong with it, for people.
    pub(super) fn parse(line: &[u8]) -> Result<Request, String> {
        let value: Value = serde_json::from_slice(line)
            .map_err(|error| format!("this is no line of JSON: {error}"))?;
        let Value::Object(mut members) = value else {
            return Err("this is no JSON object".to_owned());
        };
        match members.remove("postern") {
            Some(version) if version.as_u64() == Some(VERSION) => {}
            Some(version) => return Err(format!("version {version} of `postern` is not known")),
            None => return Err("the member `postern`, the version, is missing".to_owned()),
        }
        let command = match members.remove("do") {
            Some(Value::String(command)) => command,
            _ => return Err("the member `do`, the command, is missing".to_owned()),
        };
        let request = match command.as_str() {
            "status" => Request::Status,
            "sessions" => Request::Sessions(take_filter(&mut members)?),
            "kick" => Request::Kick(take_some(&mut members)?),
            "rawlog" => Request::Rawlog(Wanted {
                filter: take_some(&mut members)?,
                with_content: take_flag(&mut members, "with_content")?,
                size: take_number(&mut members, "size", SIZE)?,
                time: Duration::from_secs(take_number(&mut members, "time", TIME)?),
            }),
            "rawlog-off" => Request::RawlogOff(take_filter(&mut members)?),
            "ban" => Request::Ban(take_range(&mut members)?, take_ban_time(&mut members)?),
            "unban" => Request::Unban(take_range(&mut members)?),
            "bans" => Request::Bans,
            "reload" => Request::Reload,
            "stop" => Request::Stop,
            "drain" => Request::Drain,
            "log-level" => Request::LogLevel(take_level(&mut members)?),
            other => return Err(format!("the command {} is not known", Value::from(other))),
        };
        match members.keys().next() {
            None => Ok(request),
            Some(unknown) => {
                let unknown = Value::from(unknown.as_str());
                Err(format!("`{command}` has no member {unknown}"))
            }
        }
    }
}

fn take_filter(members: &mut Map<String, Value>) -> Result<Filter, String> {
    let mut filter = Filter::default();
    if let Some(id) = members.remove("id") {
        let number = id.as_u64().ok_or("`id` is not a number")?;
        filter.number = Some(number);
    }
    if let Some(address) = take_text(members, "address")? {
        let range = address_or_range(&address);
        filter.address = Some(range.ok_or("`address` is no IP address and no range of them")?);
    }
    filter.user = take_text(members, "user")?;
    filter.server = take_text(members, "server")?;
    filter.backend = take_text(members, "backend")?;
    Ok(filter)
}

/// A filter that does not mean everybody.
fn take_some(members: &mut Map<String, Value>) -> Result<Filter, String> {
    let filter = take_filter(members)?;
    match filter.is_empty() {
        true => Err(format!(
            "it must be said whom: one of {}",
            OF_FILTER.join(", ")
        )),
        false => Ok(filter),
    }
}

/// Who is to be banned: low bits do not count.
fn take_range(members: &mut Map<String, Value>) -> Result<IpNet, String> {
    let address = take_text(members, "address")?.ok_or("it must be said whom: `address`")?;
    let range =
        address_or_range(&address).ok_or("`address` is no IP address and no range of them")?;
    Ok(range.trunc())
}

fn take_ban_time(members: &mut Map<String, Value>) -> Result<Option<Duration>, String> {
    match members.contains_key("time") {
        false => Ok(None),
        true => take_number(members, "time", (LONGEST_BAN, LONGEST_BAN))
            .map(|time| Some(Duration::from_secs(time))),
    }
}

fn take_flag(members: &mut Map<String, Value>, name: &str) -> Result<bool, String> {
    match members.remove(name) {
        None => Ok(false),
        Some(Value::Bool(flag)) => Ok(flag),
        Some(_) => Err(format!("`{name}` is neither true nor false")),
    }
}

/// A number from 1 up to the second of these; the first holds where nothing is said.
fn take_number(
    members: &mut Map<String, Value>,
    name: &str,
    (default, most): (u64, u64),
) -> Result<u64, String> {
    match members.remove(name) {
        None => Ok(default),
        Some(value) => match value.as_u64() {
            Some(number) if (1..=most).contains(&number) => Ok(number),
            _ => Err(format!("`{name}` is not a number from 1 to {most}")),
        },
    }
}

fn take_text(members: &mut Map<String, Value>, name: &str) -> Result<Option<String>, String> {
    match members.remove(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("`{name}` is not a text")),
    }
}

fn take_level(members: &mut Map<String, Value>) -> Result<Option<Severity>, String> {
    match take_text(members, "level")? {
        Some(level) if level == "configured" => Ok(None),
        Some(level) if Severity::parse(&level).is_some() => Ok(Severity::parse(&level)),
        _ => {
            let levels = Severity::ALL.map(Severity::name).join(", ");
            Err(format!("`level` must be one of {levels}, or configured"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Request, String> {
        Request::parse(text.as_bytes())
    }

    #[test]
    fn a_line_is_a_request_of_this_version() {
        assert_eq!(parse(r#"{"postern":1,"do":"status"}"#), Ok(Request::Status));
        let sessions = parse(r#"{"do":"sessions","postern":1,"user":"b\"ob","id":7}"#);
        let filter = Filter {
            number: Some(7),
            user: Some("b\"ob".to_owned()),
            ..Filter::default()
        };
        assert_eq!(sessions, Ok(Request::Sessions(filter)));
        let level = parse(r#"{"postern":1,"do":"log-level","level":"debug"}"#);
        assert_eq!(level, Ok(Request::LogLevel(Some(Severity::Debug))));
        for (wrong, told) in [
            ("", "no line of JSON"),
            ("[1]", "no JSON object"),
            (r#"{"do":"status"}"#, "`postern`, the version, is missing"),
            (r#"{"postern":2,"do":"status"}"#, "version 2"),
            (r#"{"postern":1}"#, "`do`, the command, is missing"),
            (r#"{"postern":1,"do":"dance"}"#, "\"dance\" is not known"),
            (r#"{"postern":1,"do":"stop","now":1}"#, "no member \"now\""),
            (r#"{"postern":1,"do":"kick"}"#, "must be said whom"),
            (
                r#"{"postern":1,"do":"kick","usr":"bob"}"#,
                "must be said whom",
            ),
            (
                r#"{"postern":1,"do":"kick","user":1}"#,
                "`user` is not a text",
            ),
            (
                r#"{"postern":1,"do":"kick","id":"7"}"#,
                "`id` is not a number",
            ),
            (
                r#"{"postern":1,"do":"kick","address":"x"}"#,
                "no IP address",
            ),
            (
                r#"{"postern":1,"do":"log-level","level":"loud"}"#,
                "debug, info",
            ),
        ] {
            let error = parse(wrong).expect_err(wrong);
            assert!(error.contains(told), "{wrong}: {error}");
        }
    }

    #[test]
    fn every_command_is_known() {
        for command in COMMANDS {
            let line = format!(r#"{{"postern":1,"do":"{command}"}}"#);
            let told = parse(&line).err().unwrap_or_default();
            assert!(!told.contains("is not known"), "{command}: {told}");
        }
    }
}
