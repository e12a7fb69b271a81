//! What comes over the link and the control socket, from whichever end: however reads split a stream, its frames are the
//! same, and what was decoded encodes and decodes to itself.
#![no_main]

use libfuzzer_sys::fuzz_target;
use link::codec::{self, CodecFault, Deframer, PREFIX_BYTES};
use link::{Order, Report};
use master::control::{Request, Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// Small, so that small inputs pass it.
const BYTES_MAX: usize = 2048;
/// What a bounded report may come to, whatever the worker put into it: `REPORT_BYTES_MAX` of the link.
const REPORT_BYTES_MAX: usize = 1 << 20;

fuzz_target!(|data: &[u8]| {
    let [choice, seed, rest @ ..] = data else { return };
    // The JSON of one frame, or a stream with lengths of its own.
    let framed;
    let stream = if choice & 4 == 0 {
        framed = [&u32::try_from(rest.len()).expect("inputs are short").to_le_bytes(), rest].concat();
        &framed
    } else {
        rest
    };
    match choice & 3 {
        0 => reports(both_ways::<Report>(stream, *seed)),
        1 => drop(both_ways::<Order>(stream, *seed)),
        2 => drop(both_ways::<Request>(stream, *seed)),
        _ => drop(both_ways::<Response>(stream, *seed)),
    }
});

fn both_ways<T>(stream: &[u8], seed: u8) -> Vec<T>
where
    T: Serialize + DeserializeOwned + PartialEq + Debug,
{
    let whole = decoded::<T>(stream, || stream.len());
    assert_eq!(whole, decoded(stream, || 1), "byte by byte");
    let mut state = u32::from(seed);
    let pieces = decoded(stream, || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 28) as usize
    });
    assert_eq!(whole, pieces, "in pieces");
    for value in &whole.0 {
        let bytes = codec::encode(value, usize::MAX).expect("what was decoded can be encoded");
        let (again, fault) = decoded_within::<T>(&bytes, || bytes.len(), usize::MAX);
        assert_eq!((again.as_slice(), fault), (std::slice::from_ref(value), None));
        let length = bytes.len() - PREFIX_BYTES;
        assert!(codec::encode(value, length - 1).is_err(), "its limit holds");
    }
    whole.0
}

fn decoded<T: DeserializeOwned>(
    stream: &[u8],
    next_read: impl FnMut() -> usize,
) -> (Vec<T>, Option<CodecFault>) {
    decoded_within(stream, next_read, BYTES_MAX)
}

fn decoded_within<T: DeserializeOwned>(
    stream: &[u8],
    mut next_read: impl FnMut() -> usize,
    bytes_max: usize,
) -> (Vec<T>, Option<CodecFault>) {
    let mut deframer = Deframer::new(bytes_max);
    let mut values = Vec::new();
    let mut rest = stream;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(next_read().clamp(1, rest.len()));
        deframer.push(now);
        rest = later;
        loop {
            match deframer.take() {
                Ok(Some(value)) => values.push(value),
                Ok(None) => break,
                Err(fault) => return (values, Some(fault)),
            }
        }
    }
    (values, None)
}

fn reports(reports: Vec<Report>) {
    for mut report in reports {
        report.bound();
        let bounded = report.clone();
        report.bound();
        assert_eq!(report, bounded, "bounding twice is bounding once");
        let bytes = codec::encode(&report, REPORT_BYTES_MAX).expect("a bounded report fits its frame");
        // Line breaks and the like stand in JSON as \uXXXX, \n, \r, \t, \b, \f, and nowhere else.
        let text = str::from_utf8(&bytes[PREFIX_BYTES..]).expect("JSON is UTF-8");
        let mut after_escape = false;
        for c in text.chars() {
            assert!(!(after_escape && "unrtbf".contains(c)), "a control character is left: {text}");
            after_escape = c == '\\' && !after_escape;
        }
    }
}
