//! PLAIN (RFC 4616): authorization identity, NUL, login, NUL, password.

use super::{
    Credentials, Identity, Malformed, Mechanism, Message, Method, OneMessage, PLAIN, Steps,
};

/// Begins an exchange.
pub(super) fn begin(_: &str) -> Box<dyn Steps> {
    Box::new(OneMessage(parse))
}

/// Reads a client's message: exactly two NULs, neither login nor password empty.
///
/// # Errors
/// The message is anything else.
pub(crate) fn parse(message: &[u8]) -> Result<Credentials, Malformed> {
    let mut fields = message.split(|&byte| byte == 0);
    let (Some(authzid), Some(login), Some(password), None) =
        (fields.next(), fields.next(), fields.next(), fields.next())
    else {
        return Err(Malformed);
    };
    if login.is_empty() || password.is_empty() {
        return Err(Malformed);
    }
    let mut credentials = Credentials::new(Method::PLAIN, login.to_vec(), password.into());
    if !authzid.is_empty() && authzid != login {
        credentials.authzid = Some(authzid.to_vec());
    }
    Ok(credentials)
}

/// Builds the message for a backend; `None` if a field has a NUL in it.
pub(super) fn encode(identity: &Identity<'_>) -> Option<Message> {
    let authzid = identity.authzid.unwrap_or_default();
    let fields = [authzid, &identity.login, identity.secret.expose()];
    if fields.iter().any(|field| field.contains(&0)) {
        return None;
    }
    let length = fields.iter().map(|field| field.len()).sum::<usize>() + 2;
    let mut message = Message::new(Vec::with_capacity(length));
    message.extend_from_slice(authzid);
    message.push(0);
    message.extend_from_slice(&identity.login);
    message.push(0);
    message.extend_from_slice(identity.secret.expose());
    Some(message)
}

impl Mechanism {
    /// Whether a backend can be told by it, apart from who logs in, as whom (RFC 4422, section 2).
    pub(crate) fn carries_authzid(&self) -> bool {
        *self == PLAIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    #[test]
    fn an_authorization_id_is_kept_only_if_it_differs() {
        assert_eq!(parse(b"\0bob\0pw").expect("good").authzid, None);
        assert_eq!(parse(b"bob\0bob\0pw").expect("good").authzid, None);
        let other = parse(b"alice\0bob\0pw").expect("good");
        assert_eq!(other.authzid.as_deref(), Some(&b"alice"[..]));
    }

    #[test]
    fn one_nul_or_three_and_empty_fields_are_malformed() {
        for bad in [&b"bob\0pw"[..], b"\0bob\0p\0w", b"\0\0pw", b"\0bob\0", b""] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_is_encoded_parses_to_the_same() {
        let mut identity = Identity {
            authzid: Some(b"a"),
            login: b"b c".into(),
            secret: &Secret::from(&b"p\r\nw"[..]),
        };
        let message = encode(&identity).expect("no NUL");
        let read = parse(&message).expect("good");
        assert_eq!(read.login, b"b c");
        assert_eq!(read.secret.expose(), b"p\r\nw");
        identity.login = b"b\0".into();
        assert!(encode(&identity).is_none());
    }
}
