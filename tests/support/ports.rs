//! Ports for servers that tests start.

use std::fs::{File, OpenOptions};
use std::net::TcpListener;

/// A free port below the ephemeral range, ours as long as the file is kept: tests run side by side, as processes, and a
/// port that was merely free a moment ago is another test's by now. `salt` spreads the claims of one process.
pub fn claim(salt: u32) -> (u16, File) {
    let claims = std::env::temp_dir().join("hl7server-test-ports");
    std::fs::create_dir_all(&claims).unwrap();
    let first = std::process::id().wrapping_mul(7919).wrapping_add(salt.wrapping_mul(131));
    for n in 0..20_000 {
        let port = 11_000 + (first.wrapping_add(n) % 20_000) as u16;
        let Ok(claim) =
            OpenOptions::new().create(true).truncate(false).write(true).open(claims.join(port.to_string()))
        else {
            continue;
        };
        if claim.try_lock().is_ok() && TcpListener::bind(("0.0.0.0", port)).is_ok() {
            return (port, claim);
        }
    }
    panic!("no free port between 11000 and 31000");
}
