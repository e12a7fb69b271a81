//! What a stamp changes in a document: which objects are new, and which are replaced.

use crate::content::{self, Survey};
use crate::embedded::{name_of, packed};
use crate::file::File;
use crate::geometry::{self, View};
use crate::limits::Limits;
use crate::metadata;
use crate::pages::{self, Found, Page, Place};
use crate::stamp::{Look, Pages, Reason, Stopped};
use crate::text::{Text, decimal};
use crate::writer;
use crate::xref::Fault;
use lopdf::{Dictionary, Object, ObjectId, Stream};
use std::collections::{BTreeMap, HashMap};

/// States and marks a content may leave open; closing more than this would be a file of its own.
const OPEN_MAX: usize = 10_000;

/// The changes to a document.
pub(crate) struct Edit {
    pub(crate) objects: BTreeMap<ObjectId, Object>,
    pub(crate) trailer: Dictionary,
    /// Above every number used.
    pub(crate) next_number: u32,
    /// The first stamped page, as it stands in `objects`, unencrypted.
    pub(crate) first_page: (ObjectId, Object),
    pub(crate) notes: Vec<String>,
}

/// Works out the changes.
pub(crate) fn edit(
    file: &mut File,
    lines: &[(&str, &str)],
    look: Look,
    which: Pages,
    limits: &Limits,
) -> Result<Edit, Stopped> {
    let Found { pages, miscounted, .. } = pages::pages(file, limits, which == Pages::All)?;
    let Ok(root) = file.trailer().get(b"Root").and_then(Object::as_reference) else {
        return Err(Stopped::Damaged("the trailer names no catalog".into()));
    };
    let Ok(catalog) = file.get(root)?.as_dict().cloned() else {
        return Err(Stopped::Damaged("the catalog is missing".into()));
    };
    let trailer = file.trailer().clone();
    let mut changes = Changes { objects: BTreeMap::new(), next_number: file.next_number() };
    let mut notes = Vec::new();

    // A file written anew counts its pages; readers that go by the count would show none of an uncounted tree.
    if file.xref().is_none() {
        for (id, count) in miscounted {
            if let Object::Dictionary(mut node) = (*file.get(id)?).clone() {
                node.set("Count", Object::Integer(count as i64));
                changes.objects.insert(id, Object::Dictionary(node));
            }
        }
    }

    let xmp = xmp_of(file, &catalog)?;
    let archive = xmp.as_ref().is_some_and(|(_, xmp)| metadata::is_archive(xmp));
    let mark = file.dictionary(&catalog, b"MarkInfo")?;
    let tagged = catalog.has(b"StructTreeRoot")
        || mark.get(b"Marked").is_ok_and(|marked| *marked == Object::Boolean(true));
    let mut pen = Pen::new(&mut changes, lines, look, archive, tagged, limits);
    let mut first_page = None;
    for page in &pages {
        let stamped = pen.page(&mut changes, file, page)?;
        first_page.get_or_insert(stamped);
    }
    if pen.cut {
        notes.push("the metadata is longer than what is printed of it".into());
    }
    let trailer = describe(&mut changes, file, trailer, (root, catalog), xmp, lines, &mut notes)?;

    let first_page = first_page.ok_or(Stopped::Reason(Reason::NoPage))?;
    let page = changes.objects.get(&first_page).cloned().unwrap_or(Object::Null);
    let Changes { objects, next_number } = changes;
    Ok(Edit { objects, trailer, next_number, first_page: (first_page, page), notes })
}

/// New and replaced objects.
struct Changes {
    objects: BTreeMap<ObjectId, Object>,
    next_number: u32,
}

impl Changes {
    fn add(&mut self, object: Object) -> ObjectId {
        let id = (self.next_number, 0);
        self.next_number = self.next_number.saturating_add(1);
        self.objects.insert(id, object);
        id
    }

    fn plain_stream(&mut self, content: &[u8]) -> ObjectId {
        self.add(Object::Stream(Stream {
            dict: Dictionary::new(),
            content: content.to_vec(),
            allows_compression: false,
            start_position: None,
        }))
    }
}

/// Draws the lines on one page after the other.
struct Pen {
    text: Text,
    look: Look,
    tagged: bool,
    fonts: Dictionary,
    /// `q`, put before a page's content.
    save: Option<ObjectId>,
    /// The drawn lines by the page's size and unit: pages alike share them.
    forms: HashMap<[u64; 3], ObjectId>,
    /// Resources with the lines added, by those they are made from: pages that shared them go on sharing.
    resources: HashMap<(Vec<u8>, ObjectId), (ObjectId, Vec<u8>)>,
    cut: bool,
}

impl Pen {
    fn new(
        changes: &mut Changes,
        lines: &[(&str, &str)],
        look: Look,
        archive: bool,
        tagged: bool,
        limits: &Limits,
    ) -> Pen {
        let text = Text::new(lines, limits.text_max, archive, look == Look::Invisible);
        let mut fonts = Dictionary::new();
        if text.standard {
            let helvetica = changes.add(Object::Dictionary(Dictionary::from_iter([
                ("Type", name_of("Font")),
                ("Subtype", name_of("Type1")),
                ("BaseFont", name_of("Helvetica")),
                ("Encoding", name_of("WinAnsiEncoding")),
            ])));
            fonts.set("F1", Object::Reference(helvetica));
        }
        if !text.lettering.is_empty() {
            let font = text.lettering.embed(&mut |object| changes.add(object));
            fonts.set("F2", Object::Reference(font));
        }
        let cut = text.cut;
        Pen { text, look, tagged, fonts, save: None, forms: HashMap::new(), resources: HashMap::new(), cut }
    }

    /// Stamps a page, and says which object it is now.
    fn page(&mut self, changes: &mut Changes, file: &mut File, page: &Page) -> Result<ObjectId, Stopped> {
        let view = geometry::view(file, page)?;
        let form = self.form(changes, view);
        let old = self.old(changes, file, page, view)?;
        let wrapped = if let Old::Wrapped(wrapped) = old { Some(wrapped) } else { None };
        let (resources, name) = self.resources(changes, file, page, form, wrapped)?;
        let mut dictionary = page.dictionary.clone();
        let contents = self.contents(changes, old, view, &name);
        dictionary.set("Contents", Object::Array(contents));
        dictionary.set("Resources", Object::Reference(resources));
        match page.place {
            Place::Own(id) => {
                changes.objects.insert(id, Object::Dictionary(dictionary));
                Ok(id)
            }
            Place::Within { parent, index } => {
                dictionary.set("Parent", Object::Reference(parent));
                let id = changes.add(Object::Dictionary(dictionary));
                replace_kid(changes, file, parent, index, id)?;
                Ok(id)
            }
        }
    }

    fn form(&mut self, changes: &mut Changes, view: View) -> ObjectId {
        let key = [view.width, view.height, view.unit].map(f64::to_bits);
        if let Some(&form) = self.forms.get(&key) {
            return form;
        }
        let setting = self.text.set(view.width, view.height, view.unit);
        self.cut |= setting.cut;
        let mut resources = Dictionary::new();
        resources.set("Font", Object::Dictionary(self.fonts.clone()));
        let side = |side: f64| Object::Real(side as f32);
        let bounds = vec![Object::Integer(0), side(-view.height), side(view.width), Object::Integer(0)];
        let form = changes.add(packed(
            [
                ("Type", name_of("XObject")),
                ("Subtype", name_of("Form")),
                ("BBox", Object::Array(bounds)),
                ("Resources", Object::Dictionary(resources)),
            ],
            &setting.operators(self.look == Look::Visible),
        ));
        self.forms.insert(key, form);
        form
    }

    /// The page's resources with the drawn lines among them, as an object of its own: what other pages use stays.
    fn resources(
        &mut self,
        changes: &mut Changes,
        file: &mut File,
        page: &Page,
        form: ObjectId,
        wrapped: Option<ObjectId>,
    ) -> Result<(ObjectId, Vec<u8>), Fault> {
        let old = page.attribute(b"Resources").cloned().unwrap_or(Object::Null);
        let mut key = Vec::new();
        writer::write_object(&mut key, &old);
        if let Some(known) = self.resources.get(&(key.clone(), form)).filter(|_| wrapped.is_none()) {
            return Ok(known.clone());
        }
        let mut resources = match &*file.resolve(&old)? {
            Object::Dictionary(resources) => resources.clone(),
            _ => Dictionary::new(),
        };
        let mut objects = file.dictionary(&resources, b"XObject")?;
        let names =
            std::iter::once("HL7Stamp".to_owned()).chain((1..).map(|number| format!("HL7Stamp{number}")));
        let name = names.map(String::into_bytes).find(|name| !objects.has(name)).unwrap_or_default();
        objects.set(name.clone(), Object::Reference(form));
        if let Some(wrapped) = wrapped {
            objects.set([&name[..], b"Page"].concat(), Object::Reference(wrapped));
        }
        resources.set("XObject", Object::Dictionary(objects));
        let made = (changes.add(Object::Dictionary(resources)), name);
        if wrapped.is_none() {
            self.resources.insert((key, form), made.clone());
        }
        Ok(made)
    }

    /// What becomes of the page's content.
    fn old(&self, changes: &mut Changes, file: &mut File, page: &Page, view: View) -> Result<Old, Stopped> {
        let (streams, content) = old_contents(file, page)?;
        let survey = content.as_deref().map(content::survey).unwrap_or_default();
        if survey.states_open > OPEN_MAX || survey.marks_open > OPEN_MAX {
            return Err(Stopped::Reason(Reason::TooMuch("graphics states left open")));
        }
        Ok(match content.filter(|_| survey.needs_repair()) {
            _ if streams.is_empty() => Old::None,
            None => Old::Streams(streams, survey),
            // A tagged content is known by where it stands; in a form it would be lost to screen readers.
            Some(content) if survey.is_ambiguous() && !self.tagged => {
                Old::Wrapped(wrap(changes, page, view, &content))
            }
            Some(content) => {
                let repaired = changes.add(packed([], &survey.repaired(content)));
                Old::Streams(vec![Object::Reference(repaired)], survey)
            }
        })
    }

    /// The old content between `q` and `Q`, each a stream of its own, then the lines.
    fn contents(&mut self, changes: &mut Changes, old: Old, view: View, form: &[u8]) -> Vec<Object> {
        let mut contents = Vec::new();
        let mut tail = Vec::new();
        match old {
            Old::None => {}
            Old::Wrapped(_) => tail = [b"q /", form, b"Page Do Q\n"].concat(),
            Old::Streams(streams, survey) => {
                let save = *self.save.get_or_insert_with(|| changes.plain_stream(b"q\n"));
                contents.push(Object::Reference(save));
                contents.extend(streams);
                tail = format!("\n{}\n", survey.closing()).into_bytes();
            }
        }
        self.draw(&mut tail, view, form);
        contents.push(Object::Reference(changes.plain_stream(&tail)));
        contents
    }

    fn draw(&self, tail: &mut Vec<u8>, view: View, form: &[u8]) {
        if self.tagged {
            tail.extend_from_slice(b"/Artifact BMC\n");
        }
        tail.extend_from_slice(b"q ");
        for number in view.matrix {
            tail.extend_from_slice(decimal(number).as_bytes());
            tail.push(b' ');
        }
        tail.extend_from_slice(b"cm /");
        tail.extend_from_slice(form);
        tail.extend_from_slice(b" Do Q\n");
        if self.tagged {
            tail.extend_from_slice(b"EMC\n");
        }
    }
}

/// The page's content, before the lines.
enum Old {
    None,
    /// Streams that stay as they are.
    Streams(Vec<Object>, Survey),
    /// A form that draws what the page did: each reader goes on reading it as it always has.
    Wrapped(ObjectId),
}

fn wrap(changes: &mut Changes, page: &Page, view: View, content: &[u8]) -> ObjectId {
    let bounds = view.bounds.map(|side| Object::Real(side as f32)).to_vec();
    let mut form = packed(
        [("Type", name_of("XObject")), ("Subtype", name_of("Form")), ("BBox", Object::Array(bounds))],
        content,
    );
    if let (Object::Stream(form), Some(resources)) = (&mut form, page.attribute(b"Resources")) {
        form.dict.set("Resources", resources.clone());
    }
    changes.add(form)
}

/// References to the streams of a page's content, and their bytes where all of them can be decompressed. What is no
/// stream is left out: some readers show nothing of a page that has such a thing in its list.
fn old_contents(file: &mut File, page: &Page) -> Result<(Vec<Object>, Option<Vec<u8>>), Fault> {
    let Ok(contents) = page.dictionary.get(b"Contents") else { return Ok((Vec::new(), None)) };
    let listed = match &*file.resolve(contents)? {
        Object::Array(items) => items.clone(),
        _ => vec![contents.clone()],
    };
    let mut kept = Vec::with_capacity(listed.len());
    let mut bytes = Some(Vec::new());
    for item in listed {
        let object = match &item {
            Object::Reference(id) => file.get_passing(*id)?,
            _ => continue,
        };
        let object = if object.as_reference().is_ok() { file.resolve(&object)? } else { object };
        let Object::Stream(stream) = &*object else { continue };
        match (file.decode(stream)?, &mut bytes) {
            (Some(part), Some(bytes)) => {
                bytes.extend_from_slice(&part);
                bytes.push(b'\n');
            }
            _ => bytes = None,
        }
        kept.push(item);
    }
    Ok((kept, bytes))
}

fn replace_kid(
    changes: &mut Changes,
    file: &mut File,
    parent: ObjectId,
    index: usize,
    page: ObjectId,
) -> Result<(), Fault> {
    let node = match changes.objects.get(&parent) {
        Some(node) => node.clone(),
        None => (*file.get(parent)?).clone(),
    };
    let Object::Dictionary(mut node) = node else { return Ok(()) };
    if let Object::Array(kids) = &*file.entry(&node, b"Kids")? {
        let mut kids = kids.clone();
        if let Some(kid) = kids.get_mut(index) {
            *kid = Object::Reference(page);
        }
        node.set("Kids", Object::Array(kids));
    }
    changes.objects.insert(parent, Object::Dictionary(node));
    Ok(())
}

/// The document's XMP: where it stands, and its bytes.
type Xmp = Option<(Option<ObjectId>, Vec<u8>)>;

fn xmp_of(file: &mut File, catalog: &Dictionary) -> Result<Xmp, Fault> {
    let Ok(entry) = catalog.get(b"Metadata") else { return Ok(None) };
    let object = file.resolve(entry)?;
    let Object::Stream(stream) = &*object else { return Ok(None) };
    let bytes = file.decode(stream)?.unwrap_or_default();
    Ok(Some((entry.as_reference().ok(), bytes)))
}

/// Sets the lines in the Info dictionary and in XMP.
fn describe(
    changes: &mut Changes,
    file: &mut File,
    mut trailer: Dictionary,
    (root, mut catalog): (ObjectId, Dictionary),
    xmp: Xmp,
    lines: &[(&str, &str)],
    notes: &mut Vec<String>,
) -> Result<Dictionary, Fault> {
    let mut info = file.dictionary(&trailer, b"Info")?;
    metadata::into_info(&mut info, lines);
    let own = trailer.get(b"Info").and_then(Object::as_reference).ok();
    match own {
        // A trailer that takes another object for its Info must not cost that object.
        Some(id) if file.get(id)?.as_dict().is_ok() && id != root && !changes.objects.contains_key(&id) => {
            changes.objects.insert(id, Object::Dictionary(info));
        }
        _ => {
            let id = changes.add(Object::Dictionary(info));
            trailer.set("Info", Object::Reference(id));
        }
    }

    let stream = |content| {
        let dict = Dictionary::from_iter([("Type", name_of("Metadata")), ("Subtype", name_of("XML"))]);
        Object::Stream(Stream { dict, content, allows_compression: false, start_position: None })
    };
    match xmp {
        Some((id, old)) => match (metadata::into_xmp(&old, lines), id) {
            (Some(new), Some(id)) => drop(changes.objects.insert(id, stream(new))),
            _ => notes.push(
                "its XMP cannot be read and was left as it is; the metadata is in the Info dictionary".into(),
            ),
        },
        None => {
            let id = changes.add(stream(metadata::new_xmp(lines)));
            catalog.set("Metadata", Object::Reference(id));
            changes.objects.insert(root, Object::Dictionary(catalog));
        }
    }
    Ok(trailer)
}
