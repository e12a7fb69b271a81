//! `check --systemd`: the drop-in that the package's unit needs for this configuration. The unit lets the server write
//! to its state folder alone; where else it writes depends on the file.

use config::{Channel, Driver, DropTarget, Loaded, Password};
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// What the unit is written for.
const CONFIG: &str = "/etc/hl7server/hl7server.yaml";
const STATE: &str = "/var/lib/hl7server";
const RUNTIME: &str = "/run/hl7server";
/// Hidden from the service by `ProtectHome=yes`.
const HOMES: [&str; 3] = ["/home", "/root", "/run/user"];
/// The service's own by `PrivateTmp=yes`.
const TEMPORARY: [&str; 2] = ["/tmp", "/var/tmp"];

/// Prints the drop-in.
pub(super) fn print(out: &mut impl Write, config: &Path, loaded: &Loaded) -> io::Result<()> {
    writeln!(
        out,
        "# What the configuration {} needs besides the unit that the package brings.",
        config.display()
    )?;
    writeln!(
        out,
        "# As root: hl7server check --systemd > /etc/systemd/system/hl7server.service.d/local.conf"
    )?;
    writeln!(out, "#          systemctl daemon-reload && systemctl restart hl7server")?;
    writeln!(out, "[Service]")?;
    if config != Path::new(CONFIG) {
        let path = std::path::absolute(config).unwrap_or_else(|_| config.to_owned());
        let path = quoted(&path);
        writeln!(out, "ExecStart=\nExecStart=/usr/bin/hl7server run --config {path}")?;
        writeln!(out, "ExecReload=\nExecReload=/usr/bin/hl7server reload --config {path}")?;
    }
    let written = outermost(written(loaded));
    for path in written.iter().filter(|path| !path.is_dir()) {
        writeln!(out, "# Not there yet: install -d -o hl7server -g hl7server -m 0750 {}", quoted(path))?;
    }
    for path in &written {
        writeln!(out, "ReadWritePaths={}", quoted(path))?;
    }
    let read = read(loaded);
    let below = |paths: &BTreeSet<PathBuf>, roots: &[&str]| {
        paths.iter().any(|path| roots.iter().any(|root| path.starts_with(root)))
    };
    if below(&written, &HOMES) {
        writeln!(out, "# It writes below a home folder.\nProtectHome=no")?;
    } else if below(&read, &HOMES) {
        writeln!(out, "# It reads below a home folder.\nProtectHome=read-only")?;
    }
    if below(&written, &TEMPORARY) || below(&read, &TEMPORARY) {
        writeln!(out, "# It uses the temporary folder that others see.\nPrivateTmp=no")?;
    }
    let secrets = secrets(loaded);
    if !secrets.is_empty() {
        writeln!(out, "# Secrets, each in a file that root alone can read (mode 0600).")?;
    }
    for name in secrets {
        writeln!(out, "LoadCredential={name}:/etc/hl7server/credentials/{name}")?;
    }
    Ok(())
}

fn enabled(loaded: &Loaded) -> impl Iterator<Item = &Channel> {
    loaded.config.channels.iter().filter(|channel| channel.enabled)
}

/// Folders that are written to, but for those that the unit makes.
fn written(loaded: &Loaded) -> BTreeSet<PathBuf> {
    let service = &loaded.config.service;
    let mut paths: BTreeSet<PathBuf> = BTreeSet::new();
    paths.insert(service.state_path.clone());
    paths.insert(service.runtime_path.clone());
    for channel in enabled(loaded) {
        if let Some(archive) = &channel.local_archive {
            paths.extend([&archive.path, &archive.attachment].into_iter().flatten().cloned());
        }
        paths.extend(channel.drop_folders.iter().filter_map(|folder| match &folder.target {
            DropTarget::Local { path } => Some(path.clone()),
            DropTarget::Remote(_) => None,
        }));
        // SQLite makes files beside its own.
        let file = channel.db_insert.as_ref().filter(|db| db.driver == Driver::Sqlite);
        paths.extend(file.and_then(|db| Path::new(&db.database).parent()).map(Path::to_owned));
    }
    paths.retain(|path| path.is_absolute() && !path.starts_with(STATE) && !path.starts_with(RUNTIME));
    paths
}

/// Files that are read: certificates, keys, known hosts.
fn read(loaded: &Loaded) -> BTreeSet<PathBuf> {
    let service = &loaded.config.service;
    let mut paths = BTreeSet::new();
    paths.extend(service.solr.as_ref().and_then(|solr| solr.ca_file.clone()));
    paths.extend(service.dfapi.as_ref().and_then(|dfapi| dfapi.ca_file.clone()));
    for channel in enabled(loaded) {
        if let Some(tls) = &channel.tls {
            paths.extend([tls.certificate.clone(), tls.key.clone()]);
            paths.extend(tls.client_ca.clone());
        }
        if let Some(tls) = channel.resend.as_ref().and_then(|resend| resend.tls.as_ref()) {
            paths.extend([&tls.ca_file, &tls.certificate, &tls.key].into_iter().flatten().cloned());
        }
        paths.extend(channel.db_insert.as_ref().and_then(|db| db.ca_file.clone()));
        for folder in &channel.drop_folders {
            if let DropTarget::Remote(remote) = &folder.target {
                paths.extend([&remote.key_file, &remote.known_hosts].into_iter().flatten().cloned());
            }
        }
    }
    paths
}

/// Names of the secrets that the enabled channels use. A Solr password that stands in the file is none.
fn secrets(loaded: &Loaded) -> BTreeSet<String> {
    let mut names: BTreeSet<String> = BTreeSet::new();
    for channel in enabled(loaded) {
        names.extend(loaded.config.worker_settings(channel).secret_names());
    }
    if let Some(Password::Named(name)) = loaded.config.service.solr.as_ref().map(|solr| &solr.password) {
        names.insert(name.to_string());
    }
    names
}

/// Without those below another.
fn outermost(paths: BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
    let is_below = |path: &Path| path.ancestors().skip(1).any(|above| paths.contains(above));
    paths.iter().filter(|path| !is_below(path)).cloned().collect()
}

/// A path as systemd reads it: `%` begins a specifier, spaces end a path.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string().replace('%', "%%");
    let plain = |c: char| c.is_alphanumeric() || "/._-%+:@=,".contains(c);
    if text.chars().all(plain) {
        return text;
    }
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_outermost_folders_are_named() {
        let paths = ["/srv/a", "/srv/a/b", "/srv/ab", "/data"].map(PathBuf::from).into();
        let left: Vec<PathBuf> = outermost(paths).into_iter().collect();
        assert_eq!(left, ["/data", "/srv/a", "/srv/ab"].map(PathBuf::from));
    }

    #[test]
    fn paths_are_written_as_systemd_reads_them() {
        assert_eq!(quoted(Path::new("/srv/archive-1")), "/srv/archive-1");
        assert_eq!(quoted(Path::new("/srv/100%/a b")), "\"/srv/100%%/a b\"");
        assert_eq!(quoted(Path::new("/a\"b\\c")), "\"/a\\\"b\\\\c\"");
    }
}
