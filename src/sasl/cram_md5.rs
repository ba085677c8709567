//! CRAM-MD5 (RFC 2195), the client's answer: login, space, 32 hex digits. Who knows the password checks them.

use hmac::{Hmac, KeyInit, Mac};
use md5::Md5;

use super::{CRAM_MD5, Credentials, Malformed, Next, Steps, hex};
use crate::secret::Secret;

/// The challenge that the client answers.
#[derive(Debug)]
struct CramMd5 {
    salt: String,
}

/// Begins an exchange.
pub(super) fn begin(salt: &str) -> Box<dyn Steps> {
    let salt = salt.to_owned();
    Box::new(CramMd5 { salt })
}

impl Steps for CramMd5 {
    fn take(&mut self, message: &[u8]) -> Result<Next, Malformed> {
        parse(message, &self.salt).map(Next::Done)
    }
}

/// Reads the answer to `salt`.
///
/// # Errors
/// No login, or no digest of 32 hex digits behind the last space.
fn parse(message: &[u8], salt: &str) -> Result<Credentials, Malformed> {
    let space = message
        .iter()
        .rposition(|&byte| byte == b' ')
        .ok_or(Malformed)?;
    let (login, digest) = (&message[..space], &message[space + 1..]);
    if login.is_empty() || digest.len() != 32 || !digest.iter().all(u8::is_ascii_hexdigit) {
        return Err(Malformed);
    }
    let mut credentials = Credentials::new(CRAM_MD5.method, login.to_vec(), digest.into());
    credentials.salt = Some(salt.to_owned());
    Ok(credentials)
}

/// The digits that a password makes of a challenge.
pub(super) fn answer(password: &[u8], salt: &str) -> Secret {
    // HMAC has keys of any length; without one nothing would fit.
    let made = Hmac::<Md5>::new_from_slice(password);
    let digest = made.map(|hmac| hmac.chain_update(salt).finalize().into_bytes());
    hex(digest.as_deref().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_that_of_rfc_2195() {
        let salt = "<1896.697170952@postoffice.reston.mci.net>";
        let right = answer(b"tanstaaftanstaaf", salt);
        assert_eq!(right.expose(), b"b913a602c7eda7a495b4e6e7334d3890");
    }

    #[test]
    fn a_digest_has_32_hex_digits() {
        let good = parse(b"bob b913a602c7eda7a495b4e6e7334d3890", "<1.2@x>").expect("good");
        assert_eq!(good.login, b"bob");
        assert_eq!(good.salt.as_deref(), Some("<1.2@x>"));
        for bad in [
            &b"bob"[..],
            b"bob b913",
            b" b913a602c7eda7a495b4e6e7334d3890",
            b"bob g913a602c7eda7a495b4e6e7334d3890",
        ] {
            assert!(parse(bad, "").is_err(), "{bad:?}");
        }
    }
}
