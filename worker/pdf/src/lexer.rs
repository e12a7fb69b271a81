//! Bytes into tokens and objects, by the rules of ISO 32000-1 § 7.2 and 7.3 and with the patience readers show.
//!
//! Nothing here fails on odd input: what cannot be read becomes null, as in every reader. What does end it is a bound:
//! nesting, and the number of objects read, which a stamp shares over its whole life.

use lopdf::{Dictionary, Object, StringFormat};

/// Arrays and dictionaries within one another; more is an attack, since real files stay below 20.
const NESTING_MAX: usize = 100;

/// Why an object was not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// More objects within one another than any real file has.
    Nesting,
    /// More objects than the stamp may read.
    Objects,
    /// A dictionary with something else where a key should be, which readers take apart each in its own way.
    Malformed,
}

/// A place in the bytes, from which objects are read one after the other.
pub(crate) struct Lexer<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// What stands at a place, without the objects within it.
#[derive(Clone, Debug, PartialEq)]
enum Token<'a> {
    Number { integer: Option<i64>, real: f32 },
    Name(Vec<u8>),
    String(Vec<u8>, StringFormat),
    ArrayStart,
    ArrayEnd,
    DictionaryStart,
    DictionaryEnd,
    Word(&'a [u8]),
    End,
}

impl<'a> Lexer<'a> {
    /// Starts at `at`.
    pub(crate) fn new(bytes: &'a [u8], at: usize) -> Lexer<'a> {
        Lexer { bytes, at: at.min(bytes.len()) }
    }

    /// The place reached.
    pub(crate) fn at(&self) -> usize {
        self.at
    }

    /// Goes past white space and comments.
    pub(crate) fn skip_space(&mut self) {
        while let Some(&byte) = self.bytes.get(self.at) {
            if is_space(byte) {
                self.at += 1;
            } else if byte == b'%' {
                while self.bytes.get(self.at).is_some_and(|&b| b != b'\r' && b != b'\n') {
                    self.at += 1;
                }
            } else {
                break;
            }
        }
    }

    /// Goes past `word` where it stands next, and says whether it did.
    pub(crate) fn take_word(&mut self, word: &[u8]) -> bool {
        self.skip_space();
        let found = self.bytes[self.at..].starts_with(word);
        if found {
            self.at += word.len();
        }
        found
    }

    /// A number of digits alone.
    pub(crate) fn take_unsigned(&mut self) -> Option<u64> {
        self.skip_space();
        let digits = self.bytes[self.at..].iter().take_while(|b| b.is_ascii_digit()).count();
        let value = unsigned(&self.bytes[self.at..self.at + digits])?;
        self.at += digits;
        Some(value)
    }

    /// `N G obj`, the head of an object in a file.
    pub(crate) fn take_object_head(&mut self) -> Option<(u32, u16)> {
        let number = u32::try_from(self.take_unsigned()?).ok()?;
        let generation = u16::try_from(self.take_unsigned()?).ok()?;
        self.take_word(b"obj").then_some((number, generation))
    }

    /// The next object; `objects` is what may still be read and is lessened by what was.
    pub(crate) fn object(&mut self, objects: &mut usize) -> Result<Object, Stop> {
        let token = self.token();
        self.object_of(token, NESTING_MAX, objects)
    }

    fn object_of(&mut self, token: Token<'a>, depth: usize, objects: &mut usize) -> Result<Object, Stop> {
        *objects = objects.checked_sub(1).ok_or(Stop::Objects)?;
        Ok(match token {
            Token::Number { integer: Some(number), .. } => {
                self.reference(number).unwrap_or(Object::Integer(number))
            }
            Token::Number { real, .. } => Object::Real(real),
            Token::Name(name) => Object::Name(name),
            Token::String(bytes, format) => Object::String(bytes, format),
            Token::ArrayStart => {
                let depth = depth.checked_sub(1).ok_or(Stop::Nesting)?;
                Object::Array(self.array(depth, objects)?)
            }
            Token::DictionaryStart => {
                let depth = depth.checked_sub(1).ok_or(Stop::Nesting)?;
                Object::Dictionary(self.dictionary(depth, objects)?)
            }
            Token::Word(b"true") => Object::Boolean(true),
            Token::Word(b"false") => Object::Boolean(false),
            Token::Word(_) | Token::ArrayEnd | Token::DictionaryEnd | Token::End => Object::Null,
        })
    }

    fn array(&mut self, depth: usize, objects: &mut usize) -> Result<Vec<Object>, Stop> {
        let mut items = Vec::new();
        loop {
            let before = self.at;
            match self.token() {
                Token::ArrayEnd | Token::End => return Ok(items),
                // The array was never closed: what comes next belongs to whatever holds it.
                Token::DictionaryEnd | Token::Word(b"endobj" | b"stream" | b"endstream") => {
                    self.at = before;
                    return Ok(items);
                }
                token => items.push(self.object_of(token, depth, objects)?),
            }
        }
    }

    fn dictionary(&mut self, depth: usize, objects: &mut usize) -> Result<Dictionary, Stop> {
        let mut dictionary = Dictionary::new();
        loop {
            let before = self.at;
            match self.token() {
                Token::DictionaryEnd | Token::End => return Ok(dictionary),
                Token::Word(b"endobj" | b"stream" | b"endstream") => {
                    self.at = before;
                    return Ok(dictionary);
                }
                Token::Name(key) => {
                    let before = self.at;
                    match self.token() {
                        Token::DictionaryEnd | Token::End => {
                            dictionary.set(key, Object::Null);
                            return Ok(dictionary);
                        }
                        Token::Word(b"endobj" | b"stream" | b"endstream") => {
                            self.at = before;
                            return Ok(dictionary);
                        }
                        token => {
                            let value = self.object_of(token, depth, objects)?;
                            dictionary.set(key, value);
                        }
                    }
                }
                Token::DictionaryStart | Token::ArrayStart => return Err(Stop::Malformed),
                // No key: readers pass over it.
                _ => {}
            }
        }
    }

    /// `number G R` where the rest of it follows.
    fn reference(&mut self, number: i64) -> Option<Object> {
        let before = self.at;
        let reference = u32::try_from(number).ok().and_then(|number| {
            let generation = u16::try_from(self.take_unsigned()?).ok()?;
            self.skip_space();
            let ends = self.bytes.get(self.at + 1).is_none_or(|&next| !is_regular(next));
            (self.bytes.get(self.at) == Some(&b'R') && ends).then(|| {
                self.at += 1;
                Object::Reference((number, generation))
            })
        });
        if reference.is_none() {
            self.at = before;
        }
        reference
    }

    fn token(&mut self) -> Token<'a> {
        self.skip_space();
        let rest = &self.bytes[self.at..];
        let Some(&first) = rest.first() else { return Token::End };
        let single = |lexer: &mut Self, token| {
            lexer.at += 1;
            token
        };
        match first {
            b'[' => single(self, Token::ArrayStart),
            b']' => single(self, Token::ArrayEnd),
            b'/' => self.name(),
            b'(' => self.literal_string(),
            b'<' if rest.starts_with(b"<<") => {
                self.at += 2;
                Token::DictionaryStart
            }
            b'<' => self.hexadecimal_string(),
            b'>' if rest.starts_with(b">>") => {
                self.at += 2;
                Token::DictionaryEnd
            }
            b'0'..=b'9' | b'+' | b'-' | b'.' => self.number(),
            _ if is_regular(first) => {
                let length = rest.iter().take_while(|&&b| is_regular(b)).count();
                self.at += length;
                Token::Word(&rest[..length])
            }
            // A bracket of another language, or one that closes nothing.
            _ => single(self, Token::Word(&rest[..1])),
        }
    }

    fn name(&mut self) -> Token<'a> {
        let rest = &self.bytes[self.at + 1..];
        let length = rest.iter().take_while(|&&b| is_regular(b)).count();
        self.at += 1 + length;
        let mut name = Vec::with_capacity(length);
        let mut raw = &rest[..length];
        while let Some((&byte, tail)) = raw.split_first() {
            match (byte, tail.first().copied().and_then(hex), tail.get(1).copied().and_then(hex)) {
                (b'#', Some(high), Some(low)) => {
                    name.push(high << 4 | low);
                    raw = &tail[2..];
                }
                _ => {
                    name.push(byte);
                    raw = tail;
                }
            }
        }
        Token::Name(name)
    }

    fn number(&mut self) -> Token<'a> {
        let rest = &self.bytes[self.at..];
        let length = rest.iter().take_while(|&&b| matches!(b, b'0'..=b'9' | b'+' | b'-' | b'.')).count();
        self.at += length;
        let raw = &rest[..length];
        let negative = raw.first() == Some(&b'-');
        let digits = raw.iter().skip_while(|b| matches!(b, b'+' | b'-'));
        let text: Vec<u8> = digits.copied().take_while(|b| b.is_ascii_digit() || *b == b'.').collect();
        if !text.contains(&b'.') {
            let value = unsigned(&text).map_or(i64::MAX, |value| i64::try_from(value).unwrap_or(i64::MAX));
            let value = if text.is_empty() { 0 } else { value };
            return Token::Number { integer: Some(if negative { -value } else { value }), real: 0.0 };
        }
        // A second point ends the number, as readers have it.
        let point = text.iter().position(|&b| b == b'.').unwrap_or(text.len());
        let end =
            text[point + 1..].iter().position(|&b| b == b'.').map_or(text.len(), |next| point + 1 + next);
        let text = std::str::from_utf8(&text[..end]).unwrap_or("0");
        let value: f32 = if text == "." { 0.0 } else { text.parse().unwrap_or(0.0) };
        let value = if value.is_finite() { value } else { f32::MAX };
        Token::Number { integer: None, real: if negative { -value } else { value } }
    }

    fn literal_string(&mut self) -> Token<'a> {
        let mut bytes = Vec::new();
        let mut open = 1usize;
        self.at += 1;
        while let Some(&byte) = self.bytes.get(self.at) {
            self.at += 1;
            match byte {
                b'(' => open += 1,
                b')' => {
                    open -= 1;
                    if open == 0 {
                        break;
                    }
                }
                b'\r' => {
                    if self.bytes.get(self.at) == Some(&b'\n') {
                        self.at += 1;
                    }
                    bytes.push(b'\n');
                    continue;
                }
                b'\\' => {
                    self.escape(&mut bytes);
                    continue;
                }
                _ => {}
            }
            bytes.push(byte);
        }
        Token::String(bytes, StringFormat::Literal)
    }

    fn escape(&mut self, bytes: &mut Vec<u8>) {
        let Some(&byte) = self.bytes.get(self.at) else { return };
        self.at += 1;
        match byte {
            b'n' => bytes.push(b'\n'),
            b'r' => bytes.push(b'\r'),
            b't' => bytes.push(b'\t'),
            b'b' => bytes.push(8),
            b'f' => bytes.push(12),
            b'\n' => {}
            b'\r' => {
                if self.bytes.get(self.at) == Some(&b'\n') {
                    self.at += 1;
                }
            }
            b'0'..=b'7' => {
                let mut value = u32::from(byte - b'0');
                for _ in 0..2 {
                    match self.bytes.get(self.at) {
                        Some(&digit @ b'0'..=b'7') => {
                            value = value * 8 + u32::from(digit - b'0');
                            self.at += 1;
                        }
                        _ => break,
                    }
                }
                bytes.push((value & 0xFF) as u8);
            }
            other => bytes.push(other),
        }
    }

    fn hexadecimal_string(&mut self) -> Token<'a> {
        self.at += 1;
        let mut bytes = Vec::new();
        let mut high = None;
        while let Some(&byte) = self.bytes.get(self.at) {
            self.at += 1;
            if byte == b'>' {
                break;
            }
            let Some(digit) = hex(byte) else { continue };
            match high.take() {
                None => high = Some(digit),
                Some(high) => bytes.push(high << 4 | digit),
            }
        }
        bytes.extend(high.map(|high| high << 4));
        Token::String(bytes, StringFormat::Hexadecimal)
    }
}

/// White space of § 7.2.2.
pub(crate) fn is_space(byte: u8) -> bool {
    matches!(byte, 0 | b'\t' | b'\n' | 12 | b'\r' | b' ')
}

/// A byte that neither ends a token nor is one.
pub(crate) fn is_regular(byte: u8) -> bool {
    !is_space(byte) && !matches!(byte, b'(' | b')' | b'<' | b'>' | b'[' | b']' | b'{' | b'}' | b'/' | b'%')
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

fn unsigned(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, digit| value.checked_mul(10)?.checked_add(u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Object {
        Lexer::new(text, 0).object(&mut 1_000_000).unwrap()
    }

    #[test]
    fn an_object_is_read_as_readers_read_it() {
        let page = read(b"<</Type/Page/Kids[1 0 R 2 null]/A(a\\(b(c)\\051)/B<4 8 4 5>/N#20 -.5/R true>>");
        let page = page.as_dict().unwrap();
        assert_eq!(page.get(b"Kids").unwrap().as_array().unwrap().len(), 3);
        assert_eq!(page.get(b"A").unwrap().as_str().unwrap(), b"a(b(c))");
        assert_eq!(page.get(b"B").unwrap().as_str().unwrap(), b"HE");
        assert_eq!(page.get(b"N ").unwrap(), &Object::Real(-0.5));
        assert_eq!(page.get(b"R").unwrap(), &Object::Boolean(true));
    }

    #[test]
    fn what_is_never_closed_ends_with_the_object() {
        let mut lexer = Lexer::new(b"<</A[1 2/B 3 endobj", 0);
        let object = lexer.object(&mut 100).unwrap();
        assert_eq!(object.as_dict().unwrap().get(b"A").unwrap().as_array().unwrap().len(), 4);
        assert!(lexer.take_word(b"endobj"));
    }

    #[test]
    fn nesting_ends_in_a_stop_and_not_in_a_crash() {
        for open in [&b"["[..], b"<</A "] {
            assert_eq!(
                Lexer::new(&open.repeat(200_000), 0).object(&mut usize::MAX.clone()),
                Err(Stop::Nesting)
            );
        }
        let strings = b"(".repeat(1_000_000);
        assert!(Lexer::new(&strings, 0).object(&mut 10).is_ok());
    }

    #[test]
    fn a_dictionary_with_a_bracket_for_a_key_is_none() {
        assert_eq!(Lexer::new(b"<<<</A 1>>>>", 0).object(&mut 100), Err(Stop::Malformed));
    }

    #[test]
    fn objects_are_counted() {
        assert_eq!(Lexer::new(b"[0 0 0 0]", 0).object(&mut 4), Err(Stop::Objects));
        assert!(Lexer::new(b"[0 0 0 0]", 0).object(&mut 5).is_ok());
    }

    #[test]
    fn an_odd_number_is_no_panic() {
        for text in [&b"--5"[..], b"99999999999999999999", b".", b"-", b"1.2.3", b"1-2", b"+"] {
            read(text);
        }
        assert_eq!(read(b"1.5.7"), Object::Real(1.5));
        assert_eq!(read(b"--5"), Object::Integer(-5));
    }
}
