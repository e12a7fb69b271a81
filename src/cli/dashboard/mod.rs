//! `dashboard`: one page that shows and never acts, `/metrics` for Prometheus, `/healthz` for a balancer, and the
//! alerts. A process of its own without privileges: it asks the master's control socket how things are, reads
//! `failed/*.json`, and could be killed at any time without a message's noticing.
//!
//! ```text
//!     master ◀─ status, once a second ─ board ─┬─▶ page, metrics, health ─▶ http
//!     failed/*.json ─────────────── failures ──┘                   └──────▶ alerts
//! ```

mod access;
pub(super) mod board;
mod failures;
pub(super) mod health;
mod history;
mod html;
mod http;
mod metrics;
mod page;
pub(super) mod settings;
pub(super) mod signals;
mod stalls;
pub(super) mod threads;

use super::alerts::{self, Shown};
use super::{Fail, Outcome, failed, server, show};
use access::{Hosts, Password};
use board::Board;
use config::Secrets;
use failures::Failures;
use html::Html;
use http::{Request, Response, Status};
use link::{Answer, Question};
use page::{Asked, Fields, Overview};
use settings::Settings;
use std::io::Read;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// The secret that opens the page when it shows patients' data.
const PASSWORD: &str = "HL7SERVER_DASHBOARD_PASSWORD";
/// After a wrong password, so that guessing takes longer than the password lives.
const WRONG_PASSWORD_PAUSE: Duration = Duration::from_secs(1);
/// Of a channel's page.
const WAITING_SHOWN: u32 = 50;
/// A message is shown whole or not at all.
const MESSAGE_BYTES_MAX: u64 = 16 << 20;

/// Serve one page, /metrics and /healthz, and watch the file's alerts
///
/// Shows and never changes anything. Needs the control socket (group hl7server) and may read the state folders.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Address and port to serve on
    #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8480")]
    listen: SocketAddr,
    /// A name that browsers ask for this page by, behind a proxy; may be given several times
    #[arg(long = "host", value_name = "NAME")]
    hosts: Vec<String>,
    /// Show the fields of failed messages, behind the password in HL7SERVER_DASHBOARD_PASSWORD
    #[arg(long)]
    show_patient_data: bool,
    /// Leave the alerts to another process
    #[arg(long)]
    no_alerts: bool,
    #[command(flatten)]
    place: alerts::Place,
}

/// Carries out `dashboard`.
pub(super) fn run(config: &Path, arguments: &Arguments) -> Outcome {
    crate::logging::init();
    let password = password(arguments)?;
    // Before any thread, so that every thread leaves them to this one.
    let signals = signals::block().map_err(|error| Fail::io("catch signals", &error.into()))?;
    let listener = TcpListener::bind(arguments.listen)
        .map_err(|error| Fail::io(format!("listen on {}", arguments.listen), &error))?;
    let settings = Arc::new(Settings::load(config));
    let site = Arc::new(Site {
        hosts: Hosts::new(arguments.listen.ip(), &arguments.hosts),
        password,
        board: Arc::new(Board::new(settings.runtime_path())),
        failures: failures::Shared::default(),
        stalls: stalls::Shared::default(),
        alerts: Arc::new(Mutex::new(Shown::default())),
        settings,
    });
    if let Err(reason) = site.settings.config() {
        log::error!("{reason}");
    }
    if !arguments.no_alerts
        && let Err(Fail::Failed(reason)) =
            alerts::start(&site.settings, &site.board, &arguments.place, Arc::clone(&site.alerts))
    {
        // The page is there to say so.
        log::error!("{reason}");
        locked(&site.alerts).faults.push(reason);
    }
    let address = listener.local_addr().unwrap_or(arguments.listen);
    if !address.ip().is_loopback() {
        log::warn!("{address} is open to whoever reaches it; what it shows is no patient's data");
    }
    start_threads(&site, listener).map_err(|error| Fail::io("start a thread", &error))?;
    log::info!("dashboard at http://{address}/");
    signals::serve(&signals, &site.settings, &site.board);
    Ok(())
}

fn start_threads(site: &Arc<Site>, listener: TcpListener) -> std::io::Result<()> {
    let of = || Arc::clone(site);
    let site = of();
    threads::start("board", move || board::watch(&site.board))?;
    let site = of();
    threads::start("failures", move || failures::watch(&site.settings, &site.failures))?;
    let site = of();
    threads::start("stalls", move || stalls::watch(&site.settings, &site.board, &site.stalls))?;
    let site = of();
    threads::start("accept", move || http::serve(&listener, move |request| site.respond(request)))
}

/// Where patients' data is to be shown there must be a password, and no network that it would cross in the clear.
fn password(arguments: &Arguments) -> Result<Option<Password>, Fail> {
    if !arguments.show_patient_data {
        return Ok(None);
    }
    if !arguments.listen.ip().is_loopback() {
        let why = "--show-patient-data needs a loopback address: neither it nor the password may cross a network in \
                   the clear. Put a proxy with TLS in front";
        return Err(Fail::Configuration(why.to_owned()));
    }
    let secret = Secrets::of_process().lookup(PASSWORD);
    let secret = secret
        .ok_or_else(|| Fail::Configuration(format!("--show-patient-data needs a password in {PASSWORD}")))?;
    let password = Password::new(secret.reveal()).ok_or_else(|| {
        Fail::Configuration(format!(
            "the password in {PASSWORD} needs at least {} characters",
            Password::LENGTH_MIN
        ))
    })?;
    Ok(Some(password))
}

/// All that requests are answered from.
struct Site {
    hosts: Hosts,
    /// Set where patients' data is shown.
    password: Option<Password>,
    settings: Arc<Settings>,
    board: Arc<Board>,
    failures: failures::Shared,
    stalls: stalls::Shared,
    alerts: Arc<Mutex<Shown>>,
}

impl Site {
    fn respond(&self, request: &Request) -> Response {
        if !self.hosts.accept(request.host.as_deref()) {
            let text = "This dashboard is not known by that name. If it is meant to be, start it with --host NAME.\n";
            return Response::text(Status::Misdirected, text);
        }
        // Neither holds a patient's data, and the programs that ask for them should not have the password.
        match request.path.as_str() {
            "/metrics" => return self.metrics(),
            "/healthz" => return self.health(),
            _ => {}
        }
        if let Some(password) = &self.password
            && !password.opens(request.authorization.as_deref())
        {
            if request.authorization.is_some() {
                log::warn!("dashboard: a wrong password");
                thread::sleep(WRONG_PASSWORD_PAUSE);
            }
            return Response::text(Status::Unauthorized, "A password is needed.\n")
                .header("WWW-Authenticate", "Basic realm=\"hl7server\", charset=\"UTF-8\"");
        }
        let Ok(nonce) = nonce() else { return Response::text(Status::Failed, "no random numbers\n") };
        let path: Vec<&str> = request.path.split('/').skip(1).collect();
        let page = match path.as_slice() {
            [""] => Some(self.overview(&nonce)),
            ["channel", name] => self.channel(name, &nonce),
            ["failed", channel, id] => self.message(channel, id, &nonce),
            _ => None,
        };
        let (status, page) = match page {
            Some(page) => (Status::Ok, page),
            None => {
                (Status::NotFound, page::note("not here", "It may have been retried or discarded.", &nonce))
            }
        };
        document(status, page, &nonce)
    }

    fn metrics(&self) -> Response {
        let text = self.board.with(|sight, _, health| metrics::text(sight, health));
        Response { content_type: metrics::CONTENT_TYPE, ..Response::text(Status::Ok, text) }
    }

    fn health(&self) -> Response {
        match self.board.with(|sight, _, health| metrics::health(sight, health)) {
            Ok(text) => Response::text(Status::Ok, text),
            Err(text) => Response::text(Status::Unavailable, text),
        }
    }

    fn overview(&self, nonce: &str) -> Html {
        let failures: Arc<Failures> = Arc::clone(&locked(&self.failures));
        let alerts = locked(&self.alerts).clone();
        let stalls = Arc::clone(&locked(&self.stalls));
        self.board.with(|sight, history, health| {
            let view =
                Overview { sight, history, health, failures: &failures, alerts: &alerts, stalls: &stalls };
            page::overview(&view, nonce)
        })
    }

    fn channel(&self, name: &str, nonce: &str) -> Option<Html> {
        let status = self.board.sight()?.status?;
        let channel = status.channels.iter().find(|channel| channel.name == name)?;
        let mut asked = Asked::default();
        if channel.pid.is_some() {
            let runtime_path = self.settings.runtime_path();
            let mut ask = |question| match server::ask(&runtime_path, name, question) {
                Ok(Answer::Peers(peers)) => asked.peers = peers,
                Ok(Answer::Queue(waiting, _)) => asked.waiting = waiting,
                Ok(_) => {}
                Err(Fail::Failed(why) | Fail::Configuration(why)) => asked.faults.push(why),
                Err(Fail::Said | Fail::OutputClosed) => {}
            };
            ask(Question::Peers);
            ask(Question::Queue { limit: WAITING_SHOWN });
        }
        let control_ids = self.password.is_some();
        Some(self.board.with(|_, _, health| page::channel(channel, health, &asked, control_ids, nonce)))
    }

    fn message(&self, channel: &str, id: &str, nonce: &str) -> Option<Html> {
        // Both come from the address; what they become is part of a path.
        let id: journal::MessageId = id.parse().ok()?;
        let config = self.settings.config().ok()?;
        let state_path = &config.service.state_path;
        let channel = failed::channels(state_path).ok()?.into_iter().find(|known| known == channel)?;
        let folder = failed::folder(state_path, &channel);
        let record = match failures::read(&folder, id) {
            Ok(record) => record?,
            Err(why) => return Some(page::note("not readable", &why, nonce)),
        };
        let fields = if self.password.is_some() {
            let encoding = config.channel(&channel).map(|channel| channel.encoding);
            match fields(&folder.join(format!("{id}.hl7")), encoding) {
                Ok(text) => Fields::Shown(text),
                Err(why) => Fields::Unreadable(why),
            }
        } else {
            Fields::Hidden
        };
        Some(page::message(&record, &fields, nonce))
    }
}

/// A page with a policy that lets it run its own script, show its own style and ask this server, and nothing else.
fn document(status: Status, page: Html, nonce: &str) -> Response {
    let policy = format!(
        "default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let content_type = "text/html; charset=utf-8";
    Response { status, content_type, headers: Vec::new(), body: page.into_bytes() }
        .header("Content-Security-Policy", policy)
}

/// A number that a page's author cannot know before.
fn nonce() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A message's fields, as `hl7server show` prints them.
fn fields(path: &Path, encoding: Option<hl7::charset::Encoding>) -> Result<String, String> {
    let fault =
        |error: &std::io::Error| format!("could not read the message: {}", super::output::plain(error));
    let file = failures::open(path).map_err(|error| fault(&error))?;
    let mut bytes = Vec::new();
    file.take(MESSAGE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(|error| fault(&error))?;
    if bytes.len() as u64 > MESSAGE_BYTES_MAX {
        return Err("the message is too large for this page".to_owned());
    }
    let mut text = Vec::new();
    match show::print(&mut text, &bytes, encoding, &show::How::default()) {
        Ok(()) => Ok(String::from_utf8_lossy(&text).into_owned()),
        Err(Fail::Failed(why) | Fail::Configuration(why)) => Err(why),
        Err(Fail::Said | Fail::OutputClosed) => Err("the message cannot be shown".to_owned()),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|e| e.into_inner())
}
