//! What a POP3 client may be told before its login of what its backend offers.
//!
//! Only what is known to hold on the session that follows the login, or for the login itself as the
//! proxy answers it. UTF8 and LANG are commands before the login, SASL and STLS the proxy says by
//! itself, IMPLEMENTATION names a program that the client does not talk to yet, and words that nobody
//! has registered never appear.

use crate::backend::capabilities::common;

/// Words of IANA's registry; each may have parameters.
const TOLD: [&str; 8] = [
    "AUTH-RESP-CODE", // RFC 3206
    "EXPIRE",         // RFC 2449
    "LOGIN-DELAY",    // RFC 2449
    "PIPELINING",     // RFC 2449
    "RESP-CODES",     // RFC 2449
    "TOP",            // RFC 2449
    "UIDL",           // RFC 2449
    "USER",           // RFC 2449
];

/// What may be told of what each backend offers.
pub(super) fn before_login(lists: &[Vec<String>]) -> Vec<String> {
    common(lists, may_be_told)
}

/// Whether a capability, in upper case, is on the list.
fn may_be_told(item: &str) -> bool {
    let word = item.split(' ').next().unwrap_or_default();
    TOLD.contains(&word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told_of(lines: &[&str]) -> String {
        before_login(&[lines.iter().map(|line| (*line).to_owned()).collect()]).join(", ")
    }

    #[test]
    fn of_dovecot_and_cyrus() {
        let dovecot = [
            "CAPA",
            "TOP",
            "UIDL",
            "RESP-CODES",
            "PIPELINING",
            "AUTH-RESP-CODE",
            "STLS",
            "USER",
            "SASL PLAIN",
        ];
        assert_eq!(
            told_of(&dovecot),
            "TOP, UIDL, RESP-CODES, PIPELINING, AUTH-RESP-CODE, USER"
        );
        let cyrus = [
            "SASL DIGEST-MD5 CRAM-MD5",
            "STLS",
            "EXPIRE NEVER",
            "LOGIN-DELAY 0",
            "TOP",
            "UIDL",
            "PIPELINING",
            "RESP-CODES",
            "AUTH-RESP-CODE",
            "USER",
            "IMPLEMENTATION Cyrus POP3 server v3.8",
        ];
        assert_eq!(
            told_of(&cyrus),
            "EXPIRE NEVER, LOGIN-DELAY 0, TOP, UIDL, PIPELINING, RESP-CODES, AUTH-RESP-CODE, USER"
        );
    }

    #[test]
    fn of_courier_exchange_and_gmail() {
        let courier = [
            "STLS",
            "TOP",
            "USER",
            "LOGIN-DELAY 10",
            "PIPELINING",
            "UIDL",
            "UTF8 USER",
            "IMPLEMENTATION Courier Mail Server",
        ];
        assert_eq!(
            told_of(&courier),
            "TOP, USER, LOGIN-DELAY 10, PIPELINING, UIDL"
        );
        let exchange = ["TOP", "UIDL", "SASL PLAIN XOAUTH2", "USER", "STLS"];
        assert_eq!(told_of(&exchange), "TOP, UIDL, USER");
        let gmail = [
            "USER",
            "RESP-CODES",
            "EXPIRE 0",
            "LOGIN-DELAY 300",
            "TOP",
            "UIDL",
            "X-GOOGLE-RICO",
            "SASL PLAIN XOAUTH2 OAUTHBEARER",
        ];
        assert_eq!(
            told_of(&gmail),
            "USER, RESP-CODES, EXPIRE 0, LOGIN-DELAY 300, TOP, UIDL"
        );
    }
}
