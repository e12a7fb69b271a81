//! Browsers, balancers and webhooks, as far as the tests need them: one request a connection, bytes as they are.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// The number of the status line.
    pub status: u16,
    /// Names in lower case, in order.
    pub headers: Vec<(String, String)>,
    /// After the head.
    pub body: String,
}

impl Answer {
    /// A header's value; empty without it.
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value)
    }
}

/// `GET` as a browser on this machine asks.
#[track_caller]
pub fn get(port: u16, path: &str) -> Answer {
    get_with(port, path, &[])
}

/// The same with more headers; one named `Host` replaces ours.
#[track_caller]
pub fn get_with(port: u16, path: &str, headers: &[(&str, &str)]) -> Answer {
    let mut head = format!("GET {path} HTTP/1.1\r\n");
    if !headers.iter().any(|(name, _)| *name == "Host") {
        head += &format!("Host: localhost:{port}\r\n");
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    let bytes = raw(port, format!("{head}\r\n").as_bytes());
    parse(&bytes).unwrap_or_else(|| panic!("no answer to {path}: {:?}", String::from_utf8_lossy(&bytes)))
}

/// Sends bytes and reads to the end.
#[track_caller]
pub fn raw(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("the dashboard listens");
    stream.set_read_timeout(Some(super::PATIENCE)).expect("a socket takes a timeout");
    stream.write_all(bytes).expect("the dashboard reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("the dashboard answers and closes");
    answer
}

/// Takes an answer apart; `None` where it is none.
pub fn parse(bytes: &[u8]) -> Option<Answer> {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let header =
        |line: &str| line.split_once(": ").map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()));
    Some(Answer { status, headers: lines.filter_map(header).collect(), body: body.to_owned() })
}

/// A server that takes whatever is posted.
pub struct Hook {
    /// Where.
    pub port: u16,
    bodies: Arc<Mutex<Vec<String>>>,
    status: Arc<Mutex<u16>>,
}

impl Hook {
    /// Listens on a port that the test has claimed, and answers with `status`.
    pub fn listen(port: u16, status: u16) -> Hook {
        let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is ours");
        let hook = Hook { port, bodies: Arc::default(), status: Arc::new(Mutex::new(status)) };
        let (bodies, status) = (Arc::clone(&hook.bodies), Arc::clone(&hook.status));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let answer = *status.lock().expect("no test panics with it");
                if let Some(body) = take(stream, answer) {
                    bodies.lock().expect("no test panics with it").push(body);
                }
            }
        });
        hook
    }

    /// What it answers from now on.
    pub fn answer(&self, status: u16) {
        *self.status.lock().expect("no test panics with it") = status;
    }

    /// Everything that was posted so far.
    pub fn bodies(&self) -> Vec<String> {
        self.bodies.lock().expect("no test panics with it").clone()
    }
}

fn take(mut stream: TcpStream, status: u16) -> Option<String> {
    stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let end = Instant::now() + Duration::from_secs(10);
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    while Instant::now() < end {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                let _ =
                    stream.write_all(format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n").as_bytes());
                return Some(body.to_owned());
            }
        }
        match stream.read(&mut chunk).ok()? {
            0 => return None,
            count => bytes.extend_from_slice(&chunk[..count]),
        }
    }
    None
}
