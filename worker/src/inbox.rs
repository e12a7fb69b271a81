//! What the other threads tell the reactor. It is looked at once a turn of the event loop; the waker ends its wait.

use crate::committer::Origin;
use crate::large_buffer::LargeBuffer;
use hl7::ack::Refusal;
use journal::MessageId;
use link::Answer;
use std::sync::Mutex;

/// News for the reactor.
#[derive(Debug)]
pub enum News {
    /// These messages are flushed: their answers may go out. Of a single one's answer so many bytes have gone already.
    Committed(Vec<Origin>, usize),
    /// These messages could not be stored: their peers get no answer.
    NotStored(Vec<Origin>),
    /// `ack: processed`: these messages have ended.
    Ended(Vec<(MessageId, Ending)>),
    /// The answer to a question of the master.
    Answer(u64, Answer),
}

/// How a message ended whose sender waits to hear that.
#[derive(Clone, Copy, Debug)]
pub enum Ending {
    /// Every step is done.
    Done,
    /// Its sender keeps it, and is told why.
    Returned(&'static Refusal),
}

/// The reactor's letter box.
#[derive(Debug)]
pub struct Inbox {
    news: Mutex<Vec<News>>,
    waker: mio::Waker,
    /// What a large message was received in, on its way back from the committer.
    pub large_buffer: LargeBuffer,
}

impl Inbox {
    /// An empty one that ends the reactor's wait by that waker.
    pub fn new(waker: mio::Waker) -> Inbox {
        Inbox { news: Mutex::default(), waker, large_buffer: LargeBuffer::default() }
    }

    /// Puts news in.
    pub fn push(&self, news: News) {
        let mut list = self.news.lock().unwrap_or_else(|e| e.into_inner());
        let first = list.is_empty();
        list.push(news);
        drop(list);
        if first && let Err(error) = self.waker.wake() {
            log::error!("could not wake the event loop: {error}");
        }
    }

    /// Takes everything out.
    pub fn take(&self) -> Vec<News> {
        std::mem::take(&mut self.news.lock().unwrap_or_else(|e| e.into_inner()))
    }
}
