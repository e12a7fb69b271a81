//! What a server answers, as bytes: the tokens of MS-TDS 2.2.7.

/// An error as SQL Server words it.
#[derive(Clone, Debug)]
pub struct ServerError {
    pub number: u32,
    pub class: u8,
    pub message: String,
}

/// A column of a result.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Int,
    NVarChar(u16),
    NVarCharMax,
    DateTime2,
    Bit,
}

/// A value of a result.
#[derive(Clone, Debug)]
pub enum Cell {
    Null,
    Int(i32),
    Text(String),
    Bit(bool),
    /// Increments of 10⁻⁷ s of the day, days since 0001-01-01.
    DateTime2(u64, u32),
}

/// More tokens follow this one.
const MORE: u16 = 0x01;
const FAILED: u16 = 0x02;
const COUNTED: u16 = 0x10;

/// What a server says to a pre-login: which encryption it settles on.
pub fn prelogin(encryption: u8) -> Vec<u8> {
    let options: [(u8, &[u8]); 5] =
        [(0, &[16, 0, 4, 35, 0, 0]), (1, &[encryption]), (2, &[0]), (3, &[]), (4, &[0])];
    let mut bytes = Vec::new();
    let mut offset = u16::try_from(options.len() * 5 + 1).unwrap();
    for (token, value) in options {
        let length = u16::try_from(value.len()).unwrap();
        bytes.push(token);
        bytes.extend(offset.to_be_bytes());
        bytes.extend(length.to_be_bytes());
        offset += length;
    }
    bytes.push(0xff);
    for (_, value) in options {
        bytes.extend(value);
    }
    bytes
}

/// A login that is granted.
pub fn login_granted(database: &str) -> Vec<u8> {
    let mut bytes = env_change(1, |body| {
        short_text(body, database);
        short_text(body, "master");
    });
    bytes.extend(message(0xab, 5_701, 0, &format!("Changed database context to '{database}'.")));
    bytes.extend(env_change(4, |body| {
        short_text(body, "4096");
        short_text(body, "4096");
    }));
    bytes.extend(login_ack());
    bytes.extend(done(0xfd, 0, 0));
    bytes
}

/// A login that is refused, or a server that sends its client elsewhere.
pub fn login_refused(error: &ServerError) -> Vec<u8> {
    let mut bytes = message(0xaa, error.number, error.class, &error.message);
    bytes.extend(done(0xfd, FAILED, 0));
    bytes
}

/// "Ask over there": Azure's gateway, an availability group.
pub fn login_routed(host: &str, port: u16) -> Vec<u8> {
    let mut bytes = env_change(20, |body| {
        let mut value = vec![0];
        value.extend(port.to_le_bytes());
        long_text(&mut value, host);
        body.extend(u16::try_from(value.len()).unwrap().to_le_bytes());
        body.extend(value);
        body.extend([0, 0]);
    });
    bytes.extend(login_ack());
    bytes.extend(done(0xfd, 0, 0));
    bytes
}

/// A procedure that touched so many rows.
pub fn affected(rows: u64) -> Vec<u8> {
    let mut bytes = done(0xff, MORE | COUNTED, rows);
    bytes.extend(end_of_procedure());
    bytes
}

/// A plain statement without rows.
pub fn batch_done() -> Vec<u8> {
    done(0xfd, 0, 0)
}

/// A procedure that failed.
pub fn failed(error: &ServerError) -> Vec<u8> {
    let mut bytes = message(0xaa, error.number, error.class, &error.message);
    bytes.extend(done(0xff, MORE | FAILED, 0));
    bytes.extend(end_of_procedure());
    bytes
}

/// A result with rows.
pub fn table(columns: &[(&str, Kind)], rows: &[Vec<Cell>]) -> Vec<u8> {
    let mut bytes = vec![0x81];
    bytes.extend(u16::try_from(columns.len()).unwrap().to_le_bytes());
    for (name, kind) in columns {
        bytes.extend([0, 0, 0, 0, 1, 0]);
        match kind {
            Kind::Int => bytes.extend([0x26, 4]),
            Kind::Bit => bytes.extend([0x68, 1]),
            Kind::DateTime2 => bytes.extend([0x2a, 7]),
            Kind::NVarChar(characters) => {
                bytes.push(0xe7);
                bytes.extend((characters * 2).to_le_bytes());
                bytes.extend([0x09, 0x04, 0xd0, 0x00, 0x34]);
            }
            Kind::NVarCharMax => bytes.extend([0xe7, 0xff, 0xff, 0x09, 0x04, 0xd0, 0x00, 0x34]),
        }
        short_text(&mut bytes, name);
    }
    for row in rows {
        bytes.push(0xd1);
        for (cell, (_, kind)) in row.iter().zip(columns) {
            value(&mut bytes, cell, *kind);
        }
    }
    bytes.extend(done(0xff, MORE | COUNTED, rows.len() as u64));
    bytes.extend(end_of_procedure());
    bytes
}

/// What follows begin (8), commit (9) and roll back (10): the client sends the transaction's descriptor from now on.
pub fn transaction(kind: u8) -> Vec<u8> {
    let mut bytes = env_change(kind, |body| {
        let descriptor = [1, 2, 3, 4, 5, 6, 7, 8];
        if kind == 8 {
            body.push(8);
            body.extend(descriptor);
            body.push(0);
        } else {
            body.push(0);
            body.push(8);
            body.extend(descriptor);
        }
    });
    bytes.extend(done(0xfd, 0, 0));
    bytes
}

fn value(bytes: &mut Vec<u8>, cell: &Cell, kind: Kind) {
    match (cell, kind) {
        (Cell::Null, Kind::NVarChar(_)) => bytes.extend([0xff, 0xff]),
        (Cell::Null, Kind::NVarCharMax) => bytes.extend([0xff; 8]),
        (Cell::Null, _) => bytes.push(0),
        (Cell::Int(number), _) => {
            bytes.push(4);
            bytes.extend(number.to_le_bytes());
        }
        (Cell::Bit(bit), _) => bytes.extend([1, u8::from(*bit)]),
        (Cell::DateTime2(increments, days), _) => {
            bytes.push(8);
            bytes.extend(&increments.to_le_bytes()[..5]);
            bytes.extend(&days.to_le_bytes()[..3]);
        }
        (Cell::Text(text), Kind::NVarCharMax) => {
            let text = utf16(text);
            bytes.extend((text.len() as u64).to_le_bytes());
            // In two chunks, as a server may.
            for part in text.chunks(text.len().div_ceil(4).max(1) * 2) {
                bytes.extend(u32::try_from(part.len()).unwrap().to_le_bytes());
                bytes.extend(part);
            }
            bytes.extend([0; 4]);
        }
        (Cell::Text(text), _) => {
            let text = utf16(text);
            bytes.extend(u16::try_from(text.len()).unwrap().to_le_bytes());
            bytes.extend(text);
        }
    }
}

fn login_ack() -> Vec<u8> {
    let mut body = vec![1, 0x73, 0x0b, 0x00, 0x03];
    short_text(&mut body, "Microsoft SQL Server");
    body.extend([16, 0, 0x10, 0x04]);
    let mut bytes = vec![0xad];
    bytes.extend(u16::try_from(body.len()).unwrap().to_le_bytes());
    bytes.extend(body);
    bytes
}

fn message(token: u8, number: u32, class: u8, text: &str) -> Vec<u8> {
    let mut body = number.to_le_bytes().to_vec();
    body.extend([1, class]);
    long_text(&mut body, text);
    short_text(&mut body, "PEER");
    short_text(&mut body, "");
    body.extend(1_u32.to_le_bytes());
    let mut bytes = vec![token];
    bytes.extend(u16::try_from(body.len()).unwrap().to_le_bytes());
    bytes.extend(body);
    bytes
}

fn env_change(kind: u8, fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut body = vec![kind];
    fill(&mut body);
    let mut bytes = vec![0xe3];
    bytes.extend(u16::try_from(body.len()).unwrap().to_le_bytes());
    bytes.extend(body);
    bytes
}

fn end_of_procedure() -> Vec<u8> {
    let mut bytes = vec![0x79, 0, 0, 0, 0];
    bytes.extend(done(0xfe, 0, 0));
    bytes
}

fn done(token: u8, status: u16, rows: u64) -> Vec<u8> {
    let mut bytes = vec![token];
    bytes.extend(status.to_le_bytes());
    bytes.extend([0, 0]);
    bytes.extend(rows.to_le_bytes());
    bytes
}

fn short_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.push(u8::try_from(text.encode_utf16().count()).unwrap());
    bytes.extend(utf16(text));
}

fn long_text(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend(u16::try_from(text.encode_utf16().count()).unwrap().to_le_bytes());
    bytes.extend(utf16(text));
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}
