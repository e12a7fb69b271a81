use super::*;
use proptest::prelude::*;

const LIMITS: Limits = Limits { stream_limit_bytes: 64, message_timeout_ms: 60_000 };
const MSG: &[u8] = b"MSH|^~\\&|A\rPID|1\r";

/// One connection whose bytes all come at the same moment.
struct Peer {
    decoder: Decoder,
    events: Vec<Event>,
}

impl Peer {
    fn new() -> Peer {
        Peer { decoder: Decoder::new(LIMITS), events: Vec::new() }
    }

    fn feed(mut self, bytes: &[u8], now_ms: u64) -> Peer {
        self.decoder.feed(bytes, now_ms, &mut self.events);
        self
    }

    fn tick(mut self, now_ms: u64) -> Peer {
        self.decoder.tick(now_ms, &mut self.events);
        self
    }

    fn end(mut self) -> Vec<Event> {
        self.decoder.end(0, &mut self.events);
        self.events
    }
}

fn events_of(bytes: &[u8]) -> Vec<Event> {
    Peer::new().feed(bytes, 0).events
}

fn at(what: Deviation, offset: u64, byte: u8) -> Event {
    Event::Deviation { what, offset, byte: Some(byte) }
}

fn at_end(what: Deviation, offset: u64) -> Event {
    Event::Deviation { what, offset, byte: None }
}

fn frame(body: &[u8]) -> Event {
    Event::Frame(body.to_vec())
}

fn quarantine(what: Deviation, bytes: &[u8]) -> Event {
    Event::Quarantine { what, bytes: bytes.to_vec() }
}

#[test]
fn stored_frame_gives_its_body() {
    assert_eq!(unwrap(&wrap(MSG)), MSG);
    assert_eq!(unwrap(b"\x0Ba\x1C\r\n"), b"a");
    assert_eq!(unwrap(MSG), MSG);
    assert_eq!(unwrap(b"\x0Ba\r"), b"a\r");
}

#[test]
fn two_frames_in_one_read_are_two_frames() {
    assert_eq!(events_of(&[wrap(MSG), wrap(b"b")].concat()), [frame(MSG), frame(b"b")]);
}

#[test]
fn frame_may_be_empty_or_hold_any_byte_but_its_own_end() {
    assert_eq!(events_of(b"\x0B\x1C\r"), [frame(b"")]);
    assert_eq!(events_of(b"\x0B\0\x0B\r\n\xFF\x1C\r"), [frame(b"\0\x0B\r\n\xFF")]);
}

#[test]
fn pads_and_stray_fs_between_frames_are_dropped_and_reported_once_a_gap() {
    let found = events_of(b"\r\n\0 \t\x1C\x1C\x0Ba\x1C\r\r\n\x0Bb\x1C\r");
    let expected = [
        at(Deviation::Pad, 0, b'\r'),
        at(Deviation::StrayFs, 5, FS),
        frame(b"a"),
        at(Deviation::Pad, 11, b'\r'),
        frame(b"b"),
    ];
    assert_eq!(found, expected);
}

#[test]
fn other_protocols_are_closed_at_once() {
    for hello in ["GET / HTTP/1.1\r\n", "POST /", "HEAD /", "SSH-2.0-x\r\n", "PROXY TCP4 1.1.1.1"] {
        let expected = [at(Deviation::NotMllp, 0, hello.as_bytes()[0]), Event::Close(CloseCause::NotMllp)];
        assert_eq!(events_of(hello.as_bytes()), expected, "{hello}");
    }
    let expected = [at(Deviation::TlsOnPlain, 0, 0x16), Event::Close(CloseCause::TlsOnPlain)];
    assert_eq!(events_of(b"\x16\x03\x01\x02"), expected);
}

#[test]
fn other_protocols_are_known_only_at_the_connection_s_begin() {
    let found = events_of(b"\x0Ba\x1C\rGET \x16\x0Bb\x1C\r");
    assert_eq!(found, [frame(b"a"), at(Deviation::Junk, 4, b'G'), frame(b"b")]);
}

#[test]
fn message_without_vt_is_a_frame_where_a_frame_may_begin() {
    let bytes = [MSG, b"\x1C\r", MSG, b"\x1C\r\nMSH#a\x1C\r"].concat();
    let second = MSG.len() as u64 + 2;
    let expected = [
        at(Deviation::MissingVt, 0, b'M'),
        frame(MSG),
        at(Deviation::MissingVt, second, b'M'),
        frame(MSG),
        at(Deviation::Pad, 2 * second, b'\n'),
        at(Deviation::MissingVt, 2 * second + 1, b'M'),
        frame(b"MSH#a"),
    ];
    assert_eq!(events_of(&bytes), expected);
}

#[test]
fn junk_is_dropped_up_to_the_next_vt() {
    let found = events_of(b"MSHAxMSH|\r\x1C\x0Ba\x1C\rMS\x0Bb\x1C\r");
    let expected = [at(Deviation::Junk, 0, b'M'), frame(b"a"), at(Deviation::Junk, 15, b'M'), frame(b"b")];
    assert_eq!(found, expected);
}

#[test]
fn junk_over_4096_bytes_closes() {
    let mut bytes = vec![b'x'; 4096];
    bytes.extend(wrap(b"a"));
    assert_eq!(events_of(&bytes), [at(Deviation::Junk, 0, b'x'), frame(b"a")]);
    bytes.insert(0, b'x');
    assert_eq!(events_of(&bytes), [at(Deviation::Junk, 0, b'x'), Event::Close(CloseCause::Junk)]);
}

#[test]
fn message_cut_off_by_the_next_is_quarantined_and_the_next_is_whole() {
    let bytes = [b"\x0BMSH|one\rPI\x0BMSH|two\x0B", &wrap(MSG)[..]].concat();
    let cut = b"MSH|one\rPI\x0BMSH|two\x0B";
    let expected = [
        at(Deviation::Truncated, 1 + cut.len() as u64, VT),
        quarantine(Deviation::Truncated, cut),
        frame(MSG),
    ];
    assert_eq!(events_of(&bytes), expected);
    for next in [&b"FHS|x"[..], b"BHS|x"] {
        let found = events_of(&[b"\x0Bhalf", &wrap(next)[..]].concat());
        assert_eq!(found[1..], [quarantine(Deviation::Truncated, b"half"), frame(next)]);
    }
}

#[test]
fn vt_that_begins_no_message_is_data() {
    for body in [&b"a\x0Bb"[..], b"\x0Ba", b"MSH|\x0BMSHx", b"MSH|\x0BMSH", b"MSH|\x0B"] {
        assert_eq!(events_of(&wrap(body)), [frame(body)]);
    }
}

#[test]
fn doubled_vt_costs_nothing() {
    let found = events_of(&[b"\x0B", &wrap(MSG)[..]].concat());
    assert_eq!(found, [at(Deviation::Truncated, 1, VT), frame(MSG)]);
}

#[test]
fn fs_followed_by_vt_or_lf_ends_the_frame() {
    let found = events_of(b"\x0Ba\x1C\x0Bb\x1C\n");
    let expected = [at(Deviation::MissingCr, 3, VT), frame(b"a"), at(Deviation::LfForCr, 6, LF), frame(b"b")];
    assert_eq!(found, expected);
}

#[test]
fn fs_inside_a_body_is_data_reported_once() {
    let found = events_of(b"\x0Ba\x1Cb\x1C\x1Cc\x1C\x1C\r");
    assert_eq!(found, [at(Deviation::EmbeddedFs, 2, FS), frame(b"a\x1Cb\x1C\x1Cc\x1C")]);
}

#[test]
fn silence_after_cr_fs_ends_the_frame() {
    let peer = Peer::new().feed(b"\x0Ba\r\x1C", 1000);
    assert_eq!(peer.decoder.deadline_ms(), Some(1200));
    let peer = peer.tick(1199);
    assert_eq!(peer.events, []);
    let peer = peer.tick(1200).feed(b"\r", 1300);
    assert_eq!(peer.events, [at_end(Deviation::MissingCr, 4), frame(b"a\r"), at(Deviation::Pad, 4, b'\r')]);
}

#[test]
fn silence_after_fs_alone_ends_nothing() {
    let peer = Peer::new().feed(b"\x0Ba\x1C", 1000).tick(50_000);
    assert_eq!(peer.events, []);
    assert_eq!(peer.decoder.deadline_ms(), Some(61_000));
    let expected = [
        at_end(Deviation::Partial, 3),
        quarantine(Deviation::Partial, b"a"),
        Event::Close(CloseCause::MessageTimeout),
    ];
    assert_eq!(peer.tick(61_000).events, expected);
}

#[test]
fn half_close_after_fs_completes_the_frame() {
    let found = Peer::new().feed(b"\x0Ba\x1C", 0).end();
    assert_eq!(found, [at_end(Deviation::MissingCr, 3), frame(b"a")]);
}

#[test]
fn half_close_inside_a_frame_leaves_it_unanswered() {
    let found = Peer::new().feed(b"\x0Bab", 0).end();
    assert_eq!(found, [at_end(Deviation::Partial, 3), quarantine(Deviation::Partial, b"ab")]);
    assert_eq!(Peer::new().feed(b"", 0).end(), []);
    assert_eq!(Peer::new().feed(b"MS", 0).end(), [at(Deviation::Junk, 0, b'M')]);
}

#[test]
fn silence_inside_a_frame_is_partial() {
    let peer = Peer::new().feed(b"\x0Ba", 1000).feed(b"b", 31_000);
    assert_eq!(peer.decoder.deadline_ms(), Some(91_000));
    let peer = peer.tick(90_999);
    assert_eq!(peer.events, []);
    let mut peer = peer.tick(91_000);
    let expected = [
        at_end(Deviation::Partial, 3),
        quarantine(Deviation::Partial, b"ab"),
        Event::Close(CloseCause::MessageTimeout),
    ];
    assert_eq!(peer.events, expected);
    assert_eq!(peer.decoder.deadline_ms(), None);
    peer.events.clear();
    assert_eq!(peer.feed(&wrap(MSG), 91_001).events, [], "nothing is taken after a close");
}

#[test]
fn frame_that_trickles_in_for_five_minutes_is_partial() {
    let limits = Limits { stream_limit_bytes: 1000, message_timeout_ms: 0 };
    let mut decoder = Decoder::new(limits);
    let mut events = Vec::new();
    decoder.feed(b"\x0B", 0, &mut events);
    for second in 1..300 {
        decoder.feed(b"a", second * 1000, &mut events);
        decoder.tick(second * 1000, &mut events);
    }
    assert_eq!((events.len(), decoder.deadline_ms()), (0, Some(300_000)));
    decoder.tick(300_000, &mut events);
    assert_eq!(events.last(), Some(&Event::Close(CloseCause::FrameTooOld)));
}

#[test]
fn body_of_the_limit_passes_and_one_byte_more_does_not() {
    let body = [b'a'; 64];
    assert_eq!(events_of(&wrap(&body)), [frame(&body)]);
    let found = events_of(&[wrap(&[b'a'; 65]), wrap(MSG)].concat());
    let expected = [
        at(Deviation::Oversize, 65, b'a'),
        Event::Oversize { head: vec![b'a'; 65], back_in_step: true },
        frame(MSG),
    ];
    assert_eq!(found, expected);
}

#[test]
fn oversize_message_is_drained_with_its_memory_given_back() {
    let peer = Peer::new().feed(b"\x0B", 0).feed(&[b'a'; 1000], 0).feed(b"\x1Cb\x1C", 0);
    assert!(peer.decoder.buffered_bytes() <= 65);
    assert!(peer.decoder.in_frame());
    let peer = peer.feed(b"\r", 0);
    assert!(matches!(peer.events.last(), Some(Event::Oversize { back_in_step: true, .. })));
    assert_eq!(peer.decoder.buffered_bytes(), 0);
}

#[test]
fn oversize_message_past_its_cap_is_answered_and_ends_the_connection() {
    let cap = 64 + (64 << 10);
    let peer = Peer::new().feed(b"\x0B", 0).feed(&vec![b'a'; cap], 0);
    assert_eq!(peer.events, [at(Deviation::Oversize, 65, b'a')]);
    let peer = peer.feed(b"ab\x1C\r", 0);
    assert_eq!(peer.events[1..], [Event::Oversize { head: vec![b'a'; 65], back_in_step: false }]);
    assert!(!peer.decoder.in_frame());
}

#[test]
fn oversize_message_without_an_end_is_answered_after_a_minute() {
    let mut peer = Peer::new().feed(b"\x0B", 0);
    for second in 0..=59 {
        peer = peer.feed(&[b'a'; 100], second * 1000);
    }
    assert_eq!(peer.decoder.deadline_ms(), Some(60_000));
    let peer = peer.tick(60_000);
    assert_eq!(peer.events[1..], [Event::Oversize { head: vec![b'a'; 65], back_in_step: false }]);
    let found = Peer::new().feed(b"\x0B", 0).feed(&[b'a'; 100], 0).end();
    assert!(matches!(found.last(), Some(Event::Oversize { back_in_step: false, .. })));
}

#[test]
fn message_after_a_cut_off_one_has_the_limit_to_itself() {
    let bytes = [b"\x0B", &[b'x'; 60][..], &wrap(&[b"MSH|", &[b'y'; 60][..]].concat())].concat();
    let found = events_of(&bytes);
    assert_eq!(found[1], quarantine(Deviation::Truncated, &[b'x'; 60]));
    assert_eq!(found[2], frame(&[b"MSH|", &[b'y'; 60][..]].concat()));
    assert_eq!(found.len(), 3);
}

#[test]
fn offsets_stay_those_of_the_connection_after_a_cut() {
    let bytes = [b"\x0B", &[b'x'; 60][..], b"\x0BMSH|", &[b'y'; 100], b"\x1C\r"].concat();
    let found = events_of(&bytes);
    assert_eq!(found[0], at(Deviation::Truncated, 61, VT));
    assert_eq!(found[2], at(Deviation::Oversize, 62 + 64, b'y'));
}

#[test]
fn second_cut_that_straddles_the_limit_is_seen() {
    let bytes = [b"\x0B", &[b'x'; 50][..], b"\x0BMSH|abcdef\x0BMS", b"H|last\x1C\r"].concat();
    let expected = [
        at(Deviation::Truncated, 51, VT),
        quarantine(Deviation::Truncated, &[b'x'; 50]),
        at(Deviation::Truncated, 62, VT),
        quarantine(Deviation::Truncated, b"MSH|abcdef"),
        frame(b"MSH|last"),
    ];
    assert_eq!(events_of(&bytes), expected);
}

#[test]
fn fs_after_fs_grows_the_buffer_in_steps() {
    let mut decoder = Decoder::new(Limits { stream_limit_bytes: 10 << 20, message_timeout_ms: 0 });
    let mut events = Vec::new();
    decoder.feed(b"\x0B", 0, &mut events);
    let mut sizes = std::collections::HashSet::new();
    for _ in 0..100_000 {
        decoder.feed(b"ab\x1C", 0, &mut events);
        sizes.insert(decoder.buffered_bytes());
    }
    assert!(sizes.len() < 30, "{} allocations", sizes.len());
}

#[test]
fn large_message_costs_little_more_than_itself() {
    let limits = Limits { stream_limit_bytes: 10 << 20, message_timeout_ms: 0 };
    let mut decoder = Decoder::new(limits);
    let mut events = Vec::new();
    let bytes = wrap(&vec![b'a'; 4 << 20]);
    let mut taken = 0;
    for chunk in bytes.chunks(16 << 10) {
        decoder.feed(chunk, 0, &mut events);
        taken += chunk.len();
        assert!(decoder.buffered_bytes() <= (taken + taken / 4).max(512 << 10) + 1024);
    }
    let [Event::Frame(body)] = &events[..] else { panic!("{} events", events.len()) };
    assert_eq!((body.len(), body.capacity() - body.len() < 4096), (4 << 20, true));
}

#[test]
fn every_byte_is_looked_at_a_bounded_number_of_times() {
    // Quadratic work would take minutes: 4 MiB byte by byte, full of what has to be decided again and again.
    let limits = Limits { stream_limit_bytes: 10 << 20, message_timeout_ms: 0 };
    for pattern in [&b"a"[..], b"\x1Ca", b"\x0B", b"\x0BMSH|"] {
        let body: Vec<u8> = pattern.iter().copied().cycle().take(4 << 20).collect();
        let mut decoder = Decoder::new(limits);
        let mut events = Vec::new();
        for byte in wrap(&body) {
            decoder.feed(&[byte], 0, &mut events);
        }
        assert!(matches!(events.last(), Some(Event::Frame(_))));
    }
    let small = Limits { stream_limit_bytes: 64 << 10, message_timeout_ms: 0 };
    let mut decoder = Decoder::new(small);
    let mut events = Vec::new();
    decoder.feed(&wrap(&b"\x0BMSH|".repeat(1 << 20)), 0, &mut events);
    assert!(events.len() < 1000);
}

#[test]
fn codes_are_unique() {
    let codes: std::collections::HashSet<_> = Deviation::ALL.iter().map(|what| what.code()).collect();
    assert_eq!(codes.len(), Deviation::ALL.len());
}

fn piece() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => Just(wrap(MSG)),
        2 => Just(vec![VT]),
        2 => Just(vec![FS]),
        2 => Just(vec![CR]),
        1 => Just(vec![LF]),
        1 => Just(vec![FS, CR]),
        1 => Just(b"MSH|".to_vec()),
        1 => Just(b"BHS|^".to_vec()),
        1 => Just(b"GET ".to_vec()),
        1 => Just(b"PROXY".to_vec()),
        1 => Just(b"MS".to_vec()),
        1 => Just(vec![0x16]),
        1 => Just(vec![b'x'; 40]),
        1 => Just(vec![b'x'; 3000]),
        1 => Just(vec![b'x'; 50_000]),
        2 => proptest::collection::vec(any::<u8>(), 0..8),
    ]
}

#[test]
fn frame_that_goes_on_in_another_buffer_is_the_same_frame() {
    let stream = wrap(b"MSH|^~\\&|A\rNTE|1\r");
    for split in 1..stream.len() {
        let mut decoder = Decoder::new(LIMITS);
        let mut events = Vec::new();
        decoder.feed(&stream[..split], 0, &mut events);
        decoder.go_on_in(Vec::from(*b"left from another message, and much larger than this one"));
        decoder.feed(&stream[split..], 0, &mut events);
        assert_eq!(events, [Event::Frame(stream[1..stream.len() - 2].to_vec())], "split at {split}");
    }
}

proptest! {
    #[test]
    fn events_do_not_depend_on_how_reads_split(
        pieces in proptest::collection::vec(piece(), 0..14),
        cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..12),
        bytewise in any::<bool>(),
    ) {
        let stream = pieces.concat();
        let whole = Peer::new().feed(&stream, 0).end();
        let mut cuts: Vec<usize> = if bytewise && stream.len() < 2000 {
            (0..stream.len()).collect()
        } else {
            cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect()
        };
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let mut peer = Peer::new();
        for pair in cuts.windows(2) {
            peer = peer.feed(&stream[pair[0]..pair[1]], 0);
        }
        prop_assert_eq!(peer.end(), whole);
    }

    #[test]
    fn wrapped_bodies_come_back(bodies in proptest::collection::vec(
        proptest::collection::vec(any::<u8>().prop_filter("own end", |b| *b != FS), 0..64), 0..6,
    )) {
        let bodies: Vec<Vec<u8>> = bodies.into_iter().filter(|b| !b.contains(&VT)).collect();
        let stream: Vec<u8> = bodies.iter().flat_map(|body| wrap(body)).collect();
        let expected: Vec<Event> = bodies.into_iter().map(Event::Frame).collect();
        prop_assert_eq!(events_of(&stream), expected);
    }

    #[test]
    fn no_bytes_make_the_decoder_panic_and_offsets_lie_in_the_stream(
        chunks in proptest::collection::vec((proptest::collection::vec(any::<u8>(), 0..200), 0u64..100_000), 0..20),
    ) {
        let mut decoder = Decoder::new(LIMITS);
        let mut events = Vec::new();
        let (mut now, mut total) = (0, 0);
        for (bytes, pause) in &chunks {
            now += pause;
            decoder.tick(now, &mut events);
            decoder.feed(bytes, now, &mut events);
            total += bytes.len() as u64;
            if let Some(deadline) = decoder.deadline_ms() {
                prop_assert!(decoder.in_frame() && deadline > now);
            }
        }
        decoder.end(now, &mut events);
        for event in &events {
            if let Event::Deviation { offset, .. } = event {
                prop_assert!(*offset <= total);
            }
        }
    }
}
