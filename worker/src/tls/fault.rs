//! What goes wrong with a peer's TLS, in words for whoever has to tell the other side.

use super::clients::NotListed;
use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};
use std::fmt;

/// Why a connection over TLS cannot go on.
#[derive(Debug)]
pub(crate) enum TlsFault {
    /// Its first byte begins no TLS: the peer speaks plain text.
    PlainText(u8),
    /// It sends and sends, and is not done shaking hands.
    HandshakeTooLarge,
    /// The protocol, or the peer's certificate.
    Protocol(Error),
}

/// A fault in words.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Reason {
    /// Without anything of the peer's: what log lines are limited by.
    pub(crate) kind: &'static str,
    /// More of it, or nothing.
    pub(crate) detail: String,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let colon = if self.detail.is_empty() { "" } else { ": " };
        write!(f, "{}{colon}{}", self.kind, self.detail)
    }
}

impl TlsFault {
    /// Why, for the log.
    pub(crate) fn reason(&self) -> Reason {
        let plain = |kind| Reason { kind, detail: String::new() };
        match self {
            TlsFault::PlainText(_) => plain("it speaks plain text on a TLS port"),
            TlsFault::HandshakeTooLarge => plain("its handshake is larger than any should be"),
            TlsFault::Protocol(error) => of_protocol(error),
        }
    }
}

impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason().fmt(f)
    }
}

impl std::error::Error for TlsFault {}

fn of_protocol(error: &Error) -> Reason {
    let plain = |kind| Reason { kind, detail: String::new() };
    match error {
        Error::NoCertificatesPresented => plain("it showed no certificate, and client_ca wants one"),
        Error::InvalidCertificate(fault) => of_certificate(fault),
        Error::AlertReceived(alert) => {
            let kind = match alert {
                AlertDescription::UnknownCA
                | AlertDescription::CertificateUnknown
                | AlertDescription::BadCertificate
                | AlertDescription::CertificateExpired
                | AlertDescription::UnsupportedCertificate => "it does not accept our certificate",
                _ => "it broke off",
            };
            Reason { kind, detail: format!("alert {alert:?}") }
        }
        // TLS 1.1 and older name no signature algorithms, and that is what is missed first.
        Error::PeerIncompatible(
            PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::SignatureAlgorithmsExtensionRequired,
        ) => plain("it offers no TLS from version 1.2 on"),
        Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon) => {
            plain("it offers no cipher suite that is safe enough")
        }
        Error::PeerIncompatible(
            PeerIncompatible::NoKxGroupsInCommon | PeerIncompatible::NamedGroupsExtensionRequired,
        ) => plain("it offers no key exchange that is safe enough"),
        Error::PeerIncompatible(what) => {
            Reason { kind: "its TLS and ours have too little in common", detail: format!("{what:?}") }
        }
        Error::InvalidMessage(what) => {
            Reason { kind: "what it sends is no TLS", detail: format!("{what:?}") }
        }
        other => Reason { kind: "its TLS failed", detail: other.to_string() },
    }
}

fn of_certificate(fault: &CertificateError) -> Reason {
    let plain = |kind| Reason { kind, detail: String::new() };
    match fault {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            plain("its certificate has expired")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            plain("its certificate is not valid yet")
        }
        CertificateError::UnknownIssuer => plain("its certificate comes from no CA in client_ca"),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            plain("its certificate is not for clients: its extended key usage lacks clientAuth")
        }
        CertificateError::Other(other) => match other.0.downcast_ref::<NotListed>() {
            Some(names) => {
                Reason { kind: "no name in its certificate is in client_names", detail: names.to_string() }
            }
            // What `openssl req -x509` makes unless it is told otherwise.
            None if other.to_string().contains("CaUsedAsEndEntity") => {
                plain("its certificate is that of a CA; it needs one of its own, with CA:FALSE")
            }
            None => Reason { kind: "its certificate cannot be used", detail: other.to_string() },
        },
        other => Reason { kind: "its certificate cannot be used", detail: other.to_string() },
    }
}
