//! What PyYAML made of a value is what it means here.

use crate::support::{errors_of, load, loaded};
use config::Password;
use std::time::Duration;

fn channel(keys: &str) -> config::Channel {
    let mut text = "channels:\n- name: a\n  port: 20001\n".to_owned();
    for line in keys.lines() {
        text.push_str(&format!("  {line}\n"));
    }
    loaded(&text).config.channels.remove(0)
}

#[test]
fn booleans_have_many_spellings() {
    for word in ["True", "yes", "on", "YES", "On", "true"] {
        assert!(channel(&format!("debug_message: {word}")).debug_message, "{word}");
    }
    for word in ["False", "no", "off", "NO", "Off", "null", "~", ""] {
        assert!(!channel(&format!("debug_message: {word}")).debug_message, "{word}");
    }
}

#[test]
fn integers_have_many_spellings() {
    for port in ["20_001", "'20001'", "\"20_001\"", "0x4E21", "+20001", "047041", "5:33:21"] {
        let text = format!("channels: [{{name: a, port: {port}}}]");
        assert_eq!(loaded(&text).config.channels[0].port, 20_001, "{port}");
    }
}

#[test]
fn a_number_where_text_is_wanted_is_its_text() {
    let text = "\
config_version: 7.70
solr_servers: [{server_version: 7.7, password: 01234}]
channels: [{name: 007, port: 20001, accept_versions: [2.10, 2.5], mapping: {1: PID.1.3.1, yes: PID.1.5}}]
";
    let config = loaded(text).config;
    assert_eq!(config.service.config_version.as_deref(), Some("7.70"));
    let Password::Plain(password) = config.service.solr.unwrap().password else { panic!("a plain password") };
    assert_eq!(password.reveal(), "01234");
    let channel = &config.channels[0];
    assert_eq!(channel.name, "007");
    assert_eq!(channel.accept_versions, Some(vec!["2.10".to_owned(), "2.5".to_owned()]));
    let names: Vec<&str> = channel.mapping.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names, ["1", "yes"]);
}

#[test]
fn null_is_the_default() {
    let with_null = channel(
        "enabled: null\nstream_limit: ~\nencoding:\nlocal_archive: null\ndrop_folders:\nmapping: null\nretry: null\n\
         allow: null\ntls: null\nresend: ~\nsolr_segments:\nmessage_types: null\ndb_insert:\ntasks: null",
    );
    assert_eq!(with_null, channel(""));
    assert!(
        errors_of("channels:\n- name: null\n  port: 20001\n")[0]
            .starts_with("2:9: channels[1].name: missing")
    );
}

#[test]
fn merge_keys_merge_in_order_and_are_overridden() {
    let text = "\
x-one: &one {encoding: latin-1, tasks: 2}
x-two: &two {encoding: ascii, max_backlog: 7}
x-three: &three
  <<: [*one, *two]
  max_connections: 9
channels:
- <<: *three
  name: a
  port: 20001
  tasks: 3
";
    let channel = loaded(text).config.channels.remove(0);
    assert_eq!(channel.encoding, hl7::charset::Encoding::from_label("latin-1").unwrap());
    assert_eq!((channel.tasks, channel.bounds.backlog_max, channel.bounds.connections_max), (3, 7, 9));
}

#[test]
fn merged_mappings_come_first_in_order() {
    let text = "\
x-base: &base {b: PID.1.3, a: PID.1.4}
channels:
- name: a
  port: 20001
  mapping: {c: PID.1.5, a: PID.1.9, <<: *base}
";
    let mapping = loaded(text).config.channels.remove(0).mapping;
    let shown: Vec<String> = mapping.iter().map(|m| format!("{}={}", m.name, m.paths[0])).collect();
    assert_eq!(shown, ["b=PID.1.3", "a=PID.1.9", "c=PID.1.5"]);
}

#[test]
fn a_quoted_merge_key_merges_nothing() {
    let errors = errors_of("x-a: &a {tasks: 2}\nchannels:\n- name: a\n  port: 20001\n  \"<<\": *a\n");
    assert!(errors[0].starts_with("5:3: channels[1].<<: unknown key of a channel"), "{errors:?}");
}

#[test]
fn a_problem_behind_an_alias_is_shown_where_it_is_written() {
    let errors = errors_of("x-a: &a\n  tasks: 0\nchannels:\n- {<<: *a, name: a, port: 20001}\n");
    assert_eq!(errors, ["2:10: channels[1].tasks: 0 is out of range; tasks is 1 to max_tasks, which is 32"]);
}

#[test]
fn durations_and_sizes_have_units() {
    let channel = channel(
        "stream_limit: 1_048_576\nbuffer_limit: 1GiB\nidle_timeout: 5m\nmessage_timeout: '90'\n\
         retry: {first: 500ms, longest: 2m, give_up: 2d}",
    );
    assert_eq!(channel.stream_limit_bytes, 1 << 20);
    assert_eq!(channel.bounds.buffer_limit_bytes, 1 << 30);
    assert_eq!(channel.bounds.idle_timeout, Duration::from_secs(300));
    assert_eq!(channel.bounds.message_timeout, Duration::from_secs(90));
    assert_eq!(channel.retry.first, Duration::from_millis(500));
    assert_eq!(channel.retry.give_up, Duration::from_secs(172_800));
}

#[test]
fn typographic_quotes_stay_where_they_may_be_meant() {
    let channel = channel(
        "mapping: {a: PID.1.3}\ncustom_regex: {a: '[“”]'}\nmapping_separator: ’\n\
         resend: {server: s, port: 1, filter: {source_core: c, match_source: PID.1.3, match_field: f, search_field: g, \
         match_values: [ST MARY’S]}}",
    );
    assert_eq!(channel.resend.unwrap().filter.unwrap().match_values, ["ST MARY’S"]);
    assert_eq!(channel.mapping_separator, "’");
    assert!(load("channels: [{name: “a”, port: 20001}]").is_err());
}

#[test]
fn a_byte_order_mark_and_windows_line_ends_are_read_over() {
    let text = "\u{feff}channels:\r\n- name: a\r\n  port: 80\r\n";
    assert_eq!(
        errors_of(text),
        ["3:9: channels[1].port: 80 is out of range; a channel's port is 1024 to 49151"]
    );
}

#[test]
fn columns_are_counted_in_characters() {
    let errors = errors_of("channels: [{x-ä: 'öü', name: a, port: 80}]");
    assert!(errors[0].starts_with("1:39: channels[1].port"), "{errors:?}");
}
