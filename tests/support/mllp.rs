//! An MLLP client and a reader of acknowledgments, written for the tests alone.

use rustix::net;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// What a sender hears.
#[derive(Debug, PartialEq)]
pub enum Reply {
    /// The body of one answer frame.
    Frame(Vec<u8>),
    /// The server closed the connection.
    Closed,
    /// Nothing within the time.
    Silence,
}

/// A sender's connection.
pub struct Peer {
    stream: Box<dyn Wire>,
    heard: Vec<u8>,
}

/// Bytes to and from the server, plain or over TLS.
trait Wire: Read + Write + Send {
    fn socket(&self) -> &TcpStream;
    /// Says in TLS that no more will be sent.
    fn notify(&mut self) {}
}

impl Wire for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Wire for native_tls::TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref()
    }

    fn notify(&mut self) {
        self.shutdown().expect("the server reads");
    }
}

/// A body in its envelope.
pub fn frame(body: &[u8]) -> Vec<u8> {
    [b"\x0b", body, b"\x1c\r"].concat()
}

impl Peer {
    /// Connects to a port of this machine.
    #[track_caller]
    pub fn connect(port: u16) -> Peer {
        Peer::try_connect(port).unwrap_or_else(|e| panic!("could not connect to port {port}: {e}"))
    }

    /// Connects, where it may not work.
    pub fn try_connect(port: u16) -> io::Result<Peer> {
        Peer::over(TcpStream::connect(("127.0.0.1", port))?)
    }

    /// Connects to another address of this machine.
    pub fn try_connect_to(address: IpAddr, port: u16) -> io::Result<Peer> {
        Peer::over(TcpStream::connect((address, port))?)
    }

    /// Connects from an address of this machine of one's choice (all of 127.0.0.0/8 is).
    pub fn try_connect_from(address: Ipv4Addr, port: u16) -> io::Result<Peer> {
        let socket = net::socket(net::AddressFamily::INET, net::SocketType::STREAM, None)?;
        net::bind(&socket, &SocketAddr::from((address, 0)))?;
        net::connect(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
        Peer::over(TcpStream::from(socket))
    }

    /// Connects with room for little that is not read.
    pub fn try_connect_narrow(port: u16) -> io::Result<Peer> {
        let socket = net::socket(net::AddressFamily::INET, net::SocketType::STREAM, None)?;
        net::sockopt::set_socket_recv_buffer_size(&socket, 4096)?;
        net::connect(&socket, &SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
        Peer::over(TcpStream::from(socket))
    }

    fn over(stream: TcpStream) -> io::Result<Peer> {
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(Duration::from_secs(30)))?;
        Ok(Peer { stream: Box::new(stream), heard: Vec::new() })
    }

    /// Connects over TLS (OpenSSL's), by the name `localhost`.
    pub fn try_connect_over(port: u16, tls: &native_tls::TlsConnector) -> Result<Peer, String> {
        Peer::try_connect_shown(port, tls).map(|(peer, _)| peer)
    }

    /// The same, with the certificate that the server showed.
    pub fn try_connect_shown(port: u16, tls: &native_tls::TlsConnector) -> Result<(Peer, Vec<u8>), String> {
        let socket = TcpStream::connect(("127.0.0.1", port)).map_err(|e| e.to_string())?;
        socket.set_nodelay(true).map_err(|e| e.to_string())?;
        socket.set_read_timeout(Some(super::PATIENCE)).map_err(|e| e.to_string())?;
        socket.set_write_timeout(Some(super::PATIENCE)).map_err(|e| e.to_string())?;
        let stream = tls.connect("localhost", socket).map_err(|e| e.to_string())?;
        let shown = stream.peer_certificate().map_err(|e| e.to_string())?.ok_or("no certificate")?;
        let shown = shown.to_der().map_err(|e| e.to_string())?;
        Ok((Peer { stream: Box::new(stream), heard: Vec::new() }, shown))
    }

    /// No more will be sent, says TLS; answers are still read.
    pub fn end_tls(&mut self) {
        self.stream.notify();
    }

    /// How long [`Peer::send_raw`] may wait for the server to read.
    pub fn patient_for(&self, time: Duration) {
        self.stream.socket().set_write_timeout(Some(time)).expect("a socket takes a timeout");
    }

    /// This side's address and port, as the server lists it.
    pub fn address(&self) -> SocketAddr {
        self.stream.socket().local_addr().expect("a connected socket has an address")
    }

    /// Sends bytes as they are.
    pub fn send_raw(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Sends one message in its envelope.
    #[track_caller]
    pub fn send(&mut self, body: &[u8]) {
        self.send_raw(&frame(body)).expect("the server reads");
    }

    /// Waits for the next answer frame. Bytes outside a frame fail the test.
    #[track_caller]
    pub fn receive(&mut self, limit: Duration) -> Reply {
        let end = Instant::now() + limit;
        let mut chunk = [0; 65536];
        loop {
            if let Some(stop) = self.heard.windows(2).position(|pair| pair == b"\x1c\r") {
                assert_eq!(self.heard[0], 0x0b, "an answer begins with {:?}", preview(&self.heard));
                let body = self.heard[1..stop].to_vec();
                self.heard.drain(..stop + 2);
                return Reply::Frame(body);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Reply::Silence;
            }
            self.stream.socket().set_read_timeout(Some(left)).expect("a socket takes a timeout");
            match self.stream.read(&mut chunk) {
                Ok(0) => return self.closed(),
                Ok(count) => self.heard.extend_from_slice(&chunk[..count]),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Reply::Silence,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.closed(),
            }
        }
    }

    /// Sends a message and returns its acknowledgment.
    #[track_caller]
    pub fn exchange(&mut self, body: &[u8]) -> Acknowledgment {
        self.send(body);
        self.acknowledgment()
    }

    /// The next answer, which must come.
    #[track_caller]
    pub fn acknowledgment(&mut self) -> Acknowledgment {
        match self.receive(super::ANSWER) {
            Reply::Frame(body) => Acknowledgment::parse(&body),
            other => panic!("no answer: {other:?}"),
        }
    }

    /// The answer to a batch, which must come.
    #[track_caller]
    pub fn batch_answer(&mut self) -> BatchAnswer {
        match self.receive(super::ANSWER) {
            Reply::Frame(body) => BatchAnswer::parse(&body),
            other => panic!("no answer: {other:?}"),
        }
    }

    /// No more will be sent; answers are still read.
    pub fn half_close(&self) {
        self.stream.socket().shutdown(Shutdown::Write).expect("an open socket can be half closed");
    }

    /// The same, where the server may have closed the connection already.
    pub fn try_half_close(&self) {
        let _ = self.stream.socket().shutdown(Shutdown::Write);
    }

    /// Fails unless the server closes the connection within `limit` without an answer.
    #[track_caller]
    pub fn expect_close(&mut self, limit: Duration) {
        assert_eq!(self.receive(limit), Reply::Closed);
    }

    /// Fails when anything is heard within `time`; the connection must stay open.
    #[track_caller]
    pub fn expect_silence(&mut self, time: Duration) {
        assert_eq!(self.receive(time), Reply::Silence);
    }

    fn closed(&self) -> Reply {
        assert!(self.heard.is_empty(), "closed in the middle of an answer: {:?}", preview(&self.heard));
        Reply::Closed
    }
}

fn preview(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(200)]).into_owned()
}

/// An acknowledgment, field by field.
#[derive(Clone)]
pub struct Acknowledgment {
    separator: u8,
    segments: Vec<Vec<Vec<u8>>>,
    /// The body as it came.
    pub body: Vec<u8>,
}

impl Acknowledgment {
    /// Takes an answer apart, and checks what holds for every one of them: MSH first, MSA second, each segment ended by
    /// CR, a message id of at most 20 characters.
    #[track_caller]
    pub fn parse(body: &[u8]) -> Acknowledgment {
        assert!(
            body.starts_with(b"MSH") && body.ends_with(b"\r"),
            "not an acknowledgment: {:?}",
            preview(body)
        );
        let separator = body[3];
        let split = |line: &[u8]| line.split(|&byte| byte == separator).map(<[u8]>::to_vec).collect();
        let segments = body[..body.len() - 1].split(|&byte| byte == b'\r').map(split).collect();
        let this = Acknowledgment { separator, segments, body: body.to_vec() };
        assert_eq!(this.segments[1][0], b"MSA", "{:?}", preview(body));
        assert!((1..=20).contains(&this.message_id().len()), "MSH-10 {:?}", this.message_id());
        this
    }

    /// MSH-n as text; n counts as in HL7, where MSH-1 is the separator.
    pub fn msh(&self, n: usize) -> String {
        if n == 1 {
            return char::from(self.separator).to_string();
        }
        text(self.segments[0].get(n - 1))
    }

    /// MSA-1.
    pub fn code(&self) -> String {
        text(self.segments[1].get(1))
    }

    /// MSA-2, the sender's control id, byte for byte.
    pub fn control_id(&self) -> Vec<u8> {
        self.segments[1].get(2).cloned().unwrap_or_default()
    }

    /// MSA-3.
    pub fn remark(&self) -> String {
        text(self.segments[1].get(3))
    }

    /// MSH-10 of the acknowledgment: the server's own id of the message.
    pub fn message_id(&self) -> String {
        self.msh(10)
    }

    /// The error code, from ERR-3.1, or before 2.5 from ERR-1.4.1.
    pub fn error(&self) -> Option<String> {
        let err = self.segments.iter().find(|segment| segment[0] == b"ERR")?;
        let component = self.msh(2).chars().next()?;
        let first = text(err.get(1));
        if first.is_empty() {
            return text(err.get(3)).split(component).next().map(str::to_owned);
        }
        let subcomponent = self.msh(2).chars().nth(3)?;
        Some(first.split(component).nth(3)?.split(subcomponent).next()?.to_owned())
    }

    /// Where the error is: segment name and field number.
    pub fn error_place(&self) -> Option<(String, String)> {
        let err = self.segments.iter().find(|segment| segment[0] == b"ERR")?;
        let component = self.msh(2).chars().next()?;
        let place =
            if err.get(1).is_some_and(|f| !f.is_empty()) { text(err.get(1)) } else { text(err.get(2)) };
        let mut parts = place.split(component);
        let segment = parts.next()?.to_owned();
        Some((segment, parts.nth(1).unwrap_or_default().to_owned()))
    }

    /// Fails unless the message was accepted and the answer is for `control_id`.
    #[track_caller]
    pub fn accepts(&self, control_id: &[u8]) {
        assert_eq!((self.code().as_str(), self.control_id().as_slice()), ("AA", control_id), "{self:?}");
    }

    /// Fails unless the message was refused with this code and error.
    #[track_caller]
    pub fn refuses(&self, code: &str, error: &str) {
        assert_eq!((self.code().as_str(), self.error().as_deref()), (code, Some(error)), "{self:?}");
        assert!(self.remark().len() <= 80 && self.remark().is_ascii(), "MSA-3 {:?}", self.remark());
    }
}

impl std::fmt::Debug for Acknowledgment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", preview(&self.body))
    }
}

/// The answer to a batch: one frame with a BHS, an acknowledgment for each message, a BTS.
#[derive(Clone, Debug)]
pub struct BatchAnswer {
    /// Fields of the BHS; the first is its name.
    pub header: Vec<String>,
    /// In the order of the messages.
    pub answers: Vec<Acknowledgment>,
}

impl BatchAnswer {
    /// Takes the frame apart; BTS-1 must be the number of acknowledgments.
    #[track_caller]
    pub fn parse(body: &[u8]) -> BatchAnswer {
        assert!(body.starts_with(b"BHS") && body.ends_with(b"\r"), "no batch answer: {:?}", preview(body));
        let separator = char::from(body[3]);
        let lines: Vec<&[u8]> = body[..body.len() - 1].split(|&byte| byte == b'\r').collect();
        let fields = |line: &[u8]| -> Vec<String> {
            String::from_utf8_lossy(line).split(separator).map(str::to_owned).collect()
        };
        let (header, trailer) = (fields(lines[0]), fields(lines[lines.len() - 1]));
        let mut bodies: Vec<Vec<u8>> = Vec::new();
        for line in &lines[1..lines.len() - 1] {
            if line.starts_with(b"MSH") {
                bodies.push(Vec::new());
            }
            let body = bodies.last_mut().expect("behind the BHS stands an MSH");
            body.extend_from_slice(line);
            body.push(b'\r');
        }
        let answers: Vec<Acknowledgment> = bodies.iter().map(|body| Acknowledgment::parse(body)).collect();
        assert_eq!(trailer, ["BTS".to_owned(), answers.len().to_string()], "{:?}", preview(body));
        BatchAnswer { header, answers }
    }

    /// Code, MSA-2 and error of each.
    pub fn summary(&self) -> Vec<(String, String, Option<String>)> {
        let text = |id: Vec<u8>| String::from_utf8_lossy(&id).into_owned();
        self.answers.iter().map(|a| (a.code(), text(a.control_id()), a.error())).collect()
    }
}

fn text(field: Option<&Vec<u8>>) -> String {
    field.map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default()
}
