//! Systematic faults: what the server calls while it does something is listed once, and then each of these calls, the
//! first, the second and so on that a thread makes, is the one at which a process is killed or at which the call fails,
//! once or from then on. Each time every message must be acknowledged and delivered in the end, once and in order, and
//! the channel beside must notice nothing.

use super::rig::{HEALED, Rig, Sent};
use crate::count;
use crate::support::dice::Dice;
use crate::support::trace::Trace;
use crate::support::{process, within};
use nix::sys::signal::Signal;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Faults of a short run.
const SHORT: usize = 3;
/// How long a call goes on failing that fails from some time on.
const LASTING: Duration = Duration::from_millis(150);
/// When nothing has been hit although all is delivered, the call is not made so often this time.
const AFTERMATH: Duration = Duration::from_millis(60);
/// A back-off of this many deaths is waited for; then a fresh master starts it over.
const DEATHS: usize = 2;

/// What the server does meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Two messages are received and delivered.
    Message,
    /// The worker has been killed over two messages: the next one starts, replays and delivers.
    Recovery,
    /// The worker drains over two messages.
    Drain,
    /// The master reads a changed file, and replaces the worker over two messages.
    Reload,
}

/// A call of a system, by name, and which one of a thread's.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Place {
    call: String,
    n: usize,
}

#[derive(Clone, Debug)]
enum Fault {
    Kill,
    Errno { name: &'static str, lasting: bool },
}

#[derive(Clone, Debug)]
struct Point {
    place: Place,
    fault: Fault,
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place { call, n } = &self.place;
        match &self.fault {
            Fault::Kill => write!(f, "{call}#{n} kill"),
            Fault::Errno { name, lasting: false } => write!(f, "{call}#{n} {name}"),
            Fault::Errno { name, lasting: true } => write!(f, "{call}#{n}+ {name}"),
        }
    }
}

impl Point {
    fn injection(&self) -> String {
        let Place { call, n } = &self.place;
        match &self.fault {
            Fault::Kill => format!("inject={call}:signal=KILL:when={n}"),
            Fault::Errno { name, lasting } => {
                format!("inject={call}:error={name}:when={n}{}", if *lasting { "+" } else { "" })
            }
        }
    }

    /// Whether some thread has come so far.
    fn is_hit(&self, lines: &[String]) -> bool {
        counts(lines).get(&self.place.call).is_some_and(|most| *most >= self.place.n)
    }
}

/// How a call fails. Not what cannot be: a call that does not go to a disk is never told that the disk is full.
fn errors_of(call: &str) -> &'static [&'static str] {
    match call {
        "fdatasync" | "fsync" => &["EIO", "ENOSPC", "EDQUOT"],
        "pwrite64" | "ftruncate" | "fallocate" => &["EIO", "ENOSPC", "EDQUOT", "EFBIG"],
        "openat" => &["EIO", "ENOSPC", "EMFILE", "ENFILE", "EACCES", "EROFS", "ENOMEM"],
        "rename" | "renameat" | "renameat2" | "link" | "linkat" | "mkdir" | "mkdirat" => {
            &["EIO", "ENOSPC", "EROFS", "EACCES"]
        }
        "unlink" | "unlinkat" => &["EIO", "EROFS", "EACCES"],
        "pread64" | "getdents64" | "lseek" | "flock" | "newfstatat" | "statx" | "fstat" | "fstatfs" => {
            &["EIO"]
        }
        "accept4" => &["EMFILE", "ENFILE", "ENOMEM", "ECONNABORTED"],
        "recvfrom" | "sendto" | "sendmsg" | "recvmsg" => &["ECONNRESET", "EINTR"],
        "read" | "write" | "readv" | "writev" => &["EIO", "EINTR"],
        "epoll_wait" => &["EINTR"],
        "epoll_ctl" => &["ENOMEM", "ENOSPC"],
        "mmap" => &["ENOMEM"],
        "clone3" | "clone" | "vfork" => &["EAGAIN", "ENOMEM"],
        "socketpair" | "socket" | "pidfd_open" | "dup" | "dup3" => &["EMFILE", "ENOMEM"],
        _ => &[],
    }
}

/// How often the busiest thread made each call.
fn counts(lines: &[String]) -> BTreeMap<String, usize> {
    let mut of_threads: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for line in lines {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let Some((call, _)) = rest.trim_start().split_once('(') else { continue };
        if call.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            *of_threads.entry((thread, call)).or_default() += 1;
        }
    }
    let mut most: BTreeMap<String, usize> = BTreeMap::new();
    for ((_, call), count) in of_threads {
        let highest = most.entry(call.to_owned()).or_default();
        *highest = count.max(*highest);
    }
    most
}

/// What strace is told of faults that are to happen together.
fn options(points: &[Point]) -> Vec<String> {
    let calls: Vec<&str> = points.iter().map(|point| point.place.call.as_str()).collect();
    let mut options = vec!["-e".to_owned(), format!("trace={}", calls.join(","))];
    options.extend(points.iter().flat_map(|point| ["-e".to_owned(), point.injection()]));
    options
}

/// A run of faults and what became of them.
struct Campaign {
    rig: Rig,
    stage: Stage,
    trace: PathBuf,
    run: usize,
    deaths: usize,
    /// Whether the worker has done nothing yet.
    is_fresh: bool,
    hit: usize,
    missed: usize,
}

impl Campaign {
    fn start(stage: Stage) -> Campaign {
        let rig = Rig::start();
        let trace = rig.site.path("trace");
        Campaign { rig, stage, trace, run: 0, deaths: 0, is_fresh: true, hit: 0, missed: 0 }
    }

    /// Traces what this stage's fault is to hit.
    fn attach(&self, worker: u32, options: &[String], both: bool) -> Option<Trace> {
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let master = self.rig.server.pid();
        let _ = std::fs::remove_file(&self.trace);
        let more = worker.to_string();
        match self.stage {
            // The fault may hit the worker, dead before strace is told to be ready, and then its successor.
            Stage::Message if both => {
                Trace::attach(master, &self.trace, &[&options[..], &["-p", &more]].concat())
            }
            Stage::Message | Stage::Drain => Trace::attach(worker, &self.trace, &options),
            Stage::Recovery | Stage::Reload => Trace::attach(master, &self.trace, &options),
        }
    }

    /// Sends two messages and lets this stage come over them. Returns what is not acknowledged yet.
    fn act(&mut self, worker: u32) -> Vec<Sent> {
        self.run += 1;
        let messages: Vec<Sent> = self.rig.pair(&format!("{:?}{:05}", self.stage, self.run)).into();
        self.rig.begin(&messages);
        match self.stage {
            Stage::Message => messages,
            Stage::Recovery => {
                let rest = self.rig.hear(messages, Duration::from_secs(5));
                process::kill(worker);
                rest
            }
            Stage::Drain => {
                process::signal(worker, Signal::SIGTERM);
                messages
            }
            Stage::Reload => {
                self.rig.change(self.run);
                process::signal(self.rig.server.pid(), Signal::SIGHUP);
                messages
            }
        }
    }

    /// Whether what this stage's kill is meant for is dead: not the worker that the stage itself ends.
    fn has_died(&self, worker: u32, next: &mut Option<u32>) -> bool {
        if matches!(self.stage, Stage::Message | Stage::Drain) {
            return !process::is_alive(worker);
        }
        if next.is_none() {
            *next = process::worker_of(self.rig.port).filter(|pid| *pid != worker);
        }
        self.rig.is_headless() || next.is_some_and(|pid| !process::is_alive(pid))
    }

    /// Whether the worker that this stage replaces has been.
    fn is_over(&self, worker: u32) -> bool {
        self.stage != Stage::Reload || process::worker_of(self.rig.port).is_some_and(|pid| pid != worker)
    }

    /// Whether the last message acknowledged is at the places where messages end.
    fn is_delivered(&self) -> bool {
        let Some(last) = self.rig.sent.last() else { return false };
        let name = format!("near/{}_{}.pdf", last.patient, last.control);
        self.rig.site.path(&name).exists() && self.rig.has_row(&last.control)
    }

    /// The places of this stage, from several undisturbed runs: threads share work differently each time.
    fn places(&mut self) -> Option<Vec<Place>> {
        let mut most: BTreeMap<String, usize> = BTreeMap::new();
        for _ in 0..count("PROFILES", 1, 3) {
            let worker = self.rig.worker();
            let trace = self.attach(worker, &["-e".to_owned(), "trace=all".to_owned()], false)?;
            let rest = self.act(worker);
            let rest = self.rig.hear(rest, HEALED);
            self.rig.insist(rest);
            self.wait_delivered("undisturbed");
            within(HEALED, "the stage is over", || self.is_over(worker).then_some(()));
            std::thread::sleep(AFTERMATH);
            for (call, count) in counts(&trace.lines()) {
                let highest = most.entry(call).or_default();
                *highest = count.max(*highest);
            }
            drop(trace);
            self.rig.restart();
        }
        // How often a thread waits for others is chance.
        let most = most.into_iter().map(|(call, most)| {
            let by_chance =
                ["futex", "sched_yield", "epoll_wait", "restart_syscall"].contains(&call.as_str());
            (call, most.min(if by_chance { 8 } else { 120 }))
        });
        let places = most.flat_map(|(call, most)| (1..=most).map(move |n| Place { call: call.clone(), n }));
        Some(places.collect())
    }

    #[track_caller]
    fn wait_delivered(&self, what: &str) {
        within(HEALED, &format!("all is delivered after {what}"), || self.is_delivered().then_some(()));
    }

    /// Lets one fault or several happen together, and everything heal. A worker that has been at it for a while makes
    /// some calls no more: then a fresh one is tried.
    #[track_caller]
    fn strike(&mut self, points: &[Point]) {
        let mut hit = self.try_strike(points);
        if !hit && !self.is_fresh {
            self.rig.restart();
            (self.is_fresh, self.deaths) = (true, 0);
            hit = self.try_strike(points);
        }
        *if hit { &mut self.hit } else { &mut self.missed } += 1;
    }

    #[track_caller]
    fn try_strike(&mut self, points: &[Point]) -> bool {
        let begun = Instant::now();
        let what = points.iter().map(Point::to_string).collect::<Vec<_>>().join(" and ");
        let (worker, beside) = (self.rig.worker(), self.rig.server.worker(self.rig.beside));
        let trace = self.attach(worker, &options(points), points.len() > 1);
        // A kill may come before strace says that it is there.
        let early = trace.is_none();
        assert!(
            !early || self.rig.is_headless() || !process::is_alive(worker),
            "{what}: strace is not attached"
        );
        let messages = self.act(worker);
        let (hit, rest) = match &trace {
            Some(trace) => self.watch(trace, points, worker, messages),
            None => (true, messages),
        };
        drop(trace);
        self.heal(worker);
        // A master whose own calls fail may have to start both.
        let spared = matches!(self.stage, Stage::Message | Stage::Drain) && points.len() == 1;
        assert!(
            !spared || self.deaths == 0 || process::is_alive(beside),
            "{what}: the worker beside has died"
        );
        let rest = self.rig.hear(rest, Duration::from_millis(20));
        self.rig.insist(rest);
        self.wait_delivered(&what);
        if std::env::var_os("TORTURE_TRACE").is_some() {
            let hit = if hit { "hit" } else { "not come to" };
            eprintln!("{:?} {what}: {hit} after {:?}", self.stage, begun.elapsed());
        }
        hit
    }

    /// Waits until all of these have happened, or cannot any more; says which, and what is not acknowledged.
    #[track_caller]
    fn watch(
        &mut self,
        trace: &Trace,
        points: &[Point],
        worker: u32,
        mut rest: Vec<Sent>,
    ) -> (bool, Vec<Sent>) {
        let (kills, errors): (Vec<&Point>, Vec<&Point>) =
            points.iter().partition(|point| matches!(point.fault, Fault::Kill));
        let lasting = |point: &&Point| matches!(point.fault, Fault::Errno { lasting: true, .. });
        let (begun, mut quiet, mut next) = (Instant::now(), None, None);
        loop {
            rest = self.rig.hear(rest, Duration::from_millis(5));
            std::thread::sleep(Duration::from_millis(3));
            let lines = trace.lines();
            // Of a call at which its process is killed the trace may say nothing any more.
            let killed = kills.iter().all(|point| point.is_hit(&lines)) || self.has_died(worker, &mut next);
            if killed && errors.iter().all(|point| point.is_hit(&lines)) {
                if errors.iter().any(lasting) {
                    rest = self.rig.hear(rest, LASTING);
                    std::thread::sleep(LASTING);
                }
                return (true, rest);
            }
            if quiet.is_none() && self.is_over(worker) && rest.is_empty() && self.is_delivered() {
                quiet = Some(Instant::now());
            }
            let over = quiet.is_some_and(|at: Instant| at.elapsed() > AFTERMATH);
            if over || begun.elapsed() > Duration::from_secs(2) {
                return (false, rest);
            }
        }
    }

    /// A fresh master where there is none any more, or where its back-off has grown.
    fn heal(&mut self, worker: u32) {
        let died = !process::is_alive(worker);
        (self.is_fresh, self.deaths) = (died, self.deaths + usize::from(died));
        if self.rig.is_headless() || self.deaths > DEATHS {
            self.rig.restart();
            self.deaths = 0;
        }
    }

    fn end(mut self, what: &str) {
        self.rig.balance();
        eprintln!(
            "TORTURE points: {:?}: {} {what} were hit, {} more were not come to; {} messages acknowledged, all there once, in order",
            self.stage,
            self.hit,
            self.missed,
            self.rig.sent.len()
        );
    }
}

/// All of them in the long form, some in the short. `TORTURE_SLICE=2/8` takes the third of eight parts of them, so that
/// a campaign can be run in pieces.
fn chosen<T: Clone>(mut all: Vec<T>, dice: &mut Dice, long: usize) -> Vec<T> {
    if let Ok(slice) = std::env::var("TORTURE_SLICE") {
        let (part, parts) = slice.split_once('/').expect("TORTURE_SLICE is PART/PARTS");
        let (part, parts): (usize, usize) = (part.parse().unwrap(), parts.parse().unwrap());
        all.truncate(long);
        return all.into_iter().skip(part).step_by(parts).collect();
    }
    for n in (1..all.len()).rev() {
        all.swap(n, dice.below(n + 1));
    }
    all.truncate(count("FAULTS", SHORT, long));
    all
}

fn campaign(stage: Stage, what: &str, faults: impl Fn(&str) -> Vec<Fault>) {
    if !Trace::is_possible() {
        return;
    }
    let mut dice = Dice::thrown();
    let mut campaign = Campaign::start(stage);
    let Some(places) = campaign.places() else { return };
    let points = places.into_iter().flat_map(|place| {
        let faults = faults(&place.call);
        faults.into_iter().map(move |fault| Point { place: place.clone(), fault })
    });
    let points: Vec<Point> = points.collect();
    let all = points.len();
    let points = chosen(points, &mut dice, usize::MAX);
    let begun = Instant::now();
    for point in &points {
        campaign.strike(std::slice::from_ref(point));
    }
    eprintln!("{} of {all} {what} in {:?}, seed {}", points.len(), begun.elapsed(), dice.seed);
    campaign.end(what);
}

fn killed(_: &str) -> Vec<Fault> {
    vec![Fault::Kill]
}

fn errors(call: &str) -> Vec<Fault> {
    let both = |name: &&'static str| [false, true].map(|lasting| Fault::Errno { name, lasting });
    errors_of(call).iter().flat_map(both).collect()
}

#[test]
fn a_kill_at_every_system_call_of_a_message_loses_and_doubles_nothing() {
    campaign(Stage::Message, "kills", killed);
}

#[test]
fn a_kill_at_every_system_call_of_a_recovery_loses_and_doubles_nothing() {
    campaign(Stage::Recovery, "kills", killed);
}

#[test]
fn a_kill_at_every_system_call_of_a_drain_loses_and_doubles_nothing() {
    campaign(Stage::Drain, "kills", killed);
}

#[test]
fn a_kill_at_every_system_call_of_a_reload_loses_and_doubles_nothing() {
    campaign(Stage::Reload, "kills", killed);
}

#[test]
fn every_system_call_of_a_drain_may_fail_once_or_for_a_while() {
    campaign(Stage::Drain, "errors", errors);
}

#[test]
fn every_system_call_of_a_reload_may_fail_once_or_for_a_while() {
    campaign(Stage::Reload, "errors", errors);
}

#[test]
fn every_system_call_of_a_message_may_fail_once_or_for_a_while() {
    campaign(Stage::Message, "errors", errors);
}

#[test]
fn every_system_call_of_a_recovery_may_fail_once_or_for_a_while() {
    campaign(Stage::Recovery, "errors", errors);
}

#[test]
fn two_faults_at_once_are_no_worse_than_one() {
    const LONG: usize = 100;
    if !Trace::is_possible() {
        return;
    }
    let mut dice = Dice::thrown();
    let mut campaign = Campaign::start(Stage::Message);
    let Some(places) = campaign.places() else { return };
    let failing: Vec<Point> = places
        .iter()
        .flat_map(|place| errors(&place.call).into_iter().map(|fault| Point { place: place.clone(), fault }))
        .collect();
    let killing: Vec<Point> = places.into_iter().map(|place| Point { place, fault: Fault::Kill }).collect();
    let second: Vec<Point> = failing.iter().chain(&killing).cloned().collect();
    let pairs = (0..LONG).filter_map(|_| {
        let (first, second) = (dice.pick(&failing).clone(), dice.pick(&second).clone());
        // One injection a call: strace keeps the last.
        (first.place.call != second.place.call).then_some([first, second])
    });
    let pairs: Vec<[Point; 2]> = pairs.collect();
    for pair in chosen(pairs, &mut dice, LONG) {
        campaign.strike(&pair);
    }
    campaign.end("pairs of faults");
}

/// Found by a campaign: what had been read before the failing read was forgotten, and the dead worker never replaced.
#[test]
fn a_master_that_cannot_read_its_signals_for_a_moment_forgets_none() {
    if !Trace::is_possible() {
        return;
    }
    let mut campaign = Campaign::start(Stage::Recovery);
    for n in 1..=12 {
        let fault = Fault::Errno { name: "EIO", lasting: false };
        campaign.strike(&[Point { place: Place { call: "read".to_owned(), n }, fault }]);
    }
    campaign.end("reads");
}

/// Found by a campaign: a file put in place by an attempt whose flush failed could not be opened by the next one, which
/// took it for another's and wrote a second one beside it.
#[test]
fn a_file_in_place_that_does_not_open_is_not_delivered_a_second_time() {
    if !Trace::is_possible() {
        return;
    }
    // One thread: strace counts the calls of each by itself.
    let mut rig = Rig::with_tasks(1);
    let near = rig.site.text("near");
    for n in 2..=7 {
        let open = format!("inject=openat:error=EMFILE:when={n}");
        let options =
            ["-P", &near, "-e", "trace=fsync,openat", "-e", "inject=fsync:error=EIO:when=1", "-e", &open];
        let Some(trace) = Trace::attach(rig.worker(), &rig.site.path("trace"), &options) else { return };
        let messages: Vec<Sent> = rig.pair(&format!("SAME{n}")).into();
        rig.begin(&messages);
        let rest = rig.hear(messages, HEALED);
        rig.insist(rest);
        within(HEALED, "the folder's flush has failed, and what came after it", || {
            let opened = trace.lines().iter().filter(|line| line.contains("openat(")).count();
            (opened >= n).then_some(())
        });
        drop(trace);
    }
    rig.balance();
}

#[test]
fn calls_are_counted_for_each_thread() {
    let lines: Vec<String> = [
        "10    read(5</j>, \"(x\", 1) = 1",
        "10    read(5</j>, <unfinished ...>",
        "11    read(5</j>, \"x\", 1) = 1",
        "10    <... read resumed>\"x\", 1) = 1",
        "11    --- SIGTERM {si_signo=SIGTERM} ---",
        "11    +++ killed by SIGKILL +++",
    ]
    .map(str::to_owned)
    .into();
    assert_eq!(counts(&lines), BTreeMap::from([("read".to_owned(), 2)]));
}
