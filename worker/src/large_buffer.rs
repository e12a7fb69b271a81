//! The buffer of the last large message, kept for a moment: a sender of large documents sends several. Memory that is new
//! to the process is handed out by the system page by page, which takes about as long as to receive what it then holds.

use crate::clock::instant;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Smaller buffers cost little; the C library keeps some of them anyhow.
pub(crate) const BYTES_MIN: usize = 1 << 20;
/// What a single message may leave behind.
const BYTES_MAX: usize = 32 << 20;
/// A quiet channel gives the memory back.
const KEPT_FOR: Duration = Duration::from_secs(2);

/// At most one buffer.
#[derive(Debug, Default)]
pub struct LargeBuffer(Mutex<Option<(Vec<u8>, Instant)>>);

impl LargeBuffer {
    /// A message is where it has to be and its buffer free: the larger of two is kept.
    pub fn keep(&self, buffer: Vec<u8>) {
        if (BYTES_MIN..=BYTES_MAX).contains(&buffer.capacity()) {
            let mut kept = self.lock();
            if kept.as_ref().is_none_or(|(other, _)| other.capacity() <= buffer.capacity()) {
                *kept = Some((buffer, instant()));
            }
        }
    }

    /// For the next large message.
    pub fn take(&self) -> Option<Vec<u8>> {
        self.lock().take().map(|(buffer, _)| buffer)
    }

    /// To be called about once a second.
    pub fn expire(&self) {
        let mut kept = self.lock();
        if kept.as_ref().is_some_and(|(_, since)| instant() - *since >= KEPT_FOR) {
            *kept = None;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<(Vec<u8>, Instant)>> {
        // A buffer or none: a panic leaves nothing half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells when a channel that was busy has nothing to do, and may give back the memory that it had use for.
#[derive(Debug, Default)]
pub struct Quiet {
    last_bytes_in: u64,
    since_bytes: u64,
}

impl Quiet {
    /// To be asked about once a second with what was received so far; says so once. Little traffic leaves nothing behind
    /// that would be worth it.
    pub fn begins(&mut self, bytes_in: u64, is_delivering: impl FnOnce() -> bool) -> bool {
        let is_still = std::mem::replace(&mut self.last_bytes_in, bytes_in) == bytes_in;
        let begins = is_still && bytes_in - self.since_bytes >= BYTES_MIN as u64 && !is_delivering();
        if begins {
            self.since_bytes = bytes_in;
        }
        begins
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::simulated;

    #[test]
    fn the_larger_buffer_is_kept_and_handed_out_once() {
        let large = LargeBuffer::default();
        large.keep(Vec::with_capacity(BYTES_MIN));
        large.keep(Vec::with_capacity(3 * BYTES_MIN));
        large.keep(Vec::with_capacity(2 * BYTES_MIN));
        assert!(large.take().unwrap().capacity() >= 3 * BYTES_MIN);
        assert!(large.take().is_none());
    }

    #[test]
    fn small_and_enormous_buffers_are_not_kept() {
        let large = LargeBuffer::default();
        large.keep(Vec::with_capacity(BYTES_MIN / 2));
        large.keep(Vec::with_capacity(BYTES_MAX + 1));
        assert!(large.take().is_none());
    }

    #[test]
    fn a_channel_is_quiet_once_when_it_neither_receives_nor_delivers() {
        let mut quiet = Quiet::default();
        let much = 3 * BYTES_MIN as u64;
        assert!(!quiet.begins(much, || false), "it has just received");
        assert!(!quiet.begins(much, || true));
        assert!(quiet.begins(much, || false));
        assert!(!quiet.begins(much, || false), "it was told");
        assert!(!quiet.begins(much + 1, || false));
        assert!(!quiet.begins(much + 1, || false), "for a byte it is not worth it");
    }

    #[test]
    fn a_quiet_channel_gives_the_memory_back() {
        simulated::set(Some(Duration::from_secs(10)));
        let large = LargeBuffer::default();
        large.keep(Vec::with_capacity(BYTES_MIN));
        simulated::set(Some(Duration::from_millis(11_900)));
        large.expire();
        assert!(large.lock().is_some());
        simulated::set(Some(Duration::from_secs(12)));
        large.expire();
        assert!(large.take().is_none());
        simulated::set(None);
    }
}
