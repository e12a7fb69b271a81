//! Days of a server's life, in no time.

use super::super::surroundings::{Certificate, Disk};
use super::*;
use config::AlertAction;
use link::Status;
use master::control::ChannelState;
use std::net::{IpAddr, Ipv4Addr};

const START: i64 = 1_800_000_000 * SECOND;

fn alert(when: AlertWhen, limit: Option<u64>) -> Alert {
    let action = AlertAction::Command(vec!["/x".into()]);
    Alert { name: word(when).into(), when, limit, hours: None, channels: Vec::new(), action }
}

fn channel(name: &str) -> ChannelStatus {
    ChannelStatus {
        name: name.into(),
        port: 1,
        listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
        pid: Some(1),
        state: ChannelState::Ready,
        since_us: 0,
        restarts: 0,
        problem: None,
        status: Status::default(),
    }
}

/// A watch that is shown a server second after second.
struct Life {
    watch: Watch,
    alerts: Vec<Alert>,
    channel: ChannelStatus,
    surroundings: Surroundings,
    answers: bool,
    second: i64,
}

impl Life {
    fn of(alert: Alert) -> Life {
        Life {
            watch: Watch::default(),
            alerts: vec![alert],
            channel: channel("a"),
            surroundings: Surroundings::default(),
            answers: true,
            second: 0,
        }
    }

    /// Lets time pass; gives each notice as `second state message`.
    fn pass(&mut self, seconds: i64) -> Vec<String> {
        let mut told = Vec::new();
        for _ in 0..seconds {
            let channels = vec![self.channel.clone()];
            let status = ServerStatus {
                version: String::new(),
                config_version: None,
                pid: 1,
                started_us: 0,
                channels,
            };
            let server = if self.answers { Ok(&status) } else { Err("no server answers") };
            let second_of_day = u32::try_from(self.second % 86_400).unwrap();
            let now = Moment { us: START + self.second * SECOND, second_of_day };
            let seen = Seen { server, surroundings: Some(&self.surroundings) };
            for notice in self.watch.look(&self.alerts, &seen, now) {
                told.push(format!("{} {:?} {}", self.second, notice.state, notice.message));
            }
            self.second += 1;
        }
        told
    }

    /// This process ends and the next one begins.
    fn restart(&mut self) {
        let text = serde_json::to_string(&self.watch.lasting()).unwrap();
        self.watch = serde_json::from_str(&text).unwrap();
    }
}

#[test]
fn failed_is_told_once_when_raised_and_once_when_cleared_also_over_a_restart() {
    let mut life = Life::of(alert(AlertWhen::Failed, Some(2)));
    life.channel.status.failed_now = 1;
    assert!(life.pass(5).is_empty());
    life.channel.status.failed_now = 3;
    assert_eq!(life.pass(5), ["5 Raised a: 3 messages failed"]);
    life.channel.status.failed_now = 4;
    assert!(life.pass(5).is_empty());
    life.restart();
    assert!(life.pass(5).is_empty());
    life.channel.status.failed_now = 0;
    assert_eq!(life.pass(5), ["20 Cleared a: 0 messages failed"]);
    assert!(life.pass(5).is_empty());
}

#[test]
fn a_channel_is_down_after_its_minutes_and_up_when_it_stays_up() {
    let mut life = Life::of(alert(AlertWhen::Down, Some(1)));
    assert!(life.pass(10).is_empty());
    life.channel.state = ChannelState::Backoff;
    life.channel.problem = Some("killed by signal 9".into());
    assert_eq!(life.pass(100), ["70 Raised a: down for 1m: backoff: killed by signal 9"]);
    // A crash loop: ready for a moment now and then.
    for _ in 0..5 {
        life.channel.state = ChannelState::Ready;
        assert!(life.pass(2).is_empty());
        life.channel.state = ChannelState::Backoff;
        assert!(life.pass(30).is_empty());
    }
    life.channel.state = ChannelState::Ready;
    assert_eq!(life.pass(100), ["300 Cleared a: up again"]);
}

#[test]
fn a_crash_loop_is_down_though_it_is_ready_now_and_then() {
    let mut life = Life::of(alert(AlertWhen::Down, Some(2)));
    let mut told = Vec::new();
    for _ in 0..10 {
        life.channel.state = ChannelState::Ready;
        told.extend(life.pass(3));
        life.channel.state = ChannelState::Backoff;
        told.extend(life.pass(17));
    }
    assert_eq!(told.len(), 1, "{told:?}");
}

#[test]
fn a_replacement_at_a_reload_is_not_down_even_at_a_limit_of_nought() {
    let mut life = Life::of(alert(AlertWhen::Down, Some(0)));
    assert!(life.pass(10).is_empty());
    life.channel.state = ChannelState::Draining;
    assert!(life.pass(3).is_empty());
    life.channel.state = ChannelState::Ready;
    assert!(life.pass(60).is_empty());
}

#[test]
fn a_server_that_does_not_answer_is_down_once_and_its_channels_are_not_told_one_by_one() {
    let mut life = Life::of(alert(AlertWhen::Down, Some(1)));
    life.pass(10);
    life.answers = false;
    assert_eq!(life.pass(200), ["70 Raised down for 1m: no server answers"]);
    life.answers = true;
    assert_eq!(life.pass(100), ["240 Cleared the server answers again"]);
}

#[test]
fn what_cannot_be_asked_changes_nothing() {
    let mut life = Life::of(alert(AlertWhen::Failed, None));
    life.channel.status.failed_now = 1;
    assert_eq!(life.pass(2).len(), 1);
    life.answers = false;
    assert!(life.pass(100).is_empty());
    life.answers = true;
    assert!(life.pass(100).is_empty());
}

#[test]
fn silence_counts_from_the_last_message_and_a_new_worker_is_no_message() {
    let mut life = Life::of(alert(AlertWhen::Silent, Some(2)));
    life.channel.status.received = 7;
    assert!(life.pass(60).is_empty());
    life.channel.status.received = 8;
    assert!(life.pass(60).is_empty());
    life.channel.status.received = 0;
    let told = life.pass(120);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with("180 Raised a: no message since "), "{told:?}");
    life.channel.status.received = 1;
    assert_eq!(life.pass(2), ["240 Cleared a: messages come again"]);
}

#[test]
fn silence_survives_a_restart_of_this_process() {
    let mut life = Life::of(alert(AlertWhen::Silent, Some(2)));
    life.channel.status.received = 7;
    life.pass(100);
    life.restart();
    assert_eq!(life.pass(60).len(), 1);
}

#[test]
fn outside_its_hours_nothing_is_raised_and_the_night_is_not_missed_in_the_morning() {
    // Day begins at second 0: the channel is quiet from 05:00 to 08:30, watched from 08:00 to 18:00.
    let mut alert = alert(AlertWhen::Silent, Some(60));
    alert.hours = Some((8 * 60, 18 * 60));
    let mut life = Life::of(alert);
    life.second = 5 * 3600;
    life.channel.status.received = 1;
    assert!(life.pass(3 * 3600 + 1800).is_empty(), "05:00 to 08:30");
    life.channel.status.received = 2;
    assert!(life.pass(3600 - 1).is_empty());
    let told = life.pass(2 * 3600);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].starts_with(&format!("{} Raised", 9 * 3600 + 1800)), "{told:?}");
    // Over night it stands, and at the next opening it is not told again.
    assert!(life.pass(22 * 3600).is_empty());
    life.channel.status.received = 3;
    assert_eq!(life.pass(1).len(), 1);
}

#[test]
fn hours_may_go_over_midnight() {
    let night = Some((22 * 60, 6 * 60));
    for (hour, inside) in [(21, false), (22, true), (0, true), (5, true), (6, false), (12, false)] {
        assert_eq!(within(night, hour * 3600), inside, "{hour}");
    }
    assert!(within(None, 0) && within(Some((0, 1440)), 86_399));
}

#[test]
fn refusals_count_within_a_minute() {
    let mut life = Life::of(alert(AlertWhen::Refused, Some(10)));
    life.channel.status.refused = [("207".to_owned(), 1_000_000)].into();
    assert!(life.pass(120).is_empty(), "what was counted before is no news");
    life.channel.status.refused = [("207".to_owned(), 1_000_006), ("101".to_owned(), 3)].into();
    assert!(life.pass(10).is_empty());
    life.channel.status.refused.insert("101".to_owned(), 4);
    assert_eq!(life.pass(5), ["130 Raised a: 10 messages refused within a minute"]);
    let told = life.pass(120);
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].contains("Cleared a: 1 message refused"), "{told:?}");
}

#[test]
fn waiting_is_the_age_of_the_oldest() {
    let mut life = Life::of(alert(AlertWhen::Waiting, Some(15)));
    life.channel.status.waiting = 1_200;
    life.channel.status.oldest_waiting_seconds = 899.0;
    assert!(life.pass(1).is_empty());
    life.channel.status.oldest_waiting_seconds = 901.0;
    assert_eq!(life.pass(1), ["1 Raised a: 1,200 messages waiting, the oldest for 15m"]);
    life.channel.status.oldest_waiting_seconds = f64::INFINITY;
    assert!(life.pass(1).is_empty());
    life.channel.status.waiting = 0;
    assert_eq!(life.pass(1).len(), 1);
}

#[test]
fn a_disk_is_cleared_with_a_margin_and_not_to_know_is_told() {
    let mut life = Life::of(alert(AlertWhen::Disk, Some(1000)));
    let disk = |free_bytes| Disk { path: "/d".into(), channels: Vec::new(), free_bytes };
    let mut told = Vec::new();
    for free in [Ok(2000), Ok(999), Ok(1001), Ok(999), Ok(1050), Err("stale file handle".to_owned())] {
        life.surroundings.disks = vec![disk(free)];
        told.extend(life.pass(1));
    }
    assert_eq!(
        told,
        [
            "1 Raised /d: 999 B free",
            "4 Cleared /d: 1.0 KiB free",
            "5 Raised /d: could not tell how much room there is: stale file handle"
        ]
    );
}

#[test]
fn a_certificate_is_told_before_it_ends() {
    let mut life = Life::of(alert(AlertWhen::Certificate, Some(30)));
    let certificate = |ends_us| Certificate { channel: "a".into(), path: "/c.pem".into(), ends_us };
    life.surroundings.certificates = vec![certificate(Ok(START + 31 * DAY))];
    assert!(life.pass(5).is_empty());
    life.surroundings.certificates = vec![certificate(Ok(START + 20 * DAY + MINUTE))];
    let told = life.pass(5);
    assert!(told.len() == 1 && told[0].ends_with("in 20 days"), "{told:?}");
    life.surroundings.certificates = vec![certificate(Ok(START + 400 * DAY))];
    assert!(life.pass(5)[0].contains("Cleared"));
    life.surroundings.certificates = vec![certificate(Err("permission denied".into()))];
    assert!(life.pass(5)[0].ends_with("could not be read: permission denied"));
}

#[test]
fn a_channel_that_is_taken_out_or_switched_off_is_cleared_and_others_are_left_alone() {
    let mut only_b = alert(AlertWhen::Failed, None);
    only_b.channels = vec!["b".into()];
    let mut life = Life::of(only_b);
    life.channel.status.failed_now = 1;
    assert!(life.pass(1).is_empty());
    life.alerts = vec![alert(AlertWhen::Failed, None)];
    assert_eq!(life.pass(1).len(), 1);
    life.channel.state = ChannelState::Off;
    assert_eq!(life.pass(1), ["2 Cleared a: not enabled"]);
    life.channel.state = ChannelState::Ready;
    assert_eq!(life.pass(1).len(), 1);
    life.channel = channel("b");
    assert_eq!(life.pass(1), ["4 Cleared no longer watched"]);
    life.channel.status.failed_now = 1;
    life.pass(1);
    life.alerts.clear();
    assert!(life.pass(1).is_empty() && life.watch.raised.is_empty());
}
