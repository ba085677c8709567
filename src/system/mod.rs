//! What the operating system has to give: threads that are used again, privileges, signals.

pub mod privileges;
pub mod signals;
pub mod threads;
