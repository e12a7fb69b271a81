use super::*;

const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// A supervisor, its clock, and what it wanted done last.
struct Bench {
    supervisor: Supervisor,
    now: Duration,
}

impl Bench {
    fn new() -> Self {
        Self { supervisor: Supervisor::new(), now: Duration::from_secs(1000) }
    }

    /// A channel `a` with a ready worker.
    fn ready() -> (Self, WorkerId) {
        let mut bench = Self::new();
        let worker = bench.start("a");
        bench.tell(Event::Ready { worker });
        (bench, worker)
    }

    fn tell(&mut self, event: Event) -> Vec<Action> {
        self.supervisor.handle(event, self.now)
    }

    fn reload(&mut self, changes: &[(&str, Change)]) -> Vec<Action> {
        let changes = changes.iter().map(|(name, change)| ((*name).to_owned(), *change)).collect();
        self.tell(Event::Reload { changes, stop_timeout: STOP_TIMEOUT })
    }

    fn listening(&mut self) -> Vec<Action> {
        self.tell(Event::Listening { channel: "a".to_owned() })
    }

    fn start(&mut self, name: &str) -> WorkerId {
        assert_eq!(self.reload(&[(name, Change::Start)]), [listen(name)]);
        let actions = self.tell(Event::Listening { channel: name.to_owned() });
        let [Action::Spawn { channel, worker, predecessor: None }] = &actions[..] else {
            panic!("{actions:?}")
        };
        assert_eq!(channel, name);
        *worker
    }

    fn died(&mut self, worker: WorkerId, death: Death) -> Vec<Action> {
        self.tell(Event::Died { worker, death })
    }

    /// In ticks of a second, as the master gives them.
    fn pass(&mut self, time: Duration) -> Vec<Action> {
        let until = self.now + time;
        let mut actions = Vec::new();
        loop {
            self.now = until.min(self.now + Duration::from_secs(1));
            actions.extend(self.tell(Event::Tick));
            if self.now == until {
                return actions;
            }
        }
    }

    /// Passes time up to the next thing that is due; gives how long that was.
    fn pass_to_deadline(&mut self) -> (Duration, Vec<Action>) {
        let wait = self.supervisor.deadline().unwrap().saturating_sub(self.now);
        (wait, self.pass(wait))
    }

    fn state(&self) -> State {
        self.supervisor.view("a").unwrap().state
    }
}

fn listen(channel: &str) -> Action {
    Action::Listen { channel: channel.to_owned() }
}

fn spawn(worker: WorkerId, predecessor: Option<Death>) -> Action {
    Action::Spawn { channel: "a".to_owned(), worker, predecessor }
}

#[test]
fn back_off_doubles_to_a_minute_and_starts_over_after_a_minute_of_health() {
    let mut bench = Bench::new();
    let mut worker = bench.start("a");
    let mut waits = Vec::new();
    for _ in 0..12 {
        assert!(bench.died(worker, Death::Exited(75)).is_empty());
        let (wait, actions) = bench.pass_to_deadline();
        assert_eq!(actions, [listen("a")]);
        waits.push(wait.as_millis());
        worker += 1;
        assert_eq!(bench.listening(), [spawn(worker, Some(Death::Exited(75)))]);
    }
    assert_eq!(waits, [100, 200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000, 60_000]);
    bench.tell(Event::Ready { worker });
    bench.pass(Duration::from_secs(29));
    bench.tell(Event::Report { worker });
    bench.pass(Duration::from_secs(29));
    bench.tell(Event::Report { worker });
    bench.died(worker, Death::Killed);
    assert_eq!(bench.pass_to_deadline().0, Duration::from_secs(60), "58 s are no health");
    bench.listening();
    worker += 1;
    bench.tell(Event::Ready { worker });
    for _ in 0..3 {
        bench.pass(Duration::from_secs(20));
        bench.tell(Event::Report { worker });
    }
    bench.died(worker, Death::Killed);
    assert_eq!(bench.pass_to_deadline().0, BACKOFF_FIRST);
}

#[test]
fn a_wrong_configuration_is_not_started_again_until_a_reload() {
    for change in [Change::Keep, Change::Replace] {
        let mut bench = Bench::new();
        let worker = bench.start("a");
        bench.died(worker, Death::Exited(78));
        assert_eq!(bench.state(), State::Disabled);
        assert_eq!(bench.supervisor.deadline(), None);
        assert!(bench.pass(Duration::from_secs(100_000)).is_empty());
        assert_eq!(bench.reload(&[("a", change)]), [listen("a")]);
        assert_eq!(bench.listening(), [spawn(worker + 1, Some(Death::Exited(78)))]);
    }
}

#[test]
fn each_worker_hears_how_the_one_before_it_ended() {
    let (mut bench, mut worker) = Bench::ready();
    for death in [Death::Crashed(11), Death::Killed, Death::Exited(0), Death::Exited(101)] {
        bench.died(worker, death);
        bench.pass_to_deadline();
        worker += 1;
        assert_eq!(bench.listening(), [spawn(worker, Some(death))]);
    }
    // Nothing could be started in between: still the last one that lived.
    bench.tell(Event::NotSpawned { worker });
    bench.pass_to_deadline();
    assert_eq!(bench.listening(), [spawn(worker + 1, Some(Death::Exited(101)))]);
}

#[test]
fn a_replacement_follows_at_once_and_a_killed_predecessor_was_stopped_not_killed() {
    for (death, told) in [
        (Death::Exited(0), Death::Stopped),
        (Death::Killed, Death::Stopped),
        (Death::Crashed(6), Death::Crashed(6)),
    ] {
        let (mut bench, worker) = Bench::ready();
        let drain = Action::Drain { worker, timeout: STOP_TIMEOUT };
        assert_eq!(bench.reload(&[("a", Change::Replace)]), [drain]);
        assert_eq!(bench.died(worker, death), [listen("a")]);
        assert_eq!(bench.listening(), [spawn(worker + 1, Some(told))]);
    }
}

#[test]
fn a_drain_that_takes_too_long_is_killed_once_and_complained_of() {
    let (mut bench, worker) = Bench::ready();
    bench.reload(&[("a", Change::Stop)]);
    assert!(bench.pass(STOP_TIMEOUT).is_empty());
    assert_eq!(bench.pass(DRAIN_MARGIN), [Action::Kill { worker, why: Why::Overdue }]);
    assert_eq!(bench.pass(DEATH_MAX), [Action::Undead { worker }]);
    assert!(bench.pass(DEATH_MAX).is_empty());
    assert_eq!(bench.died(worker, Death::Killed), [Action::Forget { channel: "a".to_owned() }]);
    assert!(bench.supervisor.view("a").is_none());
}

#[test]
fn a_worker_that_only_starts_is_terminated_by_signal() {
    let mut bench = Bench::new();
    let worker = bench.start("a");
    assert_eq!(bench.reload(&[("a", Change::Stop)]), [Action::Terminate { worker }]);
}

#[test]
fn a_channel_that_comes_back_while_it_drains_starts_when_it_is_drained() {
    for change in [Change::Start, Change::Replace, Change::Keep] {
        let (mut bench, worker) = Bench::ready();
        bench.reload(&[("a", Change::Stop)]);
        assert!(bench.reload(&[("a", change)]).is_empty());
        assert_eq!(bench.died(worker, Death::Exited(0)), [listen("a")]);
    }
    let (mut bench, worker) = Bench::ready();
    bench.reload(&[("a", Change::Replace)]);
    bench.reload(&[("a", Change::Stop)]);
    assert_eq!(bench.died(worker, Death::Exited(0)), [Action::Forget { channel: "a".to_owned() }]);
}

#[test]
fn a_kept_channel_is_left_alone() {
    let (mut bench, worker) = Bench::ready();
    assert!(bench.reload(&[("a", Change::Keep)]).is_empty());
    assert_eq!(bench.state().worker(), Some(worker));
}

#[test]
fn a_silent_worker_is_killed_after_30_seconds_and_restarted_with_back_off() {
    let (mut bench, worker) = Bench::ready();
    bench.pass(Duration::from_secs(20));
    bench.tell(Event::Report { worker });
    assert!(bench.pass(Duration::from_millis(29_999)).is_empty());
    let kill = Action::Kill { worker, why: Why::Silent(SILENCE_MAX) };
    assert_eq!(bench.pass(Duration::from_millis(1)), [kill]);
    bench.died(worker, Death::Killed);
    assert_eq!(bench.pass_to_deadline(), (BACKOFF_FIRST, vec![listen("a")]));
    assert_eq!(bench.listening(), [spawn(worker + 1, Some(Death::Killed))]);
}

#[test]
fn recovery_may_take_longer_than_30_seconds() {
    let mut bench = Bench::new();
    let worker = bench.start("a");
    assert!(bench.pass(Duration::from_secs(599)).is_empty());
    bench.tell(Event::Report { worker });
    assert!(bench.pass(Duration::from_secs(599)).is_empty());
    let kill = Action::Kill { worker, why: Why::Silent(SILENCE_STARTING_MAX) };
    assert_eq!(bench.pass(Duration::from_secs(1)), [kill]);
}

#[test]
fn a_closed_link_leaves_time_to_exit_and_a_breach_leaves_none() {
    let (mut bench, worker) = Bench::ready();
    bench.tell(Event::Mute { worker });
    assert!(matches!(bench.pass(MUTE_MAX)[..], [Action::Kill { .. }]));

    let (mut bench, worker) = Bench::ready();
    assert_eq!(bench.tell(Event::Breach { worker }), [Action::Kill { worker, why: Why::Breach }]);
    assert!(bench.tell(Event::Breach { worker }).is_empty());
    assert_eq!(bench.state().worker(), Some(worker));
}

#[test]
fn a_port_is_tried_fast_for_10_seconds_and_then_with_back_off() {
    let mut bench = Bench::new();
    assert_eq!(bench.reload(&[("a", Change::Start)]), [listen("a")]);
    let mut waits = Vec::new();
    for _ in 0..50 {
        assert!(bench.tell(Event::NotListening { channel: "a".to_owned() }).is_empty());
        let (wait, actions) = bench.pass_to_deadline();
        assert_eq!(actions, [listen("a")]);
        waits.push(wait.as_millis());
    }
    assert!(waits[..40].iter().all(|wait| *wait == 250));
    assert_eq!(waits[40..], [1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000, 60_000, 60_000]);
    bench.tell(Event::NotListening { channel: "a".to_owned() });
    assert_eq!(bench.reload(&[("a", Change::Keep)]), [listen("a")], "a reload tries at once");
    assert_eq!(bench.listening(), [spawn(1, None)]);
}

#[test]
fn a_storm_of_hangups_is_one_load() {
    let mut bench = Bench::new();
    let mut loads = 0;
    for _ in 0..1000 {
        loads += bench.tell(Event::Hangup).len();
        bench.now += Duration::from_micros(500);
    }
    loads += bench.pass(HANGUP_QUIET).len();
    assert_eq!(loads, 1);
    assert!(bench.pass(Duration::from_secs(10)).is_empty());
    // A storm that never ends does not put the reload off for ever.
    let begun = bench.now;
    while bench.tell(Event::Hangup).is_empty() {
        bench.now += HANGUP_QUIET / 2;
    }
    assert!(bench.now - begun <= HANGUP_MAX + HANGUP_QUIET);
}

#[test]
fn a_stop_drains_all_and_leaves_when_the_last_is_gone() {
    let (mut bench, a) = Bench::ready();
    let b = bench.start("b");
    bench.tell(Event::Hangup);
    let drain = Action::Drain { worker: a, timeout: STOP_TIMEOUT };
    assert_eq!(bench.tell(Event::Stop), [drain, Action::Terminate { worker: b }]);
    assert!(bench.supervisor.is_stopping());
    assert!(bench.reload(&[("c", Change::Start)]).is_empty());
    assert_eq!(bench.died(a, Death::Exited(0)), [Action::Forget { channel: "a".to_owned() }]);
    assert_eq!(bench.died(b, Death::Killed), [Action::Forget { channel: "b".to_owned() }, Action::Exit]);
    assert!(bench.pass(Duration::from_secs(1000)).is_empty());
}

#[test]
fn a_stop_without_workers_leaves_at_once() {
    let mut bench = Bench::new();
    bench.reload(&[("a", Change::Start)]);
    bench.tell(Event::NotListening { channel: "a".to_owned() });
    assert_eq!(bench.tell(Event::Stop), [Action::Forget { channel: "a".to_owned() }, Action::Exit]);
}

#[test]
fn a_second_stop_kills_at_once_and_waits_for_no_undead() {
    let (mut bench, worker) = Bench::ready();
    bench.tell(Event::Stop);
    assert_eq!(bench.tell(Event::Stop), [Action::Kill { worker, why: Why::AtOnce }]);
    assert!(bench.tell(Event::Stop).is_empty());
    assert_eq!(bench.pass(DEATH_MAX), [Action::Undead { worker }, Action::Exit]);
}

#[test]
fn a_stop_ends_in_its_time_though_a_worker_would_not_die() {
    let (mut bench, worker) = Bench::ready();
    bench.tell(Event::Stop);
    assert_eq!(bench.pass(STOP_TIMEOUT + DRAIN_MARGIN), [Action::Kill { worker, why: Why::Overdue }]);
    assert_eq!(bench.pass(DEATH_MAX), [Action::Undead { worker }, Action::Exit]);
}

#[test]
fn what_comes_late_from_a_worker_of_the_past_changes_nothing() {
    let (mut bench, worker) = Bench::ready();
    bench.died(worker, Death::Exited(75));
    let state = bench.state();
    for event in [
        Event::Ready { worker },
        Event::Report { worker },
        Event::Mute { worker },
        Event::Breach { worker },
        Event::NotSpawned { worker },
        Event::Died { worker, death: Death::Killed },
        Event::Listening { channel: "a".to_owned() },
        Event::Listening { channel: "unknown".to_owned() },
    ] {
        assert!(bench.tell(event).is_empty());
        assert_eq!(bench.state(), state);
    }
}

#[test]
fn a_master_that_stood_still_blames_no_worker() {
    let (mut bench, worker) = Bench::ready();
    bench.pass(Duration::from_secs(10));
    bench.now += Duration::from_secs(3600);
    assert!(bench.tell(Event::Tick).is_empty());
    assert!(bench.pass(Duration::from_secs(19)).is_empty());
    assert_eq!(bench.pass(Duration::from_secs(1)), [Action::Kill { worker, why: Why::Silent(SILENCE_MAX) }]);
}

#[test]
fn a_report_of_one_worker_does_not_find_another_silent() {
    let (mut bench, _) = Bench::ready();
    let other = bench.start("b");
    bench.now += Duration::from_secs(31);
    assert!(bench.tell(Event::Report { worker: other }).is_empty());
}
