//! Reaching the mail server that a login belongs to.

pub mod dial;
