//! What the operating system has to give: threads that are used again, limits, privileges, access to files, confinement, their changes, files that stay root's, systemd, signals, what the process takes,
//! passwords at the terminal, who listens, files that are replaced at once,
//! memory that goes back at once.

pub(crate) mod access;
pub(crate) mod confinement;
pub(crate) mod files;
pub(crate) mod guarded;
pub(crate) mod keeper;
pub(crate) mod limits;
pub(crate) mod memory;
pub(crate) mod pid_file;
pub(crate) mod privileges;
pub(crate) mod replace;
pub(crate) mod service_manager;
pub(crate) mod signals;
pub(crate) mod sockets;
pub(crate) mod terminal;
pub(crate) mod threads;
pub(crate) mod usage;
