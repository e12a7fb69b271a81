//! Certificates for the tests, made by `openssl`: CAs, and what they sign.

use super::{PATIENCE, finish};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// A kind of key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// RSA with 2,048 bits.
    Rsa,
    /// ECDSA on P-256.
    Ecdsa,
}

/// How long a certificate is good.
#[derive(Clone, Copy, Debug)]
pub enum Good {
    /// For so many days from now.
    Days(u32),
    /// It was, in the year 2020.
    Expired,
}

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct Pair {
    /// PEM.
    pub certificate: PathBuf,
    /// PEM, PKCS #8.
    pub key: PathBuf,
}

impl Pair {
    /// As text, for configurations and commands: certificate, key.
    pub fn texts(&self) -> [&str; 2] {
        [self.certificate.to_str().unwrap(), self.key.to_str().unwrap()]
    }
}

/// A CA in a folder of its own.
pub struct Ca {
    folder: PathBuf,
    own: Pair,
    last: AtomicU32,
}

impl Ca {
    /// A new one; `name` is its common name.
    #[track_caller]
    pub fn new(folder: &Path, name: &str) -> Ca {
        let folder = folder.join(name.replace(' ', "_"));
        fs::create_dir_all(&folder).unwrap();
        let own = Pair { certificate: folder.join("ca.pem"), key: folder.join("ca.key") };
        make_key(&own.key, Key::Ecdsa);
        let extensions = "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign,cRLSign\n";
        let request = request(&own, name, extensions);
        let [certificate, key] = own.texts();
        openssl(&[
            "x509",
            "-req",
            "-in",
            &request.0,
            "-extfile",
            &request.1,
            "-signkey",
            key,
            "-days",
            "365",
            "-out",
            certificate,
        ]);
        fs::write(folder.join("index"), "").unwrap();
        let at = folder.to_str().unwrap();
        let settings = format!(
            "[ca]\ndefault_ca=own\n[own]\ndatabase={at}/index\nnew_certs_dir={at}\ndefault_md=sha256\npolicy=any\nrand_serial=yes\n\
             unique_subject=no\n[any]\ncommonName=supplied\n"
        );
        fs::write(folder.join("ca.conf"), settings).unwrap();
        Ca { folder, own, last: AtomicU32::new(0) }
    }

    /// Its certificate and key.
    pub fn own(&self) -> &Pair {
        &self.own
    }

    /// Its certificate.
    pub fn certificate(&self) -> &Path {
        &self.own.certificate
    }

    /// A certificate for a server at 127.0.0.1 that is also called `name`.
    #[track_caller]
    pub fn server(&self, name: &str, key: Key, good: Good) -> Pair {
        let names = format!("subjectAltName=DNS:{name},DNS:localhost,IP:127.0.0.1\n");
        self.issue(name, &format!("{names}extendedKeyUsage=serverAuth\n"), key, good)
    }

    /// A certificate for a client; `alternative` is what stands in its subjectAltName.
    #[track_caller]
    pub fn client(&self, name: &str, alternative: Option<&str>, key: Key, good: Good) -> Pair {
        let names = alternative.map(|names| format!("subjectAltName={names}\n")).unwrap_or_default();
        self.issue(name, &format!("{names}extendedKeyUsage=clientAuth\n"), key, good)
    }

    fn issue(&self, name: &str, extensions: &str, key: Key, good: Good) -> Pair {
        let number = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        let file = |suffix: &str| self.folder.join(format!("{number}.{suffix}"));
        let pair = Pair { certificate: file("pem"), key: file("key") };
        make_key(&pair.key, key);
        let extensions = format!("basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\n{extensions}");
        let (request, extensions) = request(&pair, name, &extensions);
        let settings = self.folder.join("ca.conf");
        let [ca, ca_key] = self.own.texts();
        let days;
        let period: &[&str] = match good {
            Good::Days(n) => {
                days = n.to_string();
                &["-days", &days]
            }
            Good::Expired => &["-startdate", "20200101000000Z", "-enddate", "20210101000000Z"],
        };
        let by = ["ca", "-batch", "-notext", "-config", settings.to_str().unwrap()];
        let of = ["-in", &request, "-extfile", &extensions, "-out", pair.texts()[0]];
        openssl(&[&by[..], &["-cert", ca, "-keyfile", ca_key], &of, period].concat());
        pair
    }
}

/// Files with a request for a certificate, and with what is to stand in it.
fn request(pair: &Pair, name: &str, extensions: &str) -> (String, String) {
    let file = |suffix: &str| pair.key.with_extension(suffix).to_str().unwrap().to_owned();
    let (request, with) = (file("csr"), file("ext"));
    fs::write(&with, extensions).unwrap();
    openssl(&["req", "-new", "-key", pair.texts()[1], "-subj", &format!("/CN={name}"), "-out", &request]);
    (request, with)
}

fn make_key(path: &Path, key: Key) {
    let kind: &[&str] = match key {
        Key::Rsa => &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
        Key::Ecdsa => &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
    };
    openssl(&[&["genpkey"], kind, &["-out", path.to_str().unwrap()]].concat());
}

/// Runs openssl, which must do what it is told.
#[track_caller]
pub fn openssl(arguments: &[&str]) {
    let mut command = Command::new("openssl");
    command.args(arguments);
    finish(command, PATIENCE).good();
}
