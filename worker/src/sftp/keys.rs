//! What a session is authenticated with, both ways: known host keys, our private keys, a password. All files are read
//! here and nowhere else, anew for every session: a host key that was just accepted, or a key that was just replaced,
//! counts at the next try.

use super::known_hosts::KnownHosts;
use crate::files::plain;
use config::RemoteFolder;
use link::SecretValue;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// Tried in the user's `.ssh` where no `key_file` is set.
const USUAL_KEYS: [&str; 3] = ["id_ed25519", "id_ecdsa", "id_rsa"];
/// No key and no `known_hosts` is larger; another file may be without an end.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// A private key; never shown.
pub struct PrivateKey {
    /// Where it came from.
    pub path: PathBuf,
    /// PEM.
    pub text: String,
    /// It opens only with a passphrase.
    pub encrypted: bool,
}

/// Reads the file of known hosts. One that does not exist knows nobody.
///
/// # Errors
/// Why it could not be read.
pub fn known_hosts(path: &Path) -> Result<KnownHosts, String> {
    match read(path) {
        Ok(bytes) => Ok(KnownHosts::parse(&String::from_utf8_lossy(&bytes))),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(KnownHosts::default()),
        Err(error) => Err(format!("could not read known_hosts {path:?}: {}", plain(&error))),
    }
}

/// Where the known hosts are.
///
/// # Errors
/// There is neither a setting nor a home folder.
pub fn known_hosts_path(folder: &RemoteFolder) -> Result<PathBuf, String> {
    let home = || ssh_folder().map(|folder| folder.join("known_hosts"));
    let path = folder.known_hosts.clone().or_else(home);
    path.ok_or_else(|| "there is no known_hosts: this user has no home folder. Set known_hosts".to_owned())
}

/// The keys to try, in order. None where a password is set and no `key_file`.
///
/// # Errors
/// A key that was asked for could not be read, or none of the usual ones is there.
pub fn private_keys(
    folder: &RemoteFolder,
    password: Option<&SecretValue>,
) -> Result<Vec<PrivateKey>, String> {
    if let Some(path) = &folder.key_file {
        let key = private_key(path.clone());
        return Ok(vec![key.map_err(|error| format!("could not read key_file {path:?}: {error}"))?]);
    }
    if password.is_some() {
        return Ok(Vec::new());
    }
    let home = ssh_folder().ok_or("no key_file and no password is set, and this user has no home folder")?;
    let keys: Vec<PrivateKey> =
        USUAL_KEYS.iter().filter_map(|name| private_key(home.join(name)).ok()).collect();
    if keys.is_empty() {
        return Err(format!(
            "no key_file and no password is set, and no key in {home:?} can be read ({})",
            USUAL_KEYS.join(", ")
        ));
    }
    Ok(keys)
}

fn private_key(path: PathBuf) -> Result<PrivateKey, String> {
    let bytes = read(&path).map_err(|error| plain(&error))?;
    let text = String::from_utf8(bytes).map_err(|_| "it is no private key in PEM")?;
    if !text.contains("PRIVATE KEY-----") || text.contains('\0') {
        return Err("it is no private key in PEM".to_owned());
    }
    Ok(PrivateKey { encrypted: is_encrypted(&text), path, text })
}

/// PEM says so in a header; OpenSSH's own format names a cipher in its first bytes.
fn is_encrypted(text: &str) -> bool {
    const MAGIC: &[u8] = b"openssh-key-v1\0";
    if !text.contains("BEGIN OPENSSH PRIVATE KEY") {
        return text.contains("ENCRYPTED");
    }
    let body: String = text.lines().filter(|line| !line.starts_with("-----")).map(str::trim).collect();
    let decoded = base64_simd::STANDARD.decode_to_vec(&body).unwrap_or_default();
    decoded.strip_prefix(MAGIC).is_some_and(|rest| !rest.starts_with(b"\0\0\0\x04none"))
}

fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    let mut file = std::fs::File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(std::io::Error::other("not a file"));
    }
    let mut bytes = Vec::new();
    file.by_ref().take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(std::io::Error::other(format!("longer than {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

/// The files that a session with this folder's server may read.
pub fn own_files(folder: &RemoteFolder) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = known_hosts_path(folder).into_iter().collect();
    match (&folder.key_file, ssh_folder()) {
        (Some(key), _) => files.push(key.clone()),
        (None, Some(home)) if folder.password.is_none() => {
            files.extend(USUAL_KEYS.map(|name| home.join(name)));
        }
        (None, _) => {}
    }
    files
}

/// From the list of users: a worker's environment is empty. Asked once, before the sandbox, where that list is out of
/// reach.
fn ssh_folder() -> Option<PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || {
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok()??;
        Some(user.dir.join(".ssh"))
    };
    FOUND.get_or_init(find).clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(key_file: Option<PathBuf>) -> RemoteFolder {
        RemoteFolder {
            path: "/in".into(),
            server: "pacs".into(),
            port: 22,
            user: "istmia".into(),
            key_file,
            passphrase: None,
            password: None,
            known_hosts: None,
            timeout: std::time::Duration::from_secs(1),
        }
    }

    /// A key file, its format set by `arguments`, read back.
    fn generated(arguments: &[&str]) -> PrivateKey {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let mut command = std::process::Command::new("ssh-keygen");
        let status = command.args(["-q", "-f"]).arg(&path).args(arguments).status();
        assert!(status.expect("ssh-keygen is in openssh-client").success());
        private_keys(&folder(Some(path)), None).unwrap_or_else(|e| panic!("{e}")).pop().unwrap()
    }

    #[test]
    fn a_key_that_needs_a_passphrase_is_told_from_one_that_does_not() {
        for format in ["RFC4716", "PEM", "PKCS8"] {
            for (passphrase, encrypted) in [("", false), ("secret", true)] {
                let key = generated(&["-t", "ecdsa", "-m", format, "-N", passphrase]);
                assert_eq!(key.encrypted, encrypted, "{format}");
            }
        }
    }

    #[test]
    fn what_is_no_key_is_not_tried() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        std::fs::write(&path, "hello").unwrap();
        let reason = private_keys(&folder(Some(path.clone())), None).err().unwrap();
        assert_eq!(reason, format!("could not read key_file {path:?}: it is no private key in PEM"));
        std::fs::remove_file(&path).unwrap();
        let reason = private_keys(&folder(Some(path.clone())), None).err().unwrap();
        assert_eq!(reason, format!("could not read key_file {path:?}: no such file or directory"));
    }

    #[test]
    fn a_password_without_a_key_file_tries_no_key() {
        let password = SecretValue::new("hunter2".to_owned());
        assert!(private_keys(&folder(None), Some(&password)).unwrap().is_empty());
    }

    #[test]
    fn a_folder_or_an_endless_file_is_no_known_hosts() {
        assert!(known_hosts(Path::new("/")).unwrap_err().ends_with("\"/\": not a file"));
        assert!(known_hosts(Path::new("/dev/zero")).is_err());
        assert!(known_hosts(Path::new("/no/such/file")).is_ok());
    }
}
