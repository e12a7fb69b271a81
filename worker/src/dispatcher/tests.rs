use super::state::over;
use super::*;
use std::collections::HashMap;

const PLACES: u8 = 3;

fn dispatcher() -> Dispatcher {
    dispatcher_of(Pools::made_of(all(), StepSet::EMPTY, StepSet::EMPTY, 2))
}

/// Step 0 writes files; 1 and 2 have a peer each.
fn with_peers(last: StepSet) -> Dispatcher {
    dispatcher_of(Pools::made_of(StepSet::one(0), all().without(StepSet::one(0)), last, 2))
}

fn dispatcher_of(pools: Pools) -> Dispatcher {
    let retry = Retry {
        first: Duration::from_secs(1),
        longest: Duration::from_secs(60),
        give_up: Duration::from_secs(3600),
    };
    Dispatcher::with_pools(usize::from(PLACES), pools, retry)
}

fn entry(n: u64, keys: &[u64], steps: StepSet) -> NewEntry {
    NewEntry {
        id: MessageId::new(n, 0),
        location: Location { segment: 1, offset: n as u32, length: 100 },
        received_us: n as i64,
        keys: keys.to_vec(),
        steps,
        strikes: 0,
        suspect: false,
        waits: Vec::new(),
    }
}

fn all() -> StepSet {
    (0..usize::from(PLACES)).fold(StepSet::EMPTY, |s, p| s.with(StepSet::one(p)))
}

fn try_next(d: &Dispatcher, now_us: i64) -> Option<Vec<Task>> {
    try_next_of(d, 0, now_us)
}

fn try_next_of(d: &Dispatcher, pool: usize, now_us: i64) -> Option<Vec<Task>> {
    let mut state = d.lock();
    let give_up_us = micros(d.retry.give_up);
    state.fire_timers(now_us, give_up_us);
    state.take(pool, now_us, give_up_us)
}

fn ended(task: &Task, ends: Vec<(u8, StepEnd)>, decisions: Vec<Decision>) -> TaskReport {
    TaskReport { ticket: task.ticket, tried: task.steps, ends, decisions, failure: None }
}

fn failed(task: &Task) -> TaskReport {
    let (step, reason) = ("x".to_owned(), "bad".to_owned());
    let failure = Some(FailedStep { step, reason, attempts: 1, whose: Whose::Message });
    TaskReport { failure, ..ended(task, Vec::new(), Vec::new()) }
}

fn report(d: &Dispatcher, task: &Task, ends: Vec<(u8, StepEnd)>, now_us: i64) -> Vec<Location> {
    let decisions = d.decide(task, &ends, now_us);
    d.report(vec![ended(task, ends, decisions)], now_us).1
}

fn down() -> StepEnd {
    StepEnd::Again { reason: "down".into(), target_down: true, wanted_us: None }
}

fn failing() -> StepEnd {
    StepEnd::Again { reason: "busy".into(), target_down: false, wanted_us: None }
}

#[test]
fn an_open_message_costs_64_bytes_and_its_lane_24() {
    assert_eq!(size_of::<Option<Entry>>(), 64);
    assert_eq!(crate::order::LANE_BYTES, 24);
}

#[test]
fn a_merge_and_the_inserts_before_and_after_it_keep_their_order() {
    let (insert, merge) = (StepSet::one(1), StepSet::one(2));
    let kin = insert.with(merge);
    let d = dispatcher_of(Pools::made_of(StepSet::one(0), kin, StepSet::EMPTY, 2).with_kin(kin));
    d.add(vec![entry(1, &[7], insert), entry(2, &[7, 8], merge), entry(3, &[8], insert)]);
    let ids = |pool| try_next_of(&d, pool, 0).map(|job| job.iter().map(|t| t.id).collect::<Vec<_>>());
    assert_eq!(ids(2), None, "the merge waits for the row before it");
    let first = try_next_of(&d, 1, 0).unwrap();
    assert_eq!(
        (first.len(), first[0].id),
        (1, MessageId::new(1, 0)),
        "the row behind the merge waits for it"
    );
    report(&d, &first[0], vec![(1, StepEnd::Over)], 0);
    assert_eq!(ids(1), None);
    let second = try_next_of(&d, 2, 0).unwrap();
    assert_eq!(second[0].id, MessageId::new(2, 0));
    report(&d, &second[0], vec![(2, StepEnd::Over)], 0);
    assert_eq!(ids(1), Some(vec![MessageId::new(3, 0)]));
}

#[test]
fn while_a_target_is_down_one_message_probes_it_and_the_other_steps_go_on() {
    let d = dispatcher();
    d.add((1..=3).map(|n| entry(n, &[n], all())));
    let mut now_us = 0;
    let first = try_next(&d, now_us).unwrap();
    assert_eq!(first.len(), 1);
    let ends = vec![(0, StepEnd::Over), (1, down()), (2, StepEnd::Over)];
    report(&d, &first[0], ends, now_us);
    for _ in 0..2 {
        let job = try_next(&d, now_us).unwrap();
        assert!(!job[0].steps.has(1), "the dead target is not tried by others");
        let ends = job[0].steps.places().map(|p| (p as u8, StepEnd::Over)).collect();
        report(&d, &job[0], ends, now_us);
    }
    assert!(try_next(&d, now_us).is_none());
    now_us += 1_000_000;
    let probe = try_next(&d, now_us).unwrap();
    // The one that was tried least: a message with a fault of its own does not keep the others out.
    assert_eq!((probe.len(), probe[0].id), (1, MessageId::new(2, 0)));
    assert!(try_next(&d, now_us).is_none(), "one probe at a time");
    report(&d, &probe[0], vec![(1, StepEnd::Over)], now_us);
    assert_eq!(d.open(), 2);
    let mut gone = 0;
    while let Some(job) = try_next(&d, now_us) {
        for task in job {
            gone += report(&d, &task, vec![(1, StepEnd::Over)], now_us).len();
        }
    }
    assert_eq!((gone, d.open()), (2, 0));
}

#[test]
fn a_probe_that_told_nothing_of_the_target_is_made_again() {
    let d = dispatcher();
    d.add([entry(1, &[1], StepSet::one(1)), entry(2, &[2], StepSet::one(1))]);
    let job = try_next(&d, 0).unwrap();
    report(&d, &job[0], vec![(1, down())], 0);
    let probe = try_next(&d, 1_000_000).unwrap();
    // The message failed for a reason of its own before it reached the target.
    let (standing, _) = d.report(vec![failed(&probe[0])], 1_000_000);
    assert!(matches!(&standing[..], [Standing::Failed { left, .. }] if left.has(1)), "{standing:?}");
    d.remove(probe[0].ticket);
    let probe = try_next(&d, 1_000_000).expect("the next message probes");
    report(&d, &probe[0], vec![(1, StepEnd::Over)], 1_000_000);
    assert_eq!(d.open(), 0);
}

#[test]
fn a_target_that_says_when_it_is_back_is_not_probed_before() {
    let d = dispatcher();
    d.add((1..=2).map(|n| entry(n, &[n], StepSet::one(1))));
    let job = try_next(&d, 0).unwrap();
    let busy = StepEnd::Again { reason: "busy".into(), target_down: true, wanted_us: Some(60_000_000) };
    report(&d, &job[0], vec![(1, busy)], 0);
    assert!(try_next(&d, 59_000_000).is_none());
    assert!(try_next(&d, 60_000_000).is_some());
}

#[test]
fn a_job_whose_messages_all_find_the_target_down_is_one_attempt() {
    let d = with_peers(StepSet::EMPTY);
    d.add((1..=20).map(|n| entry(n, &[7], StepSet::one(1))));
    let job = try_next_of(&d, 1, 0).unwrap();
    assert_eq!(job.len(), 20);
    let reports = job.iter().map(|task| {
        let ends = vec![(1, down())];
        let decisions = d.decide(task, &ends, 0);
        ended(task, ends, decisions)
    });
    let mut reports: Vec<TaskReport> = reports.collect();
    // What comes behind the first ones is not even tried.
    reports[10..].iter_mut().for_each(|r| (r.ends, r.decisions) = (vec![(1, StepEnd::NotTried)], Vec::new()));
    d.report(reports, 0);
    let probes = d.lock().timers.iter().filter(|t| t.0.1 == breakers::probe_ticket(1)).count();
    assert_eq!(probes, 1, "each looks at every message");
    // `retry.first`, not what twenty attempts one after the other would have come to.
    let probe = try_next_of(&d, 1, 1_000_000).expect("probed after the first wait");
    report(&d, &probe[0], vec![(1, down())], 1_000_000);
    assert!(try_next_of(&d, 1, 2_000_000).is_none(), "a probe that fails is the second attempt");
    assert!(try_next_of(&d, 1, 3_000_000).is_some());
}

#[test]
fn suspects_run_alone_before_everybody_else() {
    let d = dispatcher();
    let suspect = |n| NewEntry { suspect: true, strikes: 2, ..entry(n, &[n], all()) };
    d.add([suspect(1), suspect(2), entry(3, &[3], all())]);
    for n in 1..=2 {
        let job = try_next(&d, 0).unwrap();
        assert_eq!(job.iter().map(|t| t.id).collect::<Vec<_>>(), [MessageId::new(n, 0)]);
        assert!(try_next(&d, 0).is_none(), "nothing runs beside a suspect");
        report(&d, &job[0], job[0].steps.places().map(|p| (p as u8, StepEnd::Over)).collect(), 0);
    }
    assert_eq!(try_next(&d, 0).unwrap()[0].id, MessageId::new(3, 0));
}

#[test]
fn messages_of_one_patient_share_a_job_in_their_order() {
    let d = dispatcher();
    d.add((1..=5).map(|n| entry(n, &[7], all())));
    let job = try_next(&d, 0).unwrap();
    let ids: Vec<MessageId> = job.iter().map(|t| t.id).collect();
    assert_eq!(ids, (1..=5).map(|n| MessageId::new(n, 0)).collect::<Vec<_>>());
    assert!(try_next(&d, 0).is_none());
}

#[test]
fn what_waits_for_files_counts_until_they_are_written_whatever_its_patient() {
    let d = with_peers(StepSet::EMPTY);
    let behind = || d.behind().messages;
    d.add((1..=5).map(|n| entry(n, &[7], StepSet::one(0).with(StepSet::one(1)))));
    d.add([entry(6, &[8], StepSet::one(1))]);
    assert_eq!(behind(), 5);
    let job = try_next_of(&d, 0, 0).unwrap();
    assert_eq!((job.len(), behind()), (5, 5), "until they are written");
    report(&d, &job[0], vec![(0, StepEnd::Over)], 0);
    assert_eq!(behind(), 4, "it waits for a peer now");
    report(&d, &job[1], vec![(0, failing())], 0);
    assert_eq!(behind(), 3, "it waits for its next attempt");
    d.report(vec![failed(&job[2])], 0);
    d.remove(job[2].ticket);
    assert_eq!(behind(), 2);
    report(&d, &job[3], vec![(0, down())], 0);
    assert_eq!(behind(), 0, "the folder is gone");
}

#[test]
fn large_messages_share_the_flushes_of_their_files_but_not_a_peers_job() {
    let large = |n, steps| {
        let entry = entry(n, &[n], steps);
        NewEntry { location: Location { length: 2 << 20, ..entry.location }, ..entry }
    };
    let d = with_peers(StepSet::EMPTY);
    d.add((1..=40).map(|n| large(n, StepSet::one(0))));
    d.add((41..=80).map(|n| large(n, StepSet::one(1))));
    assert_eq!(try_next_of(&d, 0, 0).unwrap().len(), 4, "8 MiB");
    assert_eq!(try_next_of(&d, 1, 0).unwrap().len(), 1);
}

#[test]
fn a_message_that_waited_behind_a_dead_target_for_too_long_gives_up_with_its_next_attempt() {
    let d = dispatcher();
    d.add([entry(1, &[1], StepSet::one(1)), entry(2, &[2], StepSet::one(1))]);
    let mut now_us = 0;
    let mut gave_up = 0;
    for _ in 0..500 {
        while let Some(job) = try_next(&d, now_us) {
            for task in job {
                let ends = vec![(1, down())];
                let decisions = d.decide(&task, &ends, now_us);
                let over = decisions.iter().any(|d| matches!(d, Decision::GaveUp { .. }));
                gave_up += usize::from(over);
                let failure = over.then(|| failed(&task).failure.unwrap());
                d.report(vec![TaskReport { failure, ..ended(&task, ends, decisions) }], now_us);
                if over {
                    d.remove(task.ticket);
                }
            }
        }
        now_us += 60_000_000;
    }
    assert_eq!((gave_up, d.open()), (2, 0));
}

#[test]
fn a_peer_that_hangs_holds_back_neither_files_nor_other_peers() {
    let d = with_peers(StepSet::EMPTY);
    d.add((1..=3).map(|n| entry(n, &[7], all())));
    assert!(try_next_of(&d, 1, 0).is_none(), "files come first");
    let files = try_next_of(&d, 0, 0).unwrap();
    assert_eq!(files.len(), 3);
    for task in &files {
        assert_eq!(task.steps, StepSet::one(0));
        report(&d, task, vec![(0, StepEnd::Over)], 0);
    }
    let hangs = try_next_of(&d, 1, 0).unwrap();
    assert_eq!(hangs.len(), 3, "those of one patient go together");
    let others = try_next_of(&d, 2, 0).unwrap();
    assert_eq!(others.len(), 3);
    for task in &others {
        report(&d, task, vec![(2, StepEnd::Over)], 0);
    }
    d.add([entry(4, &[7], all())]);
    let next = try_next_of(&d, 0, 0).unwrap();
    report(&d, &next[0], vec![(0, StepEnd::Over)], 0);
    assert_eq!(try_next_of(&d, 2, 0).unwrap()[0].id, MessageId::new(4, 0));
    assert!(try_next_of(&d, 1, 0).is_none(), "its turn has not come");
    assert_eq!(d.open(), 4);
    for task in &hangs {
        report(&d, task, vec![(1, StepEnd::Over)], 0);
    }
    assert_eq!(d.open(), 1);
    assert_eq!(try_next_of(&d, 1, 0).unwrap()[0].id, MessageId::new(4, 0));
}

#[test]
fn a_dead_archive_does_not_keep_the_peers_waiting() {
    let d = with_peers(StepSet::EMPTY);
    d.add([entry(1, &[1], all()), entry(2, &[2], all())]);
    for task in try_next_of(&d, 0, 0).unwrap() {
        report(&d, &task, vec![(0, down())], 0);
    }
    assert!(try_next_of(&d, 0, 0).is_none());
    let mut seen = 0;
    for pool in [1, 2] {
        while let Some(job) = try_next_of(&d, pool, 0) {
            for task in job {
                seen += 1;
                report(&d, &task, vec![(pool as u8, StepEnd::Over)], 0);
            }
        }
    }
    assert_eq!((seen, d.open()), (4, 2));
}

#[test]
fn a_message_that_fails_is_put_away_by_whoever_ends_last_on_it() {
    let d = with_peers(StepSet::EMPTY);
    d.add([entry(1, &[1], all())]);
    let files = try_next_of(&d, 0, 0).unwrap();
    report(&d, &files[0], vec![(0, StepEnd::Over)], 0);
    let (one, two) = (try_next_of(&d, 1, 0).unwrap(), try_next_of(&d, 2, 0).unwrap());
    assert_eq!(d.report(vec![failed(&one[0])], 0).0, [Standing::Open]);
    assert!(d.in_segment(1, 10).is_empty(), "its bytes stay where they are");
    let (standing, gone) = d.report(vec![ended(&two[0], vec![(2, StepEnd::Over)], Vec::new())], 0);
    let failure = failed(&one[0]).failure.unwrap();
    assert_eq!(standing, [Standing::Failed { failure, left: StepSet::one(1) }], "what was done is known");
    assert!(gone.is_empty() && d.withdraw(MessageId::new(1, 0)) == Withdrawal::Running);
    assert!(d.remove(one[0].ticket).is_some());
    assert_eq!((d.open(), d.running()), (0, 0));
}

#[test]
fn what_comes_last_waits_for_every_other_step() {
    let d = with_peers(StepSet::one(2));
    d.add([entry(1, &[1], all())]);
    let files = try_next_of(&d, 0, 0).unwrap();
    report(&d, &files[0], vec![(0, StepEnd::Over)], 0);
    assert!(try_next_of(&d, 2, 0).is_none());
    let one = try_next_of(&d, 1, 0).unwrap();
    assert!(try_next_of(&d, 2, 0).is_none());
    report(&d, &one[0], vec![(1, StepEnd::Over)], 0);
    assert_eq!(try_next_of(&d, 2, 0).unwrap()[0].steps, StepSet::one(2));
}

/// Random messages, keys, outcomes and times: order per key and step, nothing lost, nothing twice.
#[test]
fn random_days_keep_the_order_and_lose_nothing() {
    for seed in 0..300_u64 {
        random_day(seed, dispatcher());
        random_day(seed, with_peers(if seed % 2 == 0 { StepSet::EMPTY } else { StepSet::one(2) }));
    }
}

fn random_day(seed: u64, d: Dispatcher) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut random = move |n: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % n
    };
    let mut now_us = 1_000;
    let mut added = 0_u64;
    let mut lines: HashMap<(u64, usize), Vec<MessageId>> = HashMap::new();
    let mut running: Vec<Vec<Task>> = Vec::new();
    let mut keys_of: HashMap<MessageId, Vec<u64>> = HashMap::new();
    let mut gone = 0;
    let total = 60;
    for turn in 0.. {
        assert!(turn < 100_000, "seed {seed}: {} messages never end", d.open());
        if added < total && random(3) == 0 {
            added += 1;
            let mut keys: Vec<u64> = (0..=random(8) / 7).map(|_| random(5)).collect();
            keys.sort_unstable();
            keys.dedup();
            let mut steps = StepSet::EMPTY;
            while steps.is_empty() {
                steps = (0..3).filter(|_| random(2) == 0).fold(steps, |s, p| s.with(StepSet::one(p)));
            }
            let new = entry(added, &keys, steps);
            for (key, place) in keys.iter().flat_map(|k| steps.places().map(move |p| (*k, p))) {
                lines.entry((key, place)).or_default().push(new.id);
            }
            keys_of.insert(new.id, keys);
            d.add([new]);
        }
        let pools = d.due.len() as u64;
        if let Some(job) = try_next_of(&d, random(pools) as usize, now_us) {
            running.push(job);
        }
        if !running.is_empty() && random(2) == 0 {
            let job = running.swap_remove(random(running.len() as u64) as usize);
            let mut held: Vec<(Option<u64>, StepSet)> = Vec::new();
            for task in &job {
                let behind = held.iter().filter(|(k, _)| *k == task.key);
                let behind = behind.fold(StepSet::EMPTY, |s, (_, t)| s.with(*t));
                let mut ends = Vec::new();
                for place in task.steps.places() {
                    let end = match random(6) {
                        _ if behind.has(place) => StepEnd::NotTried,
                        0 => down(),
                        1 => StepEnd::Again { reason: "x".into(), target_down: false, wanted_us: None },
                        _ => StepEnd::Over,
                    };
                    if end == StepEnd::Over {
                        for key in &keys_of[&task.id] {
                            let line = lines.get_mut(&(*key, place)).unwrap();
                            assert_eq!(line[0], task.id, "seed {seed}: out of order in step {place}");
                            line.remove(0);
                        }
                    }
                    ends.push((place as u8, end));
                }
                // Now and then a step fails for good, or the sender's patience ends.
                if random(40) == 0 {
                    let _ = d.withdraw(task.id);
                }
                let failure = (random(30) == 0).then(|| failed(task).failure.unwrap());
                match &failure {
                    None => held.push((task.key, task.pending.without(over(&ends)))),
                    // It will not do these any more: whoever is behind it may.
                    Some(_) => drop_from(&mut lines, &keys_of[&task.id], task.pending, task.id),
                }
                let decisions = d.decide(task, &ends, now_us);
                let report = TaskReport { failure, ..ended(task, ends, decisions) };
                let (standings, over) = d.report(vec![report], now_us);
                gone += over.len();
                if let [Standing::Failed { left, .. } | Standing::TooLate { left }] = &standings[..] {
                    drop_from(&mut lines, &keys_of[&task.id], *left, task.id);
                    gone += usize::from(d.remove(task.ticket).is_some());
                }
            }
        }
        now_us += random(400_000) as i64;
        if added == total && d.open() == 0 {
            break;
        }
    }
    assert_eq!(gone, total as usize);
    assert!(lines.values().all(Vec::is_empty));
    assert_eq!(d.running(), 0);
    assert_eq!(d.lock().for_files, 0);
}

fn drop_from(lines: &mut HashMap<(u64, usize), Vec<MessageId>>, keys: &[u64], steps: StepSet, id: MessageId) {
    for (key, place) in keys.iter().flat_map(|k| steps.places().map(move |p| (*k, p))) {
        if let Some(line) = lines.get_mut(&(key, place)) {
            line.retain(|other| *other != id);
        }
    }
}
