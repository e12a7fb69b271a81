//! What a channel's worker needs of the system, from its settings alone: folders to write, files to read, ports.

use crate::sftp;
use config::{Driver, DropTarget, WorkerSettings};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// DNS goes over TCP where an answer is long.
const DNS_PORT: u16 = 53;

/// What every worker reads: time zones, certificate authorities, and what the C library's resolver goes by and loads.
/// Of `/etc` no more than these: the configuration, private keys and passwords are there too.
const READABLE: [&str; 29] = [
    "/dev/null",
    "/dev/urandom",
    "/etc/gai.conf",
    "/etc/host.conf",
    "/etc/hostname",
    "/etc/hosts",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/pki/ca-trust",
    "/etc/pki/tls/cert.pem",
    "/etc/pki/tls/certs",
    "/etc/resolv.conf",
    "/etc/services",
    "/etc/ssl/cert.pem",
    "/etc/ssl/certs",
    "/etc/ssl/openssl.cnf",
    "/etc/timezone",
    "/etc/zoneinfo",
    "/lib",
    "/lib64",
    "/run/systemd/resolve",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/share/ca-certificates",
    "/usr/share/ca-certificates",
    "/usr/share/pki",
    "/usr/share/zoneinfo",
    "/var/lib/ca-certificates",
];
/// Often a symbolic link into a folder where a daemon renews it by renaming.
const RENEWED_BY_RENAME: [&str; 1] = ["/etc/resolv.conf"];

/// What is left open to a worker.
#[derive(Debug, Default, PartialEq)]
pub struct Reach {
    /// Folders in which files are made, changed and removed.
    pub writable: BTreeSet<PathBuf>,
    /// Files and folders to read.
    pub readable: BTreeSet<PathBuf>,
    /// TCP ports to connect to, of whatever host.
    pub ports: BTreeSet<u16>,
}

impl Reach {
    /// Everything that these settings can come to need.
    pub fn of(settings: &WorkerSettings) -> Reach {
        let mut reach = Reach { ports: BTreeSet::from([DNS_PORT]), ..Reach::default() };
        reach.readable.extend(READABLE.map(PathBuf::from));
        reach.readable.extend(RENEWED_BY_RENAME.into_iter().filter_map(renewing_folder));
        // `TZ=/some/file` is a name of its own.
        reach.readable.extend(std::env::var_os("TZ").map(PathBuf::from).filter(|zone| zone.is_absolute()));
        reach.writable.insert(settings.state_path.join(&settings.channel.name));
        reach.archive_and_drops(settings);
        reach.database(settings);
        reach.services(settings);
        reach
    }

    fn archive_and_drops(&mut self, settings: &WorkerSettings) {
        if let Some(archive) = &settings.channel.local_archive {
            self.writable.extend(archive.path.iter().chain(&archive.attachment).cloned());
        }
        for folder in &settings.channel.drop_folders {
            match &folder.target {
                DropTarget::Local { path } => {
                    self.writable.insert(path.clone());
                }
                DropTarget::Remote(remote) => {
                    self.ports.insert(remote.port);
                    self.readable.extend(sftp::own_files(remote));
                }
            }
        }
    }

    fn database(&mut self, settings: &WorkerSettings) {
        let Some(database) = &settings.channel.db_insert else { return };
        self.readable.extend(database.ca_file.clone());
        match database.driver {
            // Its journal and shared memory are made beside it.
            Driver::Sqlite => self.writable.extend(Path::new(&database.database).parent().map(PathBuf::from)),
            Driver::MariaDb | Driver::PostgreSql | Driver::SqlServer => {
                self.ports.insert(database.port);
            }
        }
    }

    fn services(&mut self, settings: &WorkerSettings) {
        if let Some(solr) = &settings.solr {
            self.ports.insert(solr.port);
            self.readable.extend(solr.ca_file.clone());
        }
        if let Some(dfapi) = &settings.dfapi {
            self.ports.insert(dfapi.port);
            self.readable.extend(dfapi.ca_file.clone());
        }
        if let Some(resend) = &settings.channel.resend {
            self.ports.insert(resend.port);
            if let Some(tls) = &resend.tls {
                self.readable
                    .extend([&tls.ca_file, &tls.certificate, &tls.key].into_iter().flatten().cloned());
            }
        }
    }
}

/// The folder of the file that a symbolic link stands for, where it is not `/etc` itself: a rule on it outlasts the file.
fn renewing_folder(link: &str) -> Option<PathBuf> {
    let file = std::fs::canonicalize(link).ok()?;
    let folder = file.parent()?;
    // Below /run are the daemons' own folders; elsewhere a folder may hold more than this file.
    (folder.starts_with("/run") && folder != Path::new("/run")).then(|| folder.to_owned())
}
