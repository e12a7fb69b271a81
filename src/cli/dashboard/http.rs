//! As much HTTP as a read-only page needs: `GET` and `HEAD`, one request a connection, everything bounded.
//!
//! The head is parsed by httparse. tiny_http was tried and left: it starts a thread for every connection without a
//! limit and never times a slow client out, and neither can be told otherwise.
//!
//! Knows nothing of what is served. A client that breaks a bound gets an answer where it can still be given one, and
//! its connection is closed.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Connections at the same time: a few browsers and one Prometheus; each costs a thread while it lasts.
const CONNECTIONS_MAX: usize = 64;
/// A browser's head has about 1 KiB.
const HEAD_BYTES_MAX: usize = 8 * 1024;
const HEADERS_MAX: usize = 64;
/// The whole head must be here by then, however it trickles in.
const HEAD_TIME_MAX: Duration = Duration::from_secs(10);
/// The whole response must be taken by then: a page of 500 channels is some hundred KiB.
const RESPONSE_TIME_MAX: Duration = Duration::from_secs(30);
/// What a client still sends (a body that nobody asked for) is read so far and so long before the close: bytes left
/// unread would turn the close into a reset, which may swallow the response.
const LINGER_BYTES_MAX: usize = 64 * 1024;
const LINGER_TIME_MAX: Duration = Duration::from_secs(1);
/// After an accept that failed: descriptors are short, and come back.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);
const STACK_BYTES: usize = 512 * 1024;

/// A request, as far as anything here looks at it.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Request {
    /// The path without its query, as it was sent: nothing that is served needs percent signs.
    pub(super) path: String,
    /// `Host`; absent only in HTTP/1.0.
    pub(super) host: Option<String>,
    /// `Authorization`.
    pub(super) authorization: Option<String>,
}

/// A response.
#[derive(Debug, PartialEq)]
pub(super) struct Response {
    pub(super) status: Status,
    pub(super) content_type: &'static str,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Vec<u8>,
}

/// The status line's number and words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Ok,
    BadRequest,
    Unauthorized,
    NotFound,
    MethodNotAllowed,
    Timeout,
    Misdirected,
    HeadTooLarge,
    Failed,
    Unavailable,
}

impl Status {
    fn line(self) -> &'static str {
        match self {
            Self::Ok => "200 OK",
            Self::BadRequest => "400 Bad Request",
            Self::Unauthorized => "401 Unauthorized",
            Self::NotFound => "404 Not Found",
            Self::MethodNotAllowed => "405 Method Not Allowed",
            Self::Timeout => "408 Request Timeout",
            Self::Misdirected => "421 Misdirected Request",
            Self::HeadTooLarge => "431 Request Header Fields Too Large",
            Self::Failed => "500 Internal Server Error",
            Self::Unavailable => "503 Service Unavailable",
        }
    }
}

impl Response {
    /// A line or more of plain text.
    pub(super) fn text(status: Status, text: impl Into<String>) -> Response {
        let body = text.into().into_bytes();
        Response { status, content_type: "text/plain; charset=utf-8", headers: Vec::new(), body }
    }

    /// With one more header. `value` must hold no line break.
    pub(super) fn header(mut self, name: &'static str, value: impl Into<String>) -> Response {
        self.headers.push((name, value.into()));
        self
    }
}

/// Serves for ever, each connection in a thread of its own.
pub(super) fn serve(listener: &TcpListener, handle: impl Fn(&Request) -> Response + Send + Sync + 'static) {
    let handle = Arc::new(handle);
    let open = Arc::new(AtomicUsize::new(0));
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) => {
                if error.kind() != io::ErrorKind::ConnectionAborted {
                    log::warn!("dashboard: could not accept a connection: {error}");
                    thread::sleep(ACCEPT_PAUSE);
                }
                continue;
            }
        };
        // Over the limit the connection is closed: to wait would let a few idle clients lock everybody out.
        let Some(place) = Place::take(&open) else { continue };
        let handle = Arc::clone(&handle);
        let thread = thread::Builder::new().name("http".to_owned()).stack_size(STACK_BYTES);
        let spawned = thread.spawn(move || {
            let _place = place;
            // A client that goes away is its own business.
            let _ = converse(&stream, &*handle);
        });
        if let Err(error) = spawned {
            log::warn!("dashboard: could not start a thread for a connection: {error}");
            thread::sleep(ACCEPT_PAUSE);
        }
    }
}

/// One of the places for connections, given back when dropped.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(open: &Arc<AtomicUsize>) -> Option<Place> {
        let place = Place(Arc::clone(open));
        (open.fetch_add(1, Ordering::Relaxed) < CONNECTIONS_MAX).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Reads a request, answers it, closes.
fn converse(stream: &TcpStream, handle: &dyn Fn(&Request) -> Response) -> io::Result<()> {
    let (response, with_body) = match read_head(stream)? {
        Some(Head::Whole { request, is_head }) => (handle(&request), !is_head),
        Some(Head::Refused(status)) => (refusal(status), true),
        None => return Ok(()),
    };
    let mut bytes = format!(
        "HTTP/1.1 {}\r\nDate: {}\r\nConnection: close\r\nContent-Type: {}\r\nContent-Length: {}\r\n",
        response.status.line(),
        jiff::Timestamp::now().strftime("%a, %d %b %Y %H:%M:%S GMT"),
        response.content_type,
        response.body.len()
    );
    for (name, value) in
        SECURITY.iter().copied().chain(response.headers.iter().map(|(n, v)| (*n, v.as_str())))
    {
        debug_assert!(!value.contains(['\r', '\n']), "{name}");
        bytes.extend([name, ": ", value, "\r\n"]);
    }
    bytes.push_str("\r\n");
    let mut bytes = bytes.into_bytes();
    if with_body {
        bytes.extend_from_slice(&response.body);
    }
    write_all(stream, &bytes)?;
    stream.shutdown(Shutdown::Write)?;
    linger(stream)
}

fn refusal(status: Status) -> Response {
    let response = Response::text(status, status.line().to_owned() + "\n");
    if status == Status::MethodNotAllowed { response.header("Allow", "GET, HEAD") } else { response }
}

/// On every response. The page has its own content policy, which comes with it.
const SECURITY: [(&str, &str); 6] = [
    ("Cache-Control", "no-store"),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
];

/// What a client's first bytes were.
#[derive(Debug, PartialEq)]
pub(super) enum Head {
    Whole { request: Request, is_head: bool },
    Refused(Status),
}

/// `None` when the client went away without asking anything.
fn read_head(mut stream: &TcpStream) -> io::Result<Option<Head>> {
    let deadline = Instant::now() + HEAD_TIME_MAX;
    let mut head = Vec::with_capacity(1024);
    let mut chunk = [0; 2048];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(if head.is_empty() { None } else { Some(Head::Refused(Status::Timeout)) });
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk) {
            Ok(0) => return Ok(None),
            Ok(count) => head.extend_from_slice(&chunk[..count]),
            Err(error) if is_pause(&error) => continue,
            Err(error) => return Err(error),
        }
        if let Some(parsed) = parse(&head) {
            return Ok(Some(parsed));
        }
        if head.len() > HEAD_BYTES_MAX {
            return Ok(Some(Head::Refused(Status::HeadTooLarge)));
        }
    }
}

/// `None` while the head is not whole.
pub(super) fn parse(bytes: &[u8]) -> Option<Head> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return None,
        Err(httparse::Error::TooManyHeaders) => return Some(Head::Refused(Status::HeadTooLarge)),
        Err(_) => return Some(Head::Refused(Status::BadRequest)),
    }
    let is_head = match parsed.method {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => return Some(Head::Refused(Status::MethodNotAllowed)),
    };
    let target = parsed.path.unwrap_or_default();
    let path = target.split('?').next().unwrap_or_default().to_owned();
    let only = |name: &str| -> Result<Option<String>, ()> {
        let mut values = parsed.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
        let value = values.next().map(|header| String::from_utf8(header.value.to_vec()));
        // Twice the same is how a request means one thing here and another to a proxy in front.
        if values.next().is_some() { Err(()) } else { value.transpose().map_err(|_| ()) }
    };
    let (Ok(host), Ok(authorization)) = (only("host"), only("authorization")) else {
        return Some(Head::Refused(Status::BadRequest));
    };
    let host_is_missing = host.is_none() && parsed.version == Some(1);
    if host_is_missing || !path.starts_with('/') {
        return Some(Head::Refused(Status::BadRequest));
    }
    Some(Head::Whole { request: Request { path, host, authorization }, is_head })
}

fn write_all(mut stream: &TcpStream, mut bytes: &[u8]) -> io::Result<()> {
    let deadline = Instant::now() + RESPONSE_TIME_MAX;
    while !bytes.is_empty() {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_write_timeout(Some(left))?;
        match stream.write(bytes) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => bytes = &bytes[count..],
            Err(error) if is_pause(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn linger(mut stream: &TcpStream) -> io::Result<()> {
    let deadline = Instant::now() + LINGER_TIME_MAX;
    let mut rest = LINGER_BYTES_MAX;
    let mut chunk = [0; 4096];
    while rest > 0 {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            break;
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(count) => rest = rest.saturating_sub(count),
            Err(error) if is_pause(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Nothing moved until the time was over, or a signal came: the deadline decides.
fn is_pause(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn whole(text: &str) -> Request {
        match parse(text.as_bytes()) {
            Some(Head::Whole { request, .. }) => request,
            other => panic!("{other:?}"),
        }
    }

    fn refused(text: &str) -> Status {
        match parse(text.as_bytes()) {
            Some(Head::Refused(status)) => status,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_request_is_its_path_host_and_password() {
        let request =
            whole("GET /failed/a/B?x=1 HTTP/1.1\r\nhost: localhost:1\r\nAUTHORIZATION: Basic eA==\r\n\r\n");
        assert_eq!(request.path, "/failed/a/B");
        assert_eq!(request.host.as_deref(), Some("localhost:1"));
        assert_eq!(request.authorization.as_deref(), Some("Basic eA=="));
        assert!(matches!(
            parse(b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"),
            Some(Head::Whole { is_head: true, .. })
        ));
    }

    #[test]
    fn a_head_in_pieces_is_waited_for() {
        let text = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        assert!((0..text.len()).all(|end| parse(&text[..end]).is_none()));
    }

    #[test]
    fn only_http_1_0_may_do_without_a_host_and_nobody_has_two() {
        assert_eq!(refused("GET / HTTP/1.1\r\n\r\n"), Status::BadRequest);
        assert_eq!(whole("GET /healthz HTTP/1.0\r\n\r\n").host, None);
        assert_eq!(refused("GET / HTTP/1.1\r\nHost: a\r\nhost: b\r\n\r\n"), Status::BadRequest);
    }

    #[test]
    fn what_would_change_something_or_is_no_path_is_refused() {
        for method in ["POST", "PUT", "DELETE", "OPTIONS", "CONNECT"] {
            let text = format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(refused(&text), Status::MethodNotAllowed, "{method}");
        }
        assert_eq!(refused("GET http://evil/ HTTP/1.1\r\nHost: a\r\n\r\n"), Status::BadRequest);
        assert_eq!(refused("\u{16}\u{3}\u{1}\r\n\r\n"), Status::BadRequest);
        let many = "A: b\r\n".repeat(HEADERS_MAX + 1);
        assert_eq!(refused(&format!("GET / HTTP/1.1\r\n{many}\r\n")), Status::HeadTooLarge);
    }

    #[test]
    fn places_are_given_back() {
        let open = Arc::new(AtomicUsize::new(0));
        let places: Vec<Place> = (0..CONNECTIONS_MAX).filter_map(|_| Place::take(&open)).collect();
        assert_eq!(places.len(), CONNECTIONS_MAX);
        assert!(Place::take(&open).is_none());
        drop(places);
        assert!(Place::take(&open).is_some());
        assert_eq!(open.load(Ordering::Relaxed), 0);
    }
}
