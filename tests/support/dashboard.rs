//! A running dashboard, or the alerts alone: a process beside the server, ended by its pid.

use super::{PATIENCE, Site, http, process, wait, within};
use std::process::Child;

/// The process.
pub struct Dashboard {
    child: Child,
    /// Where it serves.
    pub port: u16,
}

impl Dashboard {
    /// Starts `hl7server dashboard` and waits until it answers.
    #[track_caller]
    pub fn start(site: &mut Site, arguments: &[&str]) -> Dashboard {
        Dashboard::start_with(site, arguments, &[])
    }

    /// The same with more of an environment.
    #[track_caller]
    pub fn start_with(site: &mut Site, arguments: &[&str], environment: &[(&str, &str)]) -> Dashboard {
        let port = site.port();
        let listen = format!("127.0.0.1:{port}");
        let mut command = site.command(&[&["dashboard", "--listen", listen.as_str()], arguments].concat());
        command.envs(environment.iter().copied());
        let child = site.spawn(command);
        let dashboard = Dashboard { child, port };
        within(PATIENCE, "the dashboard answers", || {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok().map(drop)
        });
        dashboard
    }

    /// Starts `hl7server alerts`.
    #[track_caller]
    pub fn alerts_alone(site: &Site, arguments: &[&str]) -> Dashboard {
        Dashboard { child: site.spawn(site.command(&[&["alerts"], arguments].concat())), port: 0 }
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The page's text.
    #[track_caller]
    pub fn page(&self) -> String {
        let answer = http::get(self.port, "/");
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.body
    }

    /// Waits until the page holds `text`.
    #[track_caller]
    pub fn shows(&self, text: &str) -> String {
        within(PATIENCE, &format!("{text:?} on the page"), || {
            let page = self.page();
            page.contains(text).then_some(page)
        })
    }

    /// Ends it as systemd does; its exit status.
    #[track_caller]
    pub fn stop(&mut self) -> Option<i32> {
        process::signal(self.pid(), nix::sys::signal::Signal::SIGTERM);
        wait(&mut self.child, PATIENCE).expect("it ends at TERM").code()
    }
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
