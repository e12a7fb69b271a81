//! Who may connect where a channel has a `client_ca`: whoever shows a certificate of that CA and, with `client_names`, one
//! of those names.

use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

/// Names that are put into one log line.
const NAMES_SHOWN_MAX: usize = 4;
/// Bytes of a name that is shown.
const NAME_BYTES_MAX: usize = 64;

/// Asks for a certificate, has it checked against the CA, and looks at the names in it.
#[derive(Debug)]
pub(crate) struct Clients {
    by_ca: Arc<dyn ClientCertVerifier>,
    /// Empty for any.
    names: Vec<String>,
}

impl Clients {
    pub(crate) fn new(by_ca: Arc<dyn ClientCertVerifier>, names: Vec<String>) -> Clients {
        Clients { by_ca, names }
    }
}

/// The certificate is good, but none of its names may connect.
#[derive(Debug)]
pub(crate) struct NotListed {
    shown: Vec<String>,
}

impl fmt::Display for NotListed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.shown.is_empty() {
            return f.write_str("it has none");
        }
        for (n, name) in self.shown.iter().enumerate() {
            let comma = if n == 0 { "" } else { ", " };
            write!(f, "{comma}\"{}\"", name.escape_debug())?;
        }
        Ok(())
    }
}

impl std::error::Error for NotListed {}

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.by_ca.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.by_ca.verify_client_cert(end_entity, intermediates, now)?;
        if self.names.is_empty() {
            return Ok(verified);
        }
        let shown = names_in(end_entity);
        let listed = |name: &String| self.names.iter().any(|listed| listed.eq_ignore_ascii_case(name));
        if shown.iter().any(listed) {
            return Ok(verified);
        }
        let shown = shown.into_iter().take(NAMES_SHOWN_MAX).map(|name| cut(&name)).collect();
        let reason = OtherError(Arc::new(NotListed { shown }));
        Err(Error::InvalidCertificate(CertificateError::Other(reason)))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_ca.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_ca.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_ca.supported_verify_schemes()
    }
}

/// What a peer's certificate calls it, for people: the common name, else its first alternative name.
pub(crate) fn shown_name(certificate: &CertificateDer<'_>) -> Option<String> {
    names_in(certificate).first().map(|name| cut(name))
}

/// Common names, then alternative names: DNS, address, mail, URI. Compared as text, so that a wildcard is only itself.
pub(super) fn names_in(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(certificate) else { return Vec::new() };
    let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    let mut names: Vec<String> = common.map(str::to_owned).collect();
    names.extend(alternative_names(&certificate));
    names
}

fn alternative_names(certificate: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(extension)) = certificate.subject_alternative_name() else { return Vec::new() };
    let text = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(text) | GeneralName::RFC822Name(text) | GeneralName::URI(text) => {
            Some((*text).to_owned())
        }
        GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
        _ => None,
    };
    extension.value.general_names.iter().filter_map(text).collect()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four: Option<[u8; 4]> = bytes.try_into().ok();
    let sixteen: Option<[u8; 16]> = bytes.try_into().ok();
    four.map(IpAddr::from).or_else(|| sixteen.map(IpAddr::from))
}

fn cut(name: &str) -> String {
    name[..name.floor_char_boundary(NAME_BYTES_MAX)].to_owned()
}
