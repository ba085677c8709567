//! `error_log`, in `mail {}` and outside, as a line of ours.
//!
//! nginx's levels and syslog settings, Angie's `format=`, `filter=` and `rate=`.

use super::directives::{Converted, Surroundings, path, quoted};
use super::tree::{Directive, shown};

/// One `error_log`.
pub(super) fn error_log(directive: &Directive, around: &Surroundings) -> Result<Converted, String> {
    let Some((destination, words)) = directive.arguments.split_first() else {
        return Err("it takes a file, stderr or syslog:".to_owned());
    };
    let mut value = log_destination(destination, around)?;
    let mut needless = Vec::new();
    let (mut level, mut format, mut filter) = (None, None, None);
    for word in words {
        match word.split_once('=') {
            Some(("format", "default")) => {}
            Some(("format", _)) => format = Some(word.clone()),
            Some(("filter", _)) if filter.is_some() => {
                return Err("Postern filters by one tag; write a line for each".to_owned());
            }
            Some(("filter", rule)) => filter = Some(tag_filter(rule, &around.tags)?),
            Some(("rate", _)) => needless.push(
                "`rate`: Postern does not slow its log down; nothing needs to be done".to_owned(),
            ),
            _ => level = Some(higher(level, word)),
        }
    }
    for word in [level, format, filter].into_iter().flatten() {
        value.push(' ');
        value.push_str(&word);
    }
    let mut converted = Converted::one("error_log", value);
    converted.needless = needless;
    Ok(converted)
}

/// Whether a value of ours goes to a file or standard error.
pub(super) fn is_file(value: &str) -> bool {
    !value.starts_with("syslog:")
}

/// `debug_mail` is all that a mail proxy has to say; the other kinds of debugging bring the lines
/// above debug alone.
fn higher(level: Option<String>, word: &str) -> String {
    match word {
        "debug_mail" => "debug".to_owned(),
        kind if kind.starts_with("debug_") => level.unwrap_or_else(|| "info".to_owned()),
        _ => word.to_owned(),
    }
}

fn log_destination(text: &str, around: &Surroundings) -> Result<String, String> {
    if text.starts_with("memory:") {
        return Err("Postern has no log in memory; log to a file or to syslog".to_owned());
    }
    if let Some(settings) = text.strip_prefix("syslog:") {
        return Ok(syslog(settings, around));
    }
    if text == "stderr" {
        return Ok(text.to_owned());
    }
    let file = path(text, &around.prefix);
    if file.contains(|c: char| c.is_whitespace() || c == '"') {
        return Ok(quoted(&file));
    }
    Ok(file)
}

/// nginx's own tag is written out for the sake of those who look for it; its `severity=` has no
/// effect on an `error_log`, ours would.
fn syslog(settings: &str, around: &Surroundings) -> String {
    let settings = settings.split(',');
    let mut kept: Vec<&str> = settings
        .filter(|setting| !setting.starts_with("severity="))
        .collect();
    let tag = format!("tag={}", around.product());
    if !kept.iter().any(|setting| setting.starts_with("tag=")) {
        kept.push(&tag);
    }
    format!("syslog:{}", kept.join(","))
}

/// Angie looks for a part of the tag, Postern for the whole of it.
fn tag_filter(rule: &str, tags: &[String]) -> Result<String, String> {
    let Some(text) = rule.strip_prefix("tag:") else {
        return Err(
            "Postern filters by tag alone; log everything and filter what reads it, or use \
             error_log_user_tag"
                .to_owned(),
        );
    };
    let advice = "Postern compares whole tags; write a line for each tag";
    if text.starts_with('~') {
        return Err(format!("it has a regular expression; {advice}"));
    }
    if let Some(exact) = text.strip_prefix('=') {
        return Ok(format!("filter=tag:{exact}"));
    }
    let mut having: Vec<&str> = tags.iter().map(String::as_str).collect();
    having.retain(|tag| tag.contains(text));
    having.sort_unstable();
    having.dedup();
    match having[..] {
        [] => Ok(format!("filter=tag:{text}")),
        [tag] => Ok(format!("filter=tag:{tag}")),
        _ => Err(format!(
            "`{}` is part of several tags, {}; {advice}",
            shown(text),
            having.join(" and ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_means_the_one_tag_that_it_is_part_of() {
        let tags = ["mail", "srv1", "srv10", "office"].map(str::to_owned);
        let filter = |rule| tag_filter(rule, &tags);
        assert_eq!(filter("tag:off").as_deref(), Ok("filter=tag:office"));
        assert_eq!(filter("tag:=srv1").as_deref(), Ok("filter=tag:srv1"));
        assert_eq!(filter("tag:none").as_deref(), Ok("filter=tag:none"));
        for rule in ["tag:srv1", "tag:~s.*", "message:x", "tag"] {
            assert!(filter(rule).is_err(), "{rule}");
        }
    }

    #[test]
    fn kinds_of_debugging_become_levels() {
        assert_eq!(higher(None, "debug_http"), "info");
        assert_eq!(higher(Some("debug".to_owned()), "debug_http"), "debug");
        assert_eq!(higher(Some("info".to_owned()), "debug_mail"), "debug");
        assert_eq!(higher(None, "warn"), "warn");
    }
}
