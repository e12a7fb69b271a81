//! PURE: one channel: what it counts, who is connected, what waits.

use super::super::health::Health;
use super::super::html::Html;
use super::{definitions, document, header, oldest, state};
use crate::cli::output::{grouped, local_time, size};
use link::{Histogram, Peer, Waiting};
use master::control::ChannelStatus;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// What its worker was asked for the page.
#[derive(Default)]
pub(in crate::cli::dashboard) struct Asked {
    pub(in crate::cli::dashboard) peers: Vec<Peer>,
    /// The oldest.
    pub(in crate::cli::dashboard) waiting: Vec<Waiting>,
    /// Why the worker did not answer.
    pub(in crate::cli::dashboard) faults: Vec<String>,
}

/// The page of one channel. Control ids are shown with patients' data only.
pub(in crate::cli::dashboard) fn channel(
    channel: &ChannelStatus,
    health: &Health,
    asked: &Asked,
    control_ids: bool,
    nonce: &str,
) -> Html {
    let counted = &channel.status;
    let port = if channel.port == 0 {
        String::new()
    } else {
        SocketAddr::from((channel.listen, channel.port)).to_string()
    };
    let lines = [
        ("listens on", port),
        ("since", local_time(channel.since_us)),
        ("process", channel.pid.map_or_else(String::new, |pid| pid.to_string())),
        ("connections", grouped(counted.connections)),
        ("received", format!("{} ({})", grouped(counted.received), size(counted.bytes_in))),
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
        ("journal", size(counted.journal_bytes)),
        ("task slots", grouped(counted.slots_used)),
        ("to the acknowledgment", quantiles(&counted.ack_seconds)),
        ("to the last step", quantiles(&counted.delivery_seconds)),
    ];
    let mut main = Html::new();
    main.raw("<p><a href=\"/\">All channels</a></p>").element("h2", &channel.name);
    main.add(&state(channel, health));
    main.add(&definitions(&lines));
    for fault in &asked.faults {
        main.element("p class=\"why hot\"", fault);
    }
    main.add(&waiting(&asked.waiting, control_ids)).add(&peers(&asked.peers));
    document(&format!("hl7server: {}", channel.name), &header(None), &main, nonce)
}

fn waiting(waiting: &[Waiting], control_ids: bool) -> Html {
    let mut heads = vec!["Message id", "Type", "Received", "Step", "Attempts", "Again at", "Reason"];
    if control_ids {
        heads.insert(1, "Control id");
    }
    let rows = waiting.iter().map(|message| {
        let mut row = vec![
            message.id.clone(),
            message.message_type.clone(),
            local_time(message.received_us),
            message.step.clone(),
            message.attempt.to_string(),
            message.until_us.map_or_else(|| "–".to_owned(), local_time),
            message.reason.clone(),
        ];
        if control_ids {
            row.insert(1, message.control_id.clone());
        }
        row
    });
    table("waiting", "Waiting, the oldest first", &heads, rows)
}

fn peers(peers: &[Peer]) -> Html {
    let rows = peers.iter().map(|peer| {
        vec![
            peer.address.clone(),
            local_time(peer.connected_us),
            grouped(peer.messages),
            peer.last_message_us.map_or_else(|| "–".to_owned(), local_time),
            counters(&peer.framing),
        ]
    });
    table("peers", "Peers", &["Address", "Connected", "Messages", "Last message", "Framing deviations"], rows)
}

fn table(id: &str, title: &str, heads: &[&str], rows: impl ExactSizeIterator<Item = Vec<String>>) -> Html {
    let mut html = Html::new();
    html.raw("<section aria-labelledby=\"h-")
        .raw(id)
        .raw("\"><h3 id=\"h-")
        .raw(id)
        .raw("\">")
        .text(title)
        .raw("</h3>");
    if rows.len() == 0 {
        html.raw("<p class=\"soft\">None.</p></section>\n");
        return html;
    }
    html.raw("<div class=\"scroll\" role=\"region\" tabindex=\"0\" aria-labelledby=\"h-")
        .raw(id)
        .raw("\"><table>");
    html.element("caption", format!("{title}: {}", rows.len())).raw("<thead><tr>");
    for head in heads {
        html.element("th scope=\"col\"", head);
    }
    html.raw("</tr></thead><tbody>");
    for row in rows {
        html.raw("<tr>");
        for (n, cell) in row.iter().enumerate() {
            html.element(if n == 0 { "th scope=\"row\"" } else { "td" }, cell);
        }
        html.raw("</tr>\n");
    }
    html.raw("</tbody></table></div></section>\n");
    html
}

/// `101: 1, 207: 3`.
fn counters(counters: &BTreeMap<String, u64>) -> String {
    let counted = counters.iter().filter(|(_, count)| **count > 0);
    counted.map(|(name, count)| format!("{name}: {}", grouped(*count))).collect::<Vec<_>>().join(", ")
}

fn quantiles(histogram: &Histogram) -> String {
    match (histogram.quantile(0.5), histogram.quantile(0.99)) {
        (Some(half), Some(most)) => {
            format!("half within {:.1} ms, 99% within {:.1} ms", half * 1e3, most * 1e3)
        }
        _ => String::new(),
    }
}
