use super::*;
use crate::clock::Clock;
use crate::failed::Failure;
use crate::recovery::{Recovered, recover_from};
use crate::testing::settings;
use config::{WorkerSettings, Workflow};
use crossbeam_channel::bounded;
use journal::storage::faulty::{Fault, Faulty, Plan as DiskPlan};
use journal::{Options, Tag};
use std::path::Path;

/// A committer over a disk of its own, and what it knows of one message.
struct Scene {
    settings: WorkerSettings,
    storage: Faulty,
    committer: Committer<Faulty>,
    _poll: mio::Poll,
    _state: tempfile::TempDir,
}

fn id() -> MessageId {
    MessageId::new(5, 6)
}

fn recover(settings: &WorkerSettings, storage: &Faulty) -> Recovered<Faulty> {
    let (plan, open) = (Plan::of(settings), |_: &Path| Ok(storage.clone()));
    let recovered = recover_from(open, Options::default(), settings, &plan, None, &Clock::start());
    recovered.unwrap_or_else(|fault| panic!("{}", fault.reason))
}

impl Scene {
    /// The message is stored, and has failed.
    fn with_a_failed_message() -> Scene {
        let state = tempfile::tempdir().unwrap();
        let mut settings = settings("local_archive: { path: /nowhere }\n");
        settings.state_path = state.path().to_owned();
        std::fs::create_dir(state.path().join("test")).unwrap();
        let (storage, plan) = (Faulty::new(), Arc::new(Plan::of(&settings)));
        let recovered = recover(&settings, &storage);
        let poll = mio::Poll::new().unwrap();
        let waker = mio::Waker::new(poll.registry(), mio::Token(0)).unwrap();
        let committer = Committer {
            journal: recovered.journal,
            queue: bounded(1).1,
            inbox: Arc::new(Inbox::new(waker)),
            dispatcher: Arc::new(Dispatcher::new(&plan, settings.channel.retry, false)),
            counters: Arc::new(Counters::new(&plan)),
            plan,
            failed: recovered.failed,
            returned: recovered.returned,
            given_up: recovered.given_up,
            tells_endings: false,
            index: Default::default(),
            quarantine: Quarantine::open(recovered.paths.quarantine).unwrap(),
            moved_at: crate::clock::instant(),
            lost: HashSet::new(),
            exit: |status| panic!("it exits with {status}"),
        };
        let mut scene = Scene { settings, storage, committer, _poll: poll, _state: state };
        assert_eq!(scene.told(vec![intake(IntakeKind::New)]), [true]);
        scene.fails();
        scene
    }

    /// A turn of the committer; whether the messages of the intake were stored, as the reactor hears it.
    fn told(&mut self, items: Vec<Append>) -> Vec<bool> {
        assert!(self.committer.turn(items).kept.is_empty());
        let news = self.committer.inbox.take().into_iter();
        let stored = |news| match news {
            News::Committed(origins, _) => vec![true; origins.len()],
            News::NotStored(origins) => vec![false; origins.len()],
            other => panic!("{other:?}"),
        };
        news.flat_map(stored).collect()
    }

    fn fails(&mut self) {
        let tasks = self.committer.dispatcher.try_next(0, 1).unwrap();
        let [task] = &tasks[..] else { panic!("{tasks:?}") };
        let received = self.committer.journal.reader().read(task.location).unwrap();
        let failure = Failure { step: "archive", reason: "no", attempts: 1, steps_done: Vec::new() };
        let message = FailedMessage::of(&self.settings.channel, id(), Some(&received), failure);
        self.committer.failed.keep(id(), &message, &received.body).unwrap();
        let gone: Vec<Location> = self.committer.dispatcher.remove(task.ticket).into_iter().collect();
        let outcomes = Outcomes { failed: vec![(id(), "archive".to_owned())], gone, ..Outcomes::default() };
        assert!(self.told(vec![Append::Outcomes(Box::new(outcomes))]).is_empty());
        assert!(self.committer.failed.contains(id()));
    }

    /// Open here, and with the next worker.
    fn open(&self) -> [usize; 2] {
        let next = recover(&self.settings, &self.storage.after_power_cut(7));
        [self.committer.dispatcher.open(), next.entries.len()]
    }
}

fn intake(kind: fn(Box<NewMessage>) -> IntakeKind) -> Append {
    let message = NewMessage {
        id: id(),
        received_us: 1,
        utc_offset_s: 0,
        peer: "127.0.0.1:1".into(),
        keys: vec![1],
        tag: Tag { identity: [1; 16], content: [2; 16] },
        workflow: Workflow::Store,
        body: b"MSH|^~\\&|A|B|C|D|20260101||ADT^A01|1|P|2.5\r".to_vec(),
    };
    let kind = kind(Box::new(message));
    let (session, generation, answer, part, complete_us, bytes) = (0, 0, 0, None, 1, 1);
    let stores = kind.stores();
    let origin = Origin { session, generation, answer, part, id: id(), complete_us, bytes, stores };
    Append::Intake(vec![Intake { origin, kind, direct: None }])
}

fn discard() -> Append {
    Append::Discard(vec![id()], bounded(1).0)
}

#[test]
fn a_failed_message_that_comes_twice_is_opened_once() {
    let mut scene = Scene::with_a_failed_message();
    // The second one was looked at while the first was being flushed.
    assert_eq!(scene.told(vec![intake(IntakeKind::Again)]), [true]);
    assert_eq!(scene.told(vec![intake(IntakeKind::Again)]), [true]);
    assert_eq!(scene.open(), [1, 1]);
}

#[test]
fn a_message_that_comes_again_as_it_is_given_up_begins_anew() {
    for together in [true, false] {
        let mut scene = Scene::with_a_failed_message();
        let batches = match together {
            true => vec![vec![discard(), intake(IntakeKind::Again)]],
            false => vec![vec![discard()], vec![intake(IntakeKind::Again)]],
        };
        let stored: Vec<bool> = batches.into_iter().flat_map(|batch| scene.told(batch)).collect();
        assert_eq!(stored, [true]);
        assert_eq!(scene.open(), [1, 1], "together: {together}");
        assert!(!scene.committer.given_up.contains(id()) && !scene.committer.failed.contains(id()));
    }
}

#[test]
fn a_message_given_up_stays_so_until_it_is_stored_again() {
    let mut scene = Scene::with_a_failed_message();
    assert!(scene.told(vec![discard()]).is_empty());
    let full = Fault::Error(rustix::io::Errno::NOSPC.raw_os_error());
    scene.storage.plan(Some(DiskPlan { after: 0, only: None, fault: full, lasting: false }));
    assert_eq!(scene.told(vec![intake(IntakeKind::Again)]), [false]);
    assert!(scene.committer.given_up.contains(id()));
    assert_eq!(scene.told(vec![intake(IntakeKind::Again)]), [true]);
    assert_eq!(scene.open(), [1, 1]);
}

/// A message of the intake with its direct answer, and who is to get that.
fn answered() -> (Append, std::os::unix::net::UnixStream) {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    theirs.set_nonblocking(true).unwrap();
    // As in a simulation: a pair of sockets that knows nothing of TCP.
    let ours = mio::net::TcpStream::from_std(std::os::fd::OwnedFd::from(ours).into());
    let Append::Intake(mut messages) = intake(IntakeKind::Again) else { unreachable!() };
    messages[0].direct = Some(DirectAnswer::new(Arc::new(ours), b"answer".to_vec()));
    (Append::Intake(messages), theirs)
}

fn heard(mut peer: &std::os::unix::net::UnixStream) -> usize {
    std::io::Read::read(&mut peer, &mut [0; 64]).unwrap_or(0)
}

#[test]
fn the_only_message_of_a_flush_is_answered_at_once_and_no_other() {
    let mut scene = Scene::with_a_failed_message();
    let ((one, first), (other, second)) = (answered(), answered());
    assert!(scene.committer.turn(vec![one, other]).is_stored);
    assert_eq!(
        (heard(&first), heard(&second)),
        (0, 0),
        "the event loop writes them while the next are flushed"
    );
    scene.committer.inbox.take();
    let (one, first) = answered();
    assert!(scene.committer.turn(vec![one]).is_stored);
    assert_eq!(heard(&first), 6);
    let news = scene.committer.inbox.take();
    assert!(matches!(&news[..], [News::Committed(origins, 6)] if origins.len() == 1), "{news:?}");
}

#[test]
fn a_message_that_is_not_stored_is_not_answered_at_once() {
    let mut scene = Scene::with_a_failed_message();
    let full = Fault::Error(rustix::io::Errno::NOSPC.raw_os_error());
    scene.storage.plan(Some(DiskPlan { after: 0, only: None, fault: full, lasting: false }));
    let (one, first) = answered();
    assert!(!scene.committer.turn(vec![one]).is_stored);
    assert_eq!(heard(&first), 0);
}
