//! The acknowledgment of a message that is alone in its flush: the committer writes it itself. Its sender waits for nothing
//! else, and waking the event loop first would take as long as a tenth of the flush.

use mio::net::TcpStream;
use rustix::net::{SendFlags, send};
use std::sync::Arc;

/// An answer that nothing stands before in its session, and the plain connection it goes to. Until the event loop hears
/// of the flush it writes nothing to that session itself: the answer's place is taken and waits.
#[derive(Debug)]
pub struct DirectAnswer {
    stream: Arc<TcpStream>,
    frame: Vec<u8>,
}

impl DirectAnswer {
    /// That frame to that peer.
    pub fn new(stream: Arc<TcpStream>, frame: Vec<u8>) -> DirectAnswer {
        DirectAnswer { stream, frame }
    }

    /// Sends it; returns how many of its bytes are with the system. What is left, and any error, is the event loop's,
    /// which meets the same error again.
    pub fn send(&self) -> usize {
        send(&*self.stream, &self.frame, SendFlags::DONTWAIT | SendFlags::NOSIGNAL).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::net::{TcpListener, TcpStream as Peer};

    fn pair() -> (Arc<TcpStream>, Peer) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let peer = Peer::connect(listener.local_addr().unwrap()).unwrap();
        let ours = listener.accept().unwrap().0;
        ours.set_nonblocking(true).unwrap();
        (Arc::new(TcpStream::from_std(ours)), peer)
    }

    #[test]
    fn what_does_not_go_at_once_is_left() {
        let (ours, mut peer) = pair();
        assert_eq!(DirectAnswer::new(Arc::clone(&ours), b"answer".to_vec()).send(), 6);
        let mut read = [0; 6];
        peer.read_exact(&mut read).unwrap();
        assert_eq!(&read, b"answer");
        let much = vec![b'x'; 64 << 20];
        let sent = DirectAnswer::new(Arc::clone(&ours), much.clone()).send();
        assert!((1..much.len()).contains(&sent), "{sent}");
        assert_eq!(DirectAnswer::new(ours, much).send(), 0, "its peer reads nothing");
    }

    #[test]
    fn a_connection_that_is_gone_kills_nobody() {
        let (ours, peer) = pair();
        ours.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(DirectAnswer::new(Arc::clone(&ours), b"answer".to_vec()).send(), 0);
        drop(peer);
        assert_eq!(DirectAnswer::new(ours, b"answer".to_vec()).send(), 0);
    }
}
