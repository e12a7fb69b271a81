//! A link to a server that a test can cut, stop and mend.

use super::ports;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Passes connections on to 127.0.0.1, from a port of its own.
pub struct Proxy {
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    state: Arc<State>,
    _claim: File,
}

#[derive(Default)]
struct State {
    ended: AtomicBool,
    stopped: AtomicBool,
    taken: AtomicUsize,
    links: Mutex<Vec<TcpStream>>,
}

impl Proxy {
    /// To a port of 127.0.0.1.
    pub fn to(upstream: u16) -> Proxy {
        let (port, claim) = ports::claim(900);
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let state = Arc::new(State::default());
        let of_thread = Arc::clone(&state);
        std::thread::spawn(move || {
            for taken in listener.incoming().flatten() {
                if of_thread.ended.load(SeqCst) {
                    return;
                }
                of_thread.taken.fetch_add(1, SeqCst);
                // A server that is down: the connection is closed again.
                let Ok(made) = TcpStream::connect(("127.0.0.1", upstream)) else { continue };
                let mut links = of_thread.links.lock().unwrap();
                for (from, to) in [(&taken, &made), (&made, &taken)] {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let state = Arc::clone(&of_thread);
                    std::thread::spawn(move || pass(from, to, &state));
                }
                links.extend([taken, made]);
            }
        });
        Proxy { port, state, _claim: claim }
    }

    /// Cuts every connection, in the middle of whatever it carries.
    pub fn cut(&self) {
        for link in self.state.links.lock().unwrap().drain(..) {
            let _ = link.shutdown(Shutdown::Both);
        }
    }

    /// Lets nothing through any more, without a word to either side; or mends that.
    pub fn stop(&self, stopped: bool) {
        self.state.stopped.store(stopped, SeqCst);
    }

    /// Connections taken so far.
    pub fn taken(&self) -> usize {
        self.state.taken.load(SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.state.ended.store(true, SeqCst);
        self.cut();
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, state: &State) {
    let mut bytes = [0; 16 * 1024];
    while let Ok(n @ 1..) = from.read(&mut bytes) {
        while state.stopped.load(SeqCst) && !state.ended.load(SeqCst) {
            std::thread::sleep(Duration::from_millis(5));
        }
        if to.write_all(&bytes[..n]).is_err() {
            break;
        }
    }
    let _ = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
}
