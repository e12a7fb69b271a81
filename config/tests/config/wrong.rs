//! Wrong files and what is said of them, word for word.

mod database;
mod files;
mod metadata;
mod receiving;
mod resend;
mod service;
mod yaml;

use crate::support::errors_of;

/// What is written, and the errors without the file's name, in order.
type Wrong = (&'static str, &'static [&'static str]);

fn assert_all(files: &[Wrong], whole: impl Fn(&str) -> String) {
    for (written, wanted) in files {
        let text = whole(written);
        let found = errors_of(&text);
        assert_eq!(found, *wanted, "in:\n{text}");
    }
}

/// The keys of a service, and a channel that is in order.
fn in_service(keys: &str) -> String {
    format!("{keys}\nchannels:\n- {{name: a, port: 20001}}\n")
}

/// The keys of a channel from line 4 on.
fn in_channel(keys: &str) -> String {
    let mut text = "channels:\n- name: a\n  port: 20001\n".to_owned();
    for line in keys.lines() {
        text.push_str(&format!("  {line}\n"));
    }
    text
}

#[test]
fn wrong_yaml_is_named_with_its_place() {
    assert_all(yaml::FILES, str::to_owned);
}

#[test]
fn wrong_keys_of_the_service_are_named_with_their_place() {
    assert_all(service::FILES, in_service);
}

#[test]
fn wrong_keys_for_receiving_are_named_with_their_place() {
    assert_all(receiving::FILES, in_channel);
}

#[test]
fn wrong_keys_for_files_are_named_with_their_place() {
    assert_all(files::FILES, in_channel);
}

#[test]
fn wrong_keys_for_metadata_are_named_with_their_place() {
    assert_all(metadata::FILES, in_channel);
}

#[test]
fn wrong_keys_for_the_database_are_named_with_their_place() {
    assert_all(database::FILES, in_channel);
}

#[test]
fn wrong_keys_for_resend_are_named_with_their_place() {
    assert_all(resend::FILES, in_channel);
}

#[test]
fn every_error_of_a_file_is_reported_at_once() {
    let text =
        "max_tasks: 0\nlog_format: xml\nchannels:\n- name: a b\n  port: 80\n  mapping: {x: PID}\n  prot: 1\n";
    let found = errors_of(text);
    let lines: Vec<&str> = found.iter().filter_map(|error| error.split(':').next()).collect();
    assert_eq!(lines, ["1", "2", "4", "5", "6", "7"]);
}
