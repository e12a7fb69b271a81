//! HTML that cannot be broken out of: text goes in escaped, and only markup of this program goes in as it is.

use std::fmt::{self, Display, Write as _};

/// A piece of markup.
#[derive(Clone, Debug, Default)]
pub(super) struct Html(String);

impl Html {
    /// Nothing yet.
    pub(super) fn new() -> Html {
        Html::default()
    }

    /// Adds markup of this program's own.
    pub(super) fn raw(&mut self, markup: &str) -> &mut Html {
        self.0.push_str(markup);
        self
    }

    /// Adds text, whoever wrote it; good inside an element and inside a quoted attribute.
    pub(super) fn text(&mut self, text: impl Display) -> &mut Html {
        // Writing to a String cannot fail.
        let _ = write!(Escape(&mut self.0), "{text}");
        self
    }

    /// Adds another piece.
    pub(super) fn add(&mut self, other: &Html) -> &mut Html {
        self.0.push_str(&other.0);
        self
    }

    /// `<TAG>text</TAG>`; `tag` may carry attributes.
    pub(super) fn element(&mut self, tag: &str, text: impl Display) -> &mut Html {
        let name = tag.split(' ').next().unwrap_or(tag);
        self.raw("<").raw(tag).raw(">").text(text).raw("</").raw(name).raw(">")
    }

    /// The bytes to send.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0.into_bytes()
    }

    #[cfg(test)]
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

struct Escape<'a>(&'a mut String);

impl fmt::Write for Escape<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for letter in text.chars() {
            match letter {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                '\n' => self.0.push('\n'),
                // Marks that turn the direction of writing would let a peer's text reorder ours.
                '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => self.0.push('\u{fffd}'),
                letter if letter.is_control() => self.0.push('\u{fffd}'),
                letter => self.0.push(letter),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text() {
        let mut html = Html::new();
        html.element("a title=\"x\"", "<script>'\"&\u{202e}\u{1b}");
        assert_eq!(html.as_str(), "<a title=\"x\">&lt;script&gt;&#39;&quot;&amp;\u{fffd}\u{fffd}</a>");
    }
}
