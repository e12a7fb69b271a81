//! The configuration file, as far as the dashboard and the alerts look at it. They follow it at HUP, which the unit
//! passes on from the server's own reload; a file that has become wrong leaves what was read before.

use crate::cli::{Fail, server};
use config::{Config, LogFormat};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

/// The file and what was read from it last.
#[derive(Debug)]
pub(in crate::cli) struct Settings {
    path: PathBuf,
    /// Why it could not be read, where it never could.
    config: Mutex<Result<Arc<Config>, String>>,
}

impl Settings {
    /// Reads the file. Where it is wrong the rest works as far as it can: somebody may be about to look what is wrong.
    pub(in crate::cli) fn load(path: &Path) -> Settings {
        Settings { path: path.to_owned(), config: Mutex::new(load(path)) }
    }

    /// Reads it again.
    pub(in crate::cli) fn reload(&self) {
        match load(&self.path) {
            Ok(config) => {
                log::info!("read \"{}\" again", self.path.display());
                *self.locked() = Ok(config);
            }
            Err(reason) => {
                log::error!("{reason}");
                let mut config = self.locked();
                if config.is_err() {
                    *config = Err(reason);
                } else {
                    log::error!("\"{}\" has errors; everything is watched as before", self.path.display());
                }
            }
        }
    }

    /// What was read.
    pub(in crate::cli) fn config(&self) -> Result<Arc<Config>, String> {
        self.locked().clone()
    }

    /// Where the control socket is, also where the file is wrong.
    pub(in crate::cli) fn runtime_path(&self) -> PathBuf {
        match self.config() {
            Ok(config) => config.service.runtime_path.clone(),
            Err(_) => server::runtime_path(&self.path),
        }
    }

    fn locked(&self) -> MutexGuard<'_, Result<Arc<Config>, String>> {
        self.config.lock().unwrap_or_else(|e| e.into_inner())
    }
}

fn load(path: &Path) -> Result<Arc<Config>, String> {
    match server::load(path) {
        Ok(loaded) => {
            let service = &loaded.config.service;
            crate::logging::adopt(service.log_format == LogFormat::Json, service.debug_mode);
            Ok(Arc::new(loaded.config))
        }
        Err(Fail::Failed(reason) | Fail::Configuration(reason)) => Err(reason),
        Err(Fail::Said | Fail::OutputClosed) => Err(format!("could not read \"{}\"", path.display())),
    }
}
