//! How a backend is told for whom a master login is, and who is never entered by one.

use super::*;
use crate::sasl::shown::LoginSecrets;

const CRAM_MD5: &[u8] = b"CRAM-MD5";

/// A grant by an address, for what a client said, behind a master login.
fn grant(credentials: &Credentials, separator: Option<char>) -> Grant {
    let master = MasterLogin {
        user: "postern".to_owned(),
        password: Secret::from(&b"master pw"[..]),
        separator,
    };
    let settings = AddressSettings {
        proxy_protocol: ProxyProtocol::Off,
        xclient: Xclient::Off,
        ssl: ProxySsl::Off,
        connector: Err(String::new()),
        smtp_auth: true,
        master: Some(Arc::new(master)),
        send_client_id: SendClientId::Off,
    };
    Grant::to_address("192.0.2.1".into(), 143, &settings, credentials)
}

fn by_cram_md5(login: &[u8]) -> Credentials {
    let mechanism = Mechanism::by_name(CRAM_MD5).expect("a row");
    Credentials::new(
        mechanism.method,
        login.to_vec(),
        Secret::from(&b"digest"[..]),
    )
}

fn said(grant: &Grant) -> (Option<&[u8]>, Vec<u8>, &[u8]) {
    let identity = grant.identity().expect("a master login");
    let login = identity.login.into_owned();
    (identity.authzid, login, identity.secret.expose())
}

#[test]
fn a_master_login_says_for_whom_it_is() {
    let bob = by_cram_md5(b"bob");
    let expected = (Some(&b"bob"[..]), b"postern".to_vec(), &b"master pw"[..]);
    let by_authzid = grant(&bob, None);
    assert_eq!(said(&by_authzid), expected);
    assert_eq!(by_authzid.settled_mechanism(), Some(&PLAIN));
    assert_eq!(by_authzid.sasl_mechanism(&["LOGIN".to_owned()]), &PLAIN);

    let expected = (None, b"bob*postern".to_vec(), &b"master pw"[..]);
    let by_login = grant(&bob, Some('*'));
    assert_eq!(said(&by_login), expected);
    assert_eq!(by_login.settled_mechanism(), None);
    assert_eq!(by_login.sasl_mechanism(&["LOGIN".to_owned()]).name, "LOGIN");
    assert_eq!(by_login.login, b"bob", "for the log and XCLIENT");
}

#[test]
fn a_client_that_acts_for_somebody_is_entered_as_that_one() {
    for separator in [None, Some('*')] {
        let mut grant = grant(&by_cram_md5(b"bob"), separator);
        grant.authzid = Some(b"alice".to_vec());
        let (authzid, login, _) = said(&grant);
        match separator {
            None => assert_eq!((authzid, &*login), (Some(&b"alice"[..]), &b"postern"[..])),
            Some(_) => assert_eq!((authzid, &*login), (None, &b"alice*postern"[..])),
        }
    }
}

#[test]
fn no_name_makes_the_master_login_that_of_another_one() {
    let no_login: [&[u8]; 4] = [b"", b"bob\0x", b"bob\nx", b"\x7f"];
    for name in no_login {
        for separator in [None, Some('*')] {
            for protocol in Protocol::ALL {
                let grant = grant(&by_cram_md5(name), separator);
                assert!(!grant.is_sayable(protocol), "{name:?} {separator:?}");
            }
        }
    }
    let mut named = grant(&by_cram_md5(b"bob"), Some('*'));
    for name in [&b"alice*bob"[..], b"*", b"alice*"] {
        let other = grant(&by_cram_md5(name), Some('*'));
        named.authzid = Some(name.to_vec());
        for protocol in Protocol::ALL {
            assert!(!other.is_sayable(protocol) && !named.is_sayable(protocol));
            assert!(!named.client_is_sayable(protocol, &by_cram_md5(name)));
            assert!(named.client_is_sayable(protocol, &by_cram_md5(b"bob")));
        }
        assert!(grant(&by_cram_md5(name), None).is_sayable(Protocol::Imap));
    }
}

#[test]
fn a_session_without_a_login_needs_no_name() {
    let mut grant = grant(&by_cram_md5(b""), None);
    grant.smtp_auth = false;
    assert!(grant.is_sayable(Protocol::Smtp));
    assert!(!grant.is_sayable(Protocol::Imap));
}

#[test]
fn who_is_to_be_checked_by_the_backend_never_enters_by_the_master_login() {
    let mut passed = grant(&by_cram_md5(b"bob"), None);
    passed.passthrough = true;
    assert!(!passed.has_password());
    assert!(passed.identity().is_err());
    let with_password = Credentials::new(Method::PLAIN, b"bob".to_vec(), Secret::from(&b"pw"[..]));
    let mut passed = grant(&with_password, Some('*'));
    passed.passthrough = true;
    assert_eq!(said(&passed), (None, b"bob".to_vec(), &b"pw"[..]));
}

#[test]
fn a_password_of_the_auth_server_counts_more() {
    let mut granted = grant(&by_cram_md5(b"bob"), None);
    granted.set_password(b"own");
    assert_eq!(said(&granted), (None, b"bob".to_vec(), &b"own"[..]));
}

#[test]
fn the_password_is_blotted_out_where_a_backend_says_it_back() {
    let granted = grant(&by_cram_md5(b"bob"), None);
    let message = granted.sasl_message(&PLAIN).expect("a message");
    let identity = granted.identity().expect("a master login");
    let mut secrets = LoginSecrets::default();
    secrets.add(&identity.login, identity.authzid, identity.secret);
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(&*message);
    assert!(!secrets.quote(encoded.as_bytes()).contains(&encoded[8..]));
    assert!(!format!("{granted:?}").contains("master pw"));
}

#[test]
fn what_a_backend_refuses_may_not_be_what_the_client_has_shown() {
    let plain = Credentials::new(Method::PLAIN, b"bob".to_vec(), Secret::from(&b"pw"[..]));
    let by_user = |credentials: &Credentials| {
        let target = Target::Address {
            host: "192.0.2.1".into(),
            port: 143,
        };
        Grant::of(target, credentials)
    };
    assert!(by_user(&plain).shows_clients_secret());
    assert!(!by_user(&by_cram_md5(b"bob")).shows_clients_secret());
    assert!(!grant(&plain, None).shows_clients_secret());
    let mut with_answer = by_user(&plain);
    with_answer.set_password(b"other");
    assert!(!with_answer.shows_clients_secret());
}
