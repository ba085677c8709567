//! The value of `error_log`: `DEST [LEVEL] [format=text|json] [filter=tag:NAME]`.
//!
//! Nothing is opened here: the log does that, after the whole configuration is known to be good.

use std::path::Path;

use crate::log::{LogDestination, LogFormat, LogTarget, Severity, Syslog, SyslogServer};

use super::value::{self, fields, one_of, shown, unknown};

/// Facility codes of RFC 3164, section 4.1.1, under the names nginx gives them.
const FACILITIES: [(&str, u8); 24] = [
    ("kern", 0),
    ("user", 1),
    ("mail", 2),
    ("daemon", 3),
    ("auth", 4),
    ("intern", 5),
    ("lpr", 6),
    ("news", 7),
    ("uucp", 8),
    ("clock", 9),
    ("authpriv", 10),
    ("ftp", 11),
    ("ntp", 12),
    ("audit", 13),
    ("alert", 14),
    ("cron", 15),
    ("local0", 16),
    ("local1", 17),
    ("local2", 18),
    ("local3", 19),
    ("local4", 20),
    ("local5", 21),
    ("local6", 22),
    ("local7", 23),
];

const LEVELS: [&str; 8] = [
    "debug", "info", "notice", "warn", "error", "crit", "alert", "emerg",
];

/// One `error_log` line.
pub(super) fn error_log(text: &str, folder: &Path) -> Result<LogTarget, String> {
    let mut words = fields(text)?.into_iter();
    let destination = words.next().unwrap_or_default();
    let destination = log_destination(&destination, folder)?;

    let (mut level, mut format, mut filter) = (None, None, None);
    for word in words {
        let twice = match word.split_once('=') {
            Some(("format", text)) => {
                let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
                format.replace(one_of(text, &formats)?).is_some()
            }
            Some(("filter", text)) => filter.replace(filter_tag(text)?).is_some(),
            Some((name, _)) => return Err(unknown(name, "settings are", &["format", "filter"])),
            None => level.replace(severity(&word)?).is_some(),
        };
        if twice {
            let name = word.split_once('=').map_or("the level", |(name, _)| name);
            return Err(format!("{name} is given twice"));
        }
    }
    Ok(LogTarget {
        destination,
        level: level.unwrap_or(Severity::Error),
        format: format.unwrap_or(LogFormat::Text),
        filter,
    })
}

fn severity(word: &str) -> Result<Severity, String> {
    Severity::parse(word).ok_or_else(|| unknown(word, "levels are", &LEVELS))
}

fn filter_tag(text: &str) -> Result<String, String> {
    match text.strip_prefix("tag:") {
        Some(name) if !name.is_empty() => Ok(name.to_owned()),
        _ => Err("write filter=tag:NAME".to_owned()),
    }
}

fn log_destination(text: &str, folder: &Path) -> Result<LogDestination, String> {
    if text == "stderr" {
        return Ok(LogDestination::Stderr);
    }
    if let Some(settings) = text.strip_prefix("syslog:") {
        return syslog(settings, folder).map(LogDestination::Syslog);
    }
    if text.starts_with("memory:") {
        return Err("Postern has no memory log: write a file, stderr or syslog:".to_owned());
    }
    Ok(LogDestination::File(value::path(text, folder)?))
}

fn syslog(settings: &str, folder: &Path) -> Result<Syslog, String> {
    let mut server = None;
    let (mut facility, mut tag, mut level, mut nohostname) = (None, None, None, false);
    for setting in settings.split(',') {
        let twice = match setting.split_once('=') {
            Some(("server", text)) => server.replace(syslog_server(text, folder)?).is_some(),
            Some(("facility", text)) => {
                let code = one_of(text, &FACILITIES)
                    .map_err(|_| format!("{} is no facility", shown(text)))?;
                facility.replace(code).is_some()
            }
            Some(("tag", text)) => tag.replace(syslog_tag(text)?).is_some(),
            Some(("severity", text)) => level.replace(severity(text)?).is_some(),
            None if setting == "nohostname" => std::mem::replace(&mut nohostname, true),
            _ => {
                let known = ["server", "facility", "tag", "severity", "nohostname"];
                let name = setting.split('=').next().unwrap_or_default();
                return Err(unknown(name, "settings are", &known));
            }
        };
        if twice {
            let name = setting.split('=').next().unwrap_or_default();
            return Err(format!("{name} is given twice"));
        }
    }
    Ok(Syslog {
        server: server.ok_or("syslog needs a server: syslog:server=ADDR[:PORT]|unix:PATH")?,
        facility: facility.unwrap_or(23),
        tag: tag.unwrap_or_else(|| "postern".to_owned()),
        severity: level,
        nohostname,
    })
}

/// nginx's rule: up to 32 letters, digits and `_`.
fn syslog_tag(text: &str) -> Result<String, String> {
    let fits = text
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    if !fits || !(1..=32).contains(&text.len()) {
        return Err("a syslog tag has 1 to 32 letters, digits and _".to_owned());
    }
    Ok(text.to_owned())
}

fn syslog_server(text: &str, folder: &Path) -> Result<SyslogServer, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok(SyslogServer::Unix(super::address::socket_path(
            path, folder,
        )?));
    }
    let (host, port) = super::address::peer(text, 514)?;
    Ok(SyslogServer::Udp(host, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Result<LogTarget, String> {
        error_log(text, Path::new("/etc"))
    }

    #[test]
    fn a_target_without_level_takes_errors() {
        let file = target("mail.log").expect("a target");
        assert_eq!(
            file.destination,
            LogDestination::File("/etc/mail.log".into())
        );
        assert_eq!(
            (file.level, file.format),
            (Severity::Error, LogFormat::Text)
        );
        let spaces = target("\"/var/log/my mail\" info").expect("a target");
        assert_eq!(
            spaces.destination,
            LogDestination::File("/var/log/my mail".into())
        );
    }

    #[test]
    fn level_format_and_filter_come_in_any_order() {
        let all = target("stderr filter=tag:x format=json debug").expect("a target");
        assert_eq!(all.destination, LogDestination::Stderr);
        assert_eq!((all.level, all.format), (Severity::Debug, LogFormat::Json));
        assert_eq!(all.filter.as_deref(), Some("x"));
    }

    #[test]
    fn syslog_has_nginx_settings() {
        let line = "syslog:server=[::1]:1514,facility=mail,tag=mx_1,severity=warn,nohostname info";
        let LogDestination::Syslog(syslog) = target(line).expect("a target").destination else {
            panic!("not syslog");
        };
        assert_eq!(syslog.server, SyslogServer::Udp("::1".to_owned(), 1514));
        assert_eq!((syslog.facility, syslog.nohostname), (2, true));
        assert_eq!(syslog.severity, Some(Severity::Warn));

        let LogDestination::Syslog(plain) = target("syslog:server=unix:/dev/log")
            .expect("a target")
            .destination
        else {
            panic!("not syslog");
        };
        assert_eq!(plain.server, SyslogServer::Unix("/dev/log".into()));
        assert_eq!((plain.facility, plain.tag.as_str()), (23, "postern"));
    }

    #[test]
    fn wrong_targets_are_refused() {
        for text in [
            "",
            "\"\"",
            "stderr loud",
            "stderr info warn",
            "stderr format=xml",
            "stderr filter=x",
            "stderr filter=tag:",
            "stderr colour=on",
            "memory:32m debug",
            "syslog:",
            "syslog:facility=mail",
            "syslog:server=",
            "syslog:server=h:0",
            "syslog:server=h,tag=a-b",
            "syslog:server=h,tag=",
            "syslog:server=h,facility=foo",
            "syslog:server=h,severity=x",
            "syslog:server=h,server=i",
            "syslog:server=h,,",
            "syslog:server=h,nohostname=1",
            "stderr format=text format=text",
            "\"stderr",
            "syslog:server=unix:",
        ] {
            assert!(target(text).is_err(), "{text}");
        }
    }
}
