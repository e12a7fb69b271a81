//! A client's first bytes on a TLS port, and the names in a certificate.

#[allow(dead_code, reason = "part of the module is fuzzed")]
#[path = "../../../worker/src/tls/clients.rs"]
mod clients;
#[allow(dead_code, reason = "part of the module is fuzzed")]
#[path = "../../../worker/src/tls/fault.rs"]
mod fault;
#[allow(dead_code, reason = "part of the module is fuzzed")]
#[path = "../../../worker/src/transport/secured.rs"]
mod secured;

pub(crate) use clients::shown_name;
pub(crate) use fault::TlsFault;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};
use secured::Secured;
use std::io::{self, ErrorKind, Read, Write};
use std::sync::{Arc, LazyLock};

/// More than we send to somebody who has not shaken hands: our certificate, and an alert.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// As `worker::tls::Acceptor` makes it.
static CONFIG: LazyLock<Arc<ServerConfig>> = LazyLock::new(|| {
    let certificate = include_bytes!("../../../worker/src/tls/fixtures/server.pem");
    let key = include_bytes!("../../../worker/src/tls/fixtures/server.key");
    let chain = vec![CertificateDer::from_pem_slice(certificate).expect("the fixture is one")];
    let key = PrivateKeyDer::from_pem_slice(key).expect("the fixture is one");
    let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("ring has them")
        .with_no_client_auth();
    Arc::new(builder.with_single_cert(chain, key).expect("the fixtures fit"))
});

/// A socket that gives so much a read and then nothing more.
struct Socket<'a> {
    incoming: &'a [u8],
    most: usize,
    outgoing: usize,
}

impl Read for Socket<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.incoming.is_empty() {
            return Err(ErrorKind::WouldBlock.into());
        }
        let count = self.incoming.len().min(self.most).min(buffer.len());
        let (now, later) = self.incoming.split_at(count);
        buffer[..count].copy_from_slice(now);
        self.incoming = later;
        Ok(count)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outgoing += bytes.len();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes that shake no hands are never data, plain text is told by its first byte, and the end of it is soon.
pub(crate) fn stream(bytes: &[u8]) {
    let [most, incoming @ ..] = bytes else { return };
    let mut socket = Socket { incoming, most: usize::from(*most) + 1, outgoing: 0 };
    let mut secured =
        Secured::new(ServerConnection::new(Arc::clone(&CONFIG)).expect("the settings are good"));
    let mut buffer = [0; 1024];
    let error = secured.read(&mut socket, &mut buffer).expect_err("nobody shook hands");
    let fault = error.get_ref().and_then(|inner| inner.downcast_ref::<TlsFault>());
    if let Some(&first) = incoming.first() {
        let is_plain = !matches!(first, 0x15 | 0x16 | 0x80..);
        assert_eq!(is_plain, matches!(fault, Some(TlsFault::PlainText(byte)) if *byte == first), "{error}");
    }
    assert!(
        fault.is_some() || matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::UnexpectedEof),
        "{error}"
    );
    assert!(!error.to_string().chars().any(char::is_control), "{error}");
    assert!(socket.outgoing <= ANSWER_BYTES_MAX);
    assert!(secured.name().is_none() && secured.version().is_none());
}

/// Any bytes are a certificate with names, or without.
pub(crate) fn certificate(bytes: &[u8]) {
    let certificate = CertificateDer::from(bytes);
    let names = clients::names_in(&certificate);
    assert!(names.iter().map(String::len).sum::<usize>() <= 64 * bytes.len());
    assert_eq!(shown_name(&certificate).is_some(), !names.is_empty());
}
