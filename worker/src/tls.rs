//! The server's side of TLS: what a channel's certificate, key and CA come to, and when the certificate expires.
//!
//! Files are read by the master and come as contents, at the start and again when they have changed. The same check runs
//! in three places: in the master before a worker is given anything, so that a bad file changes nothing; in `check`; and
//! in the worker that uses them.
//!
//! TLS 1.2 and 1.3, RSA and ECDSA keys. No session is resumed: a connection that lasts for days gains nothing from it, and
//! a resumed one would get past a CA or a name that has been taken out since.

mod clients;
mod fault;

pub(crate) use clients::shown_name;
pub(crate) use fault::{Reason, TlsFault};

use config::Tls;
use link::Files;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, ServerConfig, WebPkiClientVerifier};
use rustls::{InconsistentKeys, RootCertStore};
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// A certificate that expires sooner than that is warned of.
const EXPIRES_SOON_S: i64 = 30 * 86_400;

/// What a channel needs to take TLS connections.
#[derive(Clone, Debug)]
pub struct Acceptor {
    /// For new connections.
    pub(crate) config: Arc<ServerConfig>,
    /// When the first certificate of the chain that is ours expires, in seconds since 1970.
    pub(crate) expires_s: i64,
}

impl Acceptor {
    /// From a channel's settings and the contents of the files they name.
    ///
    /// # Errors
    /// Which file cannot be used, and why.
    pub fn new(settings: &Tls, files: &Files) -> Result<Acceptor, String> {
        let provider = Arc::new(ring::default_provider());
        let chain = certificates("certificate", &settings.certificate, files)?;
        let key = private_key(&settings.key, files)?;
        let expires_s = first_expiry(&settings.certificate, &chain)?;
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| e.to_string())?;
        let builder = match &settings.client_ca {
            None => builder.with_no_client_auth(),
            Some(ca) => builder.with_client_cert_verifier(verifier(ca, settings, files, provider)?),
        };
        let mut config = builder.with_single_cert(chain, key).map_err(|error| match error {
            rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                let (key, certificate) = (settings.key.display(), settings.certificate.display());
                format!("tls: the key in \"{key}\" is not that of the certificate in \"{certificate}\"")
            }
            other => {
                let path = settings.key.display();
                format!("tls.key \"{path}\": cannot be used: {other}; RSA, ECDSA P-256 and P-384 can")
            }
        })?;
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Acceptor { config: Arc::new(config), expires_s })
    }

    /// What an operator should know about it although it works.
    pub fn warning(&self, settings: &Tls) -> Option<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs() as i64);
        let left_s = self.expires_s - now;
        let path = settings.certificate.display();
        let when =
            jiff::Timestamp::from_second(self.expires_s).map_or_else(|e| e.to_string(), |t| t.to_string());
        if left_s <= 0 {
            return Some(format!("tls.certificate \"{path}\" expired at {when}: senders will refuse it"));
        }
        let days = left_s / 86_400;
        (left_s < EXPIRES_SOON_S)
            .then(|| format!("tls.certificate \"{path}\" expires in {days} days, at {when}"))
    }
}

/// Checks the files of a channel's TLS; gives what an operator should know although they can be used.
///
/// # Errors
/// Which file cannot be used, and why.
pub fn check(settings: &Tls, files: &Files) -> Result<Option<String>, String> {
    Ok(Acceptor::new(settings, files)?.warning(settings))
}

fn verifier(
    ca: &Path,
    settings: &Tls,
    files: &Files,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<clients::Clients>, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates("client_ca", ca, files)? {
        roots.add(certificate).map_err(|e| {
            format!("tls.client_ca \"{}\": a certificate in it cannot be used: {e}", ca.display())
        })?;
    }
    let by_ca = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
        .build()
        .map_err(|e| format!("tls.client_ca \"{}\": cannot be used: {e}", ca.display()))?;
    Ok(Arc::new(clients::Clients::new(by_ca, settings.client_names.clone())))
}

fn contents<'f>(key: &str, path: &Path, files: &'f Files) -> Result<&'f [u8], String> {
    let file =
        files.get(path).ok_or_else(|| format!("tls.{key} \"{}\" was not handed over", path.display()))?;
    Ok(file.expose().as_bytes())
}

fn certificates(key: &str, path: &Path, files: &Files) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = contents(key, path, files)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let path = path.display();
    match found {
        Ok(found) if found.is_empty() => {
            Err(format!("tls.{key} \"{path}\": no certificate in it; it must be PEM (BEGIN CERTIFICATE)"))
        }
        Ok(found) => Ok(found),
        Err(e) => Err(format!("tls.{key} \"{path}\": not PEM: {e}")),
    }
}

fn private_key(path: &Path, files: &Files) -> Result<PrivateKeyDer<'static>, String> {
    let pem = contents("key", path, files)?;
    // What is wrong is said without a byte of what is in the file.
    PrivateKeyDer::from_pem_slice(pem).map_err(|_| {
        let path = path.display();
        if String::from_utf8_lossy(pem).contains("ENCRYPTED") {
            format!(
                "tls.key \"{path}\": the key has a passphrase; take it off: openssl pkey -in KEY -out NEW"
            )
        } else {
            format!("tls.key \"{path}\": no private key in it; it must be PEM (BEGIN PRIVATE KEY)")
        }
    })
}

/// The leaf's expiry, or that of an intermediate certificate that is over sooner. A root that somebody left in the chain
/// does not count: nobody looks at it.
fn first_expiry(path: &Path, chain: &[CertificateDer<'_>]) -> Result<i64, String> {
    let mut first = i64::MAX;
    for (n, der) in chain.iter().enumerate() {
        let (_, certificate) = x509_parser::parse_x509_certificate(der).map_err(|e| {
            format!("tls.certificate \"{}\": certificate {} in it: {e}", path.display(), n + 1)
        })?;
        if n == 0 || certificate.subject() != certificate.issuer() {
            first = first.min(certificate.validity().not_after.timestamp());
        }
    }
    Ok(first)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use link::SecretValue;

    /// Made for these tests alone; good until 2126.
    pub(crate) const CERTIFICATE: &str = include_str!("tls/fixtures/server.pem");
    pub(crate) const KEY: &str = include_str!("tls/fixtures/server.key");
    const OTHER_KEY: &str = include_str!("tls/fixtures/other.key");

    fn acceptor(certificate: &str, key: &str, ca: Option<&str>) -> Result<Acceptor, String> {
        let settings = Tls {
            certificate: "/c".into(),
            key: "/k".into(),
            client_ca: ca.map(|_| "/ca".into()),
            client_names: Vec::new(),
        };
        let mut files = Files::from(
            [("/c", certificate), ("/k", key)]
                .map(|(path, text)| (path.into(), SecretValue::new(text.to_owned()))),
        );
        files.extend(ca.map(|ca| ("/ca".into(), SecretValue::new(ca.to_owned()))));
        Acceptor::new(&settings, &files)
    }

    /// What `Secured` is tested with.
    pub(crate) fn fixture() -> Acceptor {
        acceptor(CERTIFICATE, KEY, None).unwrap()
    }

    #[test]
    fn each_wrong_file_is_named_with_what_would_be_right_and_no_key_is_quoted() {
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n";
        let garbled = CERTIFICATE.replacen("MII", "!!!", 1);
        for (certificate, key, ca, why) in [
            (
                "",
                KEY,
                None,
                "tls.certificate \"/c\": no certificate in it; it must be PEM (BEGIN CERTIFICATE)",
            ),
            (
                KEY,
                KEY,
                None,
                "tls.certificate \"/c\": no certificate in it; it must be PEM (BEGIN CERTIFICATE)",
            ),
            (&garbled, KEY, None, "tls.certificate \"/c\": not PEM: "),
            (CERTIFICATE, CERTIFICATE, None, "tls.key \"/k\": no private key in it; it must be PEM"),
            (CERTIFICATE, encrypted, None, "tls.key \"/k\": the key has a passphrase; take it off: "),
            (CERTIFICATE, OTHER_KEY, None, "tls: the key in \"/k\" is not that of the certificate in \"/c\""),
            (CERTIFICATE, KEY, Some(""), "tls.client_ca \"/ca\": no certificate in it"),
        ] {
            let told = acceptor(certificate, key, ca).unwrap_err();
            assert!(told.starts_with(why), "{told}");
            assert!(!told.contains(KEY.lines().nth(1).unwrap()), "{told}");
        }
        assert!(acceptor(CERTIFICATE, KEY, Some(CERTIFICATE)).is_ok());
    }

    #[test]
    fn a_certificate_is_warned_of_when_it_expires_soon_or_has_expired() {
        let settings =
            Tls { certificate: "/c".into(), key: "/k".into(), client_ca: None, client_names: Vec::new() };
        let mut acceptor = fixture();
        assert_eq!(acceptor.warning(&settings), None);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as i64;
        acceptor.expires_s = now + 5 * 86_400 + 100;
        assert!(acceptor.warning(&settings).unwrap().contains("\"/c\" expires in 5 days, at 2"));
        acceptor.expires_s = now - 1;
        assert!(acceptor.warning(&settings).unwrap().contains("\"/c\" expired at 2"));
    }

    #[test]
    fn a_peer_is_called_by_its_common_name_and_found_by_every_name_it_has() {
        let der = CertificateDer::from_pem_slice(CERTIFICATE.as_bytes()).unwrap();
        assert_eq!(shown_name(&der).as_deref(), Some("localhost"));
        assert_eq!(clients::names_in(&der), ["localhost", "localhost", "second.example.org", "10.0.0.7"]);
        assert_eq!(shown_name(&CertificateDer::from(vec![0x30, 0x80, 1])), None);
    }
}
