//! APOP (RFC 1939, section 7): the digest that answers a greeting's timestamp. It is a command of POP3 and no
//! SASL mechanism; its answer is made of the password as that of CRAM-MD5 is.

use md5::{Digest, Md5};

use super::hex;
use crate::secret::Secret;

/// The digits that a password makes of a timestamp.
pub(super) fn answer(password: &[u8], salt: &str) -> Secret {
    let digest = Md5::new().chain_update(salt).chain_update(password);
    hex(&digest.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_is_that_of_rfc_1939() {
        let right = answer(b"tanstaaf", "<1896.697170952@dbc.mtview.ca.us>");
        assert_eq!(right.expose(), b"c4c9334bac560ecc979e58001b3e22fb");
    }
}
