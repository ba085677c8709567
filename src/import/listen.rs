//! `listen`, with all its parameters, as a line of ours.
//!
//! Whether addresses are good and free is for our own parser to say.

use std::path::Path;

use super::directives::{Converted, path};
use super::tree::shown;

/// The address and parameters of one `listen`.
pub(super) fn listen(words: &[String], folder: &Path) -> Result<Converted, String> {
    let Some((address, parameters)) = words.split_first() else {
        return Err("it takes an address or port".to_owned());
    };
    let address = match address.strip_prefix("unix:") {
        Some(socket) => format!("unix:{}", path(socket, folder)),
        None => address.clone(),
    };
    let mut value = address.clone();
    let mut needless = Vec::new();
    for word in parameters {
        let name = word.split('=').next().unwrap_or_default();
        let kept = match name {
            // Each listener of ours is bound by itself.
            "bind" => None,
            // Without meaning for other addresses, which nginx does not mind.
            "ipv6only" if !address.starts_with('[') => None,
            "so_keepalive" => Some(keepalive(word)),
            "ssl" | "proxy_protocol" | "backlog" | "rcvbuf" | "sndbuf" | "ipv6only" => {
                Some(word.clone())
            }
            _ => {
                needless.push(format!(
                    "`{}`: Postern's listen has no such parameter; nothing needs to be done",
                    shown(word)
                ));
                None
            }
        };
        if let Some(word) = kept {
            value.push(' ');
            value.push_str(&word);
        }
    }
    let mut converted = Converted::one("listen", value);
    converted.needless = needless;
    Ok(converted)
}

/// nginx takes `30m` and `30m:5` for `30m::` and `30m:5:`.
fn keepalive(word: &str) -> String {
    let value = word.strip_prefix("so_keepalive=").unwrap_or_default();
    if ["on", "off"].contains(&value) {
        return word.to_owned();
    }
    let missing = 2usize.saturating_sub(value.matches(':').count());
    format!("{word}{}", ":".repeat(missing))
}

/// The line of a server whose `ssl on` holds for all its addresses.
pub(super) fn with_ssl(value: &str) -> String {
    if is_ssl(value) {
        return value.to_owned();
    }
    let (address, parameters) = value.split_once(' ').unwrap_or((value, ""));
    format!("{address} ssl {parameters}").trim_end().to_owned()
}

/// Whether TLS is spoken from the first byte.
pub(super) fn is_ssl(value: &str) -> bool {
    value.split(' ').skip(1).any(|word| word == "ssl")
}

/// The port of a line's address, the first one of a range.
pub(super) fn port(value: &str) -> Option<u16> {
    let address = value.split(' ').next().unwrap_or_default();
    if address.starts_with("unix:") {
        return None;
    }
    let tail = address.rsplit(':').next().unwrap_or(address);
    tail.split('-').next().and_then(|port| port.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(text: &str) -> String {
        let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
        let converted = listen(&words, Path::new("/etc/nginx")).expect(text);
        converted.settings[0].value.clone()
    }

    #[test]
    fn parameters_are_kept_or_put_right() {
        assert_eq!(line("143 bind backlog=9"), "143 backlog=9");
        assert_eq!(line("[::]:143 ipv6only=off"), "[::]:143 ipv6only=off");
        assert_eq!(line("*:143 ipv6only=on"), "*:143");
        assert_eq!(line("143 so_keepalive=30m"), "143 so_keepalive=30m::");
        assert_eq!(line("143 so_keepalive=30m::10"), "143 so_keepalive=30m::10");
        assert_eq!(line("143 so_keepalive=off"), "143 so_keepalive=off");
        assert_eq!(line("unix:x ssl"), "unix:/etc/nginx/x ssl");
    }

    #[test]
    fn ssl_on_holds_for_each_address() {
        assert_eq!(with_ssl("993"), "993 ssl");
        assert_eq!(with_ssl("993 backlog=9"), "993 ssl backlog=9");
        assert_eq!(with_ssl("993 backlog=9 ssl"), "993 backlog=9 ssl");
    }

    #[test]
    fn ports_are_found_behind_every_address() {
        assert_eq!(port("143 ssl"), Some(143));
        assert_eq!(port("[::1]:143"), Some(143));
        assert_eq!(port("localhost:8143-8145 ssl"), Some(8143));
        assert_eq!(port("unix:/run/143"), None);
        assert_eq!(port("localhost"), None);
    }
}
