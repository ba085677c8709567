//! What an SMTP client may be told before its login of what its backend offers: what the proxy keeps, as
//! far as that is before the login, and does not say by itself.

use crate::backend::capabilities::common;

/// Promise something before the login, or are told by the proxy itself.
const NOT_TOLD: [&str; 16] = [
    "AUTH",
    "STARTTLS",
    "CHUNKING",
    "BINARYMIME",
    "BURL",
    "ETRN",
    "XCLIENT",
    "XFORWARD",
    "VRFY",
    "EXPN",
    "HELP",
    "TURN",
    "ATRN",
    "SIZE",
    "REQUIRETLS",
    "X-EXPS",
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

/// Whether a capability, in upper case, may be told.
fn may_be_told(item: &str) -> bool {
    let word = item.split([' ', '=']).next().unwrap_or_default();
    !NOT_TOLD.contains(&word)
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

    #[test]
    fn what_a_proxy_cannot_do_before_login_is_taken_out() {
        let list: Vec<String> = [
            "PIPELINING",
            "SIZE 100",
            "VRFY",
            "ETRN",
            "CHUNKING",
            "AUTH PLAIN",
            "8BITMIME",
        ]
        .map(str::to_owned)
        .into();
        assert_eq!(
            before_login(&[list]),
            ["PIPELINING", "8BITMIME", "SIZE 100"]
        );
    }

    #[test]
    fn several_backends_offer_what_all_of_them_do_and_the_smallest_size() {
        let list = |items: &[&str]| -> Vec<String> {
            items.iter().map(|item| (*item).to_owned()).collect()
        };
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
