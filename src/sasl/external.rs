//! EXTERNAL (RFC 4422, appendix A): a login alone, since something else, such as a certificate, is the
//! proof. Where `ssl_login_from` says so the certificate names the login; else the auth server judges it.

use super::{Credentials, EXTERNAL, Malformed, Mechanism, OneMessage, Steps};
use crate::secret::Secret;
use crate::tls::{Facts, LoginFrom};

/// Begins an exchange.
pub(super) fn begin(_: &str) -> Box<dyn Steps> {
    Box::new(OneMessage(read))
}

fn read(message: &[u8]) -> Result<Credentials, Malformed> {
    let login = message.to_vec();
    Ok(Credentials::new(EXTERNAL.method, login, Secret::default()))
}

impl Mechanism {
    /// Whether its messages prove nothing, since something beside it is the proof.
    pub(crate) fn is_proven_outside(&self) -> bool {
        *self == EXTERNAL
    }
}

/// The client's certificate does not name the login that the client asks for, or names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotNamed;

/// Holds a login by EXTERNAL against the client's certificate, under `ssl_login_from`: an empty one becomes
/// the first that the certificate names, another one takes the certificate's spelling. Other mechanisms, and
/// EXTERNAL while the directive is off, are left as they are.
///
/// # Errors
/// There is no certificate that has verified, or it does not name the login.
pub(crate) fn name_by_certificate(
    credentials: &mut Credentials,
    tls: Option<&Facts>,
    from: LoginFrom,
) -> Result<(), NotNamed> {
    if credentials.method != EXTERNAL.method || from == LoginFrom::Off {
        return Ok(());
    }
    let named = tls.map(|tls| tls.logins(from)).unwrap_or_default();
    let asked = &credentials.login;
    let is_asked = |name: &&String| asked.is_empty() || asked.eq_ignore_ascii_case(name.as_bytes());
    let login = named.iter().find(is_asked).ok_or(NotNamed)?;
    credentials.login = login.clone().into_bytes();
    credentials.by_certificate = true;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sasl::Method;
    use crate::tls::{PeerCertificate, Verdict};

    fn external(login: &str) -> Credentials {
        read(login.as_bytes()).expect("any login")
    }

    #[test]
    fn without_a_verified_certificate_nobody_is_named() {
        let peer = PeerCertificate {
            subject: String::new(),
            issuer: String::new(),
            serial: String::new(),
            fingerprint: String::new(),
            pem: String::new(),
        };
        let judged = |verdict| Facts {
            verdict,
            peer: Some(peer.clone()),
            ..Facts::default()
        };
        let unverified = judged(Verdict::Failed {
            code: 18,
            text: "self-signed certificate".into(),
        });
        for facts in [
            None,
            Some(&Facts::default()),
            Some(&unverified),
            Some(&judged(Verdict::None)),
            Some(&judged(Verdict::NotAsked)),
            // It cannot be read.
            Some(&judged(Verdict::Success)),
        ] {
            for login in ["", "bob"] {
                let mut asked = external(login);
                let named = name_by_certificate(&mut asked, facts, LoginFrom::CommonName);
                assert_eq!(named, Err(NotNamed));
                assert!(!asked.by_certificate);
            }
        }
    }

    #[test]
    fn other_mechanisms_and_a_directive_that_is_off_are_left_alone() {
        let mut plain = Credentials::new(Method::PLAIN, b"bob".to_vec(), Secret::default());
        let named = name_by_certificate(&mut plain, None, LoginFrom::CommonName);
        assert_eq!(named, Ok(()));
        let mut asked = external("bob");
        assert_eq!(
            name_by_certificate(&mut asked, None, LoginFrom::Off),
            Ok(())
        );
        assert!(!plain.by_certificate && !asked.by_certificate);
    }
}
