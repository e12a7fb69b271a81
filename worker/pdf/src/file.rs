//! A document's objects, read when they are asked for.
//!
//! lopdf's own loader reads every object of a file. A stamp needs some ten of them, and reading no more is what makes
//! it quick and keeps a bomb in the rest of the file asleep. Only a damaged file is loaded whole
//! ([`crate::recovery`]), and stands behind the same two calls, [`File::get`] and [`File::resolve`].

use crate::encryption;
use crate::lexer::{Lexer, Stop};
use crate::limits::Limits;
use crate::stream::{self, Undecoded};
use crate::xref::{self, Entry, Fault, Xref};
use lopdf::{Dictionary, EncryptionState, Object, ObjectId, Stream};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::rc::Rc;

/// References that lead to references; more than two is odd, a circle is an attack.
const HOPS_MAX: usize = 16;

/// A document that is being read.
pub(crate) struct File<'a> {
    store: Store<'a>,
    objects_left: usize,
    decompressed_left: usize,
    read: HashMap<ObjectId, Rc<Object>>,
    /// Being read now: what refers to itself on the way is null.
    reading: HashSet<u32>,
    containers: HashMap<u32, Rc<Container>>,
    /// How strings and streams are encrypted, where they are.
    pub(crate) encryption: Option<EncryptionState>,
    encrypt_id: Option<u32>,
    null: Rc<Object>,
}

enum Store<'a> {
    Bytes { bytes: &'a [u8], xref: Xref },
    Loaded { objects: BTreeMap<ObjectId, Object>, trailer: Dictionary },
}

/// An object stream, decompressed.
struct Container {
    content: Vec<u8>,
    /// Number and place of each object.
    index: Vec<(u32, usize)>,
}

impl<'a> File<'a> {
    /// A file as its cross-reference has it; `bytes` start at the header.
    pub(crate) fn open(bytes: &'a [u8], limits: &Limits) -> Result<File<'a>, Fault> {
        let mut decompressed_left = limits.decompressed_bytes_max;
        let xref = xref::read(bytes, limits, &mut decompressed_left)?;
        Ok(File::new(Store::Bytes { bytes, xref }, limits, decompressed_left))
    }

    /// A file whose objects were recovered, decrypted already.
    pub(crate) fn loaded(
        objects: BTreeMap<ObjectId, Object>,
        trailer: Dictionary,
        limits: &Limits,
    ) -> File<'a> {
        File::new(Store::Loaded { objects, trailer }, limits, limits.decompressed_bytes_max)
    }

    fn new(store: Store<'a>, limits: &Limits, decompressed_left: usize) -> File<'a> {
        File {
            store,
            objects_left: limits.objects_max,
            decompressed_left,
            read: HashMap::new(),
            reading: HashSet::new(),
            containers: HashMap::new(),
            encryption: None,
            encrypt_id: None,
            null: Rc::new(Object::Null),
        }
    }

    /// The trailer of the newest section.
    pub(crate) fn trailer(&self) -> &Dictionary {
        match &self.store {
            Store::Bytes { xref, .. } => &xref.trailer,
            Store::Loaded { trailer, .. } => trailer,
        }
    }

    /// The cross-reference the file came with, where it is relied on.
    pub(crate) fn xref(&self) -> Option<&Xref> {
        match &self.store {
            Store::Bytes { xref, .. } => Some(xref),
            Store::Loaded { .. } => None,
        }
    }

    /// All objects, of a file that was loaded whole.
    pub(crate) fn into_objects(self) -> BTreeMap<ObjectId, Object> {
        match self.store {
            Store::Bytes { .. } => BTreeMap::new(),
            Store::Loaded { objects, .. } => objects,
        }
    }

    /// A number no object of the file has, nor any after it.
    pub(crate) fn next_number(&self) -> u32 {
        let highest = match &self.store {
            Store::Bytes { xref, .. } => xref.entries.keys().max().copied(),
            Store::Loaded { objects, .. } => objects.keys().next_back().map(|id| id.0),
        };
        let size = self.trailer().get(b"Size").and_then(Object::as_i64).ok();
        // A size beyond all reason is not believed: readers refuse numbers above 8,388,607 (Annex C).
        let size = size.and_then(|size| u32::try_from(size).ok()).filter(|&size| size < 8_000_000);
        highest.unwrap_or(0).saturating_add(1).max(size.unwrap_or(1))
    }

    /// Finds out how the file is encrypted, and whether it opens without a password.
    pub(crate) fn decrypt(&mut self) -> Result<(), encryption::Locked> {
        let Ok(entry) = self.trailer().get(b"Encrypt").cloned() else { return Ok(()) };
        if entry.is_null() {
            return Ok(());
        }
        let unreadable = |_| encryption::Locked::Unsupported("its dictionary is damaged".into());
        let dictionary = self.resolve_deep(&entry, 4).map_err(unreadable)?;
        let id = self.trailer().get(b"ID").cloned().unwrap_or(Object::Null);
        let id = self.resolve_deep(&id, 2).map_err(unreadable)?;
        self.encryption = Some(encryption::unlock(dictionary, id)?);
        self.encrypt_id = entry.as_reference().ok().map(|id| id.0);
        // What was read on the way was read without the key.
        self.read.clear();
        self.containers.clear();
        Ok(())
    }

    /// An object by its id; null where the file has none.
    pub(crate) fn get(&mut self, id: ObjectId) -> Result<Rc<Object>, Fault> {
        if let Some(object) = self.read.get(&id) {
            return Ok(Rc::clone(object));
        }
        if !self.reading.insert(id.0) {
            return Ok(Rc::clone(&self.null));
        }
        let object = self.fetch(id);
        self.reading.remove(&id.0);
        let object = Rc::new(object?);
        self.read.insert(id, Rc::clone(&object));
        Ok(object)
    }

    /// As [`File::get`], for objects looked at once in a walk over many.
    pub(crate) fn get_passing(&mut self, id: ObjectId) -> Result<Rc<Object>, Fault> {
        let known = self.read.contains_key(&id);
        let object = self.get(id)?;
        if !known {
            self.read.remove(&id);
        }
        Ok(object)
    }

    /// An object, or what a reference leads to.
    pub(crate) fn resolve(&mut self, object: &Object) -> Result<Rc<Object>, Fault> {
        let Object::Reference(id) = object else { return Ok(Rc::new(object.clone())) };
        let mut found = self.get(*id)?;
        for _ in 0..HOPS_MAX {
            let Object::Reference(next) = *found else { return Ok(found) };
            found = self.get(next)?;
        }
        Ok(Rc::clone(&self.null))
    }

    /// What stands at `key`, references followed; null where nothing does.
    pub(crate) fn entry(&mut self, dictionary: &Dictionary, key: &[u8]) -> Result<Rc<Object>, Fault> {
        match dictionary.get(key) {
            Ok(object) => self.resolve(object),
            Err(_) => Ok(Rc::clone(&self.null)),
        }
    }

    /// The dictionary at `key`, a copy; empty where there is none.
    pub(crate) fn dictionary(&mut self, dictionary: &Dictionary, key: &[u8]) -> Result<Dictionary, Fault> {
        Ok(match &*self.entry(dictionary, key)? {
            Object::Dictionary(found) => found.clone(),
            _ => Dictionary::new(),
        })
    }

    /// The number `object` is or leads to.
    pub(crate) fn number(&mut self, object: &Object) -> Result<Option<f64>, Fault> {
        Ok(match &*self.resolve(object)? {
            Object::Integer(number) => Some(*number as f64),
            Object::Real(number) => Some(f64::from(*number)),
            _ => None,
        })
    }

    /// A stream's bytes, decompressed; `None` where no filter here reads them.
    pub(crate) fn decode(&mut self, stream: &Stream) -> Result<Option<Vec<u8>>, Fault> {
        let mut dictionary = Dictionary::new();
        for key in [&b"Filter"[..], b"DecodeParms"] {
            if let Ok(object) = stream.dict.get(key) {
                dictionary.set(key, self.resolve_deep(object, 3)?);
            }
        }
        if dictionary.get(b"Filter").is_ok_and(|filter| filter.is_null()) {
            dictionary.remove(b"Filter");
        }
        match stream::decode(&dictionary, &stream.content, &mut self.decompressed_left) {
            Ok(content) => Ok(Some(content)),
            Err(Undecoded::Unreadable) => Ok(None),
            Err(Undecoded::TooMuch) => Err(Fault::TooMuch("decompressed bytes")),
        }
    }

    /// A copy with every reference in it replaced by what it leads to, `depth` levels down.
    fn resolve_deep(&mut self, object: &Object, depth: usize) -> Result<Object, Fault> {
        let object = self.resolve(object)?;
        let Some(depth) = depth.checked_sub(1) else { return Ok((*object).clone()) };
        Ok(match &*object {
            Object::Array(items) => Object::Array(
                items.iter().map(|item| self.resolve_deep(item, depth)).collect::<Result<_, _>>()?,
            ),
            Object::Dictionary(dictionary) => {
                let mut copy = Dictionary::new();
                for (key, value) in dictionary {
                    copy.set(key.clone(), self.resolve_deep(value, depth)?);
                }
                Object::Dictionary(copy)
            }
            other => other.clone(),
        })
    }

    fn fetch(&mut self, id: ObjectId) -> Result<Object, Fault> {
        let (bytes, entry) = match &self.store {
            Store::Loaded { objects, .. } => return Ok(objects.get(&id).cloned().unwrap_or(Object::Null)),
            Store::Bytes { bytes, xref } => (*bytes, xref.entries.get(&id.0).copied()),
        };
        match entry {
            None | Some(Entry::Free) => Ok(Object::Null),
            Some(Entry::At { offset, generation }) if generation == id.1 => self.read_at(bytes, offset, id),
            Some(Entry::At { .. }) => Ok(Object::Null),
            Some(Entry::Within { container, index }) if id.1 == 0 => self.read_within(container, index, id.0),
            Some(Entry::Within { .. }) => Ok(Object::Null),
        }
    }

    fn read_at(&mut self, bytes: &'a [u8], offset: usize, id: ObjectId) -> Result<Object, Fault> {
        let found = xref::object_at(bytes, offset).filter(|&(number, ..)| number == id.0);
        let Some((_, _, at)) = found else {
            return Err(Fault::Damaged(format!("object {} is not where the cross-reference has it", id.0)));
        };
        let mut lexer = Lexer::new(bytes, at);
        let object = or_null(lexer.object(&mut self.objects_left))?;
        let mut object = match object {
            Object::Dictionary(dict) => {
                let length = match dict.get(b"Length") {
                    Ok(Object::Integer(length)) => Some(*length),
                    Ok(reference @ Object::Reference(_)) => self.resolve(reference)?.as_i64().ok(),
                    _ => None,
                };
                match stream::data(bytes, &mut lexer, length) {
                    Some(data) => Object::Stream(Stream {
                        dict,
                        content: bytes[data].to_vec(),
                        allows_compression: false,
                        start_position: None,
                    }),
                    None => Object::Dictionary(dict),
                }
            }
            other => other,
        };
        if let Some(state) = &self.encryption
            && self.encrypt_id != Some(id.0)
        {
            // What does not decrypt stays as it is, and is then junk like any other.
            let _ = lopdf::encryption::decrypt_object(state, id, &mut object);
        }
        Ok(object)
    }

    fn read_within(&mut self, container: u32, index: u32, number: u32) -> Result<Object, Fault> {
        let Some(container) = self.container(container)? else {
            return Err(Fault::Damaged(format!("the object stream {container} cannot be read")));
        };
        let listed = container.index.get(index as usize).filter(|entry| entry.0 == number);
        let Some(&(_, at)) = listed.or_else(|| container.index.iter().find(|entry| entry.0 == number)) else {
            return Ok(Object::Null);
        };
        or_null(Lexer::new(&container.content, at).object(&mut self.objects_left))
    }

    fn container(&mut self, number: u32) -> Result<Option<Rc<Container>>, Fault> {
        if let Some(container) = self.containers.get(&number) {
            return Ok(Some(Rc::clone(container)));
        }
        let object = self.get_passing((number, 0))?;
        let Object::Stream(stream) = &*object else { return Ok(None) };
        let Some(content) = self.decode(stream)? else { return Ok(None) };
        let first =
            self.entry(&stream.dict, b"First")?.as_i64().ok().and_then(|first| usize::try_from(first).ok());
        let Some(first) = first.filter(|&first| first <= content.len()) else { return Ok(None) };
        let mut lexer = Lexer::new(&content[..first], 0);
        let mut index = Vec::new();
        while let (Some(number), Some(offset)) = (lexer.take_unsigned(), lexer.take_unsigned()) {
            self.objects_left = self.objects_left.checked_sub(1).ok_or(Fault::TooMuch("objects"))?;
            let offset = usize::try_from(offset).unwrap_or(usize::MAX).saturating_add(first);
            index.push((u32::try_from(number).unwrap_or(u32::MAX), offset));
        }
        let container = Rc::new(Container { content, index });
        self.containers.insert(number, Rc::clone(&container));
        Ok(Some(container))
    }
}

/// A malformed object is none.
fn or_null(object: Result<Object, Stop>) -> Result<Object, Fault> {
    match object {
        Ok(object) => Ok(object),
        Err(Stop::Malformed) => Ok(Object::Null),
        Err(Stop::Nesting) => Err(Fault::TooMuch("objects within one another")),
        Err(Stop::Objects) => Err(Fault::TooMuch("objects")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_circle_of_references_is_null() {
        let objects =
            BTreeMap::from([((1, 0), Object::Reference((2, 0))), ((2, 0), Object::Reference((1, 0)))]);
        let mut file = File::loaded(objects, Dictionary::new(), &Limits::default());
        assert!(file.resolve(&Object::Reference((1, 0))).unwrap().is_null());
    }

    #[test]
    fn a_new_number_is_above_all_and_a_wild_size_is_not_believed() {
        let objects = BTreeMap::from([((7, 0), Object::Null)]);
        let size = |size: i64| Dictionary::from_iter([("Size", Object::Integer(size))]);
        for (said, next) in [(3, 8), (20, 20), (4_000_000_000, 8), (-1, 8)] {
            assert_eq!(File::loaded(objects.clone(), size(said), &Limits::default()).next_number(), next);
        }
    }
}
