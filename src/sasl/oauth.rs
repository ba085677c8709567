//! XOAUTH2 and OAUTHBEARER (RFC 7628): a login and a bearer token. The token is the secret.

use super::{Credentials, Malformed, Mechanism, Method};
use crate::net::line::Line;
use crate::secret::Secret;

/// `^A`, which separates the fields of both mechanisms.
const SEPARATOR: u8 = 1;

/// The client's dummy answer to an error challenge of XOAUTH2.
pub(crate) const XOAUTH2_DUMMY: &[u8] = b"";
/// The client's dummy answer to an error challenge of OAUTHBEARER (RFC 7628, section 3.2.3).
pub(crate) const OAUTHBEARER_DUMMY: &[u8] = b"AQ==";

/// The dummy answer to an error challenge, of any mechanism.
pub(crate) fn dummy_answer(mechanism: Mechanism) -> &'static [u8] {
    match mechanism {
        Mechanism::OauthBearer => OAUTHBEARER_DUMMY,
        Mechanism::Xoauth2 => XOAUTH2_DUMMY,
        // They have no error challenge; an empty answer tells nothing.
        Mechanism::Plain | Mechanism::Login | Mechanism::CramMd5 | Mechanism::External => b"",
    }
}

/// Reads `user=LOGIN^Aauth=Bearer TOKEN^A^A`.
///
/// # Errors
/// The message is anything else, or one of the two is empty.
pub(crate) fn parse_xoauth2(message: &[u8]) -> Result<Credentials, Malformed> {
    let fields = message
        .strip_suffix(&[SEPARATOR, SEPARATOR])
        .ok_or(Malformed)?;
    let mut fields = fields.split(|&byte| byte == SEPARATOR);
    let (Some(user), Some(auth), None) = (fields.next(), fields.next(), fields.next()) else {
        return Err(Malformed);
    };
    let login = user.strip_prefix(b"user=").ok_or(Malformed)?;
    credentials(Method::Xoauth2, login.to_vec(), auth)
}

/// Reads `n,a=LOGIN,^A…^Aauth=Bearer TOKEN^A^A`; other fields (host, port) do not matter.
///
/// # Errors
/// The message is anything else, or one of the two is empty.
pub(crate) fn parse_oauthbearer(message: &[u8]) -> Result<Credentials, Malformed> {
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
    credentials(Method::OauthBearer, decode_saslname(name)?, field)
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
pub(crate) fn encode_xoauth2(login: &[u8], token: &Secret) -> Line {
    message(&[
        b"user=",
        login,
        b"\x01auth=Bearer ",
        token.expose(),
        b"\x01\x01",
    ])
}

/// Builds OAUTHBEARER's message for a backend.
pub(crate) fn encode_oauthbearer(login: &[u8], token: &Secret) -> Line {
    let mut name = Vec::with_capacity(login.len());
    for &byte in login {
        match byte {
            b',' => name.extend_from_slice(b"=2C"),
            b'=' => name.extend_from_slice(b"=3D"),
            _ => name.push(byte),
        }
    }
    let token = token.expose();
    message(&[b"n,a=", &name, b",\x01auth=Bearer ", token, b"\x01\x01"])
}

fn message(parts: &[&[u8]]) -> Line {
    let length = parts.iter().map(|part| part.len()).sum();
    let mut message = Line::new(Vec::with_capacity(length));
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
        let token = Secret::from(&b"t.k"[..]);
        let read = parse_oauthbearer(&encode_oauthbearer(b"a,b=c", &token)).expect("good");
        assert_eq!(read.login, b"a,b=c");
        let read = parse_xoauth2(&encode_xoauth2(b"bob@x", &token)).expect("good");
        assert_eq!(read.secret.expose(), b"t.k");
    }
}
