//! What `check --probe` looks at for a channel: the folders its worker writes to, and every peer its steps need, asked as
//! the steps would ask but without leaving anything behind. Nothing here runs in a worker.

use crate::dfapi::DfapiClient;
use crate::fault::Fault;
use crate::files::plain;
use crate::resend::ResendClient;
use crate::sftp::SftpClient;
use crate::solr::{self, SolrClient};
use config::{Channel, DropTarget, Password, RemoteFolder, WorkerSettings};
use link::SecretValue;
use nix::unistd::{Gid, Group, Uid, User};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fmt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What one probe says: what is as it should be, and what is not.
pub type Said = Vec<Result<String, String>>;

/// One thing to look at. It may wait for as long as the step's own timeout, more than once.
pub struct Probe {
    /// The step, or what else it is about.
    pub name: String,
    look: Box<dyn FnOnce() -> Said + Send>,
}

impl Probe {
    fn new(name: impl Into<String>, look: impl FnOnce() -> Said + Send + 'static) -> Probe {
        Probe { name: name.into(), look: Box::new(look) }
    }

    /// Looks.
    pub fn run(self) -> Said {
        (self.look)()
    }
}

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Probe({})", self.name)
    }
}

/// Secrets by name, as far as they are known to whoever probes.
pub type Secrets = BTreeMap<String, SecretValue>;

/// All that a channel needs. `who` is the user its worker runs as.
pub fn probes(settings: &WorkerSettings, secrets: &Secrets, who: &Who) -> Vec<Probe> {
    let channel = &settings.channel;
    let mut probes = Vec::new();
    let mut folder = |name: String, path: &Path| {
        let (path, who) = (path.to_owned(), who.clone());
        probes.push(Probe::new(name, move || vec![who.may_write_into(&path)]));
    };
    folder("state_path".to_owned(), &settings.state_path.join(&channel.name));
    if let Some(archive) = &channel.local_archive {
        archive.path.iter().for_each(|path| folder("archive".to_owned(), path));
        archive.attachment.iter().for_each(|path| folder("attachment".to_owned(), path));
    }
    for drop in &channel.drop_folders {
        let name = format!("drop_folder:{}", drop.name);
        match &drop.target {
            DropTarget::Local { path } => folder(name, path),
            DropTarget::Remote(_) => {}
        }
    }
    for drop in &channel.drop_folders {
        if let DropTarget::Remote(remote) = &drop.target {
            probes.push(sftp(format!("drop_folder:{}", drop.name), remote, secrets));
        }
    }
    probes.extend(database(channel, secrets));
    probes.extend(solr_cores(settings, secrets));
    if let Some(dfapi) = &settings.dfapi {
        let (dfapi, token) = (dfapi.clone(), dfapi.token.as_ref().map(|name| secret(name.as_str(), secrets)));
        probes.push(Probe::new("dfapi", move || match token.transpose() {
            Ok(token) => vec![DfapiClient::new(&dfapi, token.as_ref()).probe()],
            Err(unknown) => vec![Err(unknown)],
        }));
    }
    if let Some(resend) = channel.resend.clone() {
        probes.push(Probe::new("resend", move || vec![ResendClient::new(&resend).probe().map_err(reason)]));
    }
    probes
}

fn sftp(name: String, remote: &RemoteFolder, secrets: &Secrets) -> Probe {
    let needed = remote.passphrase.iter().chain(&remote.password);
    let unknown: Said = needed.filter_map(|name| secret(name.as_str(), secrets).err()).map(Err).collect();
    let (remote, secrets) = (remote.clone(), secrets.clone());
    Probe::new(name, move || match unknown.is_empty() {
        true => vec![SftpClient::new(&remote, &secrets).probe().map_err(reason)],
        false => unknown,
    })
}

fn database(channel: &Channel, secrets: &Secrets) -> Option<Probe> {
    let insert = channel.db_insert.as_ref()?;
    let password = insert.password.as_ref().map(|name| secret(name.as_str(), secrets)).transpose();
    let channel = channel.clone();
    Some(Probe::new("db_insert", move || {
        let password = match password {
            Ok(password) => password,
            Err(unknown) => return vec![Err(unknown)],
        };
        let Some(database) = db::Database::new(&channel, password.as_ref().map(SecretValue::expose)) else {
            return vec![Ok("no message of this channel needs the database".to_owned())];
        };
        match db::Client::new(&database).probe() {
            Ok(probe) => probe.notes.into_iter().map(Ok).chain(probe.problems.into_iter().map(Err)).collect(),
            Err(fault) => vec![Err(fault.to_string())],
        }
    }))
}

fn solr_cores(settings: &WorkerSettings, secrets: &Secrets) -> Option<Probe> {
    let server = settings.solr.clone()?;
    let known = match &server.password {
        Password::Named(name) => secret(name.as_str(), secrets).map(drop),
        Password::Plain(_) => Ok(()),
    };
    let password = solr::password(&server, secrets);
    let mut cores: Vec<String> = server.active_cores.clone();
    if settings.store_solr {
        cores.push("hl7".to_owned());
    }
    let filter = settings.channel.resend.as_ref().and_then(|resend| resend.filter.as_ref());
    cores.extend(filter.map(|filter| filter.source_core.clone()));
    cores.sort_unstable();
    cores.dedup();
    Some(Probe::new("solr", move || {
        if let Err(unknown) = known {
            return vec![Err(unknown)];
        }
        let cores: Vec<&str> = cores.iter().map(String::as_str).collect();
        SolrClient::new(&server, &password).probe(&cores)
    }))
}

fn secret(name: &str, secrets: &Secrets) -> Result<SecretValue, String> {
    // The name may be a password that was written in the wrong place: the loader has told of it.
    secrets.get(name).cloned().ok_or_else(|| {
        "its secret is not known here, so it was not tried. Set it as an environment variable of that name".to_owned()
    })
}

fn reason(fault: Fault) -> String {
    match fault {
        Fault::Again { reason, .. } | Fault::Failed(reason) => reason,
    }
}

/// The user that workers run as.
#[derive(Clone, Debug)]
pub struct Who {
    name: String,
    uid: u32,
    groups: Vec<u32>,
}

impl Who {
    /// The user of this process.
    pub fn me() -> Who {
        let uid = Uid::effective();
        let name = User::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
        let mut groups: Vec<u32> =
            nix::unistd::getgroups().unwrap_or_default().into_iter().map(Gid::as_raw).collect();
        groups.push(Gid::effective().as_raw());
        Who { name, uid: uid.as_raw(), groups }
    }

    /// A user of this machine, with another group where one is given.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn named(name: &str, group: Option<&str>) -> Result<Who, String> {
        let user =
            User::from_name(name).ok().flatten().ok_or_else(|| format!("there is no user {name:?}"))?;
        let mut gid = user.gid;
        if let Some(group) = group {
            let found = Group::from_name(group).ok().flatten();
            gid = found.ok_or_else(|| format!("there is no group {group:?}"))?.gid;
        }
        let list = CString::new(name).ok().and_then(|name| nix::unistd::getgrouplist(&name, gid).ok());
        let mut groups: Vec<u32> = list.unwrap_or_default().into_iter().map(Gid::as_raw).collect();
        groups.push(gid.as_raw());
        Ok(Who { name: name.to_owned(), uid: user.uid.as_raw(), groups })
    }

    /// Whether this user can make files in a folder, and the folder where it is absent. By owners and modes; access
    /// lists are not looked at.
    fn may_write_into(&self, path: &Path) -> Result<String, String> {
        let there = path.ancestors().find(|above| above.symlink_metadata().is_ok()).unwrap_or(Path::new("/"));
        // What links lead to counts; the way to a link's target is the system's to check when it is opened.
        let real =
            there.canonicalize().map_err(|error| format!("could not read {there:?}: {}", plain(&error)))?;
        let mut above: Vec<PathBuf> = real.ancestors().map(Path::to_owned).collect();
        above.reverse();
        for folder in &above {
            let needs = if *folder == real { 0o3 } else { 0o1 };
            self.has(folder, needs)?;
        }
        let space =
            rustix::fs::statvfs(&real).map_err(|errno| format!("{real:?}: {}", plain(&errno.into())))?;
        if space.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY) {
            return Err(format!("{real:?} is on a file system that is mounted read-only"));
        }
        let free = (space.f_bavail.saturating_mul(space.f_frsize)) as f64 / f64::from(1 << 30);
        let made = if there == path { "" } else { "will be made, " };
        Ok(format!("{path:?}: {made}{} may write, {free:.1} GiB free", self.name))
    }

    fn has(&self, folder: &Path, needs: u32) -> Result<(), String> {
        let meta =
            folder.metadata().map_err(|error| format!("could not read {folder:?}: {}", plain(&error)))?;
        if !meta.is_dir() {
            return Err(format!("{folder:?} is not a folder"));
        }
        let shift = match () {
            () if self.uid == meta.uid() => 6,
            () if self.groups.contains(&meta.gid()) => 3,
            () => 0,
        };
        if self.uid == 0 || (meta.mode() >> shift) & needs == needs {
            return Ok(());
        }
        let what = if needs == 0o1 { "enter" } else { "write into" };
        let owner = User::from_uid(Uid::from_raw(meta.uid())).ok().flatten();
        let owner = owner.map_or_else(|| meta.uid().to_string(), |user| user.name);
        Err(format!(
            "user {} may not {what} {folder:?}, which is {owner}'s with mode {:04o}",
            self.name,
            meta.mode() & 0o7777
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::settings;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn somebody(uid: u32, groups: &[u32]) -> Who {
        Who { name: "somebody".to_owned(), uid, groups: groups.to_vec() }
    }

    #[test]
    fn a_folder_is_judged_by_the_user_that_will_write() {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let meta = dir.path().metadata().unwrap();
        let (owner, group) = (meta.uid(), meta.gid());
        let new = dir.path().join("a/b");
        let stranger = somebody(owner + 4711, &[group + 4711]);
        assert!(somebody(owner, &[]).may_write_into(&new).unwrap().contains("will be made"));
        let said = stranger.may_write_into(&new).unwrap_err();
        assert!(said.contains("somebody may not write into") && said.contains("mode 0755"), "{said}");
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o770)).unwrap();
        assert!(somebody(owner + 4711, &[group]).may_write_into(&new).is_ok());
        assert!(stranger.may_write_into(&new).is_err());
        fs::write(dir.path().join("a"), "").unwrap();
        assert!(somebody(owner, &[]).may_write_into(&new).unwrap_err().ends_with("is not a folder"));
    }

    #[test]
    fn every_step_that_needs_something_is_probed() {
        let settings = settings(
            "local_archive: {path: /a, attachment: /b}\n\
             drop_folders: {near: {path: /c}, far: {remote: true, path: /d, server: s, user: u, password: NOPE}}\n\
             db_insert: {driver: MySQL, username: u, password: NOPE, database: d, table: t, mapping_table: m}\n\
             resend: {server: s, port: 1}",
        );
        let probes = probes(&settings, &Secrets::new(), &Who::me());
        let names: Vec<&str> = probes.iter().map(|probe| probe.name.as_str()).collect();
        assert_eq!(
            names,
            [
                "state_path",
                "archive",
                "attachment",
                "drop_folder:near",
                "drop_folder:far",
                "db_insert",
                "resend"
            ]
        );
        // Nobody is asked without the secret that the answer hangs on.
        for probe in
            probes.into_iter().filter(|p| ["drop_folder:far", "db_insert"].contains(&p.name.as_str()))
        {
            let said = probe.run();
            assert!(said[0].as_ref().unwrap_err().starts_with("its secret is not known here"), "{said:?}");
        }
    }
}
