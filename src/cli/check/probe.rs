//! `check --probe`: whether each channel's port, folders and peers are there, all at once.

use crate::cli::output::{self, Align, Colour, Table};
use crate::cli::server;
use crate::cli::{Fail, Outcome};
use config::Loaded;
use config::secret::Secrets;
use link::SecretValue;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};
use worker::probe::{Probe, Said, Who};

/// Probes at the same time.
const THREADS: usize = 16;
/// Each ends by its own timeouts; a resolver that hangs does not.
const LIMIT: Duration = Duration::from_secs(90);
/// The user of the Debian package's unit.
const PACKAGE_USER: &str = "hl7server";

/// What a probe of a channel said.
pub(super) struct Looked {
    pub(super) channel: String,
    pub(super) probe: String,
    pub(super) said: Result<String, String>,
}

/// Looks at everything that the enabled channels need.
pub(super) fn look(loaded: &Loaded) -> Result<Vec<Looked>, Fail> {
    let who = who(loaded)?;
    let here = Secrets::of_process();
    let running = server::running_ports(&loaded.config.service.runtime_path);
    let mut jobs: VecDeque<(usize, String, Probe)> = VecDeque::new();
    let mut looked = Vec::new();
    for channel in loaded.config.channels.iter().filter(|channel| channel.enabled) {
        let settings = loaded.config.worker_settings(channel);
        let secrets = settings.secret_names().into_iter().filter_map(|name| {
            let value = SecretValue::new(here.lookup(&name)?.reveal().to_owned());
            Some((name, value))
        });
        looked.push((channel.name.clone(), "port".to_owned(), Some(vec![port(channel, &running)])));
        for probe in worker::probe::probes(&settings, &secrets.collect(), &who) {
            jobs.push_back((looked.len(), channel.name.clone(), probe));
            let name = jobs.back().map(|(_, _, probe)| probe.name.clone()).unwrap_or_default();
            looked.push((channel.name.clone(), name, None));
        }
    }
    let mut left = jobs.len();
    let jobs = Arc::new(Mutex::new(jobs));
    let (tell, hear) = mpsc::channel::<(usize, Said)>();
    for _ in 0..THREADS.min(left) {
        let (jobs, tell) = (Arc::clone(&jobs), tell.clone());
        // Not joined: one that hangs must not keep the others' results from being printed.
        std::thread::spawn(move || {
            loop {
                let job = jobs.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                let Some((at, _, probe)) = job else { return };
                let _ = tell.send((at, probe.run()));
            }
        });
    }
    let progress = output::Progress::new(left as u64, "probes");
    let (all, end) = (left as u64, Instant::now() + LIMIT);
    while left > 0 {
        match hear.recv_timeout(end.saturating_duration_since(Instant::now()).min(Duration::from_millis(200)))
        {
            Ok((at, said)) => {
                looked[at].2 = Some(said);
                left -= 1;
            }
            Err(_) if Instant::now() >= end => break,
            Err(_) => {}
        }
        progress.reached(all - left as u64);
    }
    progress.end();
    let none = || vec![Err(format!("no answer within {} s", LIMIT.as_secs()))];
    let flat = |(channel, probe, said): (String, String, Option<Said>)| {
        said.unwrap_or_else(none).into_iter().map(move |said| Looked {
            channel: channel.clone(),
            probe: probe.clone(),
            said,
        })
    };
    Ok(looked.into_iter().flat_map(flat).collect())
}

/// Workers run as `user`; without it, as whoever runs the server: the package's user where root asks.
fn who(loaded: &Loaded) -> Result<Who, Fail> {
    let service = &loaded.config.service;
    if let Some(user) = &service.user {
        return Who::named(user, service.group.as_deref()).map_err(Fail::Failed);
    }
    match rustix::process::geteuid().is_root() {
        true => Ok(Who::named(PACKAGE_USER, None).unwrap_or_else(|_| Who::me())),
        false => Ok(Who::me()),
    }
}

fn port(channel: &config::Channel, running: &[(String, u16, u32)]) -> Result<String, String> {
    let address = std::net::SocketAddr::from((channel.listen, channel.port));
    match TcpListener::bind(address) {
        Ok(_) => Ok(format!("{address} is free")),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => {
            match running.iter().find(|(_, port, _)| *port == channel.port) {
                Some((name, _, pid)) => {
                    Ok(format!("{address}: the running server listens (channel {name}, pid {pid})"))
                }
                None => Err(format!("could not listen on {address}: another program does")),
            }
        }
        Err(error) => Err(format!("could not listen on {address}: {}", output::plain(&error))),
    }
}

/// The results as a table.
pub(super) fn print(out: &mut impl Write, looked: &[Looked]) -> io::Result<()> {
    let colour = |head: &str, cell: &str| match (head, cell) {
        ("RESULT", "ok") => Some(Colour::Green),
        ("RESULT", _) => Some(Colour::Red),
        _ => None,
    };
    let mut table = Table::new(&[
        ("CHANNEL", Align::Left),
        ("PROBE", Align::Left),
        ("RESULT", Align::Left),
        ("", Align::Left),
    ])
    .painted(colour);
    for Looked { channel, probe, said } in looked {
        let (result, text) = match said {
            Ok(text) => ("ok", text),
            Err(text) => ("failed", text),
        };
        table.row(vec![channel.clone(), probe.clone(), result.to_owned(), text.clone()]);
    }
    writeln!(out)?;
    table.print(out)
}

/// As JSON.
pub(super) fn objects(looked: &[Looked]) -> serde_json::Value {
    let object = |Looked { channel, probe, said }: &Looked| {
        let text = said.as_ref().unwrap_or_else(|text| text);
        serde_json::json!({ "channel": channel, "probe": probe, "ok": said.is_ok(), "text": text })
    };
    looked.iter().map(object).collect()
}

/// Fails where any probe did.
pub(super) fn verdict(looked: &[Looked]) -> Outcome {
    match looked.iter().filter(|looked| looked.said.is_err()).count() {
        0 => Ok(()),
        failed => Err(Fail::Failed(format!("{failed} of {} probes failed", looked.len()))),
    }
}
