//! YAML text → a tree of nodes, each with its place.
//!
//! Two readings of the same text are laid over each other. `serde_yaml` says what a scalar is (null, boolean, number,
//! text) but keeps no positions and stops at its first complaint; `saphyr-parser` gives every node its line and column
//! and the text of a number as it was written. Where the two disagree on the shape of a file, the file is refused
//! rather than guessed at. Nothing here knows a key of the configuration.

mod marks;
mod merge;
mod scalar;
mod values;

pub(crate) use merge::merge_keys;
pub(crate) use scalar::{Resolved, Scalar, is_typographic_quote, parse_wait};

use crate::problem::{Place, Report, Spot};
use marks::{Event, Marked};
use std::cell::Cell;
use std::collections::HashMap;
use values::Value;

/// Nodes of all files together, aliases expanded: what an alias bomb would pass.
pub(crate) const NODES_MAX: usize = 1_000_000;

/// Lists and tables inside each other. `serde_yaml` stops at 128; ours have no use for more than about ten.
const DEPTH_MAX: usize = 64;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    /// Where it begins.
    pub(crate) place: Place,
    /// What it is.
    pub(crate) kind: Kind,
}

/// What a node is.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// `null`, `~` or nothing.
    Null,
    /// One value.
    Scalar(Scalar),
    /// A list.
    List(Vec<Node>),
    /// Keys and values, in the order of the file.
    Table(Vec<Entry>),
    /// `!include PATH`; after loading only where it could not be followed, which has been reported.
    Include(String),
}

/// A key with its value.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// The key's text.
    pub(crate) key: String,
    /// Whether it was written without quotes (a quoted `"<<"` merges nothing).
    pub(crate) plain: bool,
    /// Where the key stands.
    pub(crate) place: Place,
    /// Its value.
    pub(crate) value: Node,
}

impl Node {
    /// What it is, in a problem's words.
    pub(crate) fn describe(&self) -> String {
        match &self.kind {
            Kind::Null => "nothing".to_owned(),
            Kind::Scalar(scalar) => crate::problem::quoted(&scalar.text),
            Kind::List(_) => "a list".to_owned(),
            Kind::Table(_) => "a table of keys".to_owned(),
            Kind::Include(_) => "an include".to_owned(),
        }
    }
}

/// Reads one file's text, whose value stands at the key path `path`. `None`: it could not be read, and the report says
/// why. `nodes` counts over all files.
pub(crate) fn parse(
    text: &str,
    file: u32,
    path: &str,
    nodes: &Cell<usize>,
    report: &mut Report,
) -> Option<Node> {
    let spot_at = |place| Spot { place, path: path.to_owned() };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let marked = match marks::read(text, file) {
        Ok(marked) => marked,
        Err(fault) => {
            let hint =
                if fault.hint.is_empty() { marks::hint_for(text, fault.place.line) } else { fault.hint };
            report.error(&spot_at(fault.place), fault.what, hint);
            return None;
        }
    };
    if marked.events.is_empty() {
        return Some(Node { place: Place { file, line: 1, column: 1 }, kind: Kind::Null });
    }
    let value = match values::read(text, nodes) {
        Ok(value) => value,
        Err(values::Fault::TooManyNodes) => {
            report.error(&spot_at(Place::whole(file)), too_many_nodes(), "use fewer aliases");
            return None;
        }
        Err(values::Fault::Syntax { line, column, what }) => {
            let place = Place { file, line, column };
            report.error(&spot_at(place), format!("not YAML: {what}"), marks::hint_for(text, line));
            return None;
        }
    };
    let mut builder = Builder { marked: &marked, file, report, nodes_left: NODES_MAX, path: path.to_owned() };
    match builder.node(0, &value, 0) {
        Ok((node, _)) => Some(node),
        Err(Stopped) => None,
    }
}

fn too_many_nodes() -> String {
    "expands to more than 1,000,000 nodes".to_owned()
}

fn too_deep() -> String {
    format!("nested more than {DEPTH_MAX} levels deep")
}

/// The file's tree cannot be built; why has been reported.
struct Stopped;

struct Builder<'a> {
    marked: &'a Marked<'a>,
    file: u32,
    report: &'a mut Report,
    nodes_left: usize,
    /// Keys from the root to the node being built.
    path: String,
}

impl Builder<'_> {
    /// The node that begins at event `at`, and the event after it.
    fn node(&mut self, at: usize, value: &Value, depth: usize) -> Result<(Node, usize), Stopped> {
        let Some((event, place)) = self.marked.events.get(at) else {
            return self.differ(Place::whole(self.file));
        };
        let place = *place;
        // An alias stands for a node of its own at every use, so that it counts there too.
        self.nodes_left = match self.nodes_left.checked_sub(1) {
            Some(left) => left,
            None => return self.stop(place, too_many_nodes(), "use fewer aliases"),
        };
        if depth > DEPTH_MAX {
            return self.stop(place, too_deep(), "flatten it");
        }
        let (kind, next) = match event {
            Event::Alias(anchor) => {
                let Some(&target) = self.marked.anchors.get(anchor) else { return self.differ(place) };
                return Ok((self.node(target, value, depth + 1)?.0, at + 1));
            }
            Event::Scalar { text, plain, tag } => {
                let Some(resolved) = value.resolved(text) else { return self.differ(place) };
                (self.scalar(place, text, *plain, tag.as_deref(), resolved), at + 1)
            }
            Event::ListStart { tag } => {
                let Value::List(values) = value else { return self.differ(place) };
                self.refuse_tag(place, tag.as_deref());
                let mut items = Vec::with_capacity(values.len());
                let mut next = at + 1;
                let outer = self.path.len();
                for (n, value) in values.iter().enumerate() {
                    self.path.push_str(&format!("[{}]", n + 1));
                    let (item, after) = self.node(next, value, depth + 1)?;
                    self.path.truncate(outer);
                    items.push(item);
                    next = after;
                }
                (Kind::List(items), self.end(next, place)?)
            }
            Event::TableStart { tag } => {
                let Value::Table(values) = value else { return self.differ(place) };
                self.refuse_tag(place, tag.as_deref());
                self.table(at + 1, place, values, depth)?
            }
            Event::End => return self.differ(place),
        };
        Ok((Node { place, kind }, next))
    }

    fn table(
        &mut self,
        first: usize,
        place: Place,
        values: &[(Value, Value)],
        depth: usize,
    ) -> Result<(Kind, usize), Stopped> {
        let mut entries: Vec<Entry> = Vec::with_capacity(values.len());
        let mut seen: HashMap<String, Place> = HashMap::with_capacity(values.len());
        let mut next = first;
        for (key_value, value) in values {
            let (key, after) = self.node(next, key_value, depth + 1)?;
            let (text, plain) = match key.kind {
                Kind::Scalar(scalar) => (Some(scalar.text), scalar.plain),
                Kind::Null => (Some("null".to_owned()), true),
                _ => {
                    self.error(key.place, format!("{} as a key", key.describe()), "a key is plain text");
                    (None, true)
                }
            };
            let outer = self.path.len();
            self.path = crate::problem::join(&self.path, text.as_deref().unwrap_or("?"));
            let built = self.node(after, value, depth + 1);
            let duplicate = text.as_ref().and_then(|text| seen.get(text));
            if let Some(first) = duplicate {
                let what = format!("duplicate key, it stands in line {} too", first.line);
                self.error(key.place, what, "keep one of them");
            }
            self.path.truncate(outer);
            let (value, after) = built?;
            next = after;
            let Some(text) = text.filter(|text| !seen.contains_key(text)) else { continue };
            seen.insert(text.clone(), key.place);
            entries.push(Entry { key: text, plain, place: key.place, value });
        }
        Ok((Kind::Table(entries), self.end(next, place)?))
    }

    fn scalar(
        &mut self,
        place: Place,
        text: &str,
        plain: bool,
        tag: Option<&str>,
        resolved: Resolved,
    ) -> Kind {
        match tag {
            Some("!include") => return Kind::Include(text.to_owned()),
            Some("!!str") => {
                let text = text.to_owned();
                return Kind::Scalar(Scalar { text, plain: false, resolved: Resolved::Text });
            }
            other => self.refuse_tag(place, other),
        }
        if resolved == Resolved::Null && (plain || tag.is_some()) {
            return Kind::Null;
        }
        Kind::Scalar(Scalar { text: text.to_owned(), plain, resolved })
    }

    fn refuse_tag(&mut self, place: Place, tag: Option<&str>) {
        match tag {
            None | Some("!!int" | "!!float" | "!!bool" | "!!null" | "!!seq" | "!!map" | "!!merge") => {}
            Some("!include") => {
                self.error(place, "!include of a list or table", "write !include PATH");
            }
            Some(tag) => {
                let what = format!("unknown tag {}", crate::problem::quoted(tag));
                self.error(place, what, "the only tag is !include PATH");
            }
        }
    }

    /// Past the end of a list or table.
    fn end(&mut self, at: usize, place: Place) -> Result<usize, Stopped> {
        match self.marked.events.get(at) {
            Some((Event::End, _)) => Ok(at + 1),
            _ => self.differ(place),
        }
    }

    fn differ<T>(&mut self, place: Place) -> Result<T, Stopped> {
        let what = "ambiguous YAML: two parsers read this differently";
        self.stop(place, what, "write it in a plainer form, with quotes around text")
    }

    fn error(&mut self, place: Place, what: impl Into<String>, hint: &str) {
        let spot = Spot { place, path: self.path.clone() };
        self.report.error(&spot, what, hint);
    }

    fn stop<T>(&mut self, place: Place, what: impl Into<String>, hint: &str) -> Result<T, Stopped> {
        self.error(place, what, hint);
        Err(Stopped)
    }
}
