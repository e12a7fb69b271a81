//! The marked reading: events with their places. Knows lists, tables, scalars, anchors and tags, not what they mean.

use crate::problem::Place;
use saphyr_parser::{Event as Parsed, Marker, Parser, ScalarStyle, Tag};
use std::borrow::Cow;
use std::collections::HashMap;

/// Events of one file. Each node is one or two of them, so that a file past this is past the bound on nodes.
const EVENTS_MAX: usize = 2 * super::NODES_MAX;

/// One step through the document.
#[derive(Debug)]
pub(super) enum Event<'a> {
    /// The node of that anchor again.
    Alias(usize),
    /// A scalar as written, escapes and line folding resolved.
    Scalar { text: Cow<'a, str>, plain: bool, tag: Option<String> },
    /// A list begins.
    ListStart { tag: Option<String> },
    /// A table begins.
    TableStart { tag: Option<String> },
    /// The list or table ends.
    End,
}

/// A document as events.
#[derive(Debug)]
pub(super) struct Marked<'a> {
    /// In the order of the file; empty for a document without content.
    pub(super) events: Vec<(Event<'a>, Place)>,
    /// Anchor → the first event of its node.
    pub(super) anchors: HashMap<usize, usize>,
}

/// Why a text has no events.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) place: Place,
    pub(super) what: String,
    pub(super) hint: String,
}

/// Reads a text of one document.
pub(super) fn read(text: &str, file: u32) -> Result<Marked<'_>, Fault> {
    let mut marked = Marked { events: Vec::new(), anchors: HashMap::new() };
    let mut open: Vec<usize> = Vec::new();
    let mut documents = 0;
    for parsed in Parser::new_from_str(text) {
        let (parsed, span) = parsed.map_err(|e| Fault {
            place: place_of(file, e.marker()),
            what: format!("not YAML: {}", e.info()),
            hint: String::new(),
        })?;
        let place = place_of(file, &span.start);
        let at = marked.events.len();
        if at >= EVENTS_MAX {
            let what = super::too_many_nodes();
            return Err(Fault { place, what, hint: "split the file, or use fewer aliases".to_owned() });
        }
        if open.len() > super::DEPTH_MAX {
            let what = super::too_deep();
            return Err(Fault { place, what, hint: "flatten it".to_owned() });
        }
        match parsed {
            Parsed::DocumentStart(_) => {
                documents += 1;
                if documents > 1 {
                    let what = "a second document begins here".to_owned();
                    return Err(Fault { place, what, hint: "a file holds one document".to_owned() });
                }
            }
            Parsed::Alias(anchor) if open.contains(&anchor) => {
                let what = "an alias that contains itself".to_owned();
                return Err(Fault { place, what, hint: "write the value out".to_owned() });
            }
            Parsed::Alias(anchor) => marked.events.push((Event::Alias(anchor), place)),
            Parsed::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                marked.events.push((Event::Scalar { text, plain, tag: tag_name(tag) }, place));
                marked.anchors.insert(anchor, at);
            }
            Parsed::SequenceStart(anchor, tag) => {
                marked.events.push((Event::ListStart { tag: tag_name(tag) }, place));
                marked.anchors.insert(anchor, at);
                open.push(anchor);
            }
            Parsed::MappingStart(anchor, tag) => {
                marked.events.push((Event::TableStart { tag: tag_name(tag) }, place));
                marked.anchors.insert(anchor, at);
                open.push(anchor);
            }
            Parsed::SequenceEnd | Parsed::MappingEnd => {
                marked.events.push((Event::End, place));
                open.pop();
            }
            Parsed::StreamStart | Parsed::StreamEnd | Parsed::DocumentEnd | Parsed::Nothing => {}
        }
    }
    Ok(marked)
}

/// What a syntax error's cause often is, when the text shows it.
pub(super) fn hint_for(text: &str, line: u32) -> String {
    for (n, content) in text.lines().enumerate().take(line as usize) {
        if let Some(quote) = content.chars().find(|c| super::scalar::is_typographic_quote(*c)) {
            return format!("line {} has the typographic quote {quote}, write ' or \" instead", n + 1);
        }
    }
    let indent = text.lines().nth((line as usize).saturating_sub(1)).unwrap_or_default();
    if indent.chars().take_while(|c| c.is_whitespace()).any(|c| c == '\t') {
        return "indent with spaces, not tabs".to_owned();
    }
    "look at the indentation, quotes and brackets here and in the line before".to_owned()
}

fn place_of(file: u32, mark: &Marker) -> Place {
    let line = u32::try_from(mark.line().max(1)).unwrap_or(u32::MAX);
    Place { file, line, column: u32::try_from(mark.col() + 1).unwrap_or(u32::MAX) }
}

/// `!include`, `!!str`…
fn tag_name(tag: Option<Cow<'_, Tag>>) -> Option<String> {
    let tag = tag?;
    if tag.is_yaml_core_schema() {
        return Some(format!("!!{}", tag.suffix));
    }
    Some(format!("{}{}", tag.handle, tag.suffix))
}
