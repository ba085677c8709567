//! A mechanism that nobody has, to show in tests what one needs: this file, its row, and a place in `ALL`.
//!
//! As in SCRAM, the server has to know something of the login before it can go on: the client says its
//! login, is given what the authenticator knows of it, and says that back with its password behind.

use std::cell::Cell;

use zeroize::Zeroizing;

use super::{
    Credentials, IF_CONFIGURED, Identity, Malformed, Mechanism, Message, Method, Next, Opening,
    Proof, Steps, ToBackend,
};
use crate::secret::Secret;

thread_local! {
    static IS_THERE: Cell<bool> = const { Cell::new(false) };
}

/// From now on the mechanism is there, for the thread of this test.
pub(crate) fn add() {
    IS_THERE.set(true);
}

/// What comes behind `ALL`.
pub(super) fn row_of_this_test() -> Option<&'static Mechanism> {
    IS_THERE.get().then_some(&MADE_UP)
}

static MADE_UP: Mechanism = Mechanism {
    name: "X-MADE-UP",
    word: "x-made-up",
    method: Method {
        name: "x-made-up",
        proof: Proof::Password,
    },
    offer: IF_CONFIGURED,
    opening: Opening::Client("Who?"),
    begin: |_| Box::new(MadeUp::default()),
    to_backend: ToBackend::Message(encode),
};

#[derive(Debug, Default)]
struct MadeUp {
    login: Vec<u8>,
    known: Zeroizing<Vec<u8>>,
}

impl Steps for MadeUp {
    fn take(&mut self, message: &[u8]) -> Result<Next, Malformed> {
        if self.login.is_empty() {
            self.login = message.to_vec();
            return Ok(Next::Ask(self.login.clone()));
        }
        let password = message.strip_prefix(self.known.as_slice());
        let password = password.ok_or(Malformed)?;
        let login = std::mem::take(&mut self.login);
        let credentials = Credentials::new(MADE_UP.method, login, password.into());
        Ok(Next::Done(credentials))
    }

    fn told(&mut self, known: Option<Secret>) -> Result<Next, Malformed> {
        let known = known.ok_or(Malformed)?;
        self.known = Zeroizing::new(known.expose().to_vec());
        let challenge = String::from_utf8_lossy(&self.known).into_owned();
        Ok(Next::Challenge(challenge))
    }
}

fn encode(identity: &Identity<'_>) -> Option<Message> {
    let parts = [&identity.login[..], b"/", identity.secret.expose()];
    Some(Zeroizing::new(parts.concat()))
}
