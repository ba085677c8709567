//! What the operating system has to give: threads that are used again, privileges, signals.

pub(crate) mod privileges;
pub(crate) mod signals;
pub(crate) mod threads;
