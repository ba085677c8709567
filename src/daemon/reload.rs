//! A running process takes another configuration: all of it, or nothing.
//!
//! What a configuration means is not said here; only in which order its parts are made, and when those that
//! were in use before are let go.

use std::sync::Arc;
use std::time::Instant;

use super::{
    Process, admission_limits, begin_status, checks, no_thread, open_status, visit_backends,
};
use crate::blocklist::Denied;
use crate::config::{self, Config};
use crate::control::Control;
use crate::control::status::LastReload;
use crate::front::Fronts;
use crate::limits::redis::Prepared;
use crate::log::{Log, Severity};
use crate::service;
use crate::session::live::Ending;
use crate::status::Shown;
use crate::system::service_manager;
use crate::system::threads::spawn;

impl Process {
    /// HUP: reads everything anew. If anything is wrong, everything stays as it is.
    ///
    /// Returns the warnings about the new configuration, or its mistakes.
    pub(super) fn reload(&mut self) -> Result<Vec<String>, Vec<String>> {
        let Some(file) = self.file.clone() else {
            let text = "HUP: there is no configuration file to read again";
            self.say(text);
            return Err(vec![text.to_owned()]);
        };
        self.tell(|_| service_manager::reloading());
        let done = match config::load(&file) {
            Ok(config) => {
                let changed = self.change_to(&config).map_err(|error| vec![error]);
                changed.map(|()| config.warnings)
            }
            Err(mistakes) => Err(mistakes.iter().map(ToString::to_string).collect()),
        };
        let mistakes = done.as_ref().err().map_or(&[][..], Vec::as_slice);
        self.last_reload = Some(LastReload::now(mistakes));
        if !mistakes.is_empty() {
            self.site.note_failed_reload();
        }
        for error in mistakes {
            self.log.write(Severity::Error, file!(), error, None, None);
        }
        match mistakes {
            [] => self.say("the configuration was read anew"),
            _ => self.log.write(
                Severity::Error,
                file!(),
                "the new configuration has mistakes; the old one stays in use",
                None,
                None,
            ),
        }
        self.tell(service_manager::ready);
        done
    }

    /// Everything that can fail comes first, while everything is still as it was. Sockets that stay are
    /// not touched, so that no connection is refused; sessions that run keep the server that they began
    /// with.
    fn change_to(&mut self, config: &Config) -> Result<(), String> {
        let process = &config.process;
        let log = Log::open_process(
            &process.error_log,
            &process.error_log_user_tag,
            process.log_format,
        )?;
        checks::check_descriptors(config)?;
        let denied = Denied::read(&process.deny, &log)?;
        let store = Prepared::new(process, &log)?;
        let mut kept = self.kept.next(config);
        let services = service::build(config, &kept)?;
        kept.forget_before();
        let bound = self.fronts.bind(&services)?;
        let prepared = Fronts::prepare(bound, &self.runtime, &log)?;
        let status = open_status(config, self.status.as_ref())?;
        // What is known of the backends is what clients are told as soon as they are let in.
        let visits = visit_backends(&services)?;
        let control = Control::change(self.control.as_ref(), process, &self.desk, &log)?;
        // The last that can fail: what it changes cannot be taken back.
        self.runtime.share(store, &log).map_err(no_thread)?;

        // From here on nothing fails.
        for warning in &config.warnings {
            log.write(Severity::Warn, file!(), warning, None, None);
        }
        for name in self.next_start(process) {
            let text = format!("a change of `{name}` takes effect at the next start");
            log.write(Severity::Warn, file!(), &text, None, None);
        }
        if process.max_sessions != self.conf.max_sessions || process.workers != self.conf.workers {
            checks::warn_of_few_threads(process, &log);
        }
        let began = Instant::now();
        self.fronts.change_to(prepared, &log);
        let listening = self.fronts.listening();
        self.site
            .change_to(Shown::new(config, services, listening, &log));
        match (status, &process.status) {
            (Some(door), _) => {
                begin_status(&door, &self.site, &log);
                self.status = Some(door);
            }
            (None, Some(_)) => {}
            (None, None) => self.status = None,
        }
        self._visits = visits;
        self.runtime.admission.set_limits(admission_limits(process));
        self.runtime.blocklist.deny(denied);
        self.kept = kept;
        Control::change_to(&mut self.control, control);
        self.desk.set_log(&log);
        crate::log::set_level(None);
        self.log = log;
        self.conf = config::Process {
            user: self.conf.user.take(),
            group: self.conf.group.take(),
            pid: self.conf.pid.take(),
            landlock: self.conf.landlock,
            ..process.clone()
        };
        self.end_older_sessions(began);
        Ok(())
    }

    /// The directives that have another value than the process began with, and cannot change while it runs.
    fn next_start(&self, new: &config::Process) -> Vec<&'static str> {
        let changed = [
            ("user", new.user != self.conf.user),
            ("group", new.group != self.conf.group),
            ("pid", new.pid != self.conf.pid),
            ("landlock", new.landlock != self.conf.landlock),
        ];
        let changed = changed.into_iter().filter(|(_, changed)| *changed);
        changed.map(|(name, _)| name).collect()
    }

    /// `reload_timeout`: what began before now has that long.
    fn end_older_sessions(&self, reload: Instant) {
        let Some(limit) = self.conf.reload_timeout else {
            return;
        };
        let runtime = Arc::clone(&self.runtime);
        let end = move || {
            std::thread::sleep(limit);
            let older = runtime.live.all().into_iter();
            for entry in older.filter(|entry| entry.accepted < reload) {
                runtime.cut(&entry, Ending::ReloadTimeout);
            }
        };
        if let Err(error) = spawn("reload", end) {
            self.log
                .write(Severity::Error, file!(), &no_thread(error), None, None);
        }
    }
}
