//! Who is at the other end of the control socket.

use serde::Serialize;
use std::fs::File;
use std::io::Read;

/// No list of users on a machine of this kind is longer; a name beyond it is not found.
const PASSWD_BYTES_MAX: u64 = 4 << 20;
/// What the kernel gives where nobody logged in.
const NO_LOGIN: u32 = u32::MAX;

/// A process, as the kernel vouched for it when it connected.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Caller {
    pub(crate) pid: u32,
    pub(crate) uid: u32,
    /// Of the list of local users alone: a directory server may take its time, and the master waits for nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    /// Who logged in before `sudo` or `su` made another user of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) login: Option<String>,
}

impl Caller {
    /// Looks up what else is known of a process; while it is connected.
    pub(crate) fn of(pid: u32, uid: u32) -> Self {
        let passwd = read("/etc/passwd");
        let login = read(&format!("/proc/{pid}/loginuid")).trim().parse().ok();
        let login = login.filter(|login| *login != NO_LOGIN && *login != uid);
        let named = |uid: u32| name_of(uid, &passwd);
        Self { pid, uid, user: named(uid), login: login.map(|uid| named(uid).unwrap_or(uid.to_string())) }
    }
}

fn read(path: &str) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(path) {
        let _ = file.take(PASSWD_BYTES_MAX).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn name_of(uid: u32, passwd: &str) -> Option<String> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_by_its_number_and_odd_lines_are_passed_over() {
        let passwd =
            "# comment\nroot:x:0:0::/root:/bin/sh\n\nbad\nanna:x:1000:1000:Anna:/home/anna:/bin/sh\n";
        assert_eq!(name_of(1000, passwd).as_deref(), Some("anna"));
        assert_eq!(name_of(1, passwd), None);
    }
}
