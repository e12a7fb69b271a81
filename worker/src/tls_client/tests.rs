//! Against OpenSSL's server, with certificates made here.

use super::*;
use openssl::asn1::Asn1Time;
use openssl::bn::BigNum;
use openssl::ec::{EcGroup, EcKey};
use openssl::hash::MessageDigest;
use openssl::nid::Nid;
use openssl::pkey::Private;
use openssl::ssl::{SslAcceptor, SslMethod, SslVerifyMode};
use openssl::x509::extension::{BasicConstraints, SubjectAlternativeName};
use openssl::x509::store::X509StoreBuilder;
use openssl::x509::{X509, X509NameBuilder};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::PathBuf;
use std::thread::JoinHandle;

/// A CA, and a certificate of its for `name`.
struct Made {
    ca: X509,
    ca_key: PKey<Private>,
    certificate: X509,
    key: PKey<Private>,
}

fn key() -> PKey<Private> {
    let group = EcGroup::from_curve_name(Nid::X9_62_PRIME256V1).unwrap();
    PKey::from_ec_key(EcKey::generate(&group).unwrap()).unwrap()
}

fn certificate(name: &str, key: &PKey<Private>, issuer: Option<(&X509, &PKey<Private>)>) -> X509 {
    let mut subject = X509NameBuilder::new().unwrap();
    subject.append_entry_by_text("CN", name).unwrap();
    let subject = subject.build();
    let mut builder = X509::builder().unwrap();
    builder.set_version(2).unwrap();
    let serial = BigNum::from_u32(if issuer.is_some() { 2 } else { 1 }).unwrap().to_asn1_integer().unwrap();
    builder.set_serial_number(&serial).unwrap();
    builder.set_subject_name(&subject).unwrap();
    builder.set_issuer_name(issuer.map_or(&*subject, |(ca, _)| ca.subject_name())).unwrap();
    builder.set_pubkey(key).unwrap();
    builder.set_not_before(&Asn1Time::days_from_now(0).unwrap()).unwrap();
    builder.set_not_after(&Asn1Time::days_from_now(9).unwrap()).unwrap();
    if issuer.is_none() {
        builder.append_extension(BasicConstraints::new().critical().ca().build().unwrap()).unwrap();
    } else {
        let names =
            SubjectAlternativeName::new().dns(name).build(&builder.x509v3_context(None, None)).unwrap();
        builder.append_extension(names).unwrap();
    }
    builder.sign(issuer.map_or(key, |(_, key)| key), MessageDigest::sha256()).unwrap();
    builder.build()
}

fn made(name: &str) -> Made {
    let (ca_key, key) = (key(), key());
    let ca = certificate("Test CA", &ca_key, None);
    let certificate = certificate(name, &key, Some((&ca, &ca_key)));
    Made { ca, ca_key, certificate, key }
}

/// A server that echoes one byte; with `clients`, only to who shows a certificate of that CA.
fn server(made: &Made, clients: Option<&X509>) -> (u16, JoinHandle<()>) {
    let mut acceptor = SslAcceptor::mozilla_intermediate_v5(SslMethod::tls_server()).unwrap();
    acceptor.set_certificate(&made.certificate).unwrap();
    acceptor.set_private_key(&made.key).unwrap();
    if let Some(ca) = clients {
        let mut store = X509StoreBuilder::new().unwrap();
        store.add_cert(ca.clone()).unwrap();
        acceptor.set_verify_cert_store(store.build()).unwrap();
        acceptor.set_verify(SslVerifyMode::PEER | SslVerifyMode::FAIL_IF_NO_PEER_CERT);
    }
    let acceptor = acceptor.build();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        let Ok(mut stream) = acceptor.accept(listener.accept().unwrap().0) else { return };
        let mut byte = [0];
        if stream.read_exact(&mut byte).is_ok() {
            let _ = stream.write_all(&byte);
        }
    });
    (port, thread)
}

/// Connects and gets a byte back.
fn echoed(tls: &ClientTls, port: u16) -> Result<(), String> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let mut stream = connect(tls, "127.0.0.1", stream, deadline)?;
    // In TLS 1.3 a server's no to our certificate comes after the handshake.
    stream.write_all(b"x", deadline).map_err(|e| e.to_string())?;
    let mut byte = [0];
    match stream.read(&mut byte, deadline) {
        Ok(1) => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

fn write(dir: &tempfile::TempDir, name: &str, bytes: Vec<u8>) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).unwrap();
    path
}

fn settings(ca_file: Option<PathBuf>) -> ClientTls {
    ClientTls { ca_file, certificate: None, key: None, verify_name: Some("ris.example.org".to_owned()) }
}

#[test]
fn the_peer_must_show_a_certificate_of_the_ca_for_the_name() {
    let dir = tempfile::tempdir().unwrap();
    let made = made("ris.example.org");
    let ca_file = write(&dir, "ca.pem", made.ca.to_pem().unwrap());
    let (port, thread) = server(&made, None);
    assert_eq!(echoed(&settings(Some(ca_file.clone())), port), Ok(()));
    thread.join().unwrap();

    let (port, thread) = server(&made, None);
    let reason = echoed(&settings(None), port).unwrap_err();
    assert!(reason.starts_with("TLS: certificate verify failed: "), "{reason}");
    assert!(!reason.contains("ssl/") && !reason.contains("error:"), "{reason}");
    thread.join().unwrap();

    let (port, thread) = server(&made, None);
    let other = ClientTls { verify_name: Some("pacs.example.org".into()), ..settings(Some(ca_file)) };
    let reason = echoed(&other, port).unwrap_err();
    assert_eq!(reason, "TLS: certificate verify failed: hostname mismatch");
    thread.join().unwrap();
}

#[test]
fn our_own_certificate_is_shown_whatever_the_form_of_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let made = made("ris.example.org");
    let ca_file = write(&dir, "ca.pem", made.ca.to_pem().unwrap());
    let key = key();
    let ours = certificate("hl7server", &key, Some((&made.ca, &made.ca_key)));
    let certificate = write(&dir, "cert.pem", ours.to_pem().unwrap());
    for pem in [key.private_key_to_pem_pkcs8().unwrap(), key.ec_key().unwrap().private_key_to_pem().unwrap()]
    {
        let key = write(&dir, "key.pem", pem);
        let (port, thread) = server(&made, Some(&made.ca));
        let tls = ClientTls {
            certificate: Some(certificate.clone()),
            key: Some(key),
            ..settings(Some(ca_file.clone()))
        };
        assert_eq!(echoed(&tls, port), Ok(()));
        thread.join().unwrap();
    }
    let (port, thread) = server(&made, Some(&made.ca));
    assert!(echoed(&settings(Some(ca_file)), port).is_err(), "a client without a certificate was let in");
    thread.join().unwrap();
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let bad = write(&dir, "bad.pem", b"hello".to_vec());
    let locked =
        key().private_key_to_pem_pkcs8_passphrase(openssl::symm::Cipher::aes_128_cbc(), b"x").unwrap();
    let locked = write(&dir, "locked.pem", locked);
    let gone = PathBuf::from("/no/such/ca.pem");
    let with_key = |key: &PathBuf| ClientTls {
        certificate: Some(bad.clone()),
        key: Some(key.clone()),
        ..settings(None)
    };
    for (tls, said) in [
        (settings(Some(gone.clone())), format!("could not read ca_file {gone:?}: no such file or directory")),
        (settings(Some(bad.clone())), format!("ca_file {bad:?} holds no certificate")),
        (
            with_key(&locked),
            format!("key {locked:?} is no private key in PEM that opens without a passphrase"),
        ),
    ] {
        assert_eq!(connector(&tls).err().unwrap(), said);
    }
}

#[test]
fn a_silent_peer_and_one_without_tls_end_the_handshake() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let stream = TcpStream::connect(address).unwrap();
    let begun = Instant::now();
    let reason =
        connect(&settings(None), "127.0.0.1", stream, begun + Duration::from_millis(300)).unwrap_err();
    assert_eq!(reason, "TLS: no answer in time");
    assert!(begun.elapsed() < Duration::from_secs(3));
    let stream = TcpStream::connect(address).unwrap();
    drop(listener.accept().unwrap());
    listener.accept().unwrap().0.write_all(b"\x0bMSH|^~\\&|\x1c\r").unwrap();
    let reason =
        connect(&settings(None), "127.0.0.1", stream, Instant::now() + Duration::from_secs(5)).unwrap_err();
    assert_eq!(reason, "TLS: wrong version number");
}
