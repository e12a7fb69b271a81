//! A storage that fails on purpose, and can be looked at as a crash would leave it.
//!
//! It keeps two views of every file and of the folder: what processes see, and what is durable. Writes stay
//! between the two, by sectors, until a flush. A flush that fails lies from then on, as ext4 and xfs do: the
//! bytes stay visible, count as clean, and never reach the disk unless they are written again. A killed
//! process leaves the first view; a power cut leaves the second, with any part of what was between them, in
//! any order. Everything follows from seeds.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{File, Room, Storage, memory};

const SECTOR: u64 = 512;

/// What can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Writing bytes.
    Write,
    /// Flushing a file.
    Sync,
    /// Changing a file's length.
    SetLength,
    /// Creating a file.
    Create,
    /// Renaming a file.
    Rename,
    /// Removing a file.
    Remove,
    /// Flushing the folder.
    SyncFolder,
    /// Listing the folder, opening a file, reading. Counted only for a plan that names it.
    Look,
}

/// What happens instead.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The operation fails with this error number; a write may have put part of its bytes down.
    Error(i32),
    /// A write takes only half of its bytes.
    Short,
    /// The operation does not happen, nor does any after it: the process or the machine is dead.
    Stop,
}

/// When which fault strikes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Counted from the next operation, which is 0.
    pub after: u64,
    /// Only these count; `None` for every one.
    pub only: Option<Operation>,
    /// What happens.
    pub fault: Fault,
    /// From then on always, or once.
    pub lasting: bool,
}

/// A small random generator (splitmix64): the same seed, the same run.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    /// The next 64 bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ mixed >> 31
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.bits() % limit
    }

    /// True this often in a hundred.
    pub fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }
}

/// A folder that fails as planned. Clones are the same folder.
#[derive(Debug, Clone, Default)]
pub struct Faulty(Arc<Mutex<Disk>>);

#[derive(Debug, Default)]
struct Disk {
    nodes: Vec<Node>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    name_changes: Vec<NameChange>,
    operations: u64,
    /// The first one is next; those behind it count from when it has struck.
    plans: VecDeque<Plan>,
    /// The first plan lasts, and has struck.
    lasts: bool,
    struck: u64,
    room: Option<u64>,
    dead: bool,
}

#[derive(Debug, Default, Clone)]
struct Node {
    seen: Vec<u8>,
    durable: Vec<u8>,
    changes: Vec<Change>,
    /// Sectors that a failed flush called clean.
    lost: Vec<u64>,
}

#[derive(Debug, Clone)]
enum Change {
    /// Whole sectors as they were after a write.
    Write {
        offset: u64,
        bytes: Vec<u8>,
    },
    Length(u64),
}

#[derive(Debug, Clone)]
struct NameChange {
    unset: Option<String>,
    set: Option<(String, usize)>,
}

fn dead() -> io::Error {
    io::Error::other("the storage was stopped")
}

impl Faulty {
    /// An empty folder without a plan.
    pub fn new() -> Self {
        Faulty::default()
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets, or with `None` clears, what is to fail.
    pub fn plan(&self, plan: Option<Plan>) {
        self.plans(plan);
    }

    /// Sets what is to fail one after another: each is counted from when the one before it has struck.
    pub fn plans(&self, plans: impl IntoIterator<Item = Plan>) {
        let mut disk = self.disk();
        disk.plans = plans.into_iter().collect();
        disk.lasts = false;
    }

    /// The plans that have not struck yet: a disk found again has none of its own.
    pub fn plans_left(&self) -> Vec<Plan> {
        let disk = self.disk();
        disk.plans.iter().skip(usize::from(disk.lasts)).copied().collect()
    }

    /// Whether a [`Fault::Stop`] has struck: whoever works on it is dead and does not know.
    pub fn is_dead(&self) -> bool {
        self.disk().dead
    }

    /// How many plans have struck.
    pub fn struck(&self) -> u64 {
        self.disk().struck
    }

    /// How many more bytes all files together may grow by; `None` for any.
    pub fn set_room(&self, bytes: Option<u64>) {
        self.disk().room = bytes;
    }

    /// How many operations there were that could have been made to fail.
    pub fn operations(&self) -> u64 {
        self.disk().operations
    }

    /// What a new process finds after this one was killed: everything that was seen, except that bytes a
    /// failed flush threw away may by now have left the page cache.
    pub fn after_kill(&self, seed: u64) -> Faulty {
        let mut random = Random::new(seed);
        let disk = self.disk();
        let mut nodes = disk.nodes.clone();
        for node in &mut nodes {
            let evicted = random.percent(50);
            for sector in std::mem::take(&mut node.lost) {
                if evicted && random.percent(50) {
                    node.forget(sector);
                } else {
                    node.lost.push(sector);
                }
            }
        }
        let (names, durable_names) = (disk.names.clone(), disk.durable_names.clone());
        let name_changes = disk.name_changes.clone();
        Faulty::of(Disk { nodes, names, durable_names, name_changes, ..Disk::default() })
    }

    /// What a machine finds after its power was cut: what was flushed, and any part of the rest.
    pub fn after_power_cut(&self, seed: u64) -> Faulty {
        let mut random = Random::new(seed);
        let disk = self.disk();
        let mut names = disk.durable_names.clone();
        // Most file systems keep changes of names in order; nothing here may depend on it.
        let ordered = random.percent(50);
        let chance = random.below(101);
        for change in &disk.name_changes {
            if random.percent(chance) {
                change.apply(&mut names);
            } else if ordered {
                break;
            }
        }
        let nodes = disk.nodes.iter().map(|node| node.after_power_cut(&mut random)).collect();
        Faulty::of(Disk { nodes, durable_names: names.clone(), names, ..Disk::default() })
    }

    fn of(disk: Disk) -> Faulty {
        Faulty(Arc::new(Mutex::new(disk)))
    }

    /// Inverts bits of a byte, in both views, as a dying disk does.
    ///
    /// # Errors
    /// `NotFound` for a name or an offset that does not exist.
    pub fn flip(&self, name: &str, at: u64, bits: u8) -> io::Result<()> {
        let mut disk = self.disk();
        let node = disk.get(name)?;
        let node = &mut disk.nodes[node];
        *node.seen.get_mut(at as usize).ok_or(io::ErrorKind::NotFound)? ^= bits;
        if let Some(byte) = node.durable.get_mut(at as usize) {
            *byte ^= bits;
        }
        Ok(())
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, usize>) {
        if let Some(name) = &self.unset {
            names.remove(name);
        }
        if let Some((name, node)) = &self.set {
            names.insert(name.clone(), *node);
        }
    }
}

impl Node {
    /// The sectors a write touched stand to be flushed, with all they hold by now.
    fn changed(&mut self, from: u64, to: u64) {
        let start = from / SECTOR * SECTOR;
        let end = to.next_multiple_of(SECTOR).min(self.seen.len() as u64);
        self.lost.retain(|&sector| sector < start / SECTOR || sector >= end.div_ceil(SECTOR));
        let bytes = self.seen[start as usize..end as usize].to_vec();
        self.changes.push(Change::Write { offset: start, bytes });
    }

    fn sync(&mut self) {
        for change in std::mem::take(&mut self.changes) {
            match change {
                Change::Write { offset, bytes } => put(&mut self.durable, offset, &bytes),
                Change::Length(length) => self.durable.resize(length as usize, 0),
            }
        }
    }

    /// A flush that failed: nothing is pending any more, and nothing was kept.
    fn lose(&mut self) {
        for change in std::mem::take(&mut self.changes) {
            match change {
                Change::Write { offset, bytes } => {
                    self.lost.extend(offset / SECTOR..(offset + bytes.len() as u64).div_ceil(SECTOR));
                }
                // Lengths are kept by the file system's own journal.
                Change::Length(length) => self.durable.resize(length as usize, 0),
            }
        }
        self.durable.resize(self.seen.len(), 0);
    }

    /// A page leaves the cache; who looks again sees what is on disk.
    fn forget(&mut self, sector: u64) {
        let from = ((sector * SECTOR) as usize).min(self.seen.len());
        let to = (from + SECTOR as usize).min(self.seen.len());
        for at in from..to {
            self.seen[at] = self.durable.get(at).copied().unwrap_or(0);
        }
    }

    fn after_power_cut(&self, random: &mut Random) -> Node {
        let mut durable = self.durable.clone();
        let chance = [0, 50, 95, 100][random.below(4) as usize];
        for change in &self.changes {
            match change {
                Change::Write { offset, bytes } => {
                    for (index, sector) in bytes.chunks(SECTOR as usize).enumerate() {
                        if random.percent(chance) {
                            put(&mut durable, offset + index as u64 * SECTOR, sector);
                        }
                    }
                }
                Change::Length(length) => {
                    if random.percent(chance) {
                        durable.resize(*length as usize, 0);
                    }
                }
            }
        }
        Node { seen: durable.clone(), durable, changes: Vec::new(), lost: Vec::new() }
    }
}

fn put(into: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let end = offset as usize + bytes.len();
    if into.len() < end {
        into.resize(end, 0);
    }
    into[offset as usize..end].copy_from_slice(bytes);
}

impl Disk {
    fn get(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn alive(&self) -> io::Result<()> {
        if self.dead { Err(dead()) } else { Ok(()) }
    }

    /// Counts an operation; says what is to go wrong with it.
    fn strike(&mut self, operation: Operation) -> io::Result<Option<Fault>> {
        self.alive()?;
        self.operations += u64::from(operation != Operation::Look);
        let Some(plan) = self.plans.front_mut() else { return Ok(None) };
        if plan.only.map_or(operation == Operation::Look, |only| only != operation) {
            return Ok(None);
        }
        if plan.after > 0 {
            plan.after -= 1;
            return Ok(None);
        }
        let fault = plan.fault;
        if !self.lasts {
            self.struck += 1;
        }
        self.lasts = plan.lasting;
        if !plan.lasting {
            self.plans.pop_front();
        }
        if fault == Fault::Stop {
            self.dead = true;
            return Err(dead());
        }
        Ok(Some(fault))
    }

    /// Likewise for operations that fail whole or not at all.
    fn strike_whole(&mut self, operation: Operation) -> io::Result<()> {
        match self.strike(operation)? {
            Some(Fault::Error(number)) => Err(io::Error::from_raw_os_error(number)),
            Some(Fault::Short | Fault::Stop) | None => Ok(()),
        }
    }

    fn rename(&mut self, change: NameChange) {
        change.apply(&mut self.names);
        self.name_changes.push(change);
    }

    /// How far a file may grow.
    fn grow(&mut self, node: usize, end: u64) -> u64 {
        let length = self.nodes[node].seen.len() as u64;
        let wanted = end.saturating_sub(length);
        match &mut self.room {
            Some(room) if *room < wanted => length + std::mem::take(room),
            Some(room) => {
                *room -= wanted;
                end
            }
            None => end,
        }
    }
}

impl Storage for Faulty {
    type File = FaultyFile;

    fn list(&self) -> io::Result<Vec<String>> {
        let mut disk = self.disk();
        disk.strike_whole(Operation::Look)?;
        Ok(disk.names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<FaultyFile> {
        let mut disk = self.disk();
        disk.strike_whole(Operation::Create)?;
        disk.nodes.push(Node::default());
        let node = disk.nodes.len() - 1;
        disk.rename(NameChange { unset: None, set: Some((name.to_owned(), node)) });
        Ok(FaultyFile { folder: self.clone(), node })
    }

    fn open(&self, name: &str) -> io::Result<FaultyFile> {
        let mut disk = self.disk();
        disk.strike_whole(Operation::Look)?;
        Ok(FaultyFile { folder: self.clone(), node: disk.get(name)? })
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk();
        disk.strike_whole(Operation::Remove)?;
        disk.get(name)?;
        disk.rename(NameChange { unset: Some(name.to_owned()), set: None });
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk();
        disk.strike_whole(Operation::Rename)?;
        let node = disk.get(from)?;
        disk.rename(NameChange { unset: Some(from.to_owned()), set: Some((to.to_owned(), node)) });
        Ok(())
    }

    fn sync_folder(&self) -> io::Result<()> {
        let mut disk = self.disk();
        disk.strike_whole(Operation::SyncFolder)?;
        disk.name_changes.clear();
        disk.durable_names = disk.names.clone();
        Ok(())
    }

    fn room(&self) -> io::Result<Room> {
        let free_bytes = self.disk().room.unwrap_or(1 << 40);
        Ok(Room { free_bytes, total_bytes: 1 << 40 })
    }
}

/// A file of a [`Faulty`].
#[derive(Debug)]
pub struct FaultyFile {
    folder: Faulty,
    node: usize,
}

impl File for FaultyFile {
    fn read_at(&self, into: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut disk = self.folder.disk();
        let most = match disk.strike(Operation::Look)? {
            Some(Fault::Error(number)) => return Err(io::Error::from_raw_os_error(number)),
            Some(Fault::Short) => into.len().div_ceil(2),
            Some(Fault::Stop) | None => into.len(),
        };
        Ok(memory::read(&disk.nodes[self.node].seen, &mut into[..most], offset))
    }

    fn write_at(&self, parts: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let mut disk = self.folder.disk();
        let all = parts.iter().map(|part| part.len() as u64).sum::<u64>();
        let fault = disk.strike(Operation::Write)?;
        let most = match fault {
            Some(Fault::Short) => all.div_ceil(2),
            Some(Fault::Error(_)) => all / 3,
            Some(Fault::Stop) | None => all,
        };
        let end = disk.grow(self.node, offset + most);
        let taken = end.saturating_sub(offset).min(most);
        let node = &mut disk.nodes[self.node];
        memory::write(&mut node.seen, parts, offset, taken as usize);
        if taken > 0 {
            node.changed(offset, offset + taken);
        }
        match fault {
            Some(Fault::Error(number)) => Err(io::Error::from_raw_os_error(number)),
            _ if taken == 0 && all > 0 => Err(io::ErrorKind::StorageFull.into()),
            _ => Ok(taken as usize),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = self.folder.disk();
        match disk.strike_whole(Operation::Sync) {
            Ok(()) => {
                disk.nodes[self.node].sync();
                Ok(())
            }
            Err(error) => {
                if !disk.dead {
                    disk.nodes[self.node].lose();
                }
                Err(error)
            }
        }
    }

    fn set_length(&self, bytes: u64) -> io::Result<()> {
        let mut disk = self.folder.disk();
        disk.strike_whole(Operation::SetLength)?;
        let node = &mut disk.nodes[self.node];
        node.seen.resize(bytes as usize, 0);
        node.lost.retain(|&sector| sector * SECTOR < bytes);
        node.changes.push(Change::Length(bytes));
        Ok(())
    }

    fn length(&self) -> io::Result<u64> {
        let disk = self.folder.disk();
        disk.alive()?;
        Ok(disk.nodes[self.node].seen.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(file: &FaultyFile) -> Vec<u8> {
        let mut bytes = vec![0; file.length().unwrap() as usize];
        file.read_at(&mut bytes, 0).unwrap();
        bytes
    }

    #[test]
    fn a_failed_flush_lies_until_the_bytes_are_written_again() {
        let disk = Faulty::new();
        let file = disk.create("a").unwrap();
        disk.sync_folder().unwrap();
        file.write_at(&[IoSlice::new(b"new")], 0).unwrap();
        let once = Plan { after: 0, only: Some(Operation::Sync), fault: Fault::Error(5), lasting: false };
        disk.plan(Some(once));
        assert!(file.sync_data().is_err());
        file.sync_data().unwrap();
        assert_eq!(seen(&file), b"new");
        assert_eq!(seen(&disk.after_power_cut(1).open("a").unwrap()), [0; 3]);
        file.write_at(&[IoSlice::new(b"new")], 0).unwrap();
        file.sync_data().unwrap();
        assert_eq!(seen(&disk.after_power_cut(1).open("a").unwrap()), b"new");
    }

    #[test]
    fn a_name_that_was_not_flushed_may_be_gone() {
        let disk = Faulty::new();
        disk.create("a").unwrap().sync_data().unwrap();
        let found = (0..50).map(|seed| disk.after_power_cut(seed).open("a").is_ok()).collect::<Vec<_>>();
        assert!(found.contains(&true) && found.contains(&false));
        assert!(disk.after_kill(0).open("a").is_ok());
        disk.sync_folder().unwrap();
        assert!((0..50).all(|seed| disk.after_power_cut(seed).open("a").is_ok()));
    }

    #[test]
    fn a_full_disk_takes_what_fits() {
        let disk = Faulty::new();
        let file = disk.create("a").unwrap();
        disk.set_room(Some(4));
        assert_eq!(file.write_at(&[IoSlice::new(b"abcdef")], 0).unwrap(), 4);
        let error = file.write_at(&[IoSlice::new(b"ef")], 4).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert_eq!(file.write_at(&[IoSlice::new(b"xy")], 0).unwrap(), 2);
    }
}
