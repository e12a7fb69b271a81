//! Threads that the process is not worth running without.

use std::thread;

/// Starts one that runs as long as the process. When it panics the process aborts: systemd starts it again, where a
/// dashboard that lives on without its alerts would be trusted for nothing.
pub(in crate::cli) fn start(name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let guarded = move || {
        let _guard = Guard;
        body();
    };
    thread::Builder::new().name(name.to_owned()).spawn(guarded).map(drop)
}

struct Guard;

impl Drop for Guard {
    fn drop(&mut self) {
        if thread::panicking() {
            std::process::abort();
        }
    }
}
