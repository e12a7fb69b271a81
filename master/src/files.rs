//! Files that workers are given and cannot open for themselves: certificates and keys.
//!
//! They are read at each load of the configuration, whole, and kept: a worker that starts again gets what was good then,
//! whatever has become of the files since.

use link::{Files, SecretValue};
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// A bundle of every CA there is takes 250 KiB.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Reads the files that TLS on a channel's port needs, and what an operator should know about them.
///
/// # Errors
/// Every file that cannot be read, one line each.
pub fn of_tls(tls: &config::Tls) -> Result<(Files, Vec<String>), Vec<String>> {
    let (mut files, mut warnings, mut problems) = (Files::new(), Vec::new(), Vec::new());
    let named = [
        ("certificate", Some(&tls.certificate)),
        ("key", Some(&tls.key)),
        ("client_ca", tls.client_ca.as_ref()),
    ];
    for (key, path) in named {
        let Some(path) = path else { continue };
        match read(path) {
            Ok((contents, mode)) => {
                if key == "key" && mode & 0o007 != 0 {
                    let path = path.display();
                    warnings.push(format!(
                        "tls.key \"{path}\" is open to every user of this machine; chmod o= it"
                    ));
                }
                files.insert(path.clone(), contents);
            }
            Err(e) => problems.push(format!("tls.{key} \"{}\": could not read it: {e}", path.display())),
        }
    }
    if problems.is_empty() { Ok((files, warnings)) } else { Err(problems) }
}

/// A regular file's contents and its mode. Without waiting for anybody: a named pipe is refused, not read.
fn read(path: &Path) -> Result<(SecretValue, u32), String> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file =
        rustix::fs::open(path, flags, Mode::empty()).map_err(|e| std::io::Error::from(e).to_string())?;
    let file = File::from(file);
    let about = file.metadata().map_err(|e| e.to_string())?;
    if !about.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    let mut bytes = Vec::new();
    let read = file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if read as u64 > FILE_BYTES_MAX {
        return Err("it is larger than 1 MiB".to_owned());
    }
    // PEM is ASCII; what stands around it in some files need not be.
    let text =
        String::from_utf8(bytes).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned());
    Ok((SecretValue::new(text), std::os::unix::fs::MetadataExt::mode(&about)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn tls(folder: &Path, key: &str) -> config::Tls {
        let path = |name: &str| folder.join(name);
        config::Tls { certificate: path("cert"), key: path(key), client_ca: None, client_names: Vec::new() }
    }

    #[test]
    fn every_file_that_cannot_be_read_is_named_and_a_pipe_keeps_nobody_waiting() {
        let folder = tempfile::tempdir().unwrap();
        nix::unistd::mkfifo(&folder.path().join("pipe"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let problems = of_tls(&tls(folder.path(), "pipe")).unwrap_err();
        assert!(problems[0].contains("cert\": could not read it: No such file"), "{problems:?}");
        assert!(problems[1].ends_with("pipe\": could not read it: it is not a regular file"), "{problems:?}");
        std::fs::write(folder.path().join("cert"), vec![b'x'; (1 << 20) + 1]).unwrap();
        let problems = of_tls(&tls(folder.path(), "pipe")).unwrap_err();
        assert!(problems[0].ends_with("it is larger than 1 MiB"), "{problems:?}");
    }

    #[test]
    fn a_key_that_everybody_may_read_is_warned_of_and_never_shown() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["cert", "key"] {
            std::fs::write(folder.path().join(name), "SECRET \u{e9}").unwrap();
        }
        let key = folder.path().join("key");
        std::fs::set_permissions(&key, PermissionsExt::from_mode(0o644)).unwrap();
        let (files, warnings) = of_tls(&tls(folder.path(), "key")).unwrap();
        assert!(!format!("{files:?}").contains("SECRET"));
        assert_eq!(files[&key].expose(), "SECRET \u{e9}");
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        std::fs::set_permissions(&key, PermissionsExt::from_mode(0o640)).unwrap();
        assert!(of_tls(&tls(folder.path(), "key")).unwrap().1.is_empty());
    }
}
