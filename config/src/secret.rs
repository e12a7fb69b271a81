//! Secrets: the file names them, the environment holds them.
//!
//! A secret is looked up as a systemd credential (`$CREDENTIALS_DIRECTORY/NAME`) and then in the environment. Only its
//! name travels in the configuration; a password that does stand in the file is a [`PlainSecret`]. Nothing here prints
//! a value.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;

/// The name by which a secret is looked up: letters, digits, `_`, `.` and `-`, no leading dot or dash, so that it is a
/// file name and leads out of no folder.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretName(String);

/// Bytes of a secret's name; a file name on Linux has at most 255.
const NAME_BYTES_MAX: usize = 255;

impl SecretName {
    /// `None` where the text cannot name a secret.
    pub fn new(name: &str) -> Option<SecretName> {
        let sound = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        let ok = !name.is_empty()
            && name.len() <= NAME_BYTES_MAX
            && name.bytes().all(sound)
            && !name.starts_with(['.', '-']);
        ok.then(|| SecretName(name.to_owned()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it has the look of a variable's name. One that has not may be a secret written in its own place, so
    /// messages do not show it.
    pub(crate) fn looks_like_a_variable(&self) -> bool {
        is_variable_name(&self.0)
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for SecretName {
    type Error = String;
    fn try_from(name: String) -> Result<SecretName, String> {
        SecretName::new(&name).ok_or_else(|| "not the name of a secret".to_owned())
    }
}

impl From<SecretName> for String {
    fn from(name: SecretName) -> String {
        name.0
    }
}

/// A secret's value. `Debug` hides it; it serialises, since it travels over the link to the one worker that uses it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlainSecret(String);

impl PlainSecret {
    /// Takes a value in.
    pub fn new(value: String) -> PlainSecret {
        PlainSecret(value)
    }

    /// The value, for the one call that needs it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for PlainSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PlainSecret(hidden)")
    }
}

/// `[A-Z][A-Z0-9_]{3,}`.
pub(crate) fn is_variable_name(text: &str) -> bool {
    text.len() >= 4
        && text.starts_with(|c: char| c.is_ascii_uppercase())
        && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

/// Variables that every process has. A password equal to one of these names is that password, never its value.
const NEVER_SECRETS: [&str; 14] = [
    "PATH", "HOME", "USER", "SHELL", "TERM", "LANG", "LANGUAGE", "LOGNAME", "MAIL", "HOSTNAME", "TMPDIR",
    "EDITOR", "PAGER", "DISPLAY",
];

/// Whether a password written in the file may stand for a variable.
pub(crate) fn may_name_a_variable(text: &str) -> bool {
    is_variable_name(text)
        && !NEVER_SECRETS.contains(&text)
        && !["LC_", "SYSTEMD_", "XDG_"].iter().any(|prefix| text.starts_with(prefix))
}

/// Where secrets are looked up.
#[derive(Clone, Debug, Default)]
pub struct Secrets {
    credentials: Option<PathBuf>,
}

impl Secrets {
    /// As this process finds them: `$CREDENTIALS_DIRECTORY`, then its environment.
    pub fn of_process() -> Secrets {
        Secrets { credentials: std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from) }
    }

    /// With another folder of credentials.
    pub fn in_folder(credentials: PathBuf) -> Secrets {
        Secrets { credentials: Some(credentials) }
    }

    /// The value behind a name. Read anew at every call: systemd replaces credential files. One line break at the end
    /// of a credential file is not part of it.
    pub fn lookup(&self, name: &str) -> Option<PlainSecret> {
        let name = SecretName::new(name)?;
        self.credential(&name).or_else(|| std::env::var(name.as_str()).ok()).map(PlainSecret)
    }

    /// Whether there is a value behind a name: what [`crate::load`] asks.
    pub fn is_known(&self, name: &str) -> bool {
        self.lookup(name).is_some()
    }

    fn credential(&self, name: &SecretName) -> Option<String> {
        let mut value = std::fs::read_to_string(self.credentials.as_ref()?.join(name.as_str())).ok()?;
        if value.ends_with('\n') {
            value.pop();
            if value.ends_with('\r') {
                value.pop();
            }
        }
        Some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_leads_out_of_the_folder_is_none() {
        for name in ["", "..", "../x", "a/b", "-x", ".hidden", "a b", "p@ss", "ä"] {
            assert_eq!(SecretName::new(name), None, "{name}");
        }
        assert!(SecretName::new("DB_TOKEN").is_some());
        assert!(SecretName::new("db.token-2").is_some());
        assert!(serde_json::from_str::<SecretName>("\"../x\"").is_err());
    }

    #[test]
    fn debug_shows_no_value() {
        let secret = PlainSecret::new("hunter2".to_owned());
        assert!(!format!("{secret:?}").contains("hunter2"));
        assert_eq!(secret.reveal(), "hunter2");
    }

    #[test]
    fn a_credential_comes_before_the_environment_and_loses_its_last_line_break() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("PATH"), "from the folder\n").unwrap();
        std::fs::write(folder.path().join("TWO"), "a\n\n").unwrap();
        let secrets = Secrets::in_folder(folder.path().to_owned());
        assert_eq!(secrets.lookup("PATH").unwrap().reveal(), "from the folder");
        assert_eq!(secrets.lookup("TWO").unwrap().reveal(), "a\n");
        assert_eq!(secrets.lookup("HL7SERVER_NO_SUCH_SECRET"), None);
        // Not in the folder, so from the environment, where cargo puts it.
        assert!(secrets.is_known("CARGO_MANIFEST_DIR"));
    }

    #[test]
    fn everyday_variables_are_never_taken_for_secrets() {
        assert!(may_name_a_variable("SOLR_TOKEN"));
        for text in ["PATH", "HOME", "USER", "LC_ALL", "ABC", "solr_token", "SOLR-TOKEN"] {
            assert!(!may_name_a_variable(text), "{text}");
        }
    }
}
