//! The page tree: which pages there are, and what each inherits.

use crate::file::File;
use crate::limits::Limits;
use crate::xref::Fault;
use lopdf::{Dictionary, Object, ObjectId};
use std::collections::HashSet;
use std::rc::Rc;

/// Real page trees have under ten levels.
const LEVELS_MAX: usize = 200;

/// Where a page's dictionary stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// An object of its own, as it should be.
    Own(ObjectId),
    /// Written out in its parent's list, at this position.
    Within { parent: ObjectId, index: usize },
}

/// A page.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    pub(crate) place: Place,
    pub(crate) dictionary: Dictionary,
    pub(crate) inherited: Rc<Inherited>,
}

/// What a page takes from the nodes above it where it has none of its own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inherited {
    pub(crate) resources: Option<Object>,
    pub(crate) media_box: Option<Object>,
    pub(crate) crop_box: Option<Object>,
    pub(crate) rotate: Option<Object>,
}

/// What a walk over the tree found.
pub(crate) struct Found {
    /// Those asked for.
    pub(crate) pages: Vec<Page>,
    /// How many there are.
    pub(crate) count: usize,
    /// Nodes that say another number of pages than they have, and the right one.
    pub(crate) miscounted: Vec<(ObjectId, usize)>,
}

/// Why there is no page to stamp.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoPages {
    None,
    Circle,
    Fault(Fault),
}

impl From<Fault> for NoPages {
    fn from(fault: Fault) -> NoPages {
        NoPages::Fault(fault)
    }
}

/// The pages in order, each object once: all of them, or the first. The whole tree is walked either way, so that one
/// that runs in a circle is found out.
pub(crate) fn pages(file: &mut File, limits: &Limits, all: bool) -> Result<Found, NoPages> {
    let root = file.trailer().get(b"Root").cloned().unwrap_or(Object::Null);
    let catalog = file.resolve(&root)?;
    let Object::Dictionary(catalog) = &*catalog else {
        return Err(NoPages::Fault(Fault::Damaged("the catalog is missing".into())));
    };
    let Ok(top) = catalog.get(b"Pages").and_then(Object::as_reference) else {
        return Err(NoPages::Fault(Fault::Damaged("the catalog names no page tree".into())));
    };
    let mut walk = Walk {
        file,
        all,
        limits,
        pages: Vec::new(),
        miscounted: Vec::new(),
        count: 0,
        seen: HashSet::new(),
        above: Vec::new(),
    };
    walk.node(top, &Rc::new(Inherited::default()))?;
    let Walk { pages, miscounted, count, .. } = walk;
    if pages.is_empty() { Err(NoPages::None) } else { Ok(Found { pages, miscounted, count }) }
}

struct Walk<'w, 'a> {
    file: &'w mut File<'a>,
    all: bool,
    limits: &'w Limits,
    pages: Vec<Page>,
    miscounted: Vec<(ObjectId, usize)>,
    count: usize,
    seen: HashSet<ObjectId>,
    above: Vec<ObjectId>,
}

impl Walk<'_, '_> {
    fn node(&mut self, id: ObjectId, inherited: &Rc<Inherited>) -> Result<(), NoPages> {
        if self.above.contains(&id) {
            return Err(NoPages::Circle);
        }
        if self.above.len() >= LEVELS_MAX {
            return Err(NoPages::Fault(Fault::TooMuch("levels of the page tree")));
        }
        let object = self.file.get_passing(id)?;
        let Object::Dictionary(dictionary) = &*object else { return Ok(()) };
        if !dictionary.has(b"Kids") {
            return self.page(Place::Own(id), dictionary, inherited);
        }
        let kids = self.file.entry(dictionary, b"Kids")?;
        let Object::Array(kids) = &*kids else { return Ok(()) };
        let inherited = Rc::new(inherited.with(dictionary));
        self.above.push(id);
        let before = self.count;
        for (index, kid) in kids.iter().enumerate() {
            match kid {
                Object::Reference(kid) => self.node(*kid, &inherited)?,
                Object::Dictionary(kid) if !kid.has(b"Kids") => {
                    self.page(Place::Within { parent: id, index }, kid, &inherited)?;
                }
                _ => {}
            }
        }
        self.above.pop();
        let said = self
            .file
            .entry(dictionary, b"Count")?
            .as_i64()
            .ok()
            .and_then(|count| usize::try_from(count).ok());
        if said != Some(self.count - before) {
            self.miscounted.push((id, self.count - before));
        }
        Ok(())
    }

    fn page(&mut self, place: Place, page: &Dictionary, inherited: &Rc<Inherited>) -> Result<(), NoPages> {
        // A tree node without kids, or another kind of object in the wrong place.
        if page.get_type().is_ok_and(|kind| !kind.eq_ignore_ascii_case(b"Page")) {
            return Ok(());
        }
        self.count += 1;
        if self.count > self.limits.pages_max {
            return Err(NoPages::Fault(Fault::TooMuch("pages")));
        }
        if let Place::Own(id) = place
            && !self.seen.insert(id)
        {
            return Ok(());
        }
        if self.all || self.pages.is_empty() {
            self.pages.push(Page { place, dictionary: page.clone(), inherited: Rc::clone(inherited) });
        }
        Ok(())
    }
}

impl Inherited {
    fn with(&self, node: &Dictionary) -> Inherited {
        let own = |key: &[u8], above: &Option<Object>| {
            node.get(key).ok().filter(|object| !object.is_null()).cloned().or_else(|| above.clone())
        };
        Inherited {
            resources: own(b"Resources", &self.resources),
            media_box: own(b"MediaBox", &self.media_box),
            crop_box: own(b"CropBox", &self.crop_box),
            rotate: own(b"Rotate", &self.rotate),
        }
    }
}

impl Page {
    /// What the page has at `key`, or inherits.
    pub(crate) fn attribute(&self, key: &[u8]) -> Option<&Object> {
        let own = self.dictionary.get(key).ok().filter(|object| !object.is_null());
        own.or(match key {
            b"Resources" => self.inherited.resources.as_ref(),
            b"MediaBox" => self.inherited.media_box.as_ref(),
            b"CropBox" => self.inherited.crop_box.as_ref(),
            b"Rotate" => self.inherited.rotate.as_ref(),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lexer::Lexer;
    use std::collections::BTreeMap;

    fn walk(objects: &[&str], all: bool) -> Result<Vec<Page>, NoPages> {
        let read = |text: &&str| Lexer::new(text.as_bytes(), 0).object(&mut 1000).unwrap();
        let objects: BTreeMap<ObjectId, Object> =
            (1u32..).map(|n| (n, 0)).zip(objects.iter().map(read)).collect();
        let trailer = Dictionary::from_iter([("Root", Object::Reference((1, 0)))]);
        let limits = Limits::default();
        pages(&mut File::loaded(objects, trailer, &limits), &limits, all).map(|found| found.pages)
    }

    #[test]
    fn pages_come_in_order_and_inherit_from_the_nearest() {
        let found = walk(
            &[
                "<</Pages 2 0 R>>",
                "<</Kids[3 0 R null 9 0 R 5 0 R<</Type/Page/UserUnit 2>>]/Rotate 90/MediaBox[0 0 1 1]>>",
                "<</Kids[4 0 R]/Rotate 180>>",
                "<</Type/Page>>",
                "<</Rotate 0>>",
            ],
            true,
        )
        .unwrap();
        assert_eq!(found.len(), 3);
        assert_eq!(found[0].attribute(b"Rotate"), Some(&Object::Integer(180)));
        assert_eq!(found[1].attribute(b"Rotate"), Some(&Object::Integer(0)));
        assert!(found[1].attribute(b"MediaBox").is_some());
        assert_eq!(found[2].place, Place::Within { parent: (2, 0), index: 4 });
    }

    #[test]
    fn a_circle_is_found_even_behind_the_first_page() {
        let tree = ["<</Pages 2 0 R>>", "<</Kids[3 0 R 2 0 R]>>", "<</Type/Page>>"];
        assert!(matches!(walk(&tree, false), Err(NoPages::Circle)));
        let twice = ["<</Pages 2 0 R>>", "<</Kids[3 0 R 3 0 R]>>", "<</Type/Page>>"];
        assert_eq!(walk(&twice, true).unwrap().len(), 1);
    }

    #[test]
    fn no_page_is_no_panic() {
        assert!(matches!(walk(&["<</Pages 2 0 R>>", "<</Type/Pages/Kids[]>>"], false), Err(NoPages::None)));
        assert!(matches!(walk(&["<</Pages 2 0 R>>", "<</Type/Pages>>"], false), Err(NoPages::None)));
        assert!(matches!(walk(&["[]"], false), Err(NoPages::Fault(Fault::Damaged(_)))));
    }
}
