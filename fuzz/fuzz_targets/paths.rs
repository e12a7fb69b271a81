//! Field paths over any text: what reads writes itself, and asks any message without a panic.
#![no_main]

use hl7::message::Message;
use hl7::path::FieldPath;
use libfuzzer_sys::fuzz_target;

const MESSAGE: &str = "MSH|^~\\&|LAB|H|RIS|H|20240101||ORU^R01|42|P|2.5\r\
    PID|1||111^^^A&1&ISO~222^^^B||EVERYMAN&&&&Aniston^ADAM\\T\\EVE|\"\"\r\
    OBX|1|TX|||first\rOBX|2|TX|||\rOBX|3|TX\rOBX|4|TX|||a~b\\.br\\c\r";

fuzz_target!(|text: &str| {
    let Ok(path) = text.parse::<FieldPath>() else { return };
    assert_eq!(path.to_string().parse(), Ok(path));
    let message = Message::parse(MESSAGE).expect("it begins with an MSH");
    let (raw, all) = (message.raw(&path), message.raw_all(&path));
    assert_eq!(raw, all.iter().copied().find(|value| !value.is_empty()));
    let (text, texts) = (message.text(&path), message.text_all(&path));
    assert!(texts.len() == all.len() || !path.is_multiple());
    if let Some(text) = text {
        assert!(texts.contains(&text));
    }
});
