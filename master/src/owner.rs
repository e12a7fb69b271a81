//! A channel's state folder belongs to whom its worker runs as.

use link::RunAs;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, Stat, Uid, chownat, fchmod, fstat, openat, statat,
};
use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

/// Deeper than anything a worker makes below its folder.
const DEPTH_MAX: usize = 8;

/// Who is to own something; `None` leaves it as it is.
type Owner = (Option<Uid>, Option<Gid>);

/// Makes a channel's state folder where it is missing, and gives it and everything below it to the worker's user, where
/// workers have one of their own: a server that ran as root before leaves its journals to them.
pub(crate) fn prepare(folder: &Path, identity: &RunAs) -> io::Result<()> {
    if identity.is_nobody_else() {
        return Ok(());
    }
    let owner = (identity.uid.map(Uid::from_raw), identity.gid.map(Gid::from_raw));
    let named = |what: &str, path: &Path, e: io::Error| {
        io::Error::new(e.kind(), format!("could not {what} \"{}\": {e}", path.display()))
    };
    if let Some(state) = folder.parent() {
        let_in(state, owner.1).map_err(|e| named("let workers into", state, e))?;
    }
    match DirBuilder::new().mode(0o750).create(folder) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(named("make", folder, e)),
        _ => {}
    }
    let stat = statat(CWD, folder, AtFlags::SYMLINK_NOFOLLOW)?;
    if belongs_to(&stat, owner) {
        return Ok(());
    }
    log::info!("\"{}\" is given to the user of the workers", folder.display());
    give(CWD, folder, owner, DEPTH_MAX).map_err(|e| named("give away", folder, e))
}

/// The state folder itself stays root's; workers only pass through it.
fn let_in(state: &Path, group: Option<Gid>) -> io::Result<()> {
    let folder = openat(CWD, state, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let mode = Mode::from_raw_mode(fstat(&folder)?.st_mode);
    let (Some(group), false) = (group, mode.contains(Mode::XOTH)) else { return Ok(()) };
    rustix::fs::fchown(&folder, None, Some(group))?;
    Ok(fchmod(&folder, (mode & Mode::from_raw_mode(0o7777)) | Mode::XGRP)?)
}

/// What is inside first, and the folder last: a walk that was broken off is found unfinished. Nothing is reached through a
/// link, symbolic or hard: whoever owned the folder so far may have put one there.
fn give(parent: BorrowedFd<'_>, name: &Path, owner: Owner, depth: usize) -> io::Result<()> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let entry = openat(parent, name, flags, Mode::empty())?;
    let stat = fstat(&entry)?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory if depth > 0 => {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let folder = openat(&entry, ".", flags, Mode::empty())?;
            for inner in Dir::read_from(&folder)? {
                let inner = inner?;
                let name = inner.file_name().to_bytes();
                if name != b"." && name != b".." {
                    let name = Path::new(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(name));
                    give(folder.as_fd(), name, owner, depth - 1)?;
                }
            }
        }
        FileType::RegularFile if stat.st_nlink == 1 => {}
        _ => return Ok(()),
    }
    Ok(chownat(&entry, "", owner.0, owner.1, AtFlags::EMPTY_PATH)?)
}

fn belongs_to(stat: &Stat, (uid, gid): Owner) -> bool {
    uid.is_none_or(|uid| uid.as_raw() == stat.st_uid) && gid.is_none_or(|gid| gid.as_raw() == stat.st_gid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    const NOBODY: u32 = 65_534;

    #[test]
    fn a_folder_of_roots_is_given_whole_and_no_link_leads_out_of_it() {
        if !nix::unistd::geteuid().is_root() {
            return eprintln!("SKIPPED: only root gives files away");
        }
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("state");
        fs::create_dir(&state).unwrap();
        fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
        let victim = dir.path().join("victim");
        fs::write(&victim, "").unwrap();
        fs::create_dir_all(state.join("adt/journal")).unwrap();
        fs::write(state.join("adt/journal/1.seg"), "").unwrap();
        fs::hard_link(&victim, state.join("adt/hard")).unwrap();
        symlink(&victim, state.join("adt/soft")).unwrap();
        let identity = RunAs { uid: Some(NOBODY), gid: Some(NOBODY), groups: vec![NOBODY] };
        for channel in ["adt", "new"] {
            prepare(&state.join(channel), &identity).unwrap();
        }
        let owner = |path: &str| fs::symlink_metadata(state.join(path)).unwrap().uid();
        for path in ["adt", "adt/journal", "adt/journal/1.seg", "new"] {
            assert_eq!(owner(path), NOBODY, "{path}");
        }
        assert_eq!(fs::metadata(&victim).unwrap().uid(), 0);
        let state = fs::metadata(&state).unwrap();
        assert_eq!((state.uid(), state.gid(), state.mode() & 0o777), (0, NOBODY, 0o710));
    }
}
