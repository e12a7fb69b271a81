//! However reads split a stream, its events are the same; and every byte of a body comes out once.
#![no_main]

use hl7::mllp::{Decoder, Event, Limits};
use libfuzzer_sys::fuzz_target;

fn events(stream: &[u8], limits: Limits, mut next_read: impl FnMut() -> usize) -> Vec<Event> {
    let mut decoder = Decoder::new(limits);
    let mut events = Vec::new();
    let mut rest = stream;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(next_read().clamp(1, rest.len()));
        decoder.feed(now, 0, &mut events);
        rest = later;
    }
    let kept: usize = events
        .iter()
        .map(|event| match event {
            Event::Frame(bytes) | Event::Quarantine { bytes, .. } => bytes.len(),
            _ => 0,
        })
        .sum();
    assert!(kept <= stream.len(), "more bytes came out than went in");
    decoder.end(0, &mut events);
    assert!(!decoder.in_frame());
    events
}

fuzz_target!(|data: &[u8]| {
    let [limit, seed, stream @ ..] = data else { return };
    // Small limits, so that the oversize states are reached by small inputs.
    let limits = Limits { stream_limit_bytes: usize::from(*limit) + 1, message_timeout_ms: 0 };
    let whole = events(stream, limits, || stream.len());
    assert_eq!(whole, events(stream, limits, || 1), "byte by byte");
    let mut state = u32::from(*seed);
    let random = events(stream, limits, || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 28) as usize
    });
    assert_eq!(whole, random, "in pieces");
});
