//! XOAUTH2 and OAUTHBEARER (RFC 7628): a login and a bearer token. The token is the secret.

use super::{
    Credentials, Identity, Malformed, Message, Method, OAUTHBEARER, OneMessage, Steps, XOAUTH2,
};
use crate::secret::Secret;

/// `^A`, which separates the fields of both mechanisms.
const SEPARATOR: u8 = 1;

/// Begins an exchange of XOAUTH2.
pub(super) fn begin_xoauth2(_: &str) -> Box<dyn Steps> {
    Box::new(OneMessage(parse_xoauth2))
}

/// Begins an exchange of OAUTHBEARER.
pub(super) fn begin_oauthbearer(_: &str) -> Box<dyn Steps> {
    Box::new(OneMessage(parse_oauthbearer))
}

/// Reads `user=LOGIN^Aauth=Bearer TOKEN^A^A`.
///
/// # Errors
/// The message is anything else, or one of the two is empty.
fn parse_xoauth2(message: &[u8]) -> Result<Credentials, Malformed> {
    let fields = message
        .strip_suffix(&[SEPARATOR, SEPARATOR])
        .ok_or(Malformed)?;
    let mut fields = fields.split(|&byte| byte == SEPARATOR);
    let (Some(user), Some(auth), None) = (fields.next(), fields.next(), fields.next()) else {
        return Err(Malformed);
    };
    let login = user.strip_prefix(b"user=").ok_or(Malformed)?;
    credentials(XOAUTH2.method, login.to_vec(), auth)
}

/// Reads `n,a=LOGIN,^A…^Aauth=Bearer TOKEN^A^A`; other fields (host, port) do not matter.
///
/// # Errors
/// The message is anything else, or one of the two is empty.
fn parse_oauthbearer(message: &[u8]) -> Result<Credentials, Malformed> {
    let fields = message
        .strip_suffix(&[SEPARATOR, SEPARATOR])
        .ok_or(Malformed)?;
    let mut fields = fields.split(|&byte| byte == SEPARATOR);
    let header = fields.next().ok_or(Malformed)?;
    // `y`: the client could bind to the channel but believes that we cannot, which is so.
    let name = header
        .strip_prefix(b"n,a=")
        .or_else(|| header.strip_prefix(b"y,a="))
        .and_then(|rest| rest.strip_suffix(b","))
        .ok_or(Malformed)?;
    let mut auth = fields.filter(|field| field.starts_with(b"auth="));
    let (Some(field), None) = (auth.next(), auth.next()) else {
        return Err(Malformed);
    };
    credentials(OAUTHBEARER.method, decode_saslname(name)?, field)
}

fn credentials(method: Method, login: Vec<u8>, auth: &[u8]) -> Result<Credentials, Malformed> {
    const SCHEME: &[u8] = b"auth=Bearer ";
    let (scheme, token) = auth.split_at_checked(SCHEME.len()).ok_or(Malformed)?;
    if !scheme.eq_ignore_ascii_case(SCHEME) || login.is_empty() || token.is_empty() {
        return Err(Malformed);
    }
    Ok(Credentials::new(method, login, Secret::from(token)))
}

/// Builds XOAUTH2's message for a backend.
pub(super) fn encode_xoauth2(identity: &Identity<'_>) -> Option<Message> {
    let token = identity.secret.expose();
    Some(message(&[
        b"user=",
        &identity.login,
        b"\x01auth=Bearer ",
        token,
        b"\x01\x01",
    ]))
}

/// Builds OAUTHBEARER's message for a backend.
pub(super) fn encode_oauthbearer(identity: &Identity<'_>) -> Option<Message> {
    let mut name = Vec::with_capacity(identity.login.len());
    for &byte in identity.login.iter() {
        match byte {
            b',' => name.extend_from_slice(b"=2C"),
            b'=' => name.extend_from_slice(b"=3D"),
            _ => name.push(byte),
        }
    }
    let token = identity.secret.expose();
    Some(message(&[
        b"n,a=",
        &name,
        b",\x01auth=Bearer ",
        token,
        b"\x01\x01",
    ]))
}

fn message(parts: &[&[u8]]) -> Message {
    let length = parts.iter().map(|part| part.len()).sum();
    let mut message = Message::new(Vec::with_capacity(length));
    parts
        .iter()
        .for_each(|part| message.extend_from_slice(part));
    message
}

/// RFC 5801: a comma is `=2C`, an equals sign `=3D`, and no other stands alone.
fn decode_saslname(name: &[u8]) -> Result<Vec<u8>, Malformed> {
    let mut decoded = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        decoded.push(match byte {
            b',' => return Err(Malformed),
            b'=' => {
                let (code, tail) = rest.split_at_checked(2).ok_or(Malformed)?;
                rest = tail;
                match code {
                    b"2C" | b"2c" => b',',
                    b"3D" | b"3d" => b'=',
                    _ => return Err(Malformed),
                }
            }
            byte => byte,
        });
    }
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xoauth2_has_a_user_and_a_bearer_token() {
        let read = parse_xoauth2(b"user=bob@x\x01auth=Bearer abc.def\x01\x01").expect("good");
        assert_eq!(read.login, b"bob@x");
        assert_eq!(read.secret.expose(), b"abc.def");
        for bad in [
            &b"user=bob\x01auth=Bearer abc\x01"[..],
            b"user=\x01auth=Bearer abc\x01\x01",
            b"user=bob\x01auth=Bearer \x01\x01",
            b"user=bob\x01auth=Basic abc\x01\x01",
            b"bob\x01auth=Bearer abc\x01\x01",
            b"\x01\x01",
            b"",
        ] {
            assert!(parse_xoauth2(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn oauthbearer_decodes_the_name_and_ignores_host_and_port() {
        let message = b"n,a=a=2Cb=3Dc,\x01host=h\x01port=143\x01auth=Bearer tok\x01\x01";
        let read = parse_oauthbearer(message).expect("good");
        assert_eq!(read.login, b"a,b=c");
        assert_eq!(read.secret.expose(), b"tok");
        for bad in [
            &b"n,,\x01auth=Bearer tok\x01\x01"[..],
            b"p=tls-exporter,a=b,\x01auth=Bearer tok\x01\x01",
            b"n,a=b=2,\x01auth=Bearer tok\x01\x01",
            b"n,a=b=41,\x01auth=Bearer tok\x01\x01",
            b"n,a=b,\x01\x01",
            b"n,a=b,\x01auth=Bearer t\x01auth=Bearer u\x01\x01",
        ] {
            assert!(parse_oauthbearer(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_encoded_parses_to_the_same() {
        let identity = Identity {
            authzid: None,
            login: b"a,b=c".into(),
            secret: &Secret::from(&b"t.k"[..]),
        };
        let message = encode_oauthbearer(&identity).expect("a message");
        let read = parse_oauthbearer(&message).expect("good");
        assert_eq!(read.login, b"a,b=c");
        let message = encode_xoauth2(&identity).expect("a message");
        let read = parse_xoauth2(&message).expect("good");
        assert_eq!(read.secret.expose(), b"t.k");
    }
}
