//! TLS of the sending side: `send --tls`.

use super::Fail;
use rustls::client::WantsClientCert;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{
    AlertDescription, CertificateError, ClientConfig, ClientConnection, ConfigBuilder, Error, RootCertStore,
    StreamOwned,
};
use std::io;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where Debian keeps the CAs that this machine trusts; `SSL_CERT_FILE` names another place, as it does for OpenSSL.
const SYSTEM_CAS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// A connection over TLS.
pub(super) type Stream = StreamOwned<ClientConnection, TcpStream>;

/// How `send` speaks TLS
#[derive(clap::Args)]
pub(super) struct TlsArguments {
    /// Speak TLS
    #[arg(long)]
    tls: bool,
    /// CAs that the server's certificate may come from, instead of this machine's; PEM
    #[arg(long, value_name = "FILE", requires = "tls")]
    tls_ca: Option<PathBuf>,
    /// Certificate to show to the server; PEM
    #[arg(long, value_name = "FILE", requires_all = ["tls", "tls_key"])]
    tls_cert: Option<PathBuf>,
    /// Its key; PEM, without a passphrase
    #[arg(long, value_name = "FILE", requires_all = ["tls", "tls_cert"])]
    tls_key: Option<PathBuf>,
    /// Name that the server's certificate must have, instead of the host in --to
    #[arg(long, value_name = "NAME", requires = "tls")]
    tls_name: Option<String>,
}

/// What every connection is made with.
#[derive(Clone)]
pub(super) struct Connector {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Connector {
    /// What the arguments ask for a connection to `to`; `None` for plain text.
    pub(super) fn of(arguments: &TlsArguments, to: &str) -> Result<Option<Connector>, Fail> {
        if !arguments.tls {
            return Ok(None);
        }
        let builder = builder(arguments.tls_ca.as_deref())?;
        let config = match (&arguments.tls_cert, &arguments.tls_key) {
            (Some(certificate), Some(key)) => {
                let (chain, key_der) = (certificates(certificate)?, private_key(key)?);
                builder.with_client_auth_cert(chain, key_der).map_err(|e| {
                    let (certificate, key) = (certificate.display(), key.display());
                    Fail::Failed(format!("\"{certificate}\" and \"{key}\" cannot be used together: {e}"))
                })?
            }
            _ => builder.with_no_client_auth(),
        };
        let host = to.rsplit_once(':').map_or(to, |(host, _)| host).trim_matches(['[', ']']);
        let name = arguments.tls_name.as_deref().unwrap_or(host);
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| Fail::Failed(format!("\"{name}\" cannot be the name in a certificate")))?;
        Ok(Some(Connector { config: Arc::new(config), name }))
    }

    /// For `bench`: a server that shows this certificate under this name.
    pub(super) fn trusting(certificate: &Path, name: &str) -> Result<Connector, Fail> {
        let config = builder(Some(certificate))?.with_no_client_auth();
        let name = ServerName::try_from(name.to_owned())
            .map_err(|_| Fail::Failed(format!("\"{name}\" cannot be the name in a certificate")))?;
        Ok(Connector { config: Arc::new(config), name })
    }

    /// Shakes hands over a connected socket, whose time-outs bound each wait.
    pub(super) fn connect(&self, mut socket: TcpStream) -> io::Result<Stream> {
        let mut tls =
            ClientConnection::new(Arc::clone(&self.config), self.name.clone()).map_err(io::Error::other)?;
        while tls.is_handshaking() {
            tls.complete_io(&mut socket).map_err(in_words)?;
        }
        Ok(StreamOwned::new(tls, socket))
    }
}

fn builder(ca: Option<&Path>) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, Fail> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| Fail::Failed(e.to_string()))?;
    Ok(builder.with_root_certificates(roots(ca)?))
}

fn roots(file: Option<&Path>) -> Result<RootCertStore, Fail> {
    let system = || std::env::var_os("SSL_CERT_FILE").map_or_else(|| SYSTEM_CAS.into(), PathBuf::from);
    let path = file.map_or_else(system, Path::to_owned);
    let mut roots = RootCertStore::empty();
    // One that cannot be used among a machine's 140 keeps nobody from the others.
    let (usable, _) = roots.add_parsable_certificates(certificates(&path)?);
    match usable {
        0 => Err(Fail::Failed(format!("no certificate in \"{}\" can be used as a CA", path.display()))),
        _ => Ok(roots),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Fail> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&read(path)?).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        _ => Err(Fail::Failed(format!("no certificate in \"{}\"; it must be PEM", path.display()))),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Fail> {
    PrivateKeyDer::from_pem_slice(&read(path)?).map_err(|_| {
        let path = path.display();
        Fail::Failed(format!("no private key in \"{path}\"; it must be PEM, without a passphrase"))
    })
}

fn read(path: &Path) -> Result<Vec<u8>, Fail> {
    std::fs::read(path).map_err(|error| Fail::io(format!("read \"{}\"", path.display()), &error))
}

/// An error of TLS as whoever runs `send` needs it; others as they are.
pub(super) fn in_words(error: io::Error) -> io::Error {
    let Some(fault) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) else { return error };
    let words = match fault {
        Error::InvalidCertificate(fault) => match fault {
            CertificateError::UnknownIssuer => {
                "the server's certificate comes from no CA that is trusted here; \
                                                --tls-ca names another"
                    .to_owned()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "the server's certificate has expired".to_owned()
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                format!("{fault}; --tls-name names another")
            }
            other => format!("the server's certificate cannot be used: {other}"),
        },
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "the server wants a certificate of ours; --tls-cert and --tls-key name it".to_owned()
        }
        Error::AlertReceived(alert) => format!("the server refused: alert {alert:?}"),
        Error::InvalidMessage(_) => "what the server sends is no TLS".to_owned(),
        other => other.to_string(),
    };
    io::Error::new(error.kind(), words)
}
