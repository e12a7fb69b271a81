//! A browser or a balancer, as far as the tests need one: one request a connection, bytes as they are.

use std::io::{Read, Write};
use std::net::TcpStream;

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
