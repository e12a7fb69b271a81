//! The metadata in the Info dictionary and in XMP, both under our own namespace, beside what is there.

use lopdf::{Dictionary, Object, StringFormat};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Prefix of our entries in the Info dictionary and of our properties in XMP.
pub(crate) const PREFIX: &str = "hl7server";
/// The namespace of our properties. A name, not a place: nothing is fetched from it.
pub(crate) const NAMESPACE: &str = "urn:hl7server:metadata:1";

/// What a name may have in PDF, prefix included (ISO 32000-1, Annex C).
const NAME_BYTES_MAX: usize = 127;
/// What a string may have in archives (ISO 19005-1 § 6.1.12), in UTF-16.
const VALUE_UNITS_MAX: usize = 16_000;

/// Sets an entry `hl7server:name` for each line.
pub(crate) fn into_info(info: &mut Dictionary, lines: &[(&str, &str)]) {
    for (name, value) in lines {
        info.set(info_key(name), text_string(value));
    }
}

fn info_key(name: &str) -> Vec<u8> {
    let mut key = format!("{PREFIX}:{}", name.replace('\0', ""));
    while key.len() > NAME_BYTES_MAX {
        key.pop();
    }
    key.into_bytes()
}

/// A text string of § 7.9.2.2: ASCII as it is, everything else in UTF-16.
pub(crate) fn text_string(text: &str) -> Object {
    let plain = |byte: u8| matches!(byte, b' '..=b'~' | b'\t' | b'\n' | b'\r');
    if text.bytes().all(plain) && text.len() <= VALUE_UNITS_MAX {
        return Object::String(text.as_bytes().to_vec(), StringFormat::Literal);
    }
    let mut bytes = vec![0xFE, 0xFF];
    let mut units = 0;
    for letter in text.chars() {
        units += letter.len_utf16();
        if units > VALUE_UNITS_MAX {
            break;
        }
        letter.encode_utf16(&mut [0; 2]).iter().for_each(|unit| bytes.extend(unit.to_be_bytes()));
    }
    Object::String(bytes, StringFormat::Hexadecimal)
}

/// Whether the document says it is an archive (PDF/A), by its XMP.
pub(crate) fn is_archive(xmp: &[u8]) -> bool {
    memchr::memmem::find(xmp, b"http://www.aiim.org/pdfa/ns/id/").is_some()
}

/// The XMP with a property for each line beside what is there; `None` where it cannot be added to.
pub(crate) fn into_xmp(xmp: &[u8], lines: &[(&str, &str)]) -> Option<Vec<u8>> {
    let text = decoded(xmp)?;
    let (text, mut properties) = without_ours(text);
    for (name, value) in lines {
        properties.insert(element(name), escaped(value));
    }
    let end = text.rfind(":RDF>").filter(|&end| !text[..end].ends_with('/'))?;
    let open = text[..end].rfind("</")?;
    let rdf = &text[open + 2..end];
    if rdf.is_empty() || !rdf.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        return None;
    }
    let (mut head, tail) = (text[..open].to_owned(), &text[open..]);
    let about = about(&head, rdf);
    if is_archive(head.as_bytes()) {
        declare(&mut head, rdf, &about, properties.keys());
    }
    Some((head + &description(rdf, &about, &properties) + tail).into_bytes())
}

/// XMP of a document that has none.
pub(crate) fn new_xmp(lines: &[(&str, &str)]) -> Vec<u8> {
    let properties = lines.iter().map(|(name, value)| (element(name), escaped(value))).collect();
    packet(&description("rdf", "", &properties))
}

/// XMP around descriptions.
pub(crate) fn packet(descriptions: &str) -> Vec<u8> {
    format!(
        "{PACKET_LINE}\n<x:xmpmeta xmlns:x=\"adobe:ns:meta/\">\n\
         <rdf:RDF xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\">\n{descriptions}</rdf:RDF>\n\
         </x:xmpmeta>\n<?xpacket end=\"w\"?>"
    )
    .into_bytes()
}

/// XMP is UTF-8 nearly always and UTF-16 now and then.
fn decoded(xmp: &[u8]) -> Option<String> {
    let units = |to_unit: fn([u8; 2]) -> u16| -> Option<String> {
        let units: Vec<u16> = xmp.chunks_exact(2).map(|pair| to_unit([pair[0], pair[1]])).collect();
        String::from_utf16(&units).ok()
    };
    match xmp {
        [0xFE, 0xFF, ..] | [0, b'<', ..] => units(u16::from_be_bytes),
        [0xFF, 0xFE, ..] | [b'<', 0, ..] => units(u16::from_le_bytes),
        _ => std::str::from_utf8(xmp).map(str::to_owned).ok().or_else(|| {
            // Tools that know no UTF-8 mangle the mark of it in the first line, and nothing else.
            let end = memchr::memmem::find(xmp, b"?>").filter(|end| *end < PACKET_LINE_MAX)? + 2;
            Some(format!("{PACKET_LINE}{}", std::str::from_utf8(&xmp[end..]).ok()?))
        }),
    }
    .map(|text| text.trim_end_matches('\0').to_owned())
}

const PACKET_LINE: &str = "<?xpacket begin=\"\u{FEFF}\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>";
const PACKET_LINE_MAX: usize = 200;

const OURS_END: &str = "<!--/hl7server-->\n";

/// The text without the description an earlier stamp left, and that one's properties.
fn without_ours(mut text: String) -> (String, BTreeMap<String, String>) {
    let mut properties = BTreeMap::new();
    while let Some(start) = text.find("<!--hl7server-->")
        && let Some(length) = text[start..].find(OURS_END)
    {
        for line in text[start..start + length].lines() {
            let element = line.strip_prefix("<hl7server:").and_then(|rest| rest.split_once('>'));
            if let Some((name, rest)) = element
                && let Some(value) = rest.strip_suffix(&format!("</hl7server:{name}>"))
            {
                properties.insert(name.to_owned(), value.to_owned());
            }
        }
        text.replace_range(start..start + length + OURS_END.len(), "");
    }
    (text, properties)
}

/// All descriptions of a document are about the same thing, named alike.
fn about(head: &str, rdf: &str) -> String {
    let key = format!("{rdf}:about=");
    let value = head.find(&key).and_then(|at| {
        let rest = &head[at + key.len()..];
        let quote = rest.chars().next().filter(|&quote| quote == '"' || quote == '\'')?;
        rest[1..].split_once(quote).map(|(value, _)| value)
    });
    value.filter(|value| !value.contains(['<', '"'])).unwrap_or("").to_owned()
}

fn description(rdf: &str, about: &str, properties: &BTreeMap<String, String>) -> String {
    let mut text = format!(
        "<!--hl7server-->\n<{rdf}:Description {rdf}:about=\"{about}\" xmlns:{PREFIX}=\"{NAMESPACE}\">\n"
    );
    for (name, value) in properties {
        let _ = writeln!(text, "<{PREFIX}:{name}>{value}</{PREFIX}:{name}>");
    }
    let _ = write!(text, "</{rdf}:Description>\n{OURS_END}");
    text
}

/// Says what our properties are, as archives must of every namespace they do not know (ISO 19005-1 § 6.7.8).
fn declare<'n>(head: &mut String, rdf: &str, about: &str, names: impl Iterator<Item = &'n String>) {
    let mut schema = format!(
        "<{rdf}:li {rdf}:parseType=\"Resource\">\n<pdfaSchema:schema>HL7 server metadata</pdfaSchema:schema>\n\
         <pdfaSchema:namespaceURI>{NAMESPACE}</pdfaSchema:namespaceURI>\n\
         <pdfaSchema:prefix>{PREFIX}</pdfaSchema:prefix>\n<pdfaSchema:property>\n<{rdf}:Seq>\n"
    );
    for name in names {
        let _ = writeln!(
            schema,
            "<{rdf}:li {rdf}:parseType=\"Resource\"><pdfaProperty:name>{name}</pdfaProperty:name>\
             <pdfaProperty:valueType>Text</pdfaProperty:valueType><pdfaProperty:category>external</pdfaProperty:category>\
             <pdfaProperty:description>Value from the HL7 message</pdfaProperty:description></{rdf}:li>"
        );
    }
    let _ = write!(schema, "</{rdf}:Seq>\n</pdfaSchema:property>\n</{rdf}:li>\n");
    let namespaces = "xmlns:pdfaSchema=\"http://www.aiim.org/pdfa/ns/schema#\" \
                      xmlns:pdfaProperty=\"http://www.aiim.org/pdfa/ns/property#\"";
    let schema = format!("<!--hl7server-->\n{schema}{OURS_END}");
    // A document has one list of schemas: where it is there already, ours goes into it, namespaces and all.
    let list = head.find("<pdfaExtension:schemas").and_then(|at| {
        let end = at + head[at..].find(&format!("</{rdf}:Bag>"))?;
        head[..end].rfind("</pdfaExtension:schemas>").is_none_or(|closed| closed < at).then_some(end)
    });
    match list {
        Some(end) => {
            let schema = schema.replacen("\"Resource\">", &format!("\"Resource\" {namespaces}>"), 1);
            head.insert_str(end, &schema);
        }
        None => {
            let _ = write!(
                head,
                "<!--hl7server-->\n<{rdf}:Description {rdf}:about=\"{about}\" \
                 xmlns:pdfaExtension=\"http://www.aiim.org/pdfa/ns/extension/\" {namespaces}>\n\
                 <pdfaExtension:schemas>\n<{rdf}:Bag>\n{}</{rdf}:Bag>\n</pdfaExtension:schemas>\n</{rdf}:Description>\n{OURS_END}",
                schema.replace("<!--hl7server-->\n", "").replace(OURS_END, "")
            );
        }
    }
}

/// The name of an element: what XML does not allow in one stands as `_xHHHH_`.
fn element(name: &str) -> String {
    let mut element = String::with_capacity(name.len());
    for (index, letter) in name.chars().enumerate() {
        let allowed = letter.is_ascii_alphabetic()
            || letter == '_'
            || index > 0 && (letter.is_ascii_digit() || matches!(letter, '-' | '.'))
            || letter.is_alphabetic()
                && (0xC0..0x2000).contains(&u32::from(letter))
                && letter != '×'
                && letter != '÷';
        if allowed {
            element.push(letter);
        } else {
            let _ = write!(element, "_x{:04X}_", u32::from(letter));
        }
    }
    if element.is_empty() { "_".into() } else { element }
}

/// Text between tags, on one line; what XML cannot hold is left out.
pub(crate) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars().take(VALUE_UNITS_MAX) {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\t' | '\n' | '\r' => drop(write!(escaped, "&#{};", u32::from(letter))),
            '\u{FFFE}' | '\u{FFFF}' => {}
            letter if u32::from(letter) < 0x20 => {}
            letter => escaped.push(letter),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    const XMP: &str = "<x:xmpmeta xmlns:x='adobe:ns:meta/'><r:RDF xmlns:r='http://www.w3.org/1999/02/22-rdf-syntax-ns#'>\
        <r:Description r:about='uuid:1' xmlns:dc='d'><dc:title>T</dc:title></r:Description></r:RDF></x:xmpmeta>";

    fn added(xmp: &str, lines: &[(&str, &str)]) -> Option<String> {
        into_xmp(xmp.as_bytes(), lines).map(|xmp| String::from_utf8(xmp).unwrap())
    }

    #[test]
    fn what_is_there_stays_and_ours_is_about_the_same_thing() {
        let xmp = added(XMP, &[("patient id", "a<b&c")]).unwrap();
        assert!(xmp.contains("<dc:title>T</dc:title>"));
        assert!(xmp.contains("<r:Description r:about=\"uuid:1\" xmlns:hl7server"));
        assert!(xmp.contains("<hl7server:patient_x0020_id>a&lt;b&amp;c</hl7server:patient_x0020_id>"));
        assert!(xmp.ends_with("</r:RDF></x:xmpmeta>"));
    }

    #[test]
    fn a_second_stamp_adds_to_the_first_and_does_not_repeat_it() {
        let once = added(XMP, &[("a", "1"), ("b", "2")]).unwrap();
        let twice = added(&once, &[("b", "3")]).unwrap();
        assert!(
            twice.contains(">1</hl7server:a>")
                && twice.contains(">3</hl7server:b>")
                && !twice.contains(">2<")
        );
        assert_eq!(twice.matches("<!--hl7server-->").count(), 1);
        assert_eq!(added(&twice, &[("b", "3")]).unwrap(), twice);
    }

    #[test]
    fn an_archive_stays_one_and_learns_our_properties_once() {
        let archive = XMP
            .replace("<dc:title>", "<i:part xmlns:i='http://www.aiim.org/pdfa/ns/id/'>2</i:part><dc:title>");
        let once = added(&archive, &[("a", "1")]).unwrap();
        assert!(once.contains("<i:part") && once.contains("<pdfaProperty:name>a</pdfaProperty:name>"));
        let twice = added(&once, &[("b", "1")]).unwrap();
        assert_eq!(twice.matches("<pdfaExtension:schemas>").count(), 1);
        assert_eq!(twice.matches("<pdfaProperty:name>").count(), 2);
        let with_list = archive.replace(
            "<dc:title>",
            "<pdfaExtension:schemas xmlns:pdfaExtension='e'><r:Bag><r:li>other</r:li></r:Bag></pdfaExtension:schemas><dc:title>",
        );
        let listed = added(&with_list, &[("a", "1")]).unwrap();
        assert_eq!(listed.matches("pdfaExtension:schemas").count(), 2);
        assert!(listed.find("other").unwrap() < listed.find("pdfaProperty:name").unwrap());
        assert_eq!(added(&listed, &[("a", "1")]).unwrap(), listed);
    }

    #[test]
    fn what_is_no_xmp_is_left_alone() {
        for text in ["", "junk", "</:RDF>", "<rdf:RDF/>", "</a b:RDF>"] {
            assert_eq!(added(text, &[("a", "b")]), None, "{text}");
        }
        assert_eq!(into_xmp(b"\xFF\xFE\x00", &[]), None);
        let wide: Vec<u8> = XMP.encode_utf16().flat_map(u16::to_be_bytes).collect();
        assert!(into_xmp(&wide, &[("a", "b")]).is_some());
        let mangled = [b"<?xpacket begin='\xEF\xBB?'?>", XMP.as_bytes()].concat();
        assert!(
            into_xmp(&mangled, &[("a", "b")]).unwrap().starts_with("<?xpacket begin=\"\u{FEFF}".as_bytes())
        );
    }

    #[test]
    fn names_and_values_of_any_kind_are_well_formed() {
        assert_eq!(element("1a.b:c"), "_x0031_a.b_x003A_c");
        assert_eq!(element(""), "_");
        assert_eq!(escaped("\u{0}a\u{1F}\r\n]]>"), "a&#13;&#10;]]&gt;");
        assert_eq!(info_key(&"ä".repeat(100)).len(), NAME_BYTES_MAX - 1);
        assert_eq!(text_string("Ж"), Object::String(vec![0xFE, 0xFF, 4, 0x16], StringFormat::Hexadecimal));
    }
}
