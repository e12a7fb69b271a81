//! No text makes the loader panic, hang or eat the machine.

use crate::support::{Files, errors_of, load};
use proptest::prelude::*;
use std::time::Instant;

#[test]
fn an_alias_bomb_is_refused() {
    let mut text = "x-0: &a0 [1,1,1,1,1,1,1,1,1,1]\n".to_owned();
    for n in 1..9 {
        let many = vec![format!("*a{}", n - 1); 10].join(",");
        text.push_str(&format!("x-{n}: &a{n} [{many}]\n"));
    }
    text.push_str("channels: [{name: a, port: 20001}]\n");
    let begun = Instant::now();
    let errors = errors_of(&text);
    assert!(errors[0].contains("expands to more than 1,000,000 nodes"), "{errors:?}");
    assert!(begun.elapsed().as_secs() < 20, "{:?}", begun.elapsed());
}

#[test]
fn nodes_are_counted_over_all_files() {
    let list = format!("[{}]\n", vec!["1"; 300_000].join(","));
    let files = Files::new(&[
        (
            "main.yaml",
            "x-a: !include l.yaml\nx-b: !include l.yaml\nx-c: !include l.yaml\nx-d: !include l.yaml\n",
        ),
        ("l.yaml", &list),
    ]);
    let errors = files.errors("main.yaml");
    assert!(errors.iter().any(|e| e.contains("more than 1,000,000 nodes")), "{errors:?}");
}

#[test]
fn deep_nesting_is_refused() {
    for text in ["[".repeat(100_000), "{a: ".repeat(10_000), "- ".repeat(100_000), "? ".repeat(10_000)] {
        assert!(load(&text).is_err());
    }
    let errors = errors_of(&format!("x-a: {}{}\n", "[".repeat(65), "]".repeat(65)));
    assert!(errors[0].contains("nested more than 64 levels deep"), "{errors:?}");
}

#[test]
fn a_thousand_unknown_keys_are_enough() {
    let text: String = (0..5_000).map(|n| format!("zzzzzz{n}: 1\n")).collect();
    let problems = load(&text).unwrap_err();
    assert_eq!(problems.0.len(), 1_001);
    assert!(problems.0[1_000].what.contains("more than 1000 problems"));
}

#[test]
fn a_value_cannot_forge_a_line_of_the_log() {
    let errors =
        errors_of("log_format: \"x\\n2:1: all is well\\e[31m\"\nchannels: [{name: a, port: 20001}]\n");
    assert_eq!(errors.len(), 1);
    assert!(!errors[0].contains('\n') && !errors[0].contains('\u{1b}'), "{errors:?}");
}

#[test]
fn a_secret_in_its_own_place_is_never_shown() {
    let text = "\
dfapi: {token: Zx9!secret}
solr_servers: [{password: Zx9-secret}]
channels:
- name: a
  port: 20001
  mapping: {a: PID.1.3}
  db_metadata: {a: {field_name: A, field_type: Text}}
  db_insert: {driver: MySQL, username: u, database: d, table: t, password: Zx9-secret}
  drop_folders:
    far: {remote: true, path: /a, server: s, user: u, password: Zx9 secret, passphrase: zx9secret}
";
    let problems = load(text).unwrap_err();
    for problem in &problems.0 {
        assert!(!problem.to_string().to_lowercase().contains("zx9"), "{problem}");
    }
    let loaded = crate::support::loaded(
        "solr_servers: [{password: Zx9-secret}]\nchannels: [{name: a, port: 20001}]\n",
    );
    assert!(!format!("{loaded:?}").contains("Zx9"));
}

/// Pieces of real files, so that random texts get past the parser.
fn piece() -> impl Strategy<Value = String> {
    let words = [
        "channels:",
        "name:",
        "port:",
        "- ",
        "  ",
        "\n",
        "20001",
        "a",
        "{",
        "}",
        "[",
        "]",
        ",",
        "&a ",
        "*a",
        "<<: ",
        "!include ",
        "!!str ",
        "mapping:",
        "PID.1.3.1",
        "db_metadata:",
        "field_type:",
        "String(5)",
        "resend:",
        "filter:",
        "'",
        "\"",
        "|\n",
        ">\n",
        "null",
        "yes",
        "~",
        "0x",
        "1:30",
        "service:",
        "x-a:",
        "? ",
        ": ",
        "#",
        "%",
        "---\n",
        "...\n",
        "\t",
        "\u{feff}",
        "’",
        "drop_folders:",
        "remote: true",
        "tls:",
        "solr_servers:",
        "alerts:",
        "retry:",
        "custom_regex:",
        "(?<!a)",
        "replace_list:",
    ];
    prop::sample::select(words.to_vec()).prop_map(str::to_owned)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let files = Files::new(&[]);
        files.write("f.yaml", &bytes);
        let _ = files.load("f.yaml");
    }

    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,200}") {
        let _ = load(&text);
    }

    #[test]
    fn arbitrary_pieces_of_files_never_panic(pieces in prop::collection::vec(piece(), 0..60)) {
        let _ = load(&pieces.concat());
    }

    /// A sound file with one span replaced by pieces: gets deep into the checks.
    #[test]
    fn a_damaged_example_never_panics(from in 0_usize..4_000, length in 0_usize..30, pieces in prop::collection::vec(piece(), 0..6)) {
        for name in ["database.yaml", "credentials.yaml", "resend.yaml"] {
            let text = std::fs::read_to_string(format!("{}/examples/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap();
            let chars: Vec<char> = text.chars().collect();
            let from = from % chars.len();
            let to = (from + length).min(chars.len());
            let mut damaged: String = chars[..from].iter().collect();
            damaged.push_str(&pieces.concat());
            damaged.extend(&chars[to..]);
            match load(&damaged) {
                Ok(_) => {}
                Err(problems) => {
                    prop_assert!(problems.errors().count() > 0);
                    for problem in problems.errors() {
                        prop_assert!(!problem.to_string().contains('\n'));
                    }
                }
            }
        }
    }
}
