//! What the operating system has to give: threads that are used again, limits, privileges, signals.

pub(crate) mod limits;
pub(crate) mod privileges;
pub(crate) mod signals;
pub(crate) mod threads;
