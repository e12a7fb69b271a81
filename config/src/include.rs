//! Files → one tree, every `!include` followed.
//!
//! An include may stand for any value. A glob yields a list; a list item that includes a list is spliced in; an item
//! that includes an empty file is none (a channel file whose lines are all comments). Refused, with the chain of
//! includes named: a cycle, more than 16 levels, more than 1,000 files, a file over 8 MiB, one that is missing, is no
//! regular file or can be written by everybody.

use crate::glob;
use crate::problem::{Place, Report, Spot, quoted};
use crate::yaml::{self, Kind, Node};
use std::cell::Cell;
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Files inside each other.
const LEVELS_MAX: usize = 16;
/// Files of a load, each use counted: a file that includes the next one twice doubles at every level.
const FILES_MAX: usize = 1_000;
/// Bytes of one file.
const FILE_BYTES_MAX: u64 = 8 << 20;

/// Reads a file and all it includes, merge keys applied. `None`: it could not be read, and the report says why.
pub(crate) fn load(path: &Path, report: &mut Report) -> Option<Node> {
    let nodes = Cell::new(0);
    let file = report.add_file(path.to_owned());
    let mut loader = Loader { report, nodes: &nodes, files: 1, chain: Vec::new() };
    let spot = Spot { place: Place::whole(file), path: String::new() };
    let mut root = match read(path) {
        Ok(text) => loader.parse(path, file, &text, spot)?,
        Err(Unread { what, hint, line, column }) => {
            let place = Place { file, line, column };
            loader.report.error(&Spot { place, path: String::new() }, what, hint);
            return None;
        }
    };
    let spot = Spot { place: root.place, path: String::new() };
    yaml::merge_keys(&mut root, &spot, report);
    Some(root)
}

struct Loader<'a> {
    report: &'a mut Report,
    nodes: &'a Cell<usize>,
    files: usize,
    /// Files being read, the outermost first, each with the include that led to it.
    chain: Vec<Link>,
}

struct Link {
    identity: PathBuf,
    path: PathBuf,
    from: Option<Place>,
}

impl Loader<'_> {
    fn parse(&mut self, path: &Path, file: u32, text: &str, at: Spot) -> Option<Node> {
        let mut node = yaml::parse(text, file, &at.path, self.nodes, self.report)?;
        let from = if self.chain.is_empty() { None } else { Some(at.place) };
        self.chain.push(Link { identity: identity(path), path: path.to_owned(), from });
        let spot = Spot { place: node.place, path: at.path };
        self.follow(&mut node, &spot);
        self.chain.pop();
        Some(node)
    }

    /// Puts what is included in the place of every include below a node.
    fn follow(&mut self, node: &mut Node, spot: &Spot) {
        match &mut node.kind {
            Kind::Include(path) => {
                let path = std::mem::take(path);
                // Where nothing could be read the include stays, which readers pass over: it has been reported.
                let broken = Node { place: node.place, kind: Kind::Include(String::new()) };
                *node = self.include(&path, spot).unwrap_or(broken);
            }
            Kind::List(items) => {
                let before = std::mem::take(items);
                for (n, item) in before.into_iter().enumerate() {
                    let spot = spot.item(n, item.place);
                    self.follow_item(item, &spot, items);
                }
            }
            Kind::Table(entries) => {
                for entry in entries {
                    let spot = spot.key(&entry.key, entry.value.place);
                    self.follow(&mut entry.value, &spot);
                }
            }
            Kind::Null | Kind::Scalar(_) => {}
        }
    }

    /// A list item: an included list is spliced in, an included nothing left out.
    fn follow_item(&mut self, mut item: Node, spot: &Spot, items: &mut Vec<Node>) {
        let Kind::Include(path) = &item.kind else {
            self.follow(&mut item, spot);
            items.push(item);
            return;
        };
        match self.include(path, spot).map(|node| (node.place, node.kind)) {
            Some((_, Kind::List(included))) => items.extend(included),
            None | Some((_, Kind::Null)) => {}
            Some((place, kind)) => items.push(Node { place, kind }),
        }
    }

    /// What a path stands for. `None`: nothing, and the report says why.
    fn include(&mut self, path: &str, spot: &Spot) -> Option<Node> {
        let link = self.chain.last()?;
        let folder = link.path.parent().unwrap_or(Path::new(""));
        if path.trim().is_empty() {
            self.report.error(spot, "!include without a path", "write !include PATH");
            return None;
        }
        let target = folder.join(path);
        if !glob::is_pattern(path) {
            return self.include_file(&target, spot);
        }
        let found = match glob::expand(folder, path) {
            Ok(found) => found,
            Err(e) => {
                self.refuse(&target, spot, &format!("could not read its folder: {e}"), "create the folder");
                return None;
            }
        };
        let mut items = Vec::new();
        for path in &found {
            match self.include_file(path, spot) {
                Some(Node { kind: Kind::List(included), .. }) => items.extend(included),
                None | Some(Node { kind: Kind::Null, .. }) => {}
                Some(node) => items.push(node),
            }
            if self.files > FILES_MAX {
                break;
            }
        }
        Some(Node { place: spot.place, kind: Kind::List(items) })
    }

    fn include_file(&mut self, path: &Path, spot: &Spot) -> Option<Node> {
        if self.files > FILES_MAX {
            return None;
        }
        self.files += 1;
        if self.files > FILES_MAX {
            self.refuse(path, spot, "more than 1,000 files are included", "include fewer");
            return None;
        }
        if self.chain.len() >= LEVELS_MAX {
            self.refuse(path, spot, "more than 16 levels of includes", "include it from further up");
            return None;
        }
        let itself = identity(path);
        if self.chain.iter().any(|link| link.identity == itself) {
            self.refuse(path, spot, "it includes itself", "take one of these includes out");
            return None;
        }
        let text = match read(path) {
            Ok(text) => text,
            Err(fault) if fault.line > 0 => {
                let file = self.report.add_file(path.to_owned());
                let place = Place { file, line: fault.line, column: fault.column };
                let what = format!("{} ({})", fault.what, self.chain_to(path, spot));
                self.report.error(&Spot { place, path: String::new() }, what, fault.hint);
                return None;
            }
            Err(fault) => {
                self.refuse(path, spot, &fault.what, &fault.hint);
                return None;
            }
        };
        let file = self.report.add_file(path.to_owned());
        self.parse(path, file, &text, spot.clone())
    }

    fn refuse(&mut self, path: &Path, spot: &Spot, why: &str, hint: &str) {
        let shown = quoted(&path.to_string_lossy());
        let what = format!("cannot include {shown}: {why} ({})", self.chain_to(path, spot));
        self.report.error(spot, what, hint);
    }

    /// `hl7server.yaml:3:5 > channels.yaml:1:1 > adt.yaml`: each file with the place of its include, and the target.
    fn chain_to(&self, path: &Path, spot: &Spot) -> String {
        let places = self.chain.iter().filter_map(|link| link.from).chain([spot.place]);
        let mut chain: Vec<String> = places.map(|place| self.report.name_of(place)).collect();
        chain.push(path.display().to_string());
        chain.join(" > ")
    }
}

/// By which a file is known again, whatever the way to it.
fn identity(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

struct Unread {
    what: String,
    hint: String,
    /// 0 where it is about the whole file.
    line: u32,
    column: u32,
}

fn unread(what: impl Into<String>, hint: &str) -> Unread {
    Unread { what: what.into(), hint: hint.to_owned(), line: 0, column: 0 }
}

/// A file's text, checked before it is opened: opening a FIFO would wait for a writer.
fn read(path: &Path) -> Result<String, Unread> {
    let could_not = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => unread("no such file", "write the path of an existing file"),
        _ => unread(format!("could not read: {e}"), "make it readable for this user"),
    };
    let about = path.metadata().map_err(could_not)?;
    if !about.is_file() {
        return Err(unread("not a regular file", "a configuration is an ordinary file"));
    }
    if about.permissions().mode() & 0o002 != 0 {
        return Err(unread("everybody may write it", "chmod o-w"));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(could_not)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(could_not)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(unread("larger than 8 MiB", "split it with !include"));
    }
    String::from_utf8(bytes).map_err(|e| {
        let sound = e.utf8_error().valid_up_to();
        let bytes = e.as_bytes();
        let line_start = bytes[..sound].iter().rposition(|b| *b == b'\n').map_or(0, |at| at + 1);
        let cut = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Unread {
            what: format!("not UTF-8: byte {:#04x}", bytes[sound]),
            hint: "save the file as UTF-8".to_owned(),
            line: cut(bytes[..sound].iter().filter(|b| **b == b'\n').count() + 1),
            column: cut(String::from_utf8_lossy(&bytes[line_start..sound]).chars().count() + 1),
        }
    })
}
