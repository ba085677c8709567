//! What keeps one client, or one user, from using up or guessing at what belongs to others: failed logins
//! are answered later and later, and a user has so many sessions at a time.
//!
//! Knows addresses, logins and numbers, but no session: `session` asks, waits and says. How many may come in
//! at all is decided in `admission`.

pub(crate) mod memory;
pub(crate) mod penalty;
pub(crate) mod store;
mod table;
