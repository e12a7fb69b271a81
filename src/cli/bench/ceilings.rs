//! What the machine allows, measured in the same run as the server, so that a figure is a ratio and not a matter of the
//! day: `echo` (frames answered without a look at them), `journal` (the same with one append into a preallocated file
//! and one `fdatasync` a poll round), `files` (threads that only create the archive file of each message) and `copy`
//! (reading the same PDF and writing what a message of that kind writes).

use super::super::mllp::{CR, FS};
use super::process::peak_bytes;
use rustix::event::Timespec;
use rustix::event::epoll;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// The file of the journal ceiling; written over from the front when it is full, which costs what an append costs.
const JOURNAL_BYTES: u64 = 128 << 20;
/// What every frame is answered with.
const ANSWER: &[u8] = b"\x0bMSH|^~\\&|HL7SERVER|RIVERBEND|BENCH|RIVERBEND|20250510071512||ACK^A01^ACK|\
    01JV0000000000000000|P|2.5.1\rMSA|AA|B0000000000000000001\r\x1c\r";
/// Threads of `files` and `copy`: as many as a channel has by default (`tasks`).
const THREADS: usize = 4;

/// A server that reads frames and does nothing else than its name says.
pub(super) struct Echo {
    pub(super) address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
}

impl Echo {
    /// Answers alone, or with a journal in `folder`.
    pub(super) fn start(journal_in: Option<&Path>) -> io::Result<Echo> {
        let journal = journal_in.map(|folder| preallocated(&folder.join("ceiling.journal"))).transpose()?;
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || serve(&listener, journal.as_ref(), &stopped));
        Ok(Echo { address, stop, thread: Some(thread) })
    }

    /// Ends it and says whether it met an error.
    pub(super) fn stop(mut self) -> io::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().expect("only taken here");
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the ceiling's thread panicked")))
    }
}

/// An echo in a process of its own, whose memory is to be seen.
pub(super) struct EchoProcess {
    pub(super) address: SocketAddr,
    child: Child,
}

impl EchoProcess {
    pub(super) fn start() -> io::Result<EchoProcess> {
        let mut child = Command::new("/proc/self/exe")
            .args(["bench", "--serve-echo"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it was piped");
        let read = io::BufReader::new(stdout).read_line(&mut line);
        // Dropped, it ends its child also where that said nothing.
        let mut echo = EchoProcess { address: ([127, 0, 0, 1], 0).into(), child };
        read?;
        echo.address =
            line.trim().parse().map_err(|_| io::Error::other("the echo did not say where it is"))?;
        Ok(echo)
    }

    pub(super) fn peak_bytes(&self) -> Option<u64> {
        peak_bytes(self.child.id())
    }
}

impl Drop for EchoProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What [`EchoProcess`] starts: says where it listens, and answers until its input ends.
pub(super) fn serve_echo(out: &mut impl Write) -> io::Result<()> {
    let echo = Echo::start(None)?;
    writeln!(out, "{}", echo.address)?;
    out.flush()?;
    io::copy(&mut io::stdin(), &mut io::sink())?;
    echo.stop()
}

/// Zero-filled, not only allocated: writing into an allocated hole changes the file's map, and that is what is slow.
fn preallocated(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path)?;
    let zeros = vec![0; 1 << 20];
    for at in (0..JOURNAL_BYTES).step_by(zeros.len()) {
        file.write_all_at(&zeros, at)?;
    }
    file.sync_all()?;
    Ok(file)
}

struct Peer {
    stream: TcpStream,
    /// An unfinished frame.
    kept: Vec<u8>,
    out: Vec<u8>,
}

fn serve(listener: &TcpListener, journal: Option<&File>, stop: &AtomicBool) -> io::Result<()> {
    const LISTENER: u64 = u64::MAX;
    let poll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&poll, listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
    let mut peers: Vec<Option<Peer>> = Vec::new();
    let mut events = Vec::with_capacity(256);
    let mut chunk = vec![0; 256 << 10];
    let (mut batch, mut place) = (Vec::new(), 0);
    let wait = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
    while !stop.load(Ordering::Relaxed) {
        events.clear();
        match epoll::wait(&poll, rustix::buffer::spare_capacity(&mut events), Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in &events {
            if event.data.u64() == LISTENER {
                accept(listener, &poll, &mut peers)?;
                continue;
            }
            let n = usize::try_from(event.data.u64()).expect("the number of a connection was put in");
            let Some(peer) = &mut peers[n] else { continue };
            if !peer.read(&mut chunk, journal.is_some().then_some(&mut batch))? {
                peers[n] = None;
            }
        }
        if let Some(journal) = journal.filter(|_| !batch.is_empty()) {
            if place + batch.len() as u64 > JOURNAL_BYTES {
                place = 0;
            }
            journal.write_all_at(&batch, place)?;
            journal.sync_data()?;
            place += batch.len() as u64;
            batch.clear();
        }
        for peer in peers.iter_mut().flatten().filter(|peer| !peer.out.is_empty()) {
            peer.write()?;
        }
    }
    Ok(())
}

fn accept(
    listener: &TcpListener,
    poll: &impl std::os::fd::AsFd,
    peers: &mut Vec<Option<Peer>>,
) -> io::Result<()> {
    loop {
        let stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(poll, &stream, epoll::EventData::new_u64(peers.len() as u64), flags)?;
        peers.push(Some(Peer { stream, kept: Vec::new(), out: Vec::new() }));
    }
}

impl Peer {
    /// Reads all there is and puts an answer in `out` for each frame. False when the peer has gone.
    fn read(&mut self, chunk: &mut [u8], mut batch: Option<&mut Vec<u8>>) -> io::Result<bool> {
        loop {
            let read = match self.stream.read(chunk) {
                Ok(0) => return Ok(false),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(false),
                Err(error) => return Err(error),
            };
            let mut rest = &chunk[..read];
            while let Some(end) = frame_end(rest, self.kept.last() == Some(&FS)) {
                self.out.extend_from_slice(ANSWER);
                if let Some(batch) = &mut batch {
                    batch.append(&mut self.kept);
                    batch.extend_from_slice(&rest[..end]);
                }
                self.kept.clear();
                rest = &rest[end..];
            }
            self.kept.extend_from_slice(rest);
        }
    }

    fn write(&mut self) -> io::Result<()> {
        match self.stream.write(&self.out) {
            Ok(written) => drop(self.out.drain(..written)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                self.out.clear()
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

/// Where the first frame ends, just after its FS CR. `contains` looks at many bytes at once, `position` at each.
fn frame_end(bytes: &[u8], after_fs: bool) -> Option<usize> {
    if after_fs && bytes.first() == Some(&CR) {
        return Some(1);
    }
    for (n, block) in bytes.chunks(1024).enumerate() {
        if !block.contains(&FS) {
            continue;
        }
        for (at, _) in block.iter().enumerate().filter(|(_, byte)| **byte == FS) {
            let at = n * 1024 + at;
            if bytes.get(at + 1) == Some(&CR) {
                return Some(at + 2);
            }
        }
    }
    None
}

/// Messages a second when their archive files are all that is made of them.
pub(super) fn files(folder: &Path, message: &[u8], time: Duration, most: u64) -> io::Result<f64> {
    let folder = unused(&folder.join("ceiling.files")).join("2025/05/12");
    std::fs::create_dir_all(&folder)?;
    per_second(time, most, |number| {
        create(&folder.join(format!("20250512T101530.{number:020}.hl7")), message)
    })
}

/// Messages a second when each reads the PDF and writes the message and its PDF twice: archived and dropped.
pub(super) fn copy(folder: &Path, message: &[u8], pdf: &[u8], time: Duration, most: u64) -> io::Result<f64> {
    let folder = unused(&folder.join("ceiling.copy"));
    std::fs::create_dir_all(&folder)?;
    let source = folder.join("source.pdf");
    create(&source, pdf)?;
    per_second(time, most, |number| {
        let pdf = std::fs::read(&source)?;
        create(&folder.join(format!("{number:020}.hl7")), message)?;
        create(&folder.join(format!("{number:020}.archived.pdf")), &pdf)?;
        create(&folder.join(format!("{number:020}.dropped.pdf")), &pdf)
    })
}

fn create(path: &Path, bytes: &[u8]) -> io::Result<()> {
    OpenOptions::new().create_new(true).write(true).mode(0o640).open(path)?.write_all(bytes)
}

/// The name with a number behind it that is not taken: removing earlier files first would slow the next ones down.
fn unused(path: &Path) -> PathBuf {
    let mut numbered = (0u32..).map(|n| PathBuf::from(format!("{}.{n}", path.display())));
    numbered.find(|path| !path.exists()).expect("numbers never end")
}

/// Runs `work` on [`THREADS`] threads for that long, at most so many times, under numbers that never repeat.
fn per_second(time: Duration, most: u64, work: impl Fn(u64) -> io::Result<()> + Sync) -> io::Result<f64> {
    let number = AtomicU64::new(0);
    let start = Instant::now();
    std::thread::scope(|scope| {
        let thread = || -> io::Result<()> {
            while start.elapsed() < time {
                let number = number.fetch_add(1, Ordering::Relaxed);
                if number >= most {
                    break;
                }
                work(number)?;
            }
            Ok(())
        };
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(thread)).collect();
        threads.into_iter().try_for_each(|thread| {
            thread.join().unwrap_or_else(|_| Err(io::Error::other("a thread of a ceiling panicked")))
        })
    })?;
    Ok(number.into_inner().min(most) as f64 / start.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::super::load;
    use super::super::template::{Kind, Template};
    use super::*;

    #[test]
    fn a_frame_ends_at_fs_cr_only() {
        assert_eq!(frame_end(b"ab\x1c\r", false), Some(4));
        assert_eq!(frame_end(b"a\x1cb\x1c\rx", false), Some(5));
        assert_eq!(frame_end(b"\rx", true), Some(1));
        assert_eq!(frame_end(b"ab\x1c", false), None);
        let long = [vec![b'a'; 1023], b"\x1c\r".to_vec()].concat();
        assert_eq!(frame_end(&long, false), Some(1025));
    }

    #[test]
    fn both_servers_answer_every_frame() {
        let folder = tempfile::tempdir().unwrap();
        for journal_in in [None, Some(folder.path())] {
            let echo = Echo::start(journal_in).unwrap();
            for (kind, size) in [(Kind::Adt, 750), (Kind::Oru, 300 << 10)] {
                let template = Template::of(kind, size, 1);
                let closed = load::Shape::closed(2, 3, 20, Duration::from_secs(20));
                let shape = load::Shape { check: false, progress: false, ..closed };
                assert_eq!(load::run(echo.address, &template, &shape, 0).unwrap().acknowledged, 20);
            }
            echo.stop().unwrap();
        }
    }
}
