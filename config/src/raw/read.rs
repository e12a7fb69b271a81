//! Nodes → the raw sections: types of values, unknown keys. Says what has the wrong form; whether a value is in range
//! is `resolve`'s affair.

use crate::problem::{Report, Severity, Spot, join, quoted};
use crate::yaml::{Entry, Kind, Node, Resolved, Scalar};
use std::time::Duration;

/// A value with its place.
#[derive(Clone, Debug)]
pub(crate) struct At<T> {
    /// The value.
    pub(crate) value: T,
    /// Where it stands.
    pub(crate) spot: Spot,
}

/// What a file says for a key.
#[derive(Clone, Debug)]
pub(crate) enum Key<T> {
    /// Nothing, or `null` (there).
    Absent(Option<Spot>),
    /// Something of the wrong form, which has been reported.
    Wrong,
    /// A value.
    Given(At<T>),
}

impl<T> Key<T> {
    /// The value, where there is one.
    pub(crate) fn given(&self) -> Option<&At<T>> {
        match self {
            Key::Given(at) => Some(at),
            Key::Absent(_) | Key::Wrong => None,
        }
    }

    /// The value, or what it is by default.
    pub(crate) fn or(&self, default: T) -> T
    where
        T: Clone,
    {
        self.given().map_or(default, |at| at.value.clone())
    }

    /// The value of a required key; an absent one is reported at its section.
    pub(crate) fn need(&self, section: &Spot, key: &str, hint: &str, report: &mut Report) -> Option<&At<T>> {
        match self {
            Key::Given(at) => Some(at),
            Key::Wrong => None,
            Key::Absent(spot) => {
                let missing = Spot { place: section.place, path: join(&section.path, key) };
                report.error(spot.as_ref().unwrap_or(&missing), "missing", hint);
                None
            }
        }
    }
}

impl Key<bool> {
    /// Whether it is set.
    pub(crate) fn is_true(&self) -> bool {
        self.or(false)
    }

    /// `enabled`, which is true where nothing is said.
    pub(crate) fn is_not_false(&self) -> bool {
        self.or(true)
    }
}

/// Values with their places.
pub(crate) type List<T> = Vec<At<T>>;

/// Names of the user's own choice with what stands there, in the order of the file.
pub(crate) type Table<T> = Vec<(At<String>, Key<T>)>;

/// Something that a node may hold.
pub(crate) trait Read: Sized {
    /// The value; `None` where the form is wrong, which is reported.
    fn read(node: &Node, spot: &Spot, report: &mut Report) -> Option<Self>;
}

/// Reads a key's value.
fn read_key<T: Read>(node: &Node, spot: Spot, report: &mut Report) -> Key<T> {
    match node.kind {
        Kind::Null => Key::Absent(Some(spot)),
        Kind::Include(_) => Key::Wrong,
        _ => match T::read(node, &spot, report) {
            Some(value) => Key::Given(At { value, spot }),
            None => Key::Wrong,
        },
    }
}

/// The keys of a section, taken one after the other.
pub(crate) struct Keys<'a> {
    section: &'static str,
    spot: Spot,
    entries: Vec<Option<&'a Entry>>,
}

impl<'a> Keys<'a> {
    /// `None`: the node is no table, which is reported.
    pub(crate) fn open(
        node: &'a Node,
        spot: &Spot,
        section: &'static str,
        report: &mut Report,
    ) -> Option<Keys<'a>> {
        let Kind::Table(entries) = &node.kind else {
            report.error(
                spot,
                format!("{} where {section} is wanted", node.describe()),
                "write its keys below",
            );
            return None;
        };
        Some(Keys { section, spot: spot.clone(), entries: entries.iter().map(Some).collect() })
    }

    /// The value of a key, by any of its names.
    pub(crate) fn take<T: Read>(&mut self, names: &[&str], report: &mut Report) -> Key<T> {
        let mut taken: Option<&Entry> = None;
        for slot in &mut self.entries {
            let Some(entry) = *slot else { continue };
            if !names.contains(&entry.key.as_str()) {
                continue;
            }
            *slot = None;
            match taken {
                None => taken = Some(entry),
                Some(first) => {
                    let what = format!("the same key as {}, which is set too", first.key);
                    report.error(&self.spot.key(&entry.key, entry.place), what, "keep one of them");
                }
            }
        }
        match taken {
            Some(entry) => {
                let spot = self.spot.key(&entry.key, entry.value.place);
                read_key(&entry.value, spot, report)
            }
            None => Key::Absent(None),
        }
    }

    /// Reports what nobody took.
    pub(crate) fn finish(self, known: &[&str], report: &mut Report) {
        for entry in self.entries.into_iter().flatten() {
            if entry.key.starts_with("x-") {
                continue;
            }
            let spot = self.spot.key(&entry.key, entry.place);
            let severity = report.unknown_keys;
            match nearest(&entry.key, known.iter().copied()) {
                Some(key) => {
                    report.add(severity, &spot, format!("unknown key, did you mean {key}?"), "");
                }
                None => {
                    let hint = match severity {
                        Severity::Error => "take it out, or set unknown_keys: warn at the root",
                        Severity::Warning | Severity::Note => "it has no effect",
                    };
                    report.add(severity, &spot, format!("unknown key of {}", self.section), hint);
                }
            }
        }
    }
}

/// The known word that a misspelt one most likely means.
pub(crate) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let lower = word.to_lowercase().replace('-', "_");
    // Comparing is quadratic in the length; no word of ours is near one that long.
    if lower.chars().count() > 64 {
        return None;
    }
    let allowed = (lower.chars().count() / 3).min(3);
    known
        .map(|key| (strsim::damerau_levenshtein(&lower, &key.to_lowercase()), key))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, key)| key)
}

/// Declares a section of the file: a struct with a [`Key`] for each key, and how it is read. `field = "key"` where the
/// key is no identifier, `field | "other"` where it has a second name.
macro_rules! section {
    (
        $(#[$meta:meta])*
        $name:ident, $section:literal {
            $($field:ident $(= $key:literal)? $(| $other:literal)? : $kind:ty,)*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Debug)]
        #[allow(dead_code, reason = "the mirror is whole, whether or not each part of it is looked at")]
        pub(crate) struct $name {
            /// Where the section stands.
            pub(crate) spot: $crate::problem::Spot,
            $(pub(crate) $field: $crate::raw::read::Key<$kind>,)*
        }

        impl $name {
            /// Its keys.
            pub(crate) const KEYS: &'static [&'static str] =
                &[$($crate::raw::read::section!(@key $field $($key)?),)*];
        }

        impl $crate::raw::read::Read for $name {
            fn read(
                node: &$crate::yaml::Node,
                spot: &$crate::problem::Spot,
                report: &mut $crate::problem::Report,
            ) -> Option<Self> {
                let mut keys = $crate::raw::read::Keys::open(node, spot, $section, report)?;
                let section = $name {
                    spot: spot.clone(),
                    $($field: keys.take(
                        &[$crate::raw::read::section!(@key $field $($key)?), $($other)?],
                        report,
                    ),)*
                };
                keys.finish(Self::KEYS, report);
                Some(section)
            }
        }
    };
    (@key $field:ident) => { stringify!($field) };
    (@key $field:ident $key:literal) => { $key };
}
pub(crate) use section;

fn scalar<'a>(node: &'a Node, spot: &Spot, wanted: &str, report: &mut Report) -> Option<&'a Scalar> {
    match &node.kind {
        Kind::Scalar(scalar) => Some(scalar),
        _ => {
            report.error(spot, format!("{} where {wanted} is wanted", node.describe()), "");
            None
        }
    }
}

impl Read for bool {
    fn read(node: &Node, spot: &Spot, report: &mut Report) -> Option<bool> {
        let scalar = scalar(node, spot, "true or false", report)?;
        let value = scalar.as_bool();
        if value.is_none() {
            let hint = match scalar.plain {
                true => "write true or false",
                false => "write true or false, without quotes",
            };
            report.error(spot, format!("{} is no boolean", quoted(&scalar.text)), hint);
        }
        value
    }
}

impl Read for i64 {
    fn read(node: &Node, spot: &Spot, report: &mut Report) -> Option<i64> {
        let scalar = scalar(node, spot, "a whole number", report)?;
        let value = scalar.as_int();
        if value.is_none() {
            report.error(spot, format!("{} is no whole number", quoted(&scalar.text)), "write digits only");
        }
        value
    }
}

/// Text. A number or boolean is taken as it is written.
impl Read for String {
    fn read(node: &Node, spot: &Spot, report: &mut Report) -> Option<String> {
        let scalar = scalar(node, spot, "text", report)?;
        if let Some(quote) = scalar.typographic_quote() {
            let what = format!("{} has the typographic quote {quote}", quoted(&scalar.text));
            report.error(spot, what, "write ' or \" around the value, and no quotes inside it");
            return None;
        }
        Some(scalar.text.clone())
    }
}

/// Text in which typographic quotes may be meant: what is searched for or replaced, patterns, passwords.
#[derive(Clone, Debug)]
pub(crate) struct FreeText(pub(crate) String);

impl Read for FreeText {
    fn read(node: &Node, spot: &Spot, report: &mut Report) -> Option<FreeText> {
        Some(FreeText(scalar(node, spot, "text", report)?.text.clone()))
    }
}

/// A length of time.
impl Read for Duration {
    fn read(node: &Node, spot: &Spot, report: &mut Report) -> Option<Duration> {
        let scalar = scalar(node, spot, "a duration", report)?;
        let value = scalar.as_wait();
        if value.is_none() {
            let hint = "write seconds, or a number with ms, s, m, h or d: 90, 90s, 5m, 72h";
            report.error(spot, format!("{} is no duration", quoted(&scalar.text)), hint);
        }
        value
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bytes(pub(crate) u64);

impl Read for Bytes {
    fn read(node: &Node, spot: &Spot, report: &mut Report) -> Option<Bytes> {
        let scalar = scalar(node, spot, "a size", report)?;
        let value = scalar.as_bytes();
        if value.is_none() {
            let hint = "write bytes, or a number with KiB, MiB or GiB: 4194304, 512KiB, 10MiB";
            report.error(spot, format!("{} is no size", quoted(&scalar.text)), hint);
        }
        value.map(Bytes)
    }
}

impl<T: Read> Read for Vec<At<T>> {
    fn read(node: &Node, spot: &Spot, report: &mut Report) -> Option<List<T>> {
        let items = match &node.kind {
            Kind::List(items) => items,
            Kind::Scalar(scalar) => {
                let hint = format!("write [{}]", scalar.text);
                report.error(spot, format!("{} where a list is wanted", node.describe()), hint);
                return None;
            }
            _ => {
                let hint = "begin each item with \"- \"";
                report.error(spot, format!("{} where a list is wanted", node.describe()), hint);
                return None;
            }
        };
        let mut list = Vec::with_capacity(items.len());
        for (n, item) in items.iter().enumerate() {
            let spot = spot.item(n, item.place);
            match read_key(item, spot, report) {
                Key::Given(at) => list.push(at),
                Key::Wrong => {}
                Key::Absent(spot) => {
                    let spot = spot.unwrap_or(Spot { place: item.place, path: String::new() });
                    report.error(&spot, "an empty list item", "take it out, or write a value after \"- \"");
                }
            }
        }
        Some(list)
    }
}

impl<T: Read> Read for Vec<(At<String>, Key<T>)> {
    fn read(node: &Node, spot: &Spot, report: &mut Report) -> Option<Table<T>> {
        let Kind::Table(entries) = &node.kind else {
            let what = format!("{} where a table of names is wanted", node.describe());
            report.error(spot, what, "write NAME: VALUE lines below it");
            return None;
        };
        let mut table = Vec::with_capacity(entries.len());
        for entry in entries {
            let name = At { value: entry.key.clone(), spot: spot.key(&entry.key, entry.place) };
            let value = read_key(&entry.value, spot.key(&entry.key, entry.value.place), report);
            table.push((name, value));
        }
        Some(table)
    }
}

/// One value, or a list of them.
#[derive(Clone, Debug)]
pub(crate) struct OneOrMany<T> {
    /// The values.
    pub(crate) items: List<T>,
    /// Whether the file has a list.
    pub(crate) is_list: bool,
}

impl<T: Read> Read for OneOrMany<T> {
    fn read(node: &Node, spot: &Spot, report: &mut Report) -> Option<OneOrMany<T>> {
        if matches!(node.kind, Kind::List(_)) {
            return Some(OneOrMany { items: List::read(node, spot, report)?, is_list: true });
        }
        let value = T::read(node, spot, report)?;
        Some(OneOrMany { items: vec![At { value, spot: spot.clone() }], is_list: false })
    }
}

/// A switch, or a table where there is more to say.
#[derive(Clone, Debug)]
pub(crate) enum SwitchOr<T> {
    /// `true` or `false`.
    Switch(bool),
    /// The table.
    Section(T),
}

impl<T: Read> Read for SwitchOr<T> {
    fn read(node: &Node, spot: &Spot, report: &mut Report) -> Option<SwitchOr<T>> {
        match node.kind {
            Kind::Scalar(_) => bool::read(node, spot, report).map(SwitchOr::Switch),
            _ => T::read(node, spot, report).map(SwitchOr::Section),
        }
    }
}

/// A value in short, or a table where there is more to say.
#[derive(Clone, Debug)]
pub(crate) enum ShortOr<T> {
    /// The value alone.
    Short(String),
    /// The table.
    Section(T),
}

impl<T: Read> Read for ShortOr<T> {
    fn read(node: &Node, spot: &Spot, report: &mut Report) -> Option<ShortOr<T>> {
        match &node.kind {
            Kind::Scalar(scalar) => Some(ShortOr::Short(scalar.text.clone())),
            _ => T::read(node, spot, report).map(ShortOr::Section),
        }
    }
}

/// Entries by name, or a list of them.
#[derive(Clone, Debug)]
pub(crate) enum TableOrList<T> {
    /// By name.
    Table(Table<T>),
    /// In a list.
    List(List<T>),
}

impl<T: Read> Read for TableOrList<T> {
    fn read(node: &Node, spot: &Spot, report: &mut Report) -> Option<TableOrList<T>> {
        match node.kind {
            Kind::List(_) => List::read(node, spot, report).map(TableOrList::List),
            _ => Table::read(node, spot, report).map(TableOrList::Table),
        }
    }
}

/// `[from, to]`, or a list of such pairs.
#[derive(Clone, Debug)]
pub(crate) struct Pairs(pub(crate) Vec<At<(String, String)>>);

impl Read for Pairs {
    fn read(node: &Node, spot: &Spot, report: &mut Report) -> Option<Pairs> {
        const WANTED: &str = "write [FROM, TO], or a list of such pairs";
        let Kind::List(items) = &node.kind else {
            report.error(spot, format!("{} where a pair is wanted", node.describe()), WANTED);
            return None;
        };
        let nested = items.iter().any(|item| matches!(item.kind, Kind::List(_)));
        if !nested {
            return pair(node, spot, report).map(|value| Pairs(vec![At { value, spot: spot.clone() }]));
        }
        let mut pairs = Vec::with_capacity(items.len());
        for (n, item) in items.iter().enumerate() {
            let spot = spot.item(n, item.place);
            pairs.push(At { value: pair(item, &spot, report)?, spot });
        }
        Some(Pairs(pairs))
    }
}

fn pair(node: &Node, spot: &Spot, report: &mut Report) -> Option<(String, String)> {
    // A lone `~` as the second of a pair is what people write for "by nothing".
    let text = |node: &Node| match &node.kind {
        Kind::Scalar(scalar) => Some(scalar.text.clone()),
        Kind::Null => Some(String::new()),
        _ => None,
    };
    if let Kind::List(items) = &node.kind
        && let [from, to] = items.as_slice()
        && let (Some(from), Some(to)) = (text(from), text(to))
    {
        return Some((from, to));
    }
    let what = match &node.kind {
        Kind::List(items) => format!("a list of {} where a pair is wanted", items.len()),
        _ => format!("{} where a pair is wanted", node.describe()),
    };
    report.error(spot, what, "write [FROM, TO]");
    None
}

/// A number, or text that says more; which it is stands in the scalar.
#[derive(Clone, Debug)]
pub(crate) struct AnyScalar(pub(crate) Scalar);

impl Read for AnyScalar {
    fn read(node: &Node, spot: &Spot, report: &mut Report) -> Option<AnyScalar> {
        scalar(node, spot, "a value", report).cloned().map(AnyScalar)
    }
}

impl AnyScalar {
    /// Whether it is a bare number.
    pub(crate) fn is_number(&self) -> bool {
        matches!(self.0.resolved, Resolved::Int(_)) || self.0.as_int().is_some()
    }
}
