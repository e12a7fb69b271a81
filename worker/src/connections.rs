//! The table of connections and what bounds them: how many there are, from where, and the bytes they hold.

use crate::session::Session;
use crate::transport::Transport;
use config::{Bounds, Network};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// A connection idle for that long makes room for a new one at `max_connections`.
const IDLE_MAKES_ROOM_MS: u64 = 15 * 60 * 1000;

/// One connection.
#[derive(Debug)]
pub struct Connection {
    /// Its bytes.
    pub transport: Transport,
    /// Its conversation.
    pub session: Session,
    /// Tells it from an earlier one in the same place.
    pub generation: u64,
    /// Address and port, for the log and the journal.
    pub peer: Arc<str>,
    /// Address.
    pub address: IpAddr,
    /// Unix time, microseconds.
    pub connected_us: i64,
    /// Bytes may be there to read.
    pub readable: bool,
    /// The peer has ended its side, or the connection is broken.
    pub ended: bool,
    /// Everything is written and our side ended: what the peer still sends is read and dropped until then.
    pub lingers_until_ms: Option<u64>,
    /// When the session wants to be told the time.
    pub deadline_ms: Option<u64>,
    /// When its TLS handshake must be done; `None` once it is, and in plain text.
    pub handshake_until_ms: Option<u64>,
    /// Bytes it held when last counted.
    pub counted_bytes: usize,
}

impl Connection {
    /// When it wants attention though nothing comes from its peer: the session is to be told the time, the handshake must
    /// be done, or it has lingered long enough. Where bytes of the peer lie unread because we do not read, its silence is
    /// none.
    pub fn due_ms(&self) -> Option<u64> {
        let silent = [self.deadline_ms, self.handshake_until_ms].into_iter().flatten().min();
        let silent = silent.filter(|_| !self.readable || self.session.is_unread());
        let lingering = self.lingers_until_ms.map(|until| if self.ended { 0 } else { until });
        [silent, lingering].into_iter().flatten().min()
    }

    /// Whether nothing is left to wait for after its last answer.
    pub fn has_lingered(&self, now_ms: u64) -> bool {
        self.lingers_until_ms.is_some_and(|until| until <= now_ms || self.ended)
    }

    /// Whether the peer has taken too long for its handshake.
    pub fn is_handshake_overdue(&self, now_ms: u64) -> bool {
        !self.readable && self.handshake_until_ms.is_some_and(|until| until <= now_ms)
    }
}

/// All connections.
#[derive(Debug, Default)]
pub struct Connections {
    table: Vec<Option<Connection>>,
    free: Vec<usize>,
    by_address: HashMap<IpAddr, usize>,
    generation: u64,
    /// Bytes held by all frames in progress.
    pub held_bytes: usize,
    /// Nobody is due before; with thousands of connections nobody looks through all of them in each turn.
    next_due_ms: u64,
}

/// Why a connection is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Denied {
    /// Its address is not in `allow`.
    Address,
    /// `max_connections_per_address`.
    PerAddress,
    /// `max_connections`.
    Full,
}

impl Denied {
    /// For the log.
    pub fn text(self) -> &'static str {
        match self {
            Denied::Address => "its address is not in allow",
            Denied::PerAddress => "max_connections_per_address is reached",
            Denied::Full => "max_connections is reached",
        }
    }
}

impl Connections {
    /// Whether a peer may connect; at `max_connections` the place of the connection that makes room.
    ///
    /// # Errors
    /// Why not.
    pub fn admit(
        &self,
        peer: IpAddr,
        allow: &[Network],
        bounds: &Bounds,
        now_ms: u64,
    ) -> Result<Option<usize>, Denied> {
        if !allow.is_empty() && !allow.iter().any(|network| network.contains(peer)) {
            return Err(Denied::Address);
        }
        if self.by_address.get(&peer).copied().unwrap_or(0) >= bounds.connections_per_address_max {
            return Err(Denied::PerAddress);
        }
        if self.len() < bounds.connections_max {
            return Ok(None);
        }
        let idle = self.iter().filter(|(_, c)| !c.session.in_frame() && c.session.owed() == 0);
        let longest = idle.min_by_key(|(_, c)| c.session.last_byte_ms());
        match longest {
            Some((at, c)) if now_ms.saturating_sub(c.session.last_byte_ms()) >= IDLE_MAKES_ROOM_MS => {
                Ok(Some(at))
            }
            _ => Err(Denied::Full),
        }
    }

    /// Takes a connection in; `make` is given its place and its generation.
    ///
    /// # Errors
    /// What `make` says.
    pub fn insert<E>(&mut self, make: impl FnOnce(usize, u64) -> Result<Connection, E>) -> Result<usize, E> {
        self.generation += 1;
        let at = self.free.last().copied().unwrap_or(self.table.len());
        let connection = make(at, self.generation)?;
        *self.by_address.entry(connection.address).or_default() += 1;
        if self.free.pop().is_some() {
            self.table[at] = Some(connection);
        } else {
            self.table.push(Some(connection));
        }
        Ok(at)
    }

    /// Takes a connection out.
    pub fn remove(&mut self, at: usize) -> Option<Connection> {
        let connection = self.table.get_mut(at)?.take()?;
        self.free.push(at);
        self.held_bytes -= connection.counted_bytes;
        if let Some(count) = self.by_address.get_mut(&connection.address) {
            *count -= 1;
            if *count == 0 {
                self.by_address.remove(&connection.address);
            }
        }
        Some(connection)
    }

    /// The connection at a place.
    pub fn get(&mut self, at: usize) -> Option<&mut Connection> {
        self.table.get_mut(at)?.as_mut()
    }

    /// The connection at a place, to look at.
    pub fn look(&self, at: usize) -> Option<&Connection> {
        self.table.get(at)?.as_ref()
    }

    /// The connection at a place, if it is still that one.
    pub fn get_same(&mut self, at: usize, generation: u64) -> Option<&mut Connection> {
        self.get(at).filter(|c| c.generation == generation)
    }

    /// Counts what a connection holds now.
    pub fn recount(&mut self, at: usize) {
        if let Some(connection) = self.table.get_mut(at).and_then(Option::as_mut) {
            let bytes = connection.session.buffered_bytes();
            self.held_bytes = self.held_bytes - connection.counted_bytes + bytes;
            connection.counted_bytes = bytes;
        }
    }

    /// Notes when a connection is due, after whatever may have changed that.
    pub fn watch(&mut self, at: usize) {
        if let Some(due_ms) = self.look(at).and_then(Connection::due_ms) {
            self.next_due_ms = self.next_due_ms.min(due_ms);
        }
    }

    /// No connection is due before that.
    pub fn next_due_ms(&self) -> u64 {
        debug_assert!(self.iter().filter_map(|(_, c)| c.due_ms()).all(|due| due >= self.next_due_ms));
        self.next_due_ms
    }

    /// The connections that are due; each is to be watched anew.
    pub fn take_due(&mut self, now_ms: u64) -> Vec<usize> {
        if self.next_due_ms() > now_ms {
            return Vec::new();
        }
        let (mut due, mut next_ms) = (Vec::new(), u64::MAX);
        for (at, connection) in self.iter() {
            match connection.due_ms() {
                Some(due_ms) if due_ms <= now_ms => due.push(at),
                Some(due_ms) => next_ms = next_ms.min(due_ms),
                None => {}
            }
        }
        self.next_due_ms = next_ms;
        due
    }

    /// The connection whose frame came furthest, of all or of those that have bytes to read: at `buffer_limit` it alone
    /// goes on reading, so that bytes get free.
    pub fn fullest(&self, only_sending: bool) -> Option<usize> {
        let could = self
            .iter()
            .filter(|(_, c)| (c.readable || !only_sending) && c.session.may_read() && c.session.in_frame());
        could.max_by_key(|(_, c)| c.counted_bytes).map(|(at, _)| at)
    }

    /// All connections with their places.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &Connection)> {
        self.table.iter().enumerate().filter_map(|(at, c)| Some((at, c.as_ref()?)))
    }

    /// All places in use.
    pub fn places(&self) -> Vec<usize> {
        self.iter().map(|(at, _)| at).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.table.len() - self.free.len()
    }
}

/// A peer's address as it is shown: an IPv4 peer of a dual-stack listener as IPv4.
pub fn canonical(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}
