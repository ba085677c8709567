//! What a POP3 client may be told before its login of what its backend offers: what the proxy keeps, as
//! far as that is before the login, and does not say by itself.

use crate::backend::capabilities::common;

/// Promise something before the login, or are told by the proxy itself.
const NOT_TOLD: [&str; 5] = ["SASL", "STLS", "IMPLEMENTATION", "UTF8", "LANG"];

/// What may be told of what each backend offers.
pub(super) fn before_login(lists: &[Vec<String>]) -> Vec<String> {
    common(lists, may_be_told)
}

/// Whether a capability, in upper case, may be told.
fn may_be_told(item: &str) -> bool {
    let word = item.split([' ', '=']).next().unwrap_or_default();
    !NOT_TOLD.contains(&word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_proxy_cannot_do_before_login_is_taken_out() {
        let list: Vec<String> = [
            "CAPA",
            "TOP",
            "SASL PLAIN",
            "STLS",
            "UIDL",
            "IMPLEMENTATION x",
        ]
        .map(str::to_owned)
        .into();
        assert_eq!(before_login(&[list]), ["CAPA", "TOP", "UIDL"]);
    }
}
