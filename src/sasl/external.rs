//! EXTERNAL (RFC 4422, appendix A): a login alone, since something else, such as a certificate, is the
//! proof. The auth server judges it.

use super::{Credentials, EXTERNAL, Malformed, OneMessage, Steps};
use crate::secret::Secret;

/// Begins an exchange.
pub(super) fn begin(_: &str) -> Box<dyn Steps> {
    Box::new(OneMessage(read))
}

fn read(message: &[u8]) -> Result<Credentials, Malformed> {
    let login = message.to_vec();
    Ok(Credentials::new(EXTERNAL.method, login, Secret::default()))
}
