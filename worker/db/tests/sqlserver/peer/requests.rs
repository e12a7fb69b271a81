//! What a client asks, from bytes: logins, batches, calls of `sp_executesql`.

use super::packets;

/// What the peer has seen, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    /// A login, and whether it came through TLS.
    Login { user: String, password: String, database: String, server: String, application: String, tls: bool },
    /// A plain statement.
    Batch(String),
    /// `sp_executesql`.
    Statement(Statement),
    /// The client is gone.
    Gone,
}

/// A statement with its parameters.
#[derive(Clone, Debug, PartialEq)]
pub struct Statement {
    pub sql: String,
    /// `@P1 nvarchar(4000),@P2 int`.
    pub declared: String,
    pub parameters: Vec<Parameter>,
}

/// A value as it travelled.
#[derive(Clone, Debug, PartialEq)]
pub enum Parameter {
    Text(String),
    Integer(i64),
    /// Its scale, its increments of the day, its days since 0001-01-01.
    DateTime2(u8, u64, u32),
    Null,
}

pub fn request(kind: u8, payload: &[u8], tls: bool) -> Seen {
    match kind {
        packets::LOGIN => login(payload, tls),
        packets::BATCH => Seen::Batch(from_utf16(&payload[headers(payload)..])),
        packets::RPC => Seen::Statement(statement(&payload[headers(payload)..])),
        other => panic!("a client does not send packets of kind {other:#x} here"),
    }
}

/// The encryption that a pre-login asks for.
pub fn wanted_encryption(prelogin: &[u8]) -> u8 {
    let mut options = prelogin.chunks(5);
    let option = options.find(|option| option[0] == 1).unwrap();
    prelogin[usize::from(u16::from_be_bytes([option[1], option[2]]))]
}

fn login(payload: &[u8], tls: bool) -> Seen {
    let field = |at: usize| {
        let offset = usize::from(u16::from_le_bytes([payload[at], payload[at + 1]]));
        let length = 2 * usize::from(u16::from_le_bytes([payload[at + 2], payload[at + 3]]));
        &payload[offset..offset + length]
    };
    let password: Vec<u8> = field(44).iter().map(|b| (b ^ 0xa5).rotate_left(4)).collect();
    Seen::Login {
        user: from_utf16(field(40)),
        password: from_utf16(&password),
        application: from_utf16(field(48)),
        server: from_utf16(field(52)),
        database: from_utf16(field(68)),
        tls,
    }
}

/// The bytes of ALL_HEADERS.
fn headers(payload: &[u8]) -> usize {
    u32::from_le_bytes(payload[..4].try_into().unwrap()) as usize
}

fn statement(call: &[u8]) -> Statement {
    let mut rest = Cursor(call);
    assert_eq!((rest.u16(), rest.u16()), (0xffff, 10), "only sp_executesql is expected");
    rest.u16();
    let mut values = Vec::new();
    while !rest.0.is_empty() {
        let name_bytes = 2 * usize::from(rest.u8());
        rest.take(name_bytes);
        rest.u8();
        values.push(rest.value());
    }
    let mut values = values.into_iter();
    let text = |value| match value {
        Some(Parameter::Text(text)) => text,
        other => panic!("expected a text, not {other:?}"),
    };
    let sql = text(values.next());
    // Without parameters tiberius declares none by a number.
    let declared = match values.next() {
        Some(Parameter::Integer(0)) | None => String::new(),
        other => text(other),
    };
    Statement { sql, declared, parameters: values.collect() }
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    fn u8(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.take(2).try_into().unwrap())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take(4).try_into().unwrap())
    }

    /// A little-endian number of so many bytes.
    fn number(&mut self, bytes: usize) -> u64 {
        self.take(bytes).iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
    }

    fn value(&mut self) -> Parameter {
        match self.u8() {
            0xe7 => {
                let max = self.u16();
                self.take(5);
                let text = if max == 0xffff { self.chunks() } else { self.counted() };
                text.map_or(Parameter::Null, |text| Parameter::Text(from_utf16(&text)))
            }
            0x26 => {
                let width = self.u8();
                match self.u8() {
                    0 => Parameter::Null,
                    8 => Parameter::Integer(self.number(8) as i64),
                    4 => Parameter::Integer(i64::from(self.u32() as i32)),
                    other => panic!("an integer of {other} bytes of {width}"),
                }
            }
            0x2a => {
                let scale = self.u8();
                let bytes = usize::from(self.u8());
                Parameter::DateTime2(scale, self.number(bytes - 3), self.number(3) as u32)
            }
            other => panic!("a parameter of type {other:#x}"),
        }
    }

    fn counted(&mut self) -> Option<Vec<u8>> {
        match self.u16() {
            0xffff => None,
            bytes => Some(self.take(usize::from(bytes)).to_vec()),
        }
    }

    fn chunks(&mut self) -> Option<Vec<u8>> {
        if self.number(8) == u64::MAX {
            return None;
        }
        let mut whole = Vec::new();
        loop {
            match self.u32() as usize {
                0 => return Some(whole),
                bytes => whole.extend(self.take(bytes)),
            }
        }
    }
}

fn from_utf16(bytes: &[u8]) -> String {
    let units: Vec<u16> = bytes.chunks(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    String::from_utf16(&units).unwrap()
}
