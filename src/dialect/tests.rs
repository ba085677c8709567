//! A mechanism that nobody has, from the configuration to the backend: its row is enough.

use std::path::Path;

use super::*;
use crate::backend::grant::AddressSettings;
use crate::backend::grant::Grant;
use crate::config::{self, AuthMechanism, Config, ProxyProtocol, ProxySsl, SendClientId, Xclient};
use crate::sasl::made_up;
use crate::secret::Secret;

fn configured(protocol: Protocol, mechanisms: &str) -> Config {
    let name = protocol.name();
    let text = format!(
        "[server mail]\nprotocol = {name}\nlisten = 127.0.0.1:0\n{name}_auth = {mechanisms}\n\
         [backend office]\nhosts = 192.0.2.1\nauth_mechanism = x-made-up\n"
    );
    config::parse(&text, Path::new("made_up.ini")).expect("a good file")
}

fn asked_for(conf: &Server) -> Option<&'static Mechanism> {
    let arguments = [Zeroizing::new(b"x-Made-Up".to_vec())];
    mechanism(&arguments, conf).map(|(mechanism, _)| mechanism)
}

#[test]
fn a_made_up_mechanism_is_configured_and_offered_through_its_row() {
    made_up::add();
    for protocol in Protocol::ALL {
        let config = configured(protocol, "plain x-made-up");
        let server = &config.servers[0];
        assert_eq!(announced(server).last(), Some("X-MADE-UP"));
        let row = asked_for(server).expect("a mechanism");
        let fixed = config.backends[0].auth_mechanism;
        assert_eq!(fixed, AuthMechanism::Fixed(row));

        let config = configured(protocol, "plain");
        assert_eq!(announced(&config.servers[0]).last(), last_without(protocol));
        assert_eq!(asked_for(&config.servers[0]), None);
    }
    let reference = config::reference();
    let reference: Vec<&str> = reference.split_ascii_whitespace().collect();
    let reference = reference.join(" ");
    assert!(reference.contains("oauthbearer | x-made-up | off"));
    assert!(reference.contains("xoauth2, oauthbearer, x-made-up"));
}

fn last_without(protocol: Protocol) -> Option<&'static str> {
    match protocol {
        Protocol::Imap | Protocol::Smtp => Some("PLAIN"),
        // PLAIN brings it along.
        Protocol::Pop3 => Some("LOGIN"),
    }
}

#[test]
fn a_made_up_mechanism_asks_in_the_middle_of_its_exchange() {
    made_up::add();
    let row = Mechanism::by_name(b"X-MADE-UP").expect("a row");
    let begin = || {
        let mut exchange = Exchange::new(row, String::new());
        let prompt = exchange.begin(None);
        assert!(matches!(prompt, Ok(Next::Challenge(text)) if text == "Who?"));
        let question = exchange.answer(b"Ym9i");
        assert!(matches!(question, Ok(Next::Ask(login)) if login == b"bob"));
        exchange
    };

    let mut exchange = begin();
    let challenge = exchange.told(Some(Secret::from(&b"key"[..])));
    assert!(matches!(challenge, Ok(Next::Challenge(text)) if text == "key"));
    let Ok(Next::Done(credentials)) = exchange.answer(STANDARD.encode("keypw").as_bytes()) else {
        panic!("no credentials");
    };
    assert_eq!(credentials.method.name, "x-made-up");
    assert_eq!(credentials.login, b"bob");
    assert_eq!(credentials.secret.expose(), b"pw");

    assert!(matches!(begin().told(None), Err(Malformed)));
}

#[test]
fn a_made_up_mechanism_goes_on_to_a_backend_through_its_row() {
    made_up::add();
    let row = Mechanism::by_name(b"X-MADE-UP").expect("a row");
    let password = Secret::from(&b"pw"[..]);
    let credentials = Credentials::new(row.method, b"bob".to_vec(), password);
    let settings = AddressSettings {
        proxy_protocol: ProxyProtocol::Off,
        xclient: Xclient::Off,
        send_client_id: SendClientId::Off,
        ssl: ProxySsl::Off,
        connector: Err(String::new()),
        smtp_auth: true,
        master: None,
    };
    let mut grant = Grant::to_address("192.0.2.1".into(), 25, &settings, &credentials);
    let lists = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let chosen = |grant: &Grant, names| {
        let names: Vec<String> = lists(names);
        grant.sasl_mechanism(&names).name
    };
    assert_eq!(chosen(&grant, &[]), "PLAIN");
    assert_eq!(chosen(&grant, &["X-MADE-UP", "LOGIN"]), "LOGIN");
    assert_eq!(chosen(&grant, &["X-MADE-UP"]), "X-MADE-UP");
    assert_eq!(grant.settled_mechanism(), None);

    grant.mechanism = AuthMechanism::Fixed(row);
    assert_eq!(grant.settled_mechanism(), Some(row));
    assert_eq!(chosen(&grant, &["PLAIN"]), "X-MADE-UP");
    let message = grant.sasl_message(row).expect("a message");
    assert_eq!(*message, b"bob/pw");
}
