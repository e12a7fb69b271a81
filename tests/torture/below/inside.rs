//! Namespaces: a test that runs itself again where the network or the process ids are its own.

use crate::support::skip;
use std::process::{Command, Stdio};

/// Says that the test runs in its namespaces already.
const INSIDE: &str = "HL7SERVER_TORTURE_INSIDE";

/// Runs this test again by `unshare` with these flags, after `prepare`, a piece of shell, has made the place what it
/// needs. True in there; false once it has ended there, or where `prepare` is not possible.
#[track_caller]
pub(super) fn is_inside(test: &str, flags: &str, prepare: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    let unshare = |script: &str| {
        let mut unshare = Command::new("unshare");
        unshare.args(flags.split(' ')).args([
            "sh",
            "-ec",
            &format!("PATH=$PATH:/usr/sbin:/sbin; {prepare}; {script}"),
        ]);
        unshare
    };
    let probe = unshare("true").stdout(Stdio::null()).stderr(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        skip(&format!("unshare {flags} and {prepare:?} are not possible here"));
        return false;
    }
    let mut again = unshare("exec \"$0\" --exact \"$1\" --nocapture");
    again.arg(std::env::current_exe().unwrap()).arg(test).env(INSIDE, "1");
    assert!(again.status().unwrap().success(), "{test} has failed in there, see above");
    false
}
