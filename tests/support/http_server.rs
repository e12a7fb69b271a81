//! An HTTP server for doubles of peers: plain or TLS, kept connections, and every way of not answering. It knows nothing
//! of the client it stands before.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often a waiting thread looks whether the server stops.
const TICK: Duration = Duration::from_millis(10);

/// A request, whole.
#[derive(Clone, Debug)]
pub struct Request {
    /// When it had come.
    pub at: Instant,
    /// `POST`.
    pub method: String,
    /// Without the query.
    pub path: String,
    /// Query and form parameters, decoded.
    pub query: BTreeMap<String, String>,
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
    /// Bytes of the request line's target.
    pub target_bytes: usize,
    /// The connection it came on, counted from 1.
    pub connection: usize,
}

impl Request {
    /// A header, empty where absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// A parameter, empty where absent.
    pub fn parameter(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// What becomes of a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// An answer.
    Answer {
        /// Status.
        status: u16,
        /// Headers besides Content-Length.
        headers: Vec<(String, String)>,
        /// Body.
        body: Vec<u8>,
    },
    /// Nothing; the connection stays.
    Silence,
    /// The connection is closed without an answer.
    HangUp,
    /// These bytes, then the connection is closed.
    Raw(Vec<u8>),
}

impl Reply {
    /// An answer with a content type.
    pub fn of(status: u16, content_type: &str, body: impl Into<Vec<u8>>) -> Reply {
        let headers = vec![("Content-Type".to_owned(), content_type.to_owned())];
        Reply::Answer { status, headers, body: body.into() }
    }

    /// With one more header.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Reply {
        if let Reply::Answer { headers, .. } = &mut self {
            headers.push((name.to_owned(), value.to_owned()));
        }
        self
    }
}

/// Answers a request.
pub type Handler = Arc<dyn Fn(&Request) -> Reply + Send + Sync>;

/// A running server; it ends, with its connections, when it is dropped.
pub struct HttpServer {
    /// Where it listens.
    pub port: u16,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    handler: Handler,
    tls: Option<native_tls::TlsAcceptor>,
    requests: Mutex<Vec<Request>>,
    connections: AtomicUsize,
    stop: AtomicBool,
}

impl HttpServer {
    /// Listens on a port of this machine; 0 takes a free one.
    #[track_caller]
    pub fn start(port: u16, certificate: Option<&Certificate>, handler: Handler) -> HttpServer {
        let listener = TcpListener::bind(("127.0.0.1", port)).unwrap();
        let port = listener.local_addr().unwrap().port();
        listener.set_nonblocking(true).unwrap();
        let shared = Arc::new(Shared {
            handler,
            tls: certificate.map(Certificate::acceptor),
            requests: Mutex::default(),
            connections: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
        });
        let accepting = Arc::clone(&shared);
        let acceptor = Some(std::thread::spawn(move || accepting.accept(&listener)));
        HttpServer { port, shared, acceptor }
    }

    /// What has come so far.
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Connections there have been.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(SeqCst)
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

impl Shared {
    fn accept(self: Arc<Self>, listener: &TcpListener) {
        let mut connections = Vec::new();
        while !self.stop.load(SeqCst) {
            match listener.accept() {
                Ok((stream, _)) => {
                    let number = self.connections.fetch_add(1, SeqCst) + 1;
                    let shared = Arc::clone(&self);
                    connections.push(std::thread::spawn(move || shared.connection(stream, number)));
                }
                Err(_) => std::thread::sleep(TICK),
            }
        }
        for connection in connections {
            let _ = connection.join();
        }
    }

    fn connection(&self, stream: TcpStream, number: usize) {
        stream.set_nonblocking(false).unwrap();
        // The handshake blocks on reads of its own; a peer that stalls in it is not what is tested here.
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.set_nodelay(true).unwrap();
        let socket = stream.try_clone().unwrap();
        let Some(tls) = &self.tls else {
            socket.set_read_timeout(Some(TICK)).unwrap();
            return self.serve(stream, number);
        };
        if let Ok(stream) = tls.accept(stream) {
            socket.set_read_timeout(Some(TICK)).unwrap();
            self.serve(stream, number);
        }
    }

    fn serve(&self, mut stream: impl Read + Write, number: usize) {
        let mut bytes = Vec::new();
        while let Some(request) = self.request(&mut stream, &mut bytes, number) {
            self.requests.lock().unwrap().push(request.clone());
            match (self.handler)(&request) {
                Reply::Answer { status, headers, body } => {
                    let mut head = format!("HTTP/1.1 {status} \r\n");
                    for (name, value) in headers {
                        head.push_str(&format!("{name}: {value}\r\n"));
                    }
                    head.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
                    let body = if request.method == "HEAD" { &[][..] } else { &body };
                    if stream.write_all(&[head.as_bytes(), body].concat()).is_err() || stream.flush().is_err()
                    {
                        return;
                    }
                }
                Reply::Silence => loop {
                    if self.stop.load(SeqCst) || at_end(&mut stream) {
                        return;
                    }
                },
                Reply::HangUp => return,
                Reply::Raw(raw) => {
                    let _ = stream.write_all(&raw).and_then(|()| stream.flush());
                    return;
                }
            }
        }
    }

    /// The next request on a connection; `None` at its end or when the server stops.
    fn request(&self, stream: &mut impl Read, bytes: &mut Vec<u8>, connection: usize) -> Option<Request> {
        let head_end = loop {
            if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
                break at;
            }
            self.more(stream, bytes)?;
        };
        let head = String::from_utf8_lossy(&bytes[..head_end]).into_owned();
        bytes.drain(..head_end + 4);
        let mut lines = head.split("\r\n");
        let mut first = lines.next()?.split(' ');
        let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
        let headers: BTreeMap<String, String> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
            .collect();
        let length: usize = headers.get("content-length").and_then(|n| n.parse().ok()).unwrap_or(0);
        while bytes.len() < length {
            self.more(stream, bytes)?;
        }
        let body: Vec<u8> = bytes.drain(..length).collect();
        let (path, query) = target.split_once('?').unwrap_or((&target, ""));
        let mut query = decode_form(query.as_bytes());
        if headers.get("content-type").is_some_and(|t| t.starts_with("application/x-www-form-urlencoded")) {
            query.extend(decode_form(&body));
        }
        let (path, target_bytes) = (path.to_owned(), target.len());
        Some(Request { at: Instant::now(), method, path, query, headers, body, target_bytes, connection })
    }

    fn more(&self, stream: &mut impl Read, bytes: &mut Vec<u8>) -> Option<()> {
        let mut buffer = [0; 65_536];
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return None,
                Ok(n) => {
                    bytes.extend_from_slice(&buffer[..n]);
                    return Some(());
                }
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if self.stop.load(SeqCst) {
                        return None;
                    }
                }
                Err(_) => return None,
            }
        }
    }
}

fn at_end(stream: &mut impl Read) -> bool {
    match stream.read(&mut [0; 64]) {
        Ok(n) => n == 0,
        Err(e) => !matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}

fn decode_form(text: &[u8]) -> BTreeMap<String, String> {
    let decode = |text: &[u8]| -> String {
        let mut out = Vec::new();
        let mut rest = text;
        while let [first, tail @ ..] = rest {
            rest = tail;
            match (first, tail) {
                (b'+', _) => out.push(b' '),
                (b'%', [a, b, after @ ..]) => {
                    let hex =
                        std::str::from_utf8(&[*a, *b]).ok().and_then(|h| u8::from_str_radix(h, 16).ok());
                    out.extend(hex);
                    rest = after;
                }
                _ => out.push(*first),
            }
        }
        String::from_utf8_lossy(&out).into_owned()
    };
    text.split(|b| *b == b'&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| {
            let at = pair.iter().position(|b| *b == b'=').unwrap_or(pair.len());
            (decode(&pair[..at]), decode(pair.get(at + 1..).unwrap_or_default()))
        })
        .collect()
}

/// A certificate of 127.0.0.1 and `localhost` that signed itself.
pub struct Certificate {
    /// In PEM; at the same time the CA a client trusts.
    pub certificate: PathBuf,
    /// Its key, PKCS#8 in PEM.
    pub key: PathBuf,
}

impl Certificate {
    /// Makes one in a folder, by the tool `openssl`.
    #[track_caller]
    pub fn make(folder: &Path, name: &str) -> Certificate {
        fs::create_dir_all(folder).unwrap();
        let (certificate, key) = (folder.join(format!("{name}.pem")), folder.join(format!("{name}.key")));
        let output = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
            .args(["-days", "2", "-subj", "/CN=localhost"])
            .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-out"])
            .arg(&certificate)
            .arg("-keyout")
            .arg(&key)
            .output()
            .expect("openssl is missing: tests/support/install installs it");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Certificate { certificate, key }
    }

    fn acceptor(&self) -> native_tls::TlsAcceptor {
        let identity = native_tls::Identity::from_pkcs8(
            &fs::read(&self.certificate).unwrap(),
            &fs::read(&self.key).unwrap(),
        );
        native_tls::TlsAcceptor::new(identity.unwrap()).unwrap()
    }
}
