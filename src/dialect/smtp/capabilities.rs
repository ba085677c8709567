//! What an SMTP client may be told before its login of what its backend offers.
//!
//! Only what is known to hold on the session that follows the login, or what MAIL and RCPT may carry
//! where there is none: both go to the backend as they came. Commands that the proxy itself would have to
//! answer (CHUNKING, BURL, VRFY, ETRN …) or that are for proxies (XCLIENT), AUTH and STARTTLS,
//! which it says by itself, REQUIRETLS, which asks for more than one connection, and words that
//! nobody has registered never appear.

use crate::backend::capabilities::common;

/// Words of IANA's registry; each may have parameters. SIZE is told by itself.
const TOLD: [&str; 15] = [
    "8BITMIME",            // RFC 6152
    "CONNEG",              // RFC 4141
    "CONPERM",             // RFC 4141
    "DELIVERBY",           // RFC 2852
    "DSN",                 // RFC 3461
    "ENHANCEDSTATUSCODES", // RFC 2034
    "FUTURERELEASE",       // RFC 4865
    "LIMITS",              // RFC 9422
    "MT-PRIORITY",         // RFC 6710
    "MTRK",                // RFC 3885
    "NO-SOLICITING",       // RFC 3865
    "PIPELINING",          // RFC 2920
    "RRVS",                // RFC 7293
    "SMTPUTF8",            // RFC 6531
    "SUBMITTER",           // RFC 4405
];

/// What may be told of what each backend offers, and the smallest limit where all have SIZE.
pub(super) fn before_login(lists: &[Vec<String>]) -> Vec<String> {
    let mut told = common(lists, may_be_told);
    let sizes: Option<Vec<u64>> = lists.iter().map(|list| size(list)).collect();
    if let Some(sizes) = sizes.filter(|sizes| !sizes.is_empty()) {
        let limit = sizes.into_iter().filter(|&limit| limit > 0).min();
        told.push(match limit {
            Some(limit) => format!("SIZE {limit}"),
            None => "SIZE".into(),
        });
    }
    told
}

/// Whether a capability, in upper case, is on the list.
fn may_be_told(item: &str) -> bool {
    let word = item.split(' ').next().unwrap_or_default();
    TOLD.contains(&word)
}

/// RFC 1870: the largest message, 0 where there is no limit; `None` where SIZE is not offered.
fn size(list: &[String]) -> Option<u64> {
    list.iter().find_map(|item| {
        let mut words = item.split_ascii_whitespace();
        let is_size = words.next()?.eq_ignore_ascii_case("SIZE");
        is_size.then(|| {
            words
                .next()
                .and_then(|limit| limit.parse().ok())
                .unwrap_or(0)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(lines: &[&str]) -> Vec<String> {
        lines.iter().map(|line| (*line).to_owned()).collect()
    }

    fn told_of(lines: &[&str]) -> String {
        before_login(&[list(lines)]).join(", ")
    }

    #[test]
    fn of_postfix_and_exim() {
        let postfix = [
            "PIPELINING",
            "SIZE 10240000",
            "VRFY",
            "ETRN",
            "STARTTLS",
            "XCLIENT NAME ADDR PROTO HELO",
            "XFORWARD NAME ADDR",
            "AUTH PLAIN",
            "AUTH=PLAIN",
            "ENHANCEDSTATUSCODES",
            "8BITMIME",
            "DSN",
            "SMTPUTF8",
            "CHUNKING",
        ];
        assert_eq!(
            told_of(&postfix),
            "PIPELINING, ENHANCEDSTATUSCODES, 8BITMIME, DSN, SMTPUTF8, SIZE 10240000"
        );
        let exim = [
            "SIZE 52428800",
            "LIMITS MAILMAX=1000 RCPTMAX=50000",
            "8BITMIME",
            "PIPELINING",
            "PIPECONNECT",
            "PIPE_CONNECT",
            "CHUNKING",
            "STARTTLS",
            "PRDR",
            "HELP",
        ];
        assert_eq!(
            told_of(&exim),
            "LIMITS MAILMAX=1000 RCPTMAX=50000, 8BITMIME, PIPELINING, SIZE 52428800"
        );
    }

    #[test]
    fn of_exchange_and_gmail() {
        let exchange = [
            "SIZE 37748736",
            "PIPELINING",
            "DSN",
            "ENHANCEDSTATUSCODES",
            "STARTTLS",
            "X-ANONYMOUSTLS",
            "AUTH NTLM",
            "X-EXPS GSSAPI NTLM",
            "8BITMIME",
            "BINARYMIME",
            "CHUNKING",
            "XEXCH50",
            "XRDST",
            "XSHADOW",
            "X-LINK2STATE",
        ];
        assert_eq!(
            told_of(&exchange),
            "PIPELINING, DSN, ENHANCEDSTATUSCODES, 8BITMIME, SIZE 37748736"
        );
        let gmail = [
            "SIZE 35882577",
            "8BITMIME",
            "AUTH LOGIN PLAIN XOAUTH2 PLAIN-CLIENTTOKEN OAUTHBEARER XOAUTH",
            "ENHANCEDSTATUSCODES",
            "PIPELINING",
            "CHUNKING",
            "SMTPUTF8",
        ];
        assert_eq!(
            told_of(&gmail),
            "8BITMIME, ENHANCEDSTATUSCODES, PIPELINING, SMTPUTF8, SIZE 35882577"
        );
    }

    #[test]
    fn several_backends_offer_what_all_of_them_do_and_the_smallest_size() {
        let one = list(&["PIPELINING", "SIZE 200", "DSN"]);
        let two = list(&["dsn", "SIZE 100"]);
        assert_eq!(before_login(&[one.clone(), two]), ["DSN", "SIZE 100"]);
        let unlimited = list(&["PIPELINING", "SIZE", "DSN"]);
        assert_eq!(
            before_login(&[one.clone(), unlimited]),
            ["PIPELINING", "DSN", "SIZE 200"]
        );
        assert_eq!(before_login(&[one, list(&["DSN"])]), ["DSN"]);
    }
}
