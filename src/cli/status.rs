//! `status`: the running server's channels, as `docker ps` shows containers.

use super::output::{self, Align, Colour, Table, grouped, local_time, short_time};
use super::server::{self, ChannelStatus, ServerStatus};
use super::{Fail, Outcome};
use link::{Answer, Peer, Question};
use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::Duration;

/// Print a table of the running server's channels
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// One channel: what it counts, and its peers
    #[arg(long, value_name = "NAME")]
    channel: Option<String>,
    /// Print it again and again until interrupted
    #[arg(long)]
    watch: bool,
    /// With --watch: so often
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0, value_parser = seconds, requires = "watch")]
    every: f64,
    /// Print one JSON object; with --watch one each time
    #[arg(long)]
    json: bool,
}

/// Carries out `status`.
pub(super) fn run(config: &Path, arguments: &Arguments) -> Outcome {
    let runtime_path = server::runtime_path(config);
    if arguments.watch { watch(&runtime_path, arguments) } else { once(&runtime_path, arguments) }
}

/// On a terminal each picture takes the place of the one before. A server that does not answer may be starting: that
/// is shown, and asked again.
fn watch(runtime_path: &Path, arguments: &Arguments) -> Outcome {
    /// Home, and what stands there is cleared.
    const CLEAR: &str = "\x1b[H\x1b[2J";
    let is_screen = !arguments.json && io::stdout().is_terminal();
    let mut is_first = true;
    loop {
        if is_screen {
            write!(output::stdout(), "{CLEAR}")?;
        } else if !is_first && !arguments.json {
            writeln!(output::stdout())?;
        }
        match once(runtime_path, arguments) {
            Err(Fail::Failed(reason)) => output::complain(&reason),
            other => other?,
        }
        is_first = false;
        std::thread::sleep(Duration::from_secs_f64(arguments.every));
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let sound = |seconds: &f64| (0.1..=3600.0).contains(seconds);
    text.parse().ok().filter(sound).ok_or_else(|| "seconds, from 0.1 to 3600".to_owned())
}

fn once(runtime_path: &Path, arguments: &Arguments) -> Outcome {
    let status = server::status(runtime_path, arguments.channel.as_deref())?;
    let Some(name) = &arguments.channel else {
        return print_server(&status, arguments.json);
    };
    let channel = status
        .channels
        .iter()
        .find(|channel| channel.name == *name)
        .ok_or_else(|| Fail::Failed(format!("the running server has no channel \"{name}\"")))?;
    // A channel that is down has no peers, and that is no reason to show nothing.
    let peers = match channel.pid {
        Some(_) => match server::ask(runtime_path, name, Question::Peers)? {
            Answer::Peers(peers) => peers,
            other => return Err(Fail::Failed(format!("{name}: answered something else: {other:?}"))),
        },
        None => Vec::new(),
    };
    print_channel(channel, &peers, arguments.json)
}

fn print_server(status: &ServerStatus, json: bool) -> Outcome {
    let mut out = output::stdout();
    if json {
        writeln!(out, "{}", to_json(status))?;
        return Ok(());
    }
    table(status, &mut out)?;
    Ok(())
}

/// The table; `demo` prints it too.
pub(super) fn table(status: &ServerStatus, out: &mut impl Write) -> io::Result<()> {
    let version = status.config_version.as_deref().map(|version| format!(", configuration {version}"));
    writeln!(
        out,
        "hl7server {}{}, pid {}, up {}\n",
        status.version,
        crate::logging::escape_controls(&version.unwrap_or_default()),
        status.pid,
        short_time(output::since(status.started_us))
    )?;
    let mut table = Table::new(&[
        ("CHANNEL", Align::Left),
        ("PORT", Align::Right),
        ("PID", Align::Right),
        ("STATE", Align::Left),
        ("UPTIME", Align::Right),
        ("CONN", Align::Right),
        ("RECEIVED", Align::Right),
        ("ACCEPTED", Align::Right),
        ("REFUSED", Align::Right),
        ("DELIVERED", Align::Right),
        ("WAITING", Align::Right),
        ("OLDEST", Align::Right),
        ("FAILED", Align::Right),
    ])
    .painted(colour);
    for channel in &status.channels {
        let counted = &channel.status;
        table.row(vec![
            channel.name.clone(),
            if channel.port == 0 { "-".to_owned() } else { channel.port.to_string() },
            channel.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            channel.state.to_string(),
            short_time(output::since(channel.since_us)),
            grouped(counted.connections),
            grouped(counted.received),
            grouped(counted.accepted),
            grouped(counted.refused.values().sum()),
            grouped(counted.delivered),
            grouped(counted.waiting),
            oldest(channel),
            grouped(counted.failed_now),
        ]);
    }
    table.print(out)?;
    for channel in &status.channels {
        if let Some(problem) = &channel.problem {
            writeln!(out, "{}: {}", channel.name, crate::logging::escape_controls(problem))?;
        }
        if channel.status.closed_for_room {
            writeln!(out, "{}: closed for want of room on the disk", channel.name)?;
        }
        if let Some(expires_s) = channel.status.certificate_expires
            && days_until(expires_s) < EXPIRES_SOON_DAYS
        {
            writeln!(out, "{}: its certificate {}", channel.name, expiry(expires_s))?;
        }
    }
    Ok(())
}

fn colour(head: &str, cell: &str) -> Option<Colour> {
    match (head, cell) {
        ("STATE", "ready") => Some(Colour::Green),
        ("STATE", "starting" | "draining" | "backoff") => Some(Colour::Yellow),
        ("STATE", "off" | "removed") => Some(Colour::Grey),
        ("STATE", _) => Some(Colour::Red),
        ("FAILED", cell) if cell != "0" => Some(Colour::Red),
        ("WAITING" | "REFUSED", cell) if cell != "0" => Some(Colour::Yellow),
        _ => None,
    }
}

fn oldest(channel: &ChannelStatus) -> String {
    let seconds = channel.status.oldest_waiting_seconds;
    if channel.status.waiting == 0 {
        return "-".to_owned();
    }
    Duration::try_from_secs_f64(seconds).map_or_else(|_| "?".to_owned(), short_time)
}

fn print_channel(channel: &ChannelStatus, peers: &[Peer], json: bool) -> Outcome {
    let mut out = output::stdout();
    if json {
        let both = serde_json::json!({ "channel": channel, "peers": peers });
        writeln!(out, "{both}")?;
        return Ok(());
    }
    let counted = &channel.status;
    let quantiles = |histogram: &link::Histogram| match (histogram.quantile(0.5), histogram.quantile(0.99)) {
        (Some(half), Some(most)) => format!("{:.1} ms, 99% {:.1} ms", half * 1e3, most * 1e3),
        _ => "-".to_owned(),
    };
    let lines = [
        ("channel", channel.name.clone()),
        ("listens on", std::net::SocketAddr::from((channel.listen, channel.port)).to_string()),
        ("state", format!("{} since {}", channel.state, local_time(channel.since_us))),
        ("pid", channel.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string())),
        ("restarts", grouped(channel.restarts)),
        ("problem", channel.problem.clone().unwrap_or_default()),
        ("sandbox", counted.sandbox.clone()),
        ("certificate", counted.certificate_expires.map(expiry).unwrap_or_default()),
        ("connections", grouped(counted.connections)),
        ("received", format!("{} ({})", grouped(counted.received), output::size(counted.bytes_in))),
        ("accepted", grouped(counted.accepted)),
        ("duplicates", grouped(counted.duplicates)),
        ("refused", counters(&counted.refused)),
        ("framing deviations", counters(&counted.framing)),
        ("delivered", grouped(counted.delivered)),
        ("tried again", counters(&counted.again)),
        ("skipped", counters(&counted.skipped)),
        ("failed", counters(&counted.failed)),
        ("failed, still listed", grouped(counted.failed_now)),
        ("waiting", grouped(counted.waiting)),
        ("oldest waiting", oldest(channel)),
        ("journal", output::size(counted.journal_bytes)),
        ("task slots", grouped(counted.slots_used)),
        ("to the acknowledgment", quantiles(&counted.ack_seconds)),
        ("to the last step", quantiles(&counted.delivery_seconds)),
    ];
    for (name, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        writeln!(out, "{name:<22} {}", crate::logging::escape_controls(value))?;
    }
    writeln!(out)?;
    let mut columns = vec![
        ("PEER", Align::Left),
        ("CONNECTED", Align::Left),
        ("MESSAGES", Align::Right),
        ("LAST MESSAGE", Align::Left),
        ("FRAMING", Align::Left),
    ];
    let over_tls = counted.certificate_expires.is_some();
    if over_tls {
        columns.extend([("TLS", Align::Left), ("CERTIFICATE OF", Align::Left)]);
    }
    let mut table = Table::new(&columns);
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    for peer in peers {
        let mut row = vec![
            peer.address.clone(),
            local_time(peer.connected_us),
            grouped(peer.messages),
            peer.last_message_us.map_or_else(|| "-".to_owned(), local_time),
            counters(&peer.framing),
        ];
        if over_tls {
            row.extend([or_dash(&peer.tls), or_dash(&peer.tls_name)]);
        }
        table.row(row);
    }
    table.print(&mut out)?;
    Ok(())
}

/// A certificate that expires sooner is pointed out in the table.
const EXPIRES_SOON_DAYS: i64 = 30;

fn days_until(expires_s: i64) -> i64 {
    let now_s = jiff::Timestamp::now().as_second();
    expires_s.saturating_sub(now_s).div_euclid(86_400)
}

/// `expires 2027-01-31 12:00:00 (in 61 days)`.
fn expiry(expires_s: i64) -> String {
    let at = local_time(expires_s.saturating_mul(1_000_000));
    match days_until(expires_s) {
        ..0 => format!("expired {at}"),
        0 => format!("expires {at} (today)"),
        days => format!("expires {at} (in {days} days)"),
    }
}

/// `101: 1, 207: 3`, without what was never counted; a dash for none.
fn counters(counters: &BTreeMap<String, u64>) -> String {
    let counted = counters.iter().filter(|(_, count)| **count > 0);
    let text =
        counted.map(|(name, count)| format!("{name}: {}", grouped(*count))).collect::<Vec<_>>().join(", ");
    if text.is_empty() { "-".to_owned() } else { text }
}

fn to_json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("what came as JSON goes as JSON")
}
