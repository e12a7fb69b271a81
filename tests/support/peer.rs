//! Servers that others wrote, run from `.tools`, and a scripted MLLP receiver.

use super::mllp::frame;
use super::{PATIENCE, process, skip, within};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Something tests/support/install puts into `.tools`. In CI its absence is a failure.
pub fn tool(path: &str) -> Option<PathBuf> {
    let tool = Path::new(env!("CARGO_MANIFEST_DIR")).join(".tools").join(path);
    if tool.exists() {
        return Some(tool);
    }
    assert!(std::env::var_os("CI").is_none(), "{} is missing: run tests/support/install", tool.display());
    skip(&format!("{} is missing: run tests/support/install", tool.display()));
    None
}

/// A script in tests/support/peers.
pub fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/peers").join(name)
}

/// A running server of somebody else's. Dropping it kills it.
pub struct Foreign {
    child: Child,
    port: u16,
}

impl Foreign {
    /// Runs a script of ours with Python's packages.
    pub fn python(name: &str, port: u16, arguments: &[&Path], log: &Path) -> Option<Foreign> {
        let mut command = Command::new(tool("venv/bin/python")?);
        command.arg(script(name));
        Some(Foreign::start(command, port, arguments, log))
    }

    /// Runs a script of ours with a package from npm.
    pub fn node(package: &str, name: &str, port: u16, arguments: &[&Path], log: &Path) -> Option<Foreign> {
        tool(&format!("node/node_modules/{package}"))?;
        let mut command = Command::new("node");
        command.arg(script(name)).env("NODE_PATH", tool("node/node_modules")?);
        Some(Foreign::start(command, port, arguments, log))
    }

    #[track_caller]
    fn start(mut command: Command, port: u16, arguments: &[&Path], log: &Path) -> Foreign {
        let log = File::options().create(true).append(true).open(log).unwrap();
        command.arg(port.to_string()).args(arguments);
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mut this = Foreign { child: command.spawn().unwrap(), port };
        within(PATIENCE, &format!("{command:?} listens"), || {
            assert!(this.child.try_wait().unwrap().is_none(), "{command:?} has ended");
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        this
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Foreign {
    fn drop(&mut self) {
        process::kill(self.child.id());
        let _ = self.child.wait();
    }
}

/// What a scripted receiver does with a message: bytes to send back, none to stay silent.
pub type Answers = Box<dyn FnMut(&[u8]) -> Vec<u8> + Send>;

/// A scripted MLLP receiver; it takes connections side by side and keeps what came. Dropping it closes all of them.
pub struct Receives {
    /// Bodies in the order they came.
    bodies: Arc<Mutex<Vec<Vec<u8>>>>,
    open: Arc<Mutex<Vec<TcpStream>>>,
    stop: Arc<AtomicBool>,
    port: u16,
    thread: Option<JoinHandle<()>>,
}

impl Receives {
    /// Listens on a port.
    #[track_caller]
    pub fn start(port: u16, answers: Answers) -> Receives {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let (bodies, open): (Arc<Mutex<Vec<_>>>, Arc<Mutex<Vec<_>>>) = Default::default();
        let stop = Arc::new(AtomicBool::new(false));
        let answers = Arc::new(Mutex::new(answers));
        let (kept, taken, stopped) = (bodies.clone(), open.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                taken.lock().unwrap().push(stream.try_clone().unwrap());
                let (answers, kept) = (answers.clone(), kept.clone());
                std::thread::spawn(move || serve(stream, &answers, &kept));
            }
        });
        Receives { bodies, open, stop, port, thread: Some(thread) }
    }

    /// What has come so far.
    pub fn bodies(&self) -> Vec<Vec<u8>> {
        self.bodies.lock().unwrap().clone()
    }

    /// Ends it; returns all that has come. What came to be answered until the very end is among it.
    pub fn end(self) -> Vec<Vec<u8>> {
        let bodies = Arc::clone(&self.bodies);
        drop(self);
        let all = bodies.lock().unwrap().clone();
        all
    }

    /// Connections taken so far.
    pub fn connections(&self) -> usize {
        self.open.lock().unwrap().len()
    }

    /// Waits until so many messages have come.
    #[track_caller]
    pub fn wait(&self, count: usize) -> Vec<Vec<u8>> {
        within(PATIENCE, &format!("{count} messages resent"), || {
            let bodies = self.bodies();
            (bodies.len() >= count).then_some(bodies)
        })
    }
}

impl Drop for Receives {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(("127.0.0.1", self.port));
        for stream in self.open.lock().unwrap().iter() {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn serve(mut stream: TcpStream, answers: &Mutex<Answers>, bodies: &Mutex<Vec<Vec<u8>>>) {
    let mut heard = Vec::new();
    let mut chunk = [0; 65536];
    while let Ok(count @ 1..) = stream.read(&mut chunk) {
        heard.extend_from_slice(&chunk[..count]);
        while let Some(stop) = heard.windows(2).position(|pair| pair == b"\x1c\r") {
            let body = heard[1..stop].to_vec();
            heard.drain(..stop + 2);
            bodies.lock().unwrap().push(body.clone());
            let answer = answers.lock().unwrap()(&body);
            if stream.write_all(&answer).is_err() {
                return;
            }
        }
    }
}

/// An answer with a code to a message, in its envelope.
pub fn answer(code: &str, body: &[u8]) -> Vec<u8> {
    answer_to(code, &control_id(body))
}

/// The same by control id.
pub fn answer_to(code: &str, control_id: &str) -> Vec<u8> {
    frame(format!("MSH|^~\\&|B|B|A|A|20260102030405||ACK|X|P|2.5\rMSA|{code}|{control_id}\r").as_bytes())
}

/// MSH-10.
pub fn control_id(body: &[u8]) -> String {
    String::from_utf8_lossy(body).split('|').nth(9).unwrap_or_default().to_owned()
}

/// A while in which something must not happen.
pub fn meanwhile() {
    std::thread::sleep(Duration::from_secs(1));
}
