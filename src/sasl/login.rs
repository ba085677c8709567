//! LOGIN: what PLAIN says, in two answers, each asked for. Older than SASL, and written down nowhere.

use super::{Credentials, Malformed, Method, Next, Steps};

/// What the client is asked for first.
pub(super) const USERNAME: &str = "Username:";
/// What it is asked for second.
const PASSWORD: &str = "Password:";

/// The login, once it is said.
#[derive(Debug, Default)]
struct Login {
    login: Option<Vec<u8>>,
}

/// Begins an exchange.
pub(super) fn begin(_: &str) -> Box<dyn Steps> {
    Box::new(Login::default())
}

impl Steps for Login {
    fn take(&mut self, message: &[u8]) -> Result<Next, Malformed> {
        if message.is_empty() {
            return Err(Malformed);
        }
        match self.login.take() {
            None => {
                self.login = Some(message.to_vec());
                Ok(Next::Challenge(PASSWORD.into()))
            }
            Some(login) => {
                let credentials = Credentials::new(Method::PLAIN, login, message.into());
                Ok(Next::Done(credentials))
            }
        }
    }
}
