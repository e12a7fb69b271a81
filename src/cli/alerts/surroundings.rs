//! What the server does not tell: how full the disks are and when certificates end. A thread of its own looks, since a
//! network file system may hang for hours.

use crate::cli::dashboard::settings::Settings;
use crate::cli::output;
use config::{Channel, Config, DropTarget};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

const INTERVAL: Duration = Duration::from_secs(10);
/// A chain of certificates with its comments.
const PEM_BYTES_MAX: u64 = 1 << 20;

/// All of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Surroundings {
    pub(super) disks: Vec<Disk>,
    pub(super) certificates: Vec<Certificate>,
}

/// A file system.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Disk {
    /// The first folder of the configuration that is on it.
    pub(super) path: PathBuf,
    /// Whose folders are on it; empty where the state folders are, which is everybody's.
    pub(super) channels: Vec<String>,
    pub(super) free_bytes: Result<u64, String>,
}

/// A certificate that the server shows its peers: those who connect, and those it forwards to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Certificate {
    pub(super) channel: String,
    pub(super) path: PathBuf,
    pub(super) ends_us: Result<i64, String>,
}

/// Looks for ever.
pub(super) fn watch(settings: &Settings, shared: &Mutex<Option<Surroundings>>) {
    loop {
        if let Ok(config) = settings.config() {
            let found = look(&config);
            *shared.lock().unwrap_or_else(|e| e.into_inner()) = Some(found);
        }
        thread::sleep(INTERVAL);
    }
}

fn look(config: &Config) -> Surroundings {
    let enabled = || config.channels.iter().filter(|channel| channel.enabled);
    let certificates = enabled().flat_map(certificates).collect();
    Surroundings { disks: disks(&config.service.state_path, enabled()), certificates }
}

fn disks<'a>(state_path: &Path, channels: impl Iterator<Item = &'a Channel>) -> Vec<Disk> {
    let mut by_device: BTreeMap<u64, Disk> = BTreeMap::new();
    let mut unknown = Vec::new();
    let folders = channels.flat_map(|channel| folders(channel).map(|path| (path, Some(&channel.name))));
    for (path, channel) in std::iter::once((state_path, None)).chain(folders) {
        let there = existing(path);
        let looked = there.and_then(|there| Ok((fs::metadata(&there)?.dev(), free_bytes(&there)?)));
        let names = |channel: Option<&String>| channel.into_iter().cloned().collect();
        match looked {
            // One that has no blocks (proc, some FUSE) knows no room either.
            Ok((_, None)) => {}
            Ok((device, Some(free_bytes))) => {
                let disk = by_device.entry(device).or_insert_with(|| Disk {
                    path: path.to_owned(),
                    channels: names(channel),
                    free_bytes: Ok(free_bytes),
                });
                let is_everybodys = disk.channels.is_empty();
                if let Some(channel) = channel.filter(|c| !is_everybodys && !disk.channels.contains(c)) {
                    disk.channels.push(channel.clone());
                }
            }
            Err(error) => unknown.push(Disk {
                path: path.to_owned(),
                channels: names(channel),
                free_bytes: Err(output::plain(&error)),
            }),
        }
    }
    by_device.into_values().chain(unknown).collect()
}

/// Where a channel writes on this machine, besides its state folder.
fn folders(channel: &Channel) -> impl Iterator<Item = &Path> {
    let archive = channel.local_archive.iter();
    let archive = archive.flat_map(|archive| archive.path.iter().chain(&archive.attachment));
    let drops = channel.drop_folders.iter().filter_map(|folder| match &folder.target {
        DropTarget::Local { path } => Some(path),
        DropTarget::Remote(_) => None,
    });
    archive.chain(drops).map(PathBuf::as_path)
}

/// The folder, or the nearest above it that is there: it is made when the first file comes.
fn existing(path: &Path) -> io::Result<PathBuf> {
    for path in path.ancestors() {
        match fs::metadata(path) {
            Ok(_) => return Ok(path.to_owned()),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(ErrorKind::NotFound.into())
}

/// What others than root may still use.
fn free_bytes(path: &Path) -> io::Result<Option<u64>> {
    let stat = rustix::fs::statvfs(path)?;
    Ok((stat.f_blocks > 0).then(|| stat.f_bavail.saturating_mul(stat.f_frsize)))
}

fn certificates(channel: &Channel) -> impl Iterator<Item = Certificate> {
    let own = channel.tls.iter().map(|tls| &tls.certificate);
    let client = channel.resend.iter().filter_map(|resend| resend.tls.as_ref()?.certificate.as_ref());
    own.chain(client).map(|path| Certificate {
        channel: channel.name.clone(),
        path: path.clone(),
        ends_us: read(path).and_then(|pem| first_end_us(&pem)),
    })
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    use std::io::Read;
    let mut pem = Vec::new();
    let file = fs::File::open(path).map_err(|error| output::plain(&error))?;
    file.take(PEM_BYTES_MAX).read_to_end(&mut pem).map_err(|error| output::plain(&error))?;
    Ok(pem)
}

/// When the first certificate of a chain to end does so.
fn first_end_us(pem: &[u8]) -> Result<i64, String> {
    let mut ends = Vec::new();
    for block in x509_parser::pem::Pem::iter_from_buffer(pem) {
        let block = block.map_err(|error| format!("no PEM: {error}"))?;
        if block.label == "CERTIFICATE" {
            let certificate = block.parse_x509().map_err(|error| format!("no certificate: {error}"))?;
            ends.push(certificate.validity().not_after.timestamp().saturating_mul(1_000_000));
        }
    }
    ends.into_iter().min().ok_or_else(|| "no certificate in it".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_one_file_system_are_one_disk_and_a_missing_one_is_its_parents() {
        let folder = tempfile::tempdir().unwrap();
        let disks = disks(&folder.path().join("not/there/yet"), std::iter::empty());
        assert_eq!(disks.len(), 1);
        assert!(disks[0].channels.is_empty());
        assert!(disks[0].free_bytes.as_ref().is_ok_and(|free| *free > 0));
    }

    #[test]
    fn what_is_no_certificate_says_so() {
        assert_eq!(first_end_us(b"").unwrap_err(), "no certificate in it");
        let junk = b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert!(first_end_us(junk).unwrap_err().starts_with("no certificate"));
    }
}
