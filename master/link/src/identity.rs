//! Another user for a program that is about to start.

use rustix::process::{Gid, Uid};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Who a program runs as; what is `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunAs {
    /// User.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Supplementary groups, all of them; looked at where a user or group is given.
    pub groups: Vec<u32>,
}

impl RunAs {
    /// Whether nothing is to be changed.
    pub fn is_nobody_else(&self) -> bool {
        self.uid.is_none() && self.gid.is_none()
    }

    /// Lets `command` start so. The standard library sets no supplementary groups but to none at all, and that only
    /// together with the user; so all three are set here, in the order in which the privilege for each is still there.
    pub fn apply(&self, command: &mut Command) {
        if self.is_nobody_else() {
            return;
        }
        let (uid, gid) = (self.uid.map(Uid::from_raw), self.gid.map(Gid::from_raw));
        let groups: Vec<Gid> = self.groups.iter().copied().map(Gid::from_raw).collect();
        let become_them = move || {
            rustix::thread::set_thread_groups(&groups)?;
            if let Some(gid) = gid {
                rustix::thread::set_thread_res_gid(gid, gid, gid)?;
            }
            if let Some(uid) = uid {
                rustix::thread::set_thread_res_uid(uid, uid, uid)?;
            }
            Ok(())
        };
        // SAFETY: between fork and exec the closure makes three system calls and touches no lock and no heap: what it
        // needs was gathered before, and the error it may give holds a number.
        unsafe { command.pre_exec(become_them) };
    }
}
