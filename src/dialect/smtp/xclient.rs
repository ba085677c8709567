//! The XCLIENT command, by which Postfix learns who the client really is (Postfix XCLIENT_README).
//!
//! Every value is xtext (RFC 3461, section 4): names from the DNS and logins are a stranger's text.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::backend::Client;

/// What the administrator can do when a backend refuses it.
pub(super) const HINT: &str = "XCLIENT was refused: list this proxy in the backend's \
     smtpd_authorized_xclient_hosts (Postfix), or set `xclient = off` here";

/// The command line without its end: ADDR, LOGIN if there is one to tell, NAME, and of the other
/// attributes those named in `more`.
pub(super) fn command(client: &Client, login: Option<&[u8]>, more: &[String]) -> String {
    let mut command = String::from("XCLIENT");
    let address = address(client.address.ip());
    add(&mut command, "ADDR", address.as_bytes());
    if let Some(login) = login {
        add(&mut command, "LOGIN", login);
    }
    add(
        &mut command,
        "NAME",
        client.host_name.to_string().as_bytes(),
    );
    for attribute in more {
        if let Some(value) = further(attribute, client) {
            add(&mut command, attribute, &value);
        }
    }
    command
}

/// The attributes beyond Angie's three.
fn further(attribute: &str, client: &Client) -> Option<Vec<u8>> {
    match attribute {
        "PORT" => Some(client.address.socket()?.port().to_string().into_bytes()),
        "PROTO" => Some(if client.esmtp {
            b"ESMTP".to_vec()
        } else {
            b"SMTP".to_vec()
        }),
        "HELO" => client.helo.clone(),
        "DESTADDR" => Some(address(client.local.ip()).into_bytes()),
        "DESTPORT" => Some(client.local.socket()?.port().to_string().into_bytes()),
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

    #[test]
    fn values_are_xtext() {
        let mut command = String::from("XCLIENT");
        add(&mut command, "LOGIN", b"a b+c=d\r\n\x7f\xc3\xa9[x]");
        assert_eq!(command, "XCLIENT LOGIN=a+20b+2Bc+3Dd+0D+0A+7F+C3+A9[x]");
    }

    #[test]
    fn ipv6_addresses_say_so() {
        assert_eq!(address("2001:db8::1".parse().ok()), "IPV6:2001:db8::1");
        assert_eq!(address("192.0.2.1".parse().ok()), "192.0.2.1");
        assert_eq!(address(None), "[UNAVAILABLE]");
    }
}
