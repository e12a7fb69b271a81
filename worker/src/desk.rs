//! Answers what the master passes on from the command line and what may wait for the disk: what is queued, what is to be
//! retried or discarded. One thread; the reactor never waits for it.

use crate::committer::{Append, Changed};
use crate::dispatcher::Dispatcher;
use crate::failed::FailedFolder;
use crate::inbox::{Inbox, News};
use crate::plan::Plan;
use crossbeam_channel::{Receiver, Sender, bounded};
use hl7::charset::{self, Encoding};
use hl7::header::Header;
use journal::{MessageId, Reader};
use link::{Answer, QUEUE_MAX, Question, Selection, Waiting};
use std::sync::Arc;
use std::time::Duration;

/// Failed messages retried or discarded by one entry of the committer's queue.
const PORTION: usize = 64;
/// How long the committer may take for a portion.
const PATIENCE: Duration = Duration::from_secs(60);

/// The desk.
pub struct Desk {
    /// Questions with their numbers.
    pub questions: Receiver<(u64, Question)>,
    /// Where answers go.
    pub inbox: Arc<Inbox>,
    /// Where retries and discards go on record.
    pub committer: Sender<Append>,
    /// What waits.
    pub dispatcher: Arc<Dispatcher>,
    /// What failed.
    pub failed: Arc<FailedFolder>,
    /// The messages' encoding.
    pub encoding: Encoding,
    /// Names of steps.
    pub plan: Arc<Plan>,
    /// Reads messages back.
    pub reader: Reader,
}

impl Desk {
    /// Answers until nobody can ask any more.
    pub fn run(self) {
        while let Ok((number, question)) = self.questions.recv() {
            match question {
                Question::Queue { limit } => self.answer(number, self.queue(limit as usize)),
                Question::Retry(selection) => self.change(number, &selection, Append::Retry),
                Question::Discard(selection) => self.change(number, &selection, Append::Discard),
                #[cfg(debug_assertions)]
                Question::Takeover(what) => self.answer(number, Answer::TakenOver(what.attempt())),
                Question::Peers => self.answer(number, Answer::Error("not asked at this desk".to_owned())),
            }
        }
    }

    fn answer(&self, number: u64, answer: Answer) {
        self.inbox.push(News::Answer(number, answer));
    }

    /// Passed on in small portions, so that acknowledgments go on between them.
    fn change(
        &self,
        number: u64,
        selection: &Selection,
        append: fn(Vec<MessageId>, Sender<Changed>) -> Append,
    ) {
        let ids = match self.chosen(selection) {
            Ok(ids) => ids,
            Err(problem) => return self.answer(number, Answer::Error(problem)),
        };
        let (told, hear) = bounded(1);
        let mut sum = Changed::default();
        for portion in ids.chunks(PORTION) {
            let sent = self.committer.send(append(portion.to_vec(), told.clone())).is_ok();
            match hear.recv_timeout(PATIENCE) {
                Ok(changed) if sent => {
                    sum.count += changed.count;
                    sum.problems.extend(changed.problems);
                }
                _ => {
                    sum.problems.push("the worker is stopping or its disk is stuck; ask again".to_owned());
                    break;
                }
            }
        }
        self.answer(number, Answer::Changed { count: sum.count, problems: sum.problems });
    }

    fn chosen(&self, selection: &Selection) -> Result<Vec<MessageId>, String> {
        let mut ids = if selection.all {
            self.failed.list()
        } else {
            let parse = |id: &String| id.parse().map_err(|_| format!("{id:?} is not a message id"));
            selection.ids.iter().map(parse).collect::<Result<Vec<MessageId>, String>>()?
        };
        ids.sort_unstable();
        ids.dedup();
        let Some(step) = &selection.step else { return Ok(ids) };
        let in_step = |id: &MessageId| self.failed.read(*id).is_ok_and(|(message, _)| message.step == *step);
        Ok(ids.into_iter().filter(in_step).collect())
    }

    fn queue(&self, limit: usize) -> Answer {
        let (rows, total) = self.dispatcher.waiting(limit.min(QUEUE_MAX));
        let waiting = rows.into_iter().map(|row| {
            let body = self.reader.read(row.location).map(|r| r.body).unwrap_or_default();
            let (control_id, message_type) = label_of(&body, self.encoding);
            Waiting {
                id: row.id.to_string(),
                control_id,
                message_type,
                received_us: row.received_us,
                step: row.place.map(|p| self.plan.name(usize::from(p)).to_owned()).unwrap_or_default(),
                attempt: row.wait.as_ref().map_or(0, |w| w.attempt),
                until_us: row.wait.as_ref().map(|w| w.until_us),
                reason: row.wait.map(|w| w.reason.into()).unwrap_or_default(),
            }
        });
        Answer::Queue(waiting.collect(), total as u64)
    }
}

/// MSH-10 and MSH-9 (`ADT^A01`) of a message, as text.
pub fn label_of(body: &[u8], encoding: Encoding) -> (String, String) {
    let Ok(readable) = charset::transcode_start(body, encoding) else { return Default::default() };
    readable.header().map(|header| label_behind(&header)).unwrap_or_default()
}

/// The same, of a header that was read.
pub fn label_behind(header: &Header<'_>) -> (String, String) {
    let text = |bytes| String::from_utf8_lossy(bytes);
    let (code, event) = header.message_type();
    let message_type = match event {
        b"" => text(code).into_owned(),
        event => [&*text(code), "^", &*text(event)].concat(),
    };
    (text(header.control_id()).into_owned(), message_type)
}
