//! PURE: the page. Everything is in it: no script or style is fetched, nothing can be pressed that changes anything.
//!
//! Where a row, a list entry or a table has an `id`, the script that keeps the page current knows it again.

mod channel;
mod message;

pub(super) use channel::{Asked, channel};
pub(super) use message::{Fields, message};

use super::board::Sight;
use super::failures::{Failures, Group};
use super::health::{self, Health};
use super::history::{History, Line, SAMPLES_MAX};
use super::html::Html;
use crate::cli::alerts::Shown;
use crate::cli::output::{grouped, local_time, now_us, short_time, since};
use crate::cli::server::ServerStatus;
use link::Waiting;
use master::control::{ChannelState, ChannelStatus};
use std::collections::BTreeMap;
use std::hash::{Hash, Hasher};
use std::time::Duration;

const STYLE: &str = include_str!("page/style.css");
const SCRIPT: &str = include_str!("page/live.js");

/// Height and width of a sparkline, in its own units.
const SPARK_HEIGHT: f32 = 24.0;
const SPARK_WIDTH: f32 = 120.0;
/// Troubles that the summary names one by one.
const TROUBLES_MAX: usize = 10;

/// All that the front page shows.
pub(super) struct Overview<'a> {
    pub(super) sight: Option<&'a Sight>,
    pub(super) history: &'a History,
    pub(super) health: &'a Health,
    pub(super) failures: &'a Failures,
    pub(super) alerts: &'a Shown,
    /// By channel, the oldest message that waits, where it has for a while.
    pub(super) stalls: &'a BTreeMap<String, Waiting>,
}

/// The front page.
pub(super) fn overview(view: &Overview<'_>, nonce: &str) -> Html {
    let troubles = match view.sight {
        Some(sight) => sight.troubles(view.health),
        None => vec![health::NOT_ASKED.to_owned()],
    };
    let status = view.sight.and_then(|sight| sight.status.as_deref());
    let mut main = summary(status, &troubles, view.alerts);
    // What is raised comes before a table that may be long; what is only watched, after it.
    let alerts = alerts(view.alerts);
    let is_news = !view.alerts.raised.is_empty() || !view.alerts.faults.is_empty();
    if let Some(status) = status {
        main.add(&glance(status));
        if is_news {
            main.add(&alerts);
        }
        main.add(&channels(status, view));
    }
    main.add(&failed(view.failures));
    if !is_news || status.is_none() {
        main.add(&alerts);
    }
    let title = match troubles.len() {
        0 => "hl7server: all is well".to_owned(),
        1 => "(!) hl7server: 1 trouble".to_owned(),
        count => format!("(!) hl7server: {count} troubles"),
    };
    document(&title, &header(view.sight), &main, nonce)
}

/// A whole document around what is shown.
fn document(title: &str, header: &Html, main: &Html, nonce: &str) -> Html {
    let mut html = Html::new();
    html.raw("<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    html.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">");
    // The browser would ask for an icon and be told that there is none, at every load.
    html.raw("<link rel=\"icon\" href=\"data:,\">");
    html.raw("<noscript><meta http-equiv=\"refresh\" content=\"5\"></noscript>");
    html.element("title", title);
    html.raw("<style nonce=\"").text(nonce).raw("\">").raw(STYLE).raw("</style></head>\n<body>");
    html.raw("<a class=\"skip\" href=\"#main\">To the content</a>");
    html.raw("<header>").add(header).raw("</header>\n");
    html.raw("<p id=\"link\" class=\"summary bad\" role=\"status\"></p>\n");
    html.raw("<main id=\"main\">").add(main).raw("</main>\n");
    html.raw("<script nonce=\"").text(nonce).raw("\">").raw(SCRIPT).raw("</script></body></html>\n");
    html
}

/// Which server, and as of when.
fn header(sight: Option<&Sight>) -> Html {
    let mut html = Html::new();
    html.raw("<h1><a href=\"/\">hl7server</a></h1>");
    if let Some((sight, status)) = sight.and_then(|sight| Some((sight, sight.status.as_ref()?))) {
        html.raw("<p>version ").text(&status.version);
        if let Some(version) = &status.config_version {
            html.raw(", configuration ").text(version);
        }
        html.raw(", up ").text(short_time(since(status.started_us)));
        html.raw("</p><p>as of ").text(local_time(sight.answered_us)).raw("</p>");
    }
    html
}

/// One sentence that says whether somebody has to get up; read out when it changes, so nothing in it moves by itself.
fn summary(status: Option<&ServerStatus>, troubles: &[String], alerts: &Shown) -> Html {
    let mut html = Html::new();
    let good = troubles.is_empty() && alerts.raised.is_empty();
    html.raw("<div id=\"summary\" role=\"status\" aria-live=\"polite\" class=\"summary ");
    html.raw(if good { "good\">" } else { "bad\">" });
    let enabled = status.map_or(0, |s| s.channels.iter().filter(|c| health::is_enabled(c)).count());
    match (troubles.len(), enabled) {
        (0, 0) => html.text("No channel is enabled."),
        (0, 1) => html.text("The channel is up."),
        (0, count) => html.text(format!("All {} channels are up.", grouped(count as u64))),
        (1, _) => html.text("1 trouble:"),
        (count, _) => html.text(format!("{count} troubles:")),
    };
    if !troubles.is_empty() {
        html.raw("<ul>");
        for trouble in troubles.iter().take(TROUBLES_MAX) {
            html.element("li", trouble);
        }
        if troubles.len() > TROUBLES_MAX {
            html.element("li", "and others, in the table");
        }
        html.raw("</ul>");
    }
    match alerts.raised.len() {
        0 => &mut html,
        1 => html.text(" 1 alert is raised."),
        count => html.text(format!(" {count} alerts are raised.")),
    };
    html.raw("</div>\n");
    html
}

/// What moves too much to be read out.
fn glance(status: &ServerStatus) -> Html {
    let sum = |of: fn(&ChannelStatus) -> u64| {
        status.channels.iter().fold(0_u64, |sum, channel| sum.saturating_add(of(channel)))
    };
    let (failed, waiting) = (sum(|c| c.status.failed_now), sum(|c| c.status.waiting));
    let mut html = Html::new();
    html.raw("<p class=\"glance\">");
    match failed {
        0 => html.raw("No failed message, "),
        1 => html.raw("<a href=\"#h-failed\">1 failed message</a>, "),
        count => html.raw("<a href=\"#h-failed\">").text(grouped(count)).raw(" failed messages</a>, "),
    };
    match waiting {
        0 => html.raw("none waits.</p>\n"),
        1 => html.raw("1 waits.</p>\n"),
        count => html.text(grouped(count)).raw(" wait.</p>\n"),
    };
    html
}

fn channels(status: &ServerStatus, view: &Overview<'_>) -> Html {
    let mut html = Html::new();
    html.raw("<section aria-labelledby=\"h-channels\"><h2 id=\"h-channels\">Channels</h2>");
    html.raw("<div class=\"scroll cards\" role=\"region\" aria-labelledby=\"h-channels\" tabindex=\"0\">");
    // The roles are those the elements have already; browsers take them away where the style makes cards of rows.
    html.raw("<table role=\"table\"><caption>Rates are the mean of the last ten seconds; the lines show two minutes.");
    html.raw("</caption><thead role=\"rowgroup\"><tr role=\"row\">");
    for (name, class) in [
        ("Channel", ""),
        ("State", ""),
        ("Received a second", "n"),
        ("Delivered a second", "n"),
        ("Connections", "n"),
        ("Waiting", "n"),
        ("Oldest waiting", "n"),
        ("Failed", "n"),
    ] {
        html.element(&format!("th role=\"columnheader\" scope=\"col\" class=\"{class}\""), name);
    }
    html.raw("</tr></thead><tbody role=\"rowgroup\">");
    for channel in &status.channels {
        html.add(&row(channel, view));
    }
    html.raw("</tbody></table></div></section>\n");
    html
}

fn row(channel: &ChannelStatus, view: &Overview<'_>) -> Html {
    let counted = &channel.status;
    let mut html = Html::new();
    html.raw("<tr role=\"row\" id=\"c-").text(&channel.name).raw("\">");
    html.raw("<th role=\"rowheader\" scope=\"row\"><a href=\"/channel/").text(&channel.name).raw("\">");
    html.text(&channel.name).raw("</a>");
    if channel.port != 0 {
        html.raw(" <span class=\"port\">port ").text(channel.port).raw("</span>");
    }
    html.raw("</th><td role=\"cell\" class=\"s\" data-label=\"State\">").add(&state(channel, view.health));
    if let Some(oldest) = view.stalls.get(&channel.name).filter(|oldest| !oldest.reason.is_empty()) {
        html.raw("<p class=\"why\"><b>").text(&oldest.step).raw("</b>, attempt ").text(oldest.attempt);
        html.raw(": ").text(&oldest.reason);
        if let Some(until_us) = oldest.until_us.filter(|until_us| *until_us > now_us()) {
            html.raw("; again at ").text(clock(until_us));
        }
        html.raw("</p>");
    }
    html.raw("</td>");
    html.raw("<td role=\"cell\" class=\"n r\" data-label=\"Received a second\">");
    html.add(&rate(view.history.received(&channel.name).filter(|_| health::is_enabled(channel))))
        .raw("</td>");
    let delivered = view.history.delivered(&channel.name).and_then(Line::recent);
    let mut cell = |label: &str, value: &str, hot: bool| {
        html.raw("<td role=\"cell\" class=\"n").raw(if hot { " hot" } else { "" });
        html.raw("\" data-label=\"").raw(label).raw("\">").text(value).raw("</td>");
    };
    cell("Delivered a second", &delivered.map_or_else(|| "–".to_owned(), per_second), false);
    cell("Connections", &grouped(counted.connections), false);
    cell("Waiting", &grouped(counted.waiting), false);
    cell("Oldest waiting", &oldest(channel), false);
    cell("Failed", &grouped(counted.failed_now), counted.failed_now > 0);
    html.raw("</tr>\n");
    html
}

fn state(channel: &ChannelStatus, health: &Health) -> Html {
    let class = match channel.state {
        ChannelState::Off | ChannelState::Removed => "",
        ChannelState::Ready if !channel.status.closed_for_room => " good",
        _ if health.trouble(channel).is_none() => " busy",
        ChannelState::Starting | ChannelState::Draining => " busy",
        _ => " bad",
    };
    let mut html = Html::new();
    html.raw("<span class=\"state").raw(class).raw("\">");
    html.text(channel.state).raw("</span>");
    if channel.restarts > 0 {
        let times = if channel.restarts == 1 { "time" } else { "times" };
        html.raw(" <span class=\"soft\">started again ").text(grouped(channel.restarts)).raw(" ");
        html.raw(times).raw("</span>");
    }
    if channel.status.closed_for_room {
        html.element("p class=\"why\"", "closed for want of room on the disk");
    }
    if let Some(problem) = &channel.problem {
        html.element("p class=\"why\"", problem);
    }
    html
}

/// The line of two minutes, and the number. The line is for eyes only; the number says the same to everybody.
fn rate(line: Option<&Line>) -> Html {
    let mut html = Html::new();
    html.raw("<span class=\"rate\">");
    let recent = line.and_then(Line::recent);
    if let Some(line) = line.filter(|line| line.samples().len() > 1) {
        let peak = line.peak().max(f32::MIN_POSITIVE);
        let step = SPARK_WIDTH / (SAMPLES_MAX - 1) as f32;
        let first = SAMPLES_MAX - line.samples().len();
        html.raw("<svg viewBox=\"0 0 120 24\" preserveAspectRatio=\"none\" aria-hidden=\"true\"><polyline points=\"");
        for (n, sample) in line.samples().enumerate() {
            let x = (first + n) as f32 * step;
            let y = SPARK_HEIGHT - 1.5 - sample / peak * (SPARK_HEIGHT - 3.0);
            html.text(format_args!("{x:.0},{y:.1} "));
        }
        html.raw("\"/></svg>");
    }
    html.element("b", recent.map_or_else(|| "–".to_owned(), per_second)).raw("</span>");
    html
}

/// The time of day, for what is near.
fn clock(us: i64) -> String {
    local_time(us).split(' ').nth(1).unwrap_or("?").to_owned()
}

fn per_second(rate: f64) -> String {
    match rate {
        0.0 => "0".to_owned(),
        ..10.0 => format!("{rate:.1}"),
        _ => grouped(rate.round() as u64),
    }
}

fn oldest(channel: &ChannelStatus) -> String {
    let seconds = channel.status.oldest_waiting_seconds;
    match Duration::try_from_secs_f64(seconds) {
        Ok(age) if channel.status.waiting > 0 => short_time(age),
        _ => "–".to_owned(),
    }
}

fn failed(failures: &Failures) -> Html {
    let mut html = Html::new();
    html.raw("<section aria-labelledby=\"h-failed\"><h2 id=\"h-failed\">Failed messages</h2>");
    for fault in &failures.faults {
        html.element("p class=\"why hot\"", fault);
    }
    if failures.groups.is_empty() && failures.faults.is_empty() {
        html.raw("<p class=\"soft\">None.</p>");
    }
    for group in &failures.groups {
        html.add(&failed_group(group));
    }
    if failures.cut {
        let count = grouped(failures.count);
        html.element(
            "p class=\"soft\"",
            format!("{count} messages in all; the newest are shown. hl7server failed list shows all."),
        );
    }
    html.raw("</section>\n");
    html
}

fn failed_group(group: &Group) -> Html {
    let mut html = Html::new();
    // A name for the script, of no more meaning.
    let mut hasher = std::hash::DefaultHasher::new();
    (&group.channel, &group.step, &group.reason).hash(&mut hasher);
    html.raw("<details id=\"f-").text(format_args!("{:016x}", hasher.finish())).raw("\">");
    html.raw("<summary><b>")
        .text(&group.channel)
        .raw("</b>, ")
        .text(&group.step)
        .raw(": ")
        .text(&group.reason);
    html.raw(" <span class=\"soft\">(").text(grouped(group.count as u64));
    html.raw(if group.count == 1 { " message" } else { " messages" });
    if let Some(newest) = group.newest.first() {
        html.raw(", last ").text(local_time(newest.failed_us));
    }
    html.raw(")</span></summary><ul>");
    for record in &group.newest {
        html.raw("<li id=\"m-").text(&record.id).raw("\"><a href=\"/failed/").text(&group.channel).raw("/");
        html.text(&record.id)
            .raw("\"><code>")
            .text(&record.id)
            .raw("</code></a> ")
            .text(&record.message_type);
        html.raw(", received ").text(local_time(record.received_us)).raw(", failed ");
        html.text(local_time(record.failed_us)).raw("</li>");
    }
    if group.count > group.newest.len() {
        html.element(
            "li class=\"soft\"",
            format!("and {} older", grouped((group.count - group.newest.len()) as u64)),
        );
    }
    html.raw("</ul></details>\n");
    html
}

fn alerts(alerts: &Shown) -> Html {
    let mut html = Html::new();
    if alerts.configured == 0 && alerts.faults.is_empty() {
        return html;
    }
    html.raw("<section aria-labelledby=\"h-alerts\"><h2 id=\"h-alerts\">Alerts</h2>");
    for fault in &alerts.faults {
        html.element("p class=\"why hot\"", fault);
    }
    if alerts.raised.is_empty() {
        let count = alerts.configured;
        let watched =
            if count == 1 { "1 condition is".to_owned() } else { format!("{count} conditions are") };
        html.element("p class=\"soft\"", format!("None raised; {watched} watched."));
    } else {
        html.raw("<ul class=\"raised\">");
        for raised in &alerts.raised {
            html.raw("<li><b>").text(&raised.alert).raw("</b>: ").text(&raised.message);
            html.raw(" <span class=\"soft\">since ").text(local_time(raised.since_us)).raw("</span></li>");
        }
        html.raw("</ul>");
    }
    html.raw("</section>\n");
    html
}

/// A page that says only this.
pub(super) fn note(title: &str, text: &str, nonce: &str) -> Html {
    let mut main = Html::new();
    main.element("h2", title).element("p", text).raw("<p><a href=\"/\">All channels</a></p>");
    document(&format!("hl7server: {title}"), &header(None), &main, nonce)
}

/// Names and what they are; empty ones are left out.
fn definitions(lines: &[(&str, String)]) -> Html {
    let mut html = Html::new();
    html.raw("<dl>");
    for (name, value) in lines.iter().filter(|(_, value)| !value.is_empty()) {
        html.element("dt", name).element("dd", value);
    }
    html.raw("</dl>\n");
    html
}

#[cfg(test)]
mod tests {
    use super::super::history::tests::channel as ready;
    use super::*;
    use std::sync::Arc;
    use std::time::Instant;

    fn page(channels: Vec<ChannelStatus>, history: &History) -> String {
        let (version, config_version) = ("1.0".to_owned(), Some("</title><script>".to_owned()));
        let status = ServerStatus { version, config_version, pid: 1, started_us: 1, channels };
        let sight = Sight { status: Some(Arc::new(status)), fault: None, answered_us: 1 };
        let (health, failures, alerts) = (Health::default(), Failures::default(), Shown::default());
        let stalls = BTreeMap::new();
        let view = Overview {
            sight: Some(&sight),
            history,
            health: &health,
            failures: &failures,
            alerts: &alerts,
            stalls: &stalls,
        };
        overview(&view, "n0nce").as_str().to_owned()
    }

    #[test]
    fn what_others_wrote_is_text_wherever_it_stands() {
        let hostile = "\"><img src=x onerror=alert(1)>\u{1b}";
        let mut channel = ready("a", 1, 1);
        (channel.state, channel.problem) = (ChannelState::Unbound, Some(hostile.to_owned()));
        let page = page(vec![channel], &History::default());
        assert!(!page.contains("<img") && !page.contains('\u{1b}') && page.contains("&lt;img"));
        assert_eq!(page.matches("<script").count(), 1);
    }

    #[test]
    fn the_summary_says_whether_somebody_has_to_get_up() {
        let down = ChannelStatus { state: ChannelState::Backoff, ..ready("b", 0, 0) };
        let off = ChannelStatus { state: ChannelState::Off, ..ready("c", 0, 0) };
        let history = History::default();
        assert!(
            page(vec![ready("a", 0, 0), ready("b", 0, 0), off.clone()], &history)
                .contains("All 2 channels are up.")
        );
        assert!(page(vec![off], &history).contains("No channel is enabled."));
        let page = page(vec![ready("a", 0, 0), down], &history);
        assert!(
            page.contains("1 trouble:<ul><li>b: backoff</li>") && page.contains("(!) hl7server: 1 trouble")
        );
    }

    #[test]
    fn a_page_of_five_hundred_channels_is_made_at_once_and_stays_small() {
        let channels =
            |n: u64| (0..500).map(|c| ready(&format!("channel_{c}"), n * c, n)).collect::<Vec<_>>();
        let (mut history, start) = (History::default(), Instant::now());
        for n in 0..70 {
            history.add(&channels(n), start + Duration::from_secs(n * 2));
        }
        let began = Instant::now();
        let page = page(channels(70), &history);
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        assert!(page.len() < 1 << 20, "{} bytes", page.len());
    }
}
