//! The XCLIENT command, by which Postfix learns who the client really is (Postfix XCLIENT_README).
//!
//! Every value is xtext (RFC 3461, section 4): names from the DNS and logins are a stranger's text.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use super::backend::Client;

/// What the administrator can do when a backend refuses it.
pub(super) const HINT: &str = "XCLIENT was refused: list this proxy in the backend's \
     smtpd_authorized_xclient_hosts (Postfix), or set `xclient = off` here";

/// Longest command line (RFC 5321, section 4.5.3.1.4), without its end.
const LINE: usize = 510;

/// Longest name that a backend takes for HELO (RFC 5321, section 4.5.3.1.2); Postfix refuses the whole command
/// over more.
const HELO: usize = 255;

/// The command line without its end that needs no offer: ADDR, LOGIN if there is one to tell, NAME. As
/// Angie's, it is as long as its values make it.
pub(super) fn command(client: &Client, login: Option<&[u8]>) -> String {
    let mut command = String::from(COMMAND);
    for attribute in ["ADDR", LOGIN, "NAME"] {
        if let Some(value) = value(attribute, client, login) {
            add(&mut command, attribute, &value);
        }
    }
    command
}

/// Command lines without their ends that tell everything that is `offered`, each within the limit. What fits into
/// no line is left out. Of several lines the last has LOGIN: Postfix forgets it with a line that does not.
///
/// # Errors
/// The login fits into no line, without which the backend would take the client for a stranger.
pub(super) fn commands(
    client: &Client,
    login: Option<&[u8]>,
    offered: &[String],
) -> Result<Vec<String>, LoginTooLong> {
    let is_offered = |attribute: &&&str| offered.iter().any(|name| name == **attribute);
    let offered = ATTRIBUTES.iter().filter(is_offered);
    let mut told: Vec<(&str, String)> = offered
        .filter_map(|attribute| {
            let mut added = String::new();
            add(&mut added, attribute, &value(attribute, client, login)?);
            Some((*attribute, added))
        })
        .collect();
    let fits = |added: &str| COMMAND.len() + added.len() <= LINE;
    if told
        .iter()
        .any(|(attribute, added)| *attribute == LOGIN && !fits(added))
    {
        return Err(LoginTooLong);
    }
    told.retain(|(_, added)| fits(added));
    let all: usize = told.iter().map(|(_, added)| added.len()).sum();
    if COMMAND.len() + all > LINE {
        // Stable: the others keep their order.
        told.sort_by_key(|(attribute, _)| *attribute == LOGIN);
    }
    let mut commands: Vec<String> = Vec::new();
    for (_, added) in told {
        match commands.last_mut() {
            Some(last) if last.len() + added.len() <= LINE => last.push_str(&added),
            _ => commands.push(format!("{COMMAND}{added}")),
        }
    }
    Ok(commands)
}

/// A login that no command line can carry.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LoginTooLong;

const COMMAND: &str = "XCLIENT";

const LOGIN: &str = "LOGIN";

/// What can be told, Angie's three first. SESSION and TTL are Dovecot's.
const ATTRIBUTES: [&str; 10] = [
    "ADDR", LOGIN, "NAME", "PORT", "HELO", "PROTO", "DESTADDR", "DESTPORT", "SESSION", "TTL",
];

/// What an attribute says of this client, if anything.
fn value(attribute: &str, client: &Client, login: Option<&[u8]>) -> Option<Vec<u8>> {
    let port = |end: Option<SocketAddr>| Some(end?.port().to_string().into_bytes());
    let caller = &client.caller;
    match attribute {
        "ADDR" => Some(address(caller.address.map(|end| end.ip())).into_bytes()),
        LOGIN => login.map(<[u8]>::to_vec),
        "NAME" => Some(client.host_name.to_string().into_bytes()),
        "PORT" => port(caller.address),
        "HELO" => client.helo.clone().filter(|name| name.len() <= HELO),
        "PROTO" if client.esmtp => Some(b"ESMTP".to_vec()),
        "PROTO" => Some(b"SMTP".to_vec()),
        "DESTADDR" => Some(address(caller.local.map(|end| end.ip())).into_bytes()),
        "DESTPORT" => port(caller.local),
        "SESSION" => Some(caller.session.clone().into_bytes()),
        "TTL" => Some(caller.ttl.to_string().into_bytes()),
        _ => None,
    }
}

fn address(ip: Option<IpAddr>) -> String {
    match ip {
        Some(IpAddr::V4(ip)) => ip.to_string(),
        Some(IpAddr::V6(ip)) => format!("IPV6:{ip}"),
        None => "[UNAVAILABLE]".into(),
    }
}

fn add(command: &mut String, attribute: &str, value: &[u8]) {
    let _ = write!(command, " {attribute}=");
    for &byte in value {
        match byte {
            b'+' | b'=' | 0..=b' ' | 0x7f.. => {
                let _ = write!(command, "+{byte:02X}");
            }
            _ => command.push(char::from(byte)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dialect::caller::Caller;
    use crate::net::resolve::HostName;

    #[test]
    fn values_are_xtext() {
        let mut command = String::from("XCLIENT");
        add(&mut command, "LOGIN", b"a b+c=d\r\n\x7f\xc3\xa9[x]");
        assert_eq!(command, "XCLIENT LOGIN=a+20b+2Bc+3Dd+0D+0A+7F+C3+A9[x]");
    }

    fn client() -> Client {
        Client {
            helo: Some(b"laptop.example.org".to_vec()),
            esmtp: true,
            envelope: None,
            caller: Caller {
                address: Some(([203, 0, 113, 7], 4711).into()),
                local: Some(([192, 0, 2, 1], 587).into()),
                session: "mail.example.org-12-34".to_owned(),
                ttl: 4,
                has_tls: true,
            },
            host_name: HostName::Unavailable,
        }
    }

    fn all() -> Vec<String> {
        ATTRIBUTES.map(str::to_owned).to_vec()
    }

    #[test]
    fn everything_that_is_offered_is_told_and_nothing_else() {
        assert_eq!(
            command(&client(), Some(b"bob")),
            "XCLIENT ADDR=203.0.113.7 LOGIN=bob NAME=[UNAVAILABLE]"
        );
        assert_eq!(
            commands(&client(), Some(b"bob"), &all()),
            Ok(vec![
                "XCLIENT ADDR=203.0.113.7 LOGIN=bob NAME=[UNAVAILABLE] PORT=4711 \
                 HELO=laptop.example.org PROTO=ESMTP DESTADDR=192.0.2.1 DESTPORT=587 \
                 SESSION=mail.example.org-12-34 TTL=4"
                    .to_owned()
            ])
        );
        let offered = ["PORT", "NAME", "FORWARD"].map(str::to_owned);
        let told = commands(&client(), Some(b"bob"), &offered);
        assert_eq!(
            told,
            Ok(vec!["XCLIENT NAME=[UNAVAILABLE] PORT=4711".to_owned()])
        );
        assert_eq!(commands(&client(), None, &[]), Ok(Vec::new()));
    }

    #[test]
    fn long_values_go_in_several_lines_or_not_at_all() {
        let with_helo = |name: Vec<u8>| Client {
            helo: Some(name),
            ..client()
        };
        let login = [b'+'; 120];
        let lines = commands(&with_helo(vec![b'h'; HELO]), Some(&login), &all()).expect("lines");
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines.iter().all(|line| line.len() <= LINE), "{lines:?}");
        assert!(
            lines[0].contains(" HELO=hhh") && lines[1].starts_with("XCLIENT LOGIN="),
            "{lines:?}"
        );
        for name in [vec![b'h'; HELO + 1], vec![0xff; HELO], vec![b'h'; 16_000]] {
            let lines = commands(&with_helo(name), Some(b"bob"), &all()).expect("lines");
            assert!(lines.len() == 1 && !lines[0].contains("HELO"), "{lines:?}");
        }
        let long = [b'x'; LINE];
        assert_eq!(commands(&client(), Some(&long), &all()), Err(LoginTooLong));
    }

    #[test]
    fn ipv6_addresses_say_so() {
        assert_eq!(address("2001:db8::1".parse().ok()), "IPV6:2001:db8::1");
        assert_eq!(address("192.0.2.1".parse().ok()), "192.0.2.1");
        assert_eq!(address(None), "[UNAVAILABLE]");
    }
}
