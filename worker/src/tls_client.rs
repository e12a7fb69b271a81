//! TLS to peers that we connect to.
//!
//! native-tls (OpenSSL) and not rustls, which serves our own listeners: it trusts the system's store of CAs as every
//! other client on the machine, it is here for SSH and the databases anyway, and it still speaks with the TLS 1.2 of old
//! integration engines (CBC suites, RSA key exchange), which rustls does not.

use crate::files::plain;
use crate::peer_stream::{PeerStream, wait};
use config::ClientTls;
use native_tls::{Certificate, HandshakeError, Identity, MidHandshakeTlsStream, TlsConnector};
use openssl::pkey::PKey;
use rustix::event::PollFlags;
use std::error::Error;
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

/// A handshake does not say what it waits for; that is nearly always bytes. In the other case it is tried again after
/// this long.
const HANDSHAKE_WAIT: Duration = Duration::from_millis(100);

/// Shakes hands on a fresh connection to `server`. Files are read anew each time: a certificate that was renewed counts
/// from the next connection on.
///
/// # Errors
/// Why, without naming the peer.
pub fn connect(
    tls: &ClientTls,
    server: &str,
    stream: TcpStream,
    deadline: Instant,
) -> Result<PeerStream, String> {
    let connector = connector(tls)?;
    stream.set_nonblocking(true).map_err(|error| plain(&error))?;
    let name = tls.verify_name.as_deref().unwrap_or(server);
    let mut shaken = connector.connect(name, stream);
    loop {
        let half: MidHandshakeTlsStream<TcpStream> = match shaken {
            Ok(stream) => return Ok(PeerStream::Tls(Box::new(stream))),
            Err(HandshakeError::Failure(error)) => return Err(format!("TLS: {}", words(&error))),
            Err(HandshakeError::WouldBlock(half)) => half,
        };
        if Instant::now() >= deadline {
            return Err("TLS: no answer in time".to_owned());
        }
        // In vain or not: it is tried again.
        let _ = wait(half.get_ref(), PollFlags::IN, deadline.min(Instant::now() + HANDSHAKE_WAIT));
        shaken = half.handshake();
    }
}

fn connector(tls: &ClientTls) -> Result<TlsConnector, String> {
    let mut builder = TlsConnector::builder();
    if let Some(path) = &tls.ca_file {
        let found = Certificate::stack_from_pem(&read(path, "ca_file")?);
        let found = found.map_err(|error| format!("ca_file {path:?} is no PEM bundle: {}", words(&error)))?;
        if found.is_empty() {
            return Err(format!("ca_file {path:?} holds no certificate"));
        }
        builder.disable_built_in_roots(true);
        for certificate in found {
            builder.add_root_certificate(certificate);
        }
    }
    if let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) {
        let chain = read(certificate, "certificate")?;
        let pkcs8 = pkcs8(key)?;
        let identity = Identity::from_pkcs8(&chain, &pkcs8)
            .map_err(|error| format!("certificate {certificate:?} and key {key:?}: {}", words(&error)))?;
        builder.identity(identity);
    }
    builder.build().map_err(|error| format!("TLS: {}", words(&error)))
}

/// The key in the one format that native-tls takes. Keys come as PKCS #1 and SEC 1 too.
fn pkcs8(path: &Path) -> Result<Vec<u8>, String> {
    let bytes = read(path, "key")?;
    // An encrypted key would be asked for on the terminal: give it no passphrase instead.
    let key = PKey::private_key_from_pem_callback(&bytes, |_| Ok(0))
        .map_err(|_| format!("key {path:?} is no private key in PEM that opens without a passphrase"))?;
    key.private_key_to_pem_pkcs8().map_err(|error| format!("key {path:?}: {error}"))
}

fn read(path: &Path, key: &str) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("could not read {key} {path:?}: {}", plain(&error)))
}

/// The reason without OpenSSL's file names and numbers; with what is wrong with a certificate.
fn words(error: &native_tls::Error) -> String {
    let text = error.to_string();
    let mut source: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(error) = source {
        let stack = error
            .downcast_ref::<openssl::ssl::Error>()
            .and_then(|error| error.ssl_error())
            .or_else(|| error.downcast_ref::<openssl::error::ErrorStack>());
        if let Some(reason) = stack.and_then(|stack| stack.errors().first()).and_then(|first| first.reason())
        {
            // native-tls appends OpenSSL's verdict on the certificate in brackets.
            let verdict = text.rsplit_once(" (").map_or("", |(_, verdict)| verdict.trim_end_matches(')'));
            let verdict =
                if reason.contains("certificate verify") { format!(": {verdict}") } else { String::new() };
            return format!("{reason}{verdict}");
        }
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
