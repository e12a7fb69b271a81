//! Senders that behave as real ones do: one message at a time each, and whatever was not answered is sent again, the
//! same bytes, over a new connection.

use super::messages;
use super::mllp::{Acknowledgment, Peer, Reply};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a sender waits for an answer before it connects anew.
const ANSWER: Duration = Duration::from_secs(5);

/// How long a message may go unacknowledged, whatever is killed meanwhile.
const LONGEST: Duration = Duration::from_secs(90);

/// Senders at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    abandoned: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    senders: Vec<JoinHandle<BTreeMap<String, Vec<u8>>>>,
}

impl Load {
    /// Starts `connections` senders to a port.
    pub fn start(port: u16, connections: usize) -> Load {
        let flag = || Arc::new(AtomicBool::new(false));
        let (stop, abandoned, acknowledged) = (flag(), flag(), Arc::new(AtomicUsize::new(0)));
        let sender = |n: usize| {
            let (stop, abandoned, acknowledged) = (stop.clone(), abandoned.clone(), acknowledged.clone());
            std::thread::spawn(move || send_until(port, n, [&stop, &abandoned], &acknowledged))
        };
        let senders = (0..connections).map(sender).collect();
        Load { stop, abandoned, acknowledged, senders }
    }

    /// Messages acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Waits until `count` more messages are acknowledged than now.
    #[track_caller]
    pub fn wait_for_more(&self, count: usize) {
        let goal = self.acknowledged() + count;
        let end = Instant::now() + LONGEST;
        while self.acknowledged() < goal {
            let (now, dead) = (self.acknowledged(), self.senders.iter().filter(|s| s.is_finished()).count());
            assert!(dead == 0, "{dead} senders have failed");
            assert!(Instant::now() < end, "{now} acknowledged, wanted {goal}");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Lets every sender end its last message; returns all that was acknowledged, by control id.
    #[track_caller]
    pub fn finish(mut self) -> BTreeMap<String, Vec<u8>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = BTreeMap::new();
        for sender in self.senders.drain(..) {
            all.append(&mut sender.join().unwrap_or_else(|_| panic!("a sender has failed, see above")));
        }
        all
    }
}

impl Drop for Load {
    /// A test that fails leaves no senders behind: its port may be the next test's.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.abandoned.store(true, Ordering::Relaxed);
    }
}

fn send_until(
    port: u16,
    sender: usize,
    [stop, abandoned]: [&AtomicBool; 2],
    acknowledged: &AtomicUsize,
) -> BTreeMap<String, Vec<u8>> {
    let mut sent = BTreeMap::new();
    let mut peer = None;
    for n in 0.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let control_id = format!("S{sender}N{n}");
        let body = messages::adt(&control_id, &format!("P{}", (sender * 7 + n) % 40));
        if !deliver(port, &mut peer, &control_id, &body, abandoned) {
            break;
        }
        acknowledged.fetch_add(1, Ordering::Relaxed);
        sent.insert(control_id, body);
    }
    sent
}

/// Sends a message as often as it takes; false where the load is given up first.
fn deliver(
    port: u16,
    peer: &mut Option<Peer>,
    control_id: &str,
    body: &[u8],
    abandoned: &AtomicBool,
) -> bool {
    let end = Instant::now() + LONGEST;
    loop {
        if let Some(answer) = attempt(port, peer, body) {
            let answer = Acknowledgment::parse(&answer);
            answer.accepts(control_id.as_bytes());
            return true;
        }
        *peer = None;
        if abandoned.load(Ordering::Relaxed) {
            return false;
        }
        assert!(Instant::now() < end, "{control_id} not acknowledged within {LONGEST:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn attempt(port: u16, peer: &mut Option<Peer>, body: &[u8]) -> Option<Vec<u8>> {
    if peer.is_none() {
        *peer = Some(Peer::try_connect(port).ok()?);
    }
    let peer = peer.as_mut()?;
    peer.send_raw(&super::mllp::frame(body)).ok()?;
    match peer.receive(ANSWER) {
        Reply::Frame(answer) => Some(answer),
        Reply::Closed | Reply::Silence => None,
    }
}

/// Fails unless the archive holds every acknowledged message exactly once, byte for byte, and nothing else.
#[track_caller]
pub fn assert_archived_once(acknowledged: &BTreeMap<String, Vec<u8>>, archive: &Path) {
    let mut files = super::files(archive, ".hl7");
    let end = Instant::now() + LONGEST;
    while files.len() < acknowledged.len() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(100));
        files = super::files(archive, ".hl7");
    }
    let mut times: HashMap<&[u8], usize> = HashMap::new();
    for (_, body) in &files {
        *times.entry(body).or_default() += 1;
    }
    let count = |body: &Vec<u8>| times.get(body.as_slice()).copied().unwrap_or(0);
    let lost: Vec<_> = acknowledged.iter().filter(|(_, body)| count(body) == 0).map(|(id, _)| id).collect();
    let twice: Vec<_> = acknowledged.iter().filter(|(_, body)| count(body) > 1).map(|(id, _)| id).collect();
    let total = acknowledged.len();
    assert!(
        lost.is_empty(),
        "{} of {total} acknowledged messages are not archived as sent: {lost:.10?}",
        lost.len()
    );
    assert!(
        twice.is_empty(),
        "{} of {total} acknowledged messages are archived twice: {twice:.10?}",
        twice.len()
    );
    assert_eq!(files.len(), total, "files in the archive that nobody sent");
}
