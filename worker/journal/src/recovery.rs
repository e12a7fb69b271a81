//! Opening: what the files say, what of it can be trusted, and what has to be made safe before anybody
//! hears of it.
//!
//! 1. Names found are flushed; leftovers and retired segments go.
//! 2. Every segment is walked. Gaps in the sequence numbers are damage; bytes behind the last record are a
//!    tear and are cut off.
//! 3. The tail that may never have been flushed is written again and flushed. Writing it again matters: a
//!    kernel whose write-back failed shows bytes that are not on disk, calls them clean, and reports
//!    success for flushing them. After an I/O error, or where the tail has gaps, it is copied to a new
//!    segment instead.
//! 4. Only then the messages that wait are handed out.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::sync::Arc;

use crc32c::crc32c_append;

use crate::error::{Damage, DamageKind, JournalError};
use crate::reader::{self, RecordBytes};
use crate::recall;
use crate::record::{self, Head, Location, seed_at};
use crate::replay::{Content, ReplaySummary, Replayed};
use crate::scan::{self, Found, Walk};
use crate::segment::{DATA_START, Header, MARKER, Segment, aside_name, number_of, segment_name};
use crate::shared::{Chore, Shared};
use crate::storage::{self, File, Storage};
use crate::writer::{Meta, Options, Start};

/// How far the segment that an opening begins is zero-filled.
const FIRST_BYTES: u64 = 16 * 1024;

/// A segment after its walk.
struct Walked {
    number: u32,
    header: Header,
    walk: Walk,
}

/// Records missing between two others.
#[derive(Debug, Clone, Copy)]
struct Gap {
    /// Where the last record before it ends.
    segment: u32,
    offset: u64,
    before: u64,
    after: u64,
}

/// The sequence numbers as they come by.
#[derive(Default)]
struct Order {
    last: u64,
    /// Where the last record ended.
    place: (u32, u64),
    flushed: u64,
    gaps: Vec<Gap>,
    /// Records not known to be flushed.
    tail: VecDeque<(Location, u64)>,
}

impl Order {
    fn next(&mut self, found: &Found<'_>) {
        let sequence = found.head.sequence;
        if sequence <= self.last {
            // A copied tail begins: what the original lacked is here.
            self.gaps.retain(|gap| gap.before + 1 < sequence);
            self.tail.retain(|&(_, known)| known < sequence);
        } else if self.last > 0 && sequence > self.last + 1 {
            let (segment, offset) = self.place;
            self.gaps.push(Gap { segment, offset, before: self.last, after: sequence });
        }
        self.last = sequence;
        let location = found.location;
        self.place = (location.segment, u64::from(location.offset) + u64::from(location.length));
        self.flushed = self.flushed.max(found.head.flushed());
        while self.tail.front().is_some_and(|&(_, known)| known <= self.flushed) {
            self.tail.pop_front();
        }
        if sequence > self.flushed {
            self.tail.push_back((location, sequence));
        }
    }
}

struct Recovery<'s, S: Storage> {
    storage: &'s S,
    options: Options,
    names: Vec<String>,
    segments: Vec<Walked>,
    content: Content,
    order: Order,
    summary: ReplaySummary,
    recall: Vec<recall::RecallFile>,
    /// Nothing up to this segment counts any more.
    through: u32,
}

/// Where the writer goes on.
struct Resume<F> {
    segment: Segment<F>,
    position: u64,
    index_bytes: u64,
}

pub(crate) fn recover<S: Storage>(
    storage: S,
    options: Options,
    sink: &mut dyn FnMut(Replayed),
) -> Result<(Start<S>, ReplaySummary), JournalError> {
    let mut recovery = Recovery {
        storage: &storage,
        options,
        names: Vec::new(),
        segments: Vec::new(),
        content: Content::default(),
        order: Order::default(),
        summary: ReplaySummary::default(),
        recall: Vec::new(),
        through: 0,
    };
    recovery.clear_up()?;
    recovery.walk()?;
    recovery.report()?;
    let resume = recovery.secure().inspect_err(|error| {
        if let JournalError::Io(_) = error {
            // The next start must not believe a flush of the same pages.
            let _ = storage.create(MARKER);
            let _ = storage.sync_folder();
        }
    })?;
    let Recovery { segments, mut content, order, mut summary, recall, .. } = recovery;

    let current = Arc::new(resume.segment);
    let mut metas: BTreeMap<u32, Meta> = BTreeMap::new();
    for walked in &segments {
        let data_bytes = walked.walk.end - DATA_START;
        metas.insert(walked.number, Meta { number: walked.number, data_bytes, open: 0, open_bytes: 0 });
    }
    let number = current.number;
    metas.entry(number).or_insert(Meta { number, data_bytes: 0, open: 0, open_bytes: 0 });
    for (_, location) in content.locations() {
        let meta = metas.get_mut(&location.segment).expect("locations come from walked segments");
        meta.open += 1;
        meta.open_bytes += u64::from(location.length);
    }

    let shared = Arc::new(Shared::new(storage, options.segment_bytes));
    shared.publish(&current);
    *shared.recall() = recall;
    for (id, state) in content.ends() {
        shared.ends().set(id, state);
    }
    {
        let mut work = shared.work();
        for walked in segments.iter().filter(|walked| walked.number != number) {
            work.lengths.insert(walked.number, walked.walk.file_bytes);
            if !walked.walk.sealed {
                work.chores.push_back(Chore::Seal { number: walked.number, end: walked.walk.end });
            }
        }
    }
    summary.recent = content.recent();
    summary.messages_open = content.messages_open();
    summary.segments = metas.len() as u32;
    summary.records = content.records;
    content.hand_out(sink);
    let start = Start {
        shared,
        segments: metas.into_values().collect(),
        current,
        position: resume.position,
        sequence: order.last.max(order.flushed) + 1,
        index_bytes: resume.index_bytes,
    };
    Ok((start, summary))
}

impl<S: Storage> Recovery<'_, S> {
    /// Removes what a crash left lying about, and segments that were retired but not all unlinked.
    fn clear_up(&mut self) -> Result<(), JournalError> {
        // A name may stand in the cache only: before it is built upon, and before anything is unlinked
        // because of it, it has to be durable.
        self.storage.sync_folder().map_err(JournalError::Io)?;
        self.names = self.storage.list().map_err(JournalError::Io)?;
        self.summary.after_io_error = self.names.iter().any(|name| name == MARKER);
        let mut recalls: Vec<u32> = self.names.iter().filter_map(|name| number_of(name, "mem")).collect();
        recalls.sort_unstable();
        for &through in &recalls {
            self.through = through;
            match recall::read(self.storage, through).map_err(JournalError::Io)? {
                Some((file, entries)) => {
                    self.recall.push(file);
                    self.content.remember(entries);
                }
                None => {
                    self.damage(through, recall::recall_name(through), 0, DamageKind::Recall)?;
                    // Its name still says what has ended; reported once, it begins anew.
                    self.recall.push(recall::reset(self.storage, through)?);
                }
            }
        }
        let mut removed = false;
        for name in &self.names {
            let retired = number_of(name, "seg").is_some_and(|number| number <= self.through);
            if name.ends_with(".tmp") || retired {
                self.storage.remove(name).map_err(JournalError::Io)?;
                removed = true;
            }
        }
        if removed {
            self.storage.sync_folder().map_err(JournalError::Io)?;
        }
        Ok(())
    }

    fn walk(&mut self) -> Result<(), JournalError> {
        let mut numbers: Vec<u32> = self
            .names
            .iter()
            .filter_map(|name| number_of(name, "seg"))
            .filter(|&number| number > self.through)
            .collect();
        numbers.sort_unstable();
        for number in numbers {
            let name = segment_name(number);
            let file = self.storage.open(&name).map_err(JournalError::Io)?;
            let Some(header) = Header::read(&file, number)? else {
                self.storage.rename(&name, &aside_name(number)).map_err(JournalError::Io)?;
                self.storage.sync_folder().map_err(JournalError::Io)?;
                self.summary.damage.push(Damage { file: name, offset: 0, what: DamageKind::Header });
                continue;
            };
            let (content, order) = (&mut self.content, &mut self.order);
            let walk = scan::walk(&file, number, header.seed(), &mut |found| {
                order.next(&found);
                content.apply(found);
            })
            .map_err(JournalError::Io)?;
            self.order.flushed = self.order.flushed.max(walk.flushed);
            let flushed = self.order.flushed;
            self.order.tail.retain(|&(_, sequence)| sequence > flushed);
            let mut walk = walk;
            if walk.end + walk.torn_bytes <= header.remains {
                // All there is behind the last record may be the older segment's; what has our header is not.
                walk.torn_bytes = walk.torn_record_bytes;
            }
            self.segments.push(Walked { number, header, walk });
        }
        Ok(())
    }

    /// Reports gaps, and messages that wait in sealed segments but cannot be read.
    fn report(&mut self) -> Result<(), JournalError> {
        // In front of the very first record no other shows how many are missing.
        let first = self.segments.first().and_then(|first| Some((first.number, *first.walk.holes.first()?)));
        if let Some((segment, hole)) = first.filter(|(_, hole)| hole.before == 0) {
            let (offset, before, after) = (hole.from, self.order.flushed, hole.after);
            if before < after - 1 {
                self.order.gaps.insert(0, Gap { segment, offset, before, after });
            } else {
                self.damage(segment, segment_name(segment), offset, DamageKind::Lost { records: 0 })?;
            }
        }
        for gap in self.order.gaps.clone() {
            let records = gap.after - gap.before - 1;
            let flushed = gap.before < self.order.flushed;
            let what =
                if flushed { DamageKind::Lost { records } } else { DamageKind::LostUnflushed { records } };
            self.damage(gap.segment, segment_name(gap.segment), gap.offset, what)?;
        }
        self.verify()
    }

    fn verify(&mut self) -> Result<(), JournalError> {
        let mut left = self.options.verify_bytes;
        for index in 0..self.segments.len() {
            let Walked { number, header, walk } = &self.segments[index];
            let (number, seed) = (*number, header.seed());
            if !walk.sealed {
                continue;
            }
            let mut waits: Vec<(Location, crate::MessageId)> = self
                .content
                .locations()
                .filter(|(_, location)| location.segment == number)
                .map(|(id, location)| (location, id))
                .collect();
            waits.sort_unstable();
            let file = self.storage.open(&segment_name(number)).map_err(JournalError::Io)?;
            for (location, id) in waits {
                let Some(rest) = left.checked_sub(u64::from(location.length)) else { return Ok(()) };
                left = rest;
                match reader::received(&file, seed, location) {
                    Err(JournalError::Corrupt { file, offset, .. }) => {
                        self.damage(number, file, offset, DamageKind::Body { id })?;
                    }
                    other => drop(other?),
                }
            }
        }
        Ok(())
    }

    /// Notes damage and keeps a copy of the file, once.
    fn damage(
        &mut self,
        number: u32,
        file: String,
        offset: u64,
        what: DamageKind,
    ) -> Result<(), JournalError> {
        let aside = aside_name(number);
        if !self.names.contains(&aside) {
            match storage::copy(self.storage, &file, &aside) {
                Ok(()) => self.names.push(aside),
                // The original stays where it is; only the copy has to wait for room.
                Err(error) if crate::error::is_full(&error) => {
                    let _ = self.storage.remove(&aside);
                }
                Err(error) => return Err(JournalError::Io(error)),
            }
        }
        self.summary.damage.push(Damage { file, offset, what });
        Ok(())
    }

    /// Makes everything found durable and says where to go on.
    fn secure(&mut self) -> Result<Resume<S::File>, JournalError> {
        let gap_in_tail = self.order.gaps.iter().any(|gap| gap.before >= self.order.flushed);
        let copy = self.summary.after_io_error || gap_in_tail;
        let resume = if copy { self.copy_tail()? } else { self.rewrite_tail()? };
        if self.summary.after_io_error {
            self.storage.remove(MARKER).map_err(JournalError::Io)?;
            self.storage.sync_folder().map_err(JournalError::Io)?;
        }
        Ok(resume)
    }

    /// The number a new segment gets: none is ever used twice, not even one put aside.
    fn new_number(&self) -> u32 {
        let aside = self.names.iter().filter_map(|name| number_of(name, "damaged"));
        let segments = self.segments.iter().map(|walked| walked.number);
        segments.chain(aside).chain([self.through]).max().unwrap_or(0) + 1
    }

    /// Writes the unflushed tail again where it stands, flushes it, cuts off what is torn.
    fn rewrite_tail(&mut self) -> Result<Resume<S::File>, JournalError> {
        let mut resume = None;
        let last = self.segments.last().map(|walked| walked.number);
        for walked in &mut self.segments {
            if walked.walk.sealed {
                continue;
            }
            let number = walked.number;
            let file = self.storage.open(&segment_name(number)).map_err(JournalError::Io)?;
            if let Some((first, _)) = self.order.tail.iter().find(|(at, _)| at.segment == number) {
                rewrite(&file, u64::from(first.offset), walked.walk.end)?;
            }
            // Lost records are kept as evidence until the segment goes; everything else is a tear.
            let damaged =
                self.order.gaps.iter().any(|gap| gap.segment == number) || !walked.walk.holes.is_empty();
            let torn = walked.walk.torn_bytes;
            if torn > 0 && !damaged {
                self.summary.cut_bytes += torn;
                file.set_length(walked.walk.end).map_err(JournalError::Io)?;
                walked.walk.file_bytes = walked.walk.end;
            }
            // Also without a tail: zeros written over a batch taken back count as much.
            file.sync_data().map_err(JournalError::Io)?;
            let room = walked.walk.end + walked.walk.index_bytes + crate::footer::FIXED_BYTES + 1024;
            if Some(number) == last && !damaged && room < u64::from(self.options.segment_bytes) {
                resume = Some(Resume {
                    segment: Segment::new(walked.header, file, walked.walk.file_bytes.max(walked.walk.end)),
                    position: walked.walk.end,
                    index_bytes: walked.walk.index_bytes,
                });
            }
        }
        match resume {
            Some(resume) => Ok(resume),
            None => {
                let zeros = FIRST_BYTES.min(u64::from(self.options.segment_bytes));
                // With the header's flush: no filler has been at work, and the first message finds blocks that are there.
                let segment = Segment::create_with(self.storage, self.new_number(), |file, _| {
                    storage::write_zeros(file, DATA_START, zeros)?;
                    Ok(zeros)
                })?;
                Ok(Resume { segment, position: DATA_START, index_bytes: 0 })
            }
        }
    }

    /// Copies the unflushed tail to a new segment, numbered without gaps, and cuts it off the old ones.
    fn copy_tail(&mut self) -> Result<Resume<S::File>, JournalError> {
        let number = self.new_number();
        let mut sequence = self.order.flushed;
        let mut index_bytes = 0;
        let mut fault = None;
        let (storage, segments) = (self.storage, &self.segments);
        let (content, tail) = (&mut self.content, &self.order.tail);
        let flushed = self.order.flushed;
        let made = Segment::create_with(storage, number, |new, new_seed| {
            let mut at = DATA_START;
            for (from, _) in tail {
                let copied = (|| -> Result<u64, JournalError> {
                    let walked = segments
                        .iter()
                        .find(|walked| walked.number == from.segment)
                        .expect("the tail stands in walked segments");
                    let file = storage.open(&segment_name(from.segment)).map_err(JournalError::Io)?;
                    let record = RecordBytes::read(&file, walked.header.seed(), *from)?;
                    sequence += 1;
                    let seed = seed_at(new_seed, at);
                    let head = Head {
                        crc: crc32c_append(crc32c_append(seed, &record.meta), &record.body),
                        sequence,
                        unflushed: u32::try_from(sequence - flushed).unwrap_or(u32::MAX),
                        ..record.head
                    };
                    let (end, end_bytes) = record::tail(&head, seed);
                    let encoded = head.encode(seed);
                    let mut parts = [
                        IoSlice::new(&encoded),
                        IoSlice::new(&record.meta),
                        IoSlice::new(&record.body),
                        IoSlice::new(&end[..end_bytes]),
                    ];
                    storage::write_full(new, &mut parts, at)?;
                    index_bytes += crate::footer::entry_bytes(record.meta.len());
                    let location = Location { segment: number, offset: at as u32, length: from.length };
                    content.apply(Found { head, meta: &record.meta, location });
                    Ok(head.record_bytes())
                })();
                match copied {
                    Ok(bytes) => at += bytes,
                    Err(JournalError::Full(error) | JournalError::Io(error)) => return Err(error),
                    Err(error) => {
                        fault = Some(error);
                        return Err(io::ErrorKind::InvalidData.into());
                    }
                }
            }
            Ok(at)
        });
        let segment = match (made, fault) {
            (_, Some(error)) => return Err(error),
            (made, None) => made?,
        };
        for walked in self.segments.iter_mut().filter(|walked| !walked.walk.sealed) {
            let first = self.order.tail.iter().find(|(at, _)| at.segment == walked.number);
            let end = first.map_or(walked.walk.end, |(at, _)| u64::from(at.offset));
            self.summary.cut_bytes += walked.walk.torn_bytes;
            // Should this fail, replay meets the old tail before its copy, which changes nothing.
            if let Ok(file) = self.storage.open(&segment_name(walked.number))
                && file.set_length(end).is_ok()
            {
                walked.walk.file_bytes = end;
                let _ = file.sync_data();
            }
            walked.walk.end = end;
        }
        self.order.last = sequence;
        let position = segment.filled();
        Ok(Resume { segment, position, index_bytes })
    }
}

/// Reads a stretch and writes it back, so that the kernel has to flush it whatever it believes.
fn rewrite(file: &impl File, from: u64, to: u64) -> Result<(), JournalError> {
    let mut buffer = vec![0; 256 * 1024];
    let mut at = from;
    while at < to {
        let bytes = ((to - at) as usize).min(buffer.len());
        let read = storage::read_full(file, &mut buffer[..bytes], at).map_err(JournalError::Io)?;
        if read == 0 {
            break;
        }
        at += storage::write_full(file, &mut [IoSlice::new(&buffer[..read])], at)?;
    }
    Ok(())
}
