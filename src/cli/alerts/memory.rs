//! What survives a restart of this process: what is raised, and what could not be told yet. One small file, replaced
//! whole. Without a folder to keep it in everything works, and what stands is told once more after a restart.

use super::conditions::Watch;
use super::desk::Pending;
use crate::cli::output::plain;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What is kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Remembered {
    pub(super) watch: Watch,
    pub(super) pending: VecDeque<Pending>,
}

/// The folder, ours alone while this stands.
#[derive(Debug)]
pub(super) struct Memory {
    path: PathBuf,
    _lock: File,
}

impl Memory {
    /// Takes the folder, which is made where it is missing, and reads what was kept.
    ///
    /// # Errors
    /// Another process watches the alerts already, or the folder cannot be used; in words.
    pub(super) fn open(folder: &Path) -> Result<(Memory, Remembered), String> {
        let fault = |error: &io::Error| format!("could not use \"{}\": {}", folder.display(), plain(error));
        fs::create_dir_all(folder).map_err(|error| fault(&error))?;
        let lock = private().append(true).open(folder.join("alerts.lock")).map_err(|error| fault(&error))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err("another process watches the alerts already".to_owned());
            }
            Err(fs::TryLockError::Error(error)) => return Err(fault(&error)),
        }
        let path = folder.join("alerts.json");
        let remembered = match fs::read(&path) {
            // Whatever stands is told once more, which is better than never.
            Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
                log::warn!("alerts: \"{}\" is damaged, so it is begun anew: {error}", path.display());
                Remembered::default()
            }),
            Err(error) if error.kind() == ErrorKind::NotFound => Remembered::default(),
            Err(error) => return Err(fault(&error)),
        };
        Ok((Memory { path, _lock: lock }, remembered))
    }

    /// Replaces what is kept.
    pub(super) fn keep(&self, remembered: &Remembered) -> io::Result<()> {
        let text = serde_json::to_vec(remembered)?;
        let new = self.path.with_extension("new");
        let mut file = private().truncate(true).open(&new)?;
        file.write_all(&text)?;
        file.sync_data()?;
        fs::rename(&new, &self.path)
    }
}

fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).create(true).mode(0o600);
    options
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_there_again_and_a_second_process_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let (memory, remembered) = Memory::open(&folder.path().join("new")).unwrap();
        assert_eq!(remembered, Remembered::default());
        let text = r#"{"watch":{"raised":[{"alert":"a","subject":"","message":"m","since_us":1}]}}"#;
        let kept: Remembered = serde_json::from_str(text).unwrap();
        memory.keep(&kept).unwrap();
        let again = Memory::open(&folder.path().join("new"));
        assert_eq!(again.unwrap_err(), "another process watches the alerts already");
        drop(memory);
        assert_eq!(Memory::open(&folder.path().join("new")).unwrap().1, kept);
    }

    #[test]
    fn a_damaged_file_is_begun_anew() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("alerts.json"), "{").unwrap();
        assert_eq!(Memory::open(folder.path()).unwrap().1, Remembered::default());
    }
}
