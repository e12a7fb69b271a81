//! The same load over TLS and plain.

use super::super::channels::{Purpose, Wanted};
use super::super::load::{self, Outcome};
use super::super::report::Figures;
use super::super::template::{Kind, Template};
use super::line::{Goal, Line, Unit};
use super::{ADTS_MAX, Bench, Fail};
use crate::cli::child::Folder;
use crate::cli::tls::Connector;
use std::path::{Path, PathBuf};
use std::process::Command;

pub(super) fn sixteen_connections(bench: &Bench) -> Result<Vec<Line>, Fail> {
    bench.say("TLS beside plain");
    let folder = Folder::new("bench-tls", bench.arguments.folder.as_deref(), false)?;
    let (certificate, key) = certificate(folder.path())?;
    let connector = Connector::trusting(&certificate, "localhost")?;
    let template = Template::of(Kind::Adt, 750, bench.run());
    let shape = bench.closed_loop(16, 1, ADTS_MAX);
    let wanted = Wanted {
        certificate: Some((certificate, key)),
        ..Wanted::of(&[Purpose::Archive, Purpose::Tls], 16, 1 << 20)
    };
    let mut own = bench.start(&wanted)?;
    own.settle();
    let plain = own.measure("ADT, 16 connections", Purpose::Archive, &template, &shape)?;
    own.settle();
    let first = own.numbers(shape.messages);
    let failed = |error: std::io::Error| Fail::io("go on sending over TLS", &error);
    let outcome: Outcome =
        load::run_over(Some(&connector), own.to(Purpose::Tls), &template, &shape, first).map_err(failed)?;
    own.count(Purpose::Tls, outcome.acknowledged);
    own.wait_delivered(Purpose::Tls)?;
    let mut tls = Figures::of("ADT, 16 connections over TLS", &template, &shape, &outcome);
    tls.files_missing = own.missing(Purpose::Tls);
    let (tls_per_s, plain_per_s) = (tls.acknowledged_per_s(), plain.acknowledged_per_s());
    let line =
        Line::amount("tls", "ADT, 16 connections, TLS", Unit::PerSecond, tls_per_s, Goal::AtLeast(0.60));
    Ok(vec![line.beside("plain", plain_per_s).from([plain, tls])])
}

/// A certificate that signs itself, made by the system's openssl: the server has no use for making any.
fn certificate(folder: &Path) -> Result<(PathBuf, PathBuf), Fail> {
    let (certificate, key) = (folder.join("bench.pem"), folder.join("bench.key"));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"])
        .args(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output();
    match made {
        Ok(output) if output.status.success() => Ok((certificate, key)),
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            Err(Fail::Failed(format!("openssl could not make a certificate: {said}")))
        }
        Err(error) => Err(Fail::io("run openssl, which makes the certificate for the figure tls", &error)),
    }
}
