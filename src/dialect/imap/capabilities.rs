//! What an IMAP client may be told before its login of what its backend offers: what the proxy keeps, as
//! far as that is before the login, and does not say by itself.

use crate::backend::capabilities::common;

/// Promise something before the login, or are told by the proxy itself.
const NOT_TOLD: [&str; 10] = [
    "IMAP4REV1",
    "STARTTLS",
    "LOGINDISABLED",
    "LITERAL+",
    "LITERAL-",
    "SASL-IR",
    "ID",
    "IMAP4REV2",
    "LOGIN-REFERRALS",
    "LANGUAGE",
];

/// What may be told of what each backend offers; IMAP4rev1 and what the proxy says by itself are added.
pub(super) fn before_login(lists: &[Vec<String>]) -> Vec<String> {
    let mut told = vec!["IMAP4rev1".to_owned()];
    told.extend(common(lists, may_be_told));
    told.extend(["LITERAL-", "SASL-IR", "ID"].map(str::to_owned));
    told
}

/// Whether a capability, in upper case, may be told.
fn may_be_told(item: &str) -> bool {
    let word = item.split('=').next().unwrap_or_default();
    let is_of_login = item.starts_with("AUTH=") || item.starts_with("COMPRESS=");
    !is_of_login && !item.ends_with("-PLUS") && !item.contains(' ') && !NOT_TOLD.contains(&word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_proxy_cannot_do_before_login_is_taken_out() {
        let list: Vec<String> = [
            "IMAP4rev1",
            "IMAP4rev2",
            "SASL-IR",
            "STARTTLS",
            "AUTH=PLAIN",
            "AUTH=SCRAM-SHA-256-PLUS",
            "COMPRESS=DEFLATE",
            "LITERAL+",
            "IDLE",
            "UIDPLUS",
        ]
        .map(str::to_owned)
        .into();
        assert_eq!(
            before_login(&[list]),
            ["IMAP4rev1", "IDLE", "UIDPLUS", "LITERAL-", "SASL-IR", "ID"]
        );
    }
}
