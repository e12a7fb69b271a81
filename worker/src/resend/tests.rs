//! Against a scripted peer: it answers late, wrong, half, not at all.

use super::*;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread::JoinHandle;

const MESSAGE: &[u8] = b"MSH|^~\\&|A|B|C|D|2024||ADT^A01|M1|P|2.5\rPID|1||4711\r";

/// A peer that treats its first connections as scripted, one after the other, and then is gone.
struct Peer {
    port: u16,
    thread: JoinHandle<()>,
}

type Script = Box<dyn FnOnce(&mut TcpStream) + Send>;

fn peer(scripts: Vec<Script>) -> Peer {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        for script in scripts {
            let mut stream = listener.accept().unwrap().0;
            stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
            script(&mut stream);
        }
    });
    Peer { port, thread }
}

fn settings(port: u16) -> Resend {
    Resend {
        server: "127.0.0.1".into(),
        port,
        timeout: Duration::from_millis(500),
        after_processing: false,
        filter: None,
        tls: None,
        accept_codes: ["AA".to_owned(), "CA".to_owned()].into(),
    }
}

fn message(control_id: &str) -> Vec<u8> {
    String::from_utf8_lossy(MESSAGE).replace("M1", control_id).into_bytes()
}

/// Reads one frame's body; empty at the end of the stream.
fn read_frame(stream: &mut TcpStream) -> Vec<u8> {
    let mut body = Vec::new();
    let mut byte = [0];
    while !body.ends_with(b"\x1c\r") {
        match stream.read(&mut byte) {
            Ok(1) => body.push(byte[0]),
            _ => return Vec::new(),
        }
    }
    body[1..body.len() - 2].to_vec()
}

fn ack(code: &str, control_id: &str, more: &str) -> Vec<u8> {
    mllp::wrap(format!("MSH|^~\\&|C|D|A|B|2024||ACK|X1|P|2.5\rMSA|{code}|{control_id}\r{more}").as_bytes())
}

/// What the client makes of one answer.
fn told(answer: &[u8]) -> (Result<(), Fault>, u16) {
    told_by(answer, |_| {})
}

fn told_by(answer: &[u8], change: impl FnOnce(&mut Resend)) -> (Result<(), Fault>, u16) {
    let answer = answer.to_vec();
    let peer = peer(vec![Box::new(move |stream| {
        assert_eq!(read_frame(stream), MESSAGE, "the bytes are sent as they came");
        stream.write_all(&answer).unwrap();
        // Stays until the client has made up its mind.
        let _ = stream.read(&mut [0; 1]);
    })]);
    let mut settings = settings(peer.port);
    change(&mut settings);
    let mut client = ResendClient::new(&settings);
    let told = client.send(MESSAGE, b"M1", Encoding::Utf8);
    drop(client);
    peer.thread.join().unwrap();
    (told, peer.port)
}

fn reason(fault: &Fault) -> &str {
    match fault {
        Fault::Again { reason, .. } | Fault::Failed(reason) => reason,
    }
}

fn is_down(told: &Result<(), Fault>) -> bool {
    matches!(told, Err(Fault::Again { target_down: true, .. }))
}

#[test]
fn the_code_decides() {
    for code in ["AA", "CA"] {
        assert_eq!(told(&ack(code, "M1", "")).0, Ok(()));
    }
    for code in ["AE", "CE"] {
        let (told, port) = told(&ack(code, "M1", "ERR||PID^1|207^x^HL70357|E||||Muller died\r"));
        let reason = format!("resend peer \"127.0.0.1:{port}\" answered {code} with error 207");
        assert_eq!(
            told,
            Err(Fault::Again { reason, target_down: false, wanted_us: None }),
            "no patient in a reason"
        );
    }
    for (code, more) in [("AE", "ERR||PID^1|103^x\r"), ("CE", "ERR|PID^1^3^101&x\r"), ("AR", ""), ("CR", "")]
    {
        let (told, port) = told(&ack(code, "M1", more));
        let Err(Fault::Failed(reason)) = told else { panic!("{code}: {told:?}") };
        assert!(reason.starts_with(&format!("resend peer \"127.0.0.1:{port}\" answered {code}")), "{reason}");
    }
    assert!(is_down(&told(&ack("QQ", "M1", "")).0));
}

#[test]
fn accept_codes_decide_what_is_done() {
    assert_eq!(told_by(&ack("AE", "M1", ""), |s| s.accept_codes = ["AE".to_owned()].into()).0, Ok(()));
    let only_application = |s: &mut Resend| s.accept_codes = ["AA".to_owned()].into();
    let both = [ack("CA", "M1", ""), ack("AA", "M1", "")].concat();
    assert_eq!(told_by(&both, only_application).0, Ok(()));
    let (told, _) = told_by(&ack("CA", "M1", ""), only_application);
    assert!(reason(&told.unwrap_err()).ends_with("it has only said that it received the message"));
}

#[test]
fn the_answer_to_another_message_is_passed_over() {
    let both = [ack("AR", "M0", ""), ack("AA", "M1", "")].concat();
    assert_eq!(told(&both).0, Ok(()));
    let (told, _) = told(&ack("AA", "M0", ""));
    assert!(is_down(&told));
    assert!(reason(&told.unwrap_err()).ends_with("what it answered was for other messages"));
}

#[test]
fn garbage_half_an_answer_and_none_are_tried_again() {
    let half = &ack("AA", "M1", "")[..30];
    for (answer, said) in [
        (&b"\x0bhello\x1c\r"[..], "its answer is no acknowledgment"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "what it sent is no MLLP frame"),
        (b"\x16\x03\x01\x02\x00", "it does not speak MLLP"),
        (half, "its answer was never ended"),
        (b"", "nothing came"),
    ] {
        let begun = Instant::now();
        let (told, _) = told(answer);
        assert!(is_down(&told), "{told:?}");
        let fault = told.unwrap_err();
        assert!(reason(&fault).contains(said), "{:?}: {}", answer.escape_ascii().to_string(), reason(&fault));
        assert!(begun.elapsed() < Duration::from_secs(3));
    }
}

#[test]
fn endless_answers_are_given_up() {
    let long = [&b"\x0bMSH|^~\\&|"[..], &vec![b'x'; ANSWER_BYTES_MAX * 5]].concat();
    assert!(is_down(&told(&long).0));
    let many = ack("AA", "M0", "").repeat(FOREIGN_MAX + 50);
    let (told, _) = told(&many);
    assert!(reason(&told.unwrap_err()).contains("none of them to this message"));
}

#[test]
fn an_answer_that_drips_ends_at_the_timeout() {
    let peer = peer(vec![Box::new(|stream| {
        read_frame(stream);
        for byte in ack("AA", "M1", "") {
            if stream.write_all(&[byte]).is_err() {
                return;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
    })]);
    let begun = Instant::now();
    let mut client = ResendClient::new(&settings(peer.port));
    assert!(is_down(&client.send(MESSAGE, b"M1", Encoding::Utf8)));
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    drop(client);
    peer.thread.join().unwrap();
}

#[test]
fn one_connection_carries_many_messages() {
    let peer = peer(vec![Box::new(|stream| {
        for n in 0..20 {
            assert_eq!(read_frame(stream), message(&format!("M{n}")));
            stream.write_all(&ack("AA", &format!("M{n}"), "")).unwrap();
        }
    })]);
    let mut client = ResendClient::new(&settings(peer.port));
    for n in 0..20 {
        let id = format!("M{n}");
        assert_eq!(client.send(&message(&id), id.as_bytes(), Encoding::Utf8), Ok(()));
    }
    peer.thread.join().unwrap();
}

#[test]
fn an_answer_that_comes_late_is_nobody_s() {
    let (say, said) = mpsc::channel::<()>();
    let peer = peer(vec![
        Box::new(move |stream| {
            read_frame(stream);
            said.recv().unwrap();
            // The answer to the first message, when the client waits for the second on another connection.
            let _ = stream.write_all(&ack("AA", "M1", ""));
        }),
        Box::new(|stream| {
            assert_eq!(read_frame(stream), message("M2"));
            stream.write_all(&ack("AE", "M2", "")).unwrap();
            let _ = stream.read(&mut [0; 1]);
        }),
    ]);
    let mut client = ResendClient::new(&settings(peer.port));
    assert!(is_down(&client.send(MESSAGE, b"M1", Encoding::Utf8)));
    say.send(()).unwrap();
    let told = client.send(&message("M2"), b"M2", Encoding::Utf8);
    assert!(matches!(told, Err(Fault::Again { target_down: false, .. })), "{told:?}");
    drop(client);
    peer.thread.join().unwrap();
}

#[test]
fn unread_bytes_or_an_end_between_messages_make_a_new_connection() {
    for extra in [&ack("AA", "M2", "")[..], b""] {
        let (sent, wait_sent) = mpsc::channel::<()>();
        let extra = extra.to_vec();
        let peer = peer(vec![
            Box::new(move |stream| {
                read_frame(stream);
                stream.write_all(&ack("AA", "M1", "")).unwrap();
                // An early answer to the second message must not be taken for one; nothing at all is an end.
                std::thread::sleep(Duration::from_millis(50));
                let _ = stream.write_all(&extra);
                if extra.is_empty() {
                    stream.shutdown(std::net::Shutdown::Both).unwrap();
                }
                sent.send(()).unwrap();
                assert_eq!(read_frame(stream), b"", "nothing more is sent here");
            }),
            Box::new(|stream| {
                assert_eq!(read_frame(stream), message("M2"));
                stream.write_all(&ack("AE", "M2", "")).unwrap();
                let _ = stream.read(&mut [0; 1]);
            }),
        ]);
        let mut client = ResendClient::new(&settings(peer.port));
        assert_eq!(client.send(MESSAGE, b"M1", Encoding::Utf8), Ok(()));
        wait_sent.recv().unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let told = client.send(&message("M2"), b"M2", Encoding::Utf8);
        assert!(matches!(told, Err(Fault::Again { target_down: false, .. })), "{told:?}");
        drop(client);
        peer.thread.join().unwrap();
    }
}

#[test]
fn a_peer_that_closes_after_each_message_takes_them_all_the_same() {
    let script = || -> Script {
        Box::new(|stream| {
            let body = read_frame(stream);
            let id = String::from_utf8_lossy(&body).split('|').nth(9).unwrap().to_owned();
            stream.write_all(&ack("AA", &id, "")).unwrap();
        })
    };
    let peer = peer((0..10).map(|_| script()).collect());
    let mut client = ResendClient::new(&settings(peer.port));
    for n in 0..10 {
        let id = format!("M{n}");
        assert_eq!(client.send(&message(&id), id.as_bytes(), Encoding::Utf8), Ok(()));
    }
    peer.thread.join().unwrap();
}

#[test]
fn a_fresh_connection_that_ends_without_an_answer_is_not_tried_twice() {
    let peer = peer(vec![Box::new(|stream| drop(read_frame(stream)))]);
    let mut client = ResendClient::new(&settings(peer.port));
    let fault = client.send(MESSAGE, b"M1", Encoding::Utf8).unwrap_err();
    assert!(reason(&fault).contains("closed the connection without an answer"), "{}", reason(&fault));
    peer.thread.join().unwrap();
    let fault = client.send(MESSAGE, b"M1", Encoding::Utf8).unwrap_err();
    let expected =
        format!("could not connect to resend peer \"127.0.0.1:{}\": connection refused", peer.port);
    assert_eq!(fault, Fault::down(expected));
}

#[test]
fn a_wide_message_is_answered_in_its_own_encoding_or_in_ascii() {
    let wide = |text: &[u8]| hl7::charset::encode(&String::from_utf8_lossy(text), Encoding::Utf16Le).unwrap();
    let answer = ack("AA", "M1", "");
    for body in [wide(&answer[1..answer.len() - 2]), answer[1..answer.len() - 2].to_vec()] {
        let answer = mllp::wrap(&body);
        let peer = peer(vec![Box::new(move |stream| {
            read_frame(stream);
            stream.write_all(&answer).unwrap();
        })]);
        let mut client = ResendClient::new(&settings(peer.port));
        assert_eq!(client.send(&wide(MESSAGE), b"M1", Encoding::Utf16Le), Ok(()));
        peer.thread.join().unwrap();
    }
}

/// As node-hl7-server 2.5: it keeps what a connection has brought, and takes all of it again with each message.
#[test]
fn a_peer_that_repeats_itself_gets_a_connection_for_each_message() {
    let script = |messages: usize| -> Script {
        Box::new(move |stream| {
            let mut answers = Vec::new();
            for _ in 0..messages {
                let body = read_frame(stream);
                let id = String::from_utf8_lossy(&body).split('|').nth(9).unwrap().to_owned();
                answers.extend(ack("AA", &id, ""));
                stream.write_all(&answers).unwrap();
            }
            assert_eq!(read_frame(stream), b"", "no more than {messages} on this connection");
        })
    };
    let peer = peer(vec![script(2), script(1), script(1)]);
    let mut client = ResendClient::new(&settings(peer.port));
    for id in ["M1", "M2", "M3", "M4"] {
        assert_eq!(client.send(&message(id), id.as_bytes(), Encoding::Utf8), Ok(()));
    }
    peer.thread.join().unwrap();
}
