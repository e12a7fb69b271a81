//! Field paths against the contract, as tables: what each reads as it stands, as text, and of all matches.

#![allow(clippy::unwrap_used, reason = "a test")]

use hl7::message::Message;
use hl7::path::FieldPath;

const MESSAGE: &str = concat!(
    "MSH|^~\\&|LAB^1.2^ISO|H|RIS|H|20240101||ORU^R01^ORU_R01|42|P|2.5||||||8859/1~ISO IR87\r",
    "PID|1||111^^^A&1.2&ISO^MR~222^^^B^PI~^^^C||EVERYMAN&&&&Aniston^ADAM\\T\\EVE^^~ALIAS^X||19700101|\"\"|^|~\r",
    "OBX|1|TX|A&B^C||first\\.br\\line||\r",
    "OBX|2|TX|||\r",
    "OBX|3|TX\r",
    "OBX|4|TX|||a~b\\S\\c~\"\"~\r",
    "ZDS|\\X41\\^\\X42\\&\\H\\x\\N\\\r",
    "PID|2||333\r",
);

#[test]
fn every_form_of_a_path_reads_what_the_contract_says() {
    // Path; as it stands; as text.
    let table: &[(&str, Option<&str>, Option<&str>)] = &[
        // The n-th segment of a name.
        ("PID.1.1", Some("1"), Some("1")),
        ("PID.2.1", Some("2"), Some("2")),
        ("PID.2.3.1", Some("333"), Some("333")),
        ("PID.3.1", None, None),
        ("OBX.3.5", None, None),
        ("NTE.1.1", None, None),
        // A field is its whole first repetition.
        ("PID.1.3", Some("111^^^A&1.2&ISO^MR"), Some("111^^^A&1.2&ISO^MR")),
        ("PID.1.3[1]", Some("111^^^A&1.2&ISO^MR"), Some("111^^^A&1.2&ISO^MR")),
        ("PID.1.3[2]", Some("222^^^B^PI"), Some("222^^^B^PI")),
        ("PID.1.3[4]", None, None),
        // A component reads its first subcomponent; `.*` is the whole of it as it stands.
        ("PID.1.3.4", Some("A&1.2&ISO"), Some("A")),
        ("PID.1.3.4.1", Some("A"), Some("A")),
        ("PID.1.3.4.2", Some("1.2"), Some("1.2")),
        ("PID.1.3.4.4", None, None),
        ("PID.1.3.4.*", Some("A&1.2&ISO"), Some("A&1.2&ISO")),
        ("PID.1.5.1", Some("EVERYMAN&&&&Aniston"), Some("EVERYMAN")),
        ("PID.1.5.1.2", None, None),
        ("PID.1.5.1.5", Some("Aniston"), Some("Aniston")),
        ("PID.1.5.1.*", Some("EVERYMAN&&&&Aniston"), Some("EVERYMAN&&&&Aniston")),
        ("PID.1.5.9", None, None),
        ("PID.1.3[2].4.1", Some("B"), Some("B")),
        ("PID.1.3[3].1", None, None),
        ("PID.1.3[3].4", Some("C"), Some("C")),
        // Escapes: as text resolved, never raw.
        ("PID.1.5.2", Some("ADAM\\T\\EVE"), Some("ADAM&EVE")),
        ("PID.1.5.2.1", Some("ADAM\\T\\EVE"), Some("ADAM&EVE")),
        ("PID.1.5.2.*", Some("ADAM\\T\\EVE"), Some("ADAM\\T\\EVE")),
        ("OBX.1.5", Some("first\\.br\\line"), Some("first\nline")),
        ("OBX.4.5[2]", Some("b\\S\\c"), Some("b^c")),
        ("ZDS.1.1.1", Some("\\X41\\"), Some("A")),
        ("ZDS.1.1.2.2", Some("\\H\\x\\N\\"), Some("\\H\\x\\N\\")),
        // HL7's null is found and empty; what is empty is absent.
        ("PID.1.8", Some("\"\""), Some("")),
        ("PID.1.8.1", Some("\"\""), Some("")),
        ("PID.1.8.1.*", Some("\"\""), Some("")),
        ("OBX.4.5[3]", Some("\"\""), Some("")),
        ("PID.1.6", None, None),
        ("PID.1.9", Some("^"), Some("^")),
        ("PID.1.9.1", None, None),
        ("PID.1.10", None, None),
        ("PID.1.999", None, None),
        // MSH counts its separator.
        ("MSH.1.1", Some("|"), Some("|")),
        ("MSH.1.2", Some("^~\\&"), Some("^~\\&")),
        ("MSH.1.2[2]", None, None),
        ("MSH.1.3.2", Some("1.2"), Some("1.2")),
        ("MSH.1.9.2", Some("R01"), Some("R01")),
        ("MSH.1.10", Some("42"), Some("42")),
        ("MSH.1.18", Some("8859/1"), Some("8859/1")),
        ("MSH.1.18[2]", Some("ISO IR87"), Some("ISO IR87")),
        // Of several the first that is there.
        ("PID.*.3.1", Some("111"), Some("111")),
        ("OBX.*.5", Some("first\\.br\\line"), Some("first\nline")),
        ("PID.1.3[*].4", Some("A&1.2&ISO"), Some("A")),
        ("PID.1.3[*].9", None, None),
        ("PID.1.5[*].2", Some("ADAM\\T\\EVE"), Some("ADAM&EVE")),
    ];
    let message = Message::parse(MESSAGE).unwrap();
    for (text, raw_value, text_value) in table {
        let path: FieldPath = text.parse().unwrap();
        assert_eq!(message.raw(&path), *raw_value, "{text} as it stands");
        assert_eq!(message.text(&path).as_deref(), *text_value, "{text} as text");
    }
}

#[test]
fn every_and_each_repetition_keep_their_places() {
    // Path; as they stand; as texts.
    let table: &[(&str, &[&str], &[&str])] = &[
        ("PID.*.1", &["1", "2"], &["1", "2"]),
        ("PID.*.3", &["111^^^A&1.2&ISO^MR", "333"], &["111^^^A&1.2&ISO^MR", "333"]),
        ("PID.*.3[*].1", &["111", "222", "", "333"], &["111", "222", "", "333"]),
        ("PID.1.3[*].4", &["A&1.2&ISO", "B", "C"], &["A", "B", "C"]),
        ("PID.1.3[*].4.*", &["A&1.2&ISO", "B", "C"], &["A&1.2&ISO", "B", "C"]),
        ("PID.1.3[*].4.2", &["1.2", "", ""], &["1.2", "", ""]),
        ("PID.*.3[2].1", &["222", ""], &["222", ""]),
        ("PID.1.10[*]", &["", ""], &["", ""]),
        ("OBX.*.5", &["first\\.br\\line", "", "", "a"], &["first\nline", "", "", "a"]),
        (
            "OBX.*.5[*]",
            &["first\\.br\\line", "", "", "a", "b\\S\\c", "\"\"", ""],
            &["first\nline", "", "", "a", "b^c", "", ""],
        ),
        ("OBX.*.3.1.2", &["B", "", "", ""], &["B", "", "", ""]),
        ("MSH.*.1[*]", &["|"], &["|"]),
        ("MSH.1.2[*]", &["^~\\&"], &["^~\\&"]),
        ("NTE.*.3", &[], &[]),
        ("NTE.1.3[*]", &[], &[]),
        // A path that chooses one reads one or none.
        ("PID.2.3", &["333"], &["333"]),
        ("PID.2.4", &[], &[]),
        ("PID.1.8", &["\"\""], &[""]),
    ];
    let message = Message::parse(MESSAGE).unwrap();
    for (text, raw_values, text_values) in table {
        let path: FieldPath = text.parse().unwrap();
        assert_eq!(message.raw_all(&path), *raw_values, "{text} as they stand");
        assert_eq!(message.text_all(&path), *text_values, "{text} as texts");
    }
}

#[test]
fn paths_that_are_none_are_refused() {
    for text in [
        "",
        "PID",
        "PID.1",
        "pid.1.3",
        "Pid.1.3",
        "PID.0.3",
        "PID.1.0",
        "PID.1.3.0",
        "PID.1.3.1.0",
        "PID.1.3[0]",
        "PID.1.1000",
        "PID.-1.3",
        "PID.1.+3",
        "PID.1.3.*",
        "PID.1.*",
        "PID.1.3.1.1.1",
        "PID.1.3[",
        "PID.1.3[]",
        "PID.1.3[1",
        "PID.1.3]1[",
        "PID.1.3[a]",
        "PID[1].3",
        "PID.1[2].3",
        "PID.1.3.1[2]",
        "PI.1.3",
        "PIDX.1.3",
        "1ID.1.3",
        "PID-1-3",
        " PID.1.3",
        "PID.1.3 ",
        "PID.1.3.1.**",
        "PID.**.3",
        "PID.65536.3",
        "PID.1.3[65536]",
    ] {
        assert!(text.parse::<FieldPath>().is_err(), "{text:?}");
    }
}

#[test]
fn other_delimiters_and_line_ends_read_the_same() {
    let exchanged: String = MESSAGE
        .chars()
        .map(|c| match c {
            '|' => '@',
            '^' => '!',
            '~' => '%',
            '\\' => '#',
            '&' => '$',
            other => other,
        })
        .collect();
    for body in [exchanged.clone(), exchanged.replace('\r', "\n"), exchanged.replace('\r', "\r\n")] {
        let message = Message::parse(&body).unwrap();
        for (path, text) in [
            ("PID.1.3[2].4", "B"),
            ("PID.1.5.1.5", "Aniston"),
            ("PID.1.5.2", "ADAM$EVE"),
            ("OBX.4.5[2]", "b!c"),
            ("OBX.1.5", "first\nline"),
            ("MSH.1.2", "!%#$"),
            ("PID.2.3", "333"),
        ] {
            assert_eq!(message.text(&path.parse().unwrap()).as_deref(), Some(text), "{path} in {body:?}");
        }
    }
}
