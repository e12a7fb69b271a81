//! What a reload touches, what a worker is given, and which secrets it needs.

use crate::support::{Files, loaded};
use config::{Action, Config, Mode, Severity, diff};

const BASE: &str = "\
max_tasks: 32
channels:
- {name: a, port: 20001}
- {name: b, port: 20002, mapping: {x: PID.1.3.1}, custom_regex: {x: '(?<!a)b'}}
- {name: c, port: 20003, enabled: false}
";

fn changes(old: &str, new: &str) -> Vec<(String, Action)> {
    let changes = diff(&loaded(old).config, &loaded(new).config);
    changes.into_iter().map(|change| (change.channel, change.action)).collect()
}

fn named(changes: &[(&str, Action)]) -> Vec<(String, Action)> {
    changes.iter().map(|(name, action)| ((*name).to_owned(), *action)).collect()
}

#[test]
fn an_unchanged_file_keeps_every_channel() {
    assert_eq!(changes(BASE, BASE), named(&[("a", Action::Keep), ("b", Action::Keep)]));
}

#[test]
fn only_what_changed_is_touched() {
    let new =
        BASE.replace("b', ", "c', ").replace("(?<!a)b", "(?<!a)c").replace("enabled: false", "enabled: yes");
    assert_eq!(
        changes(BASE, &new),
        named(&[("a", Action::Keep), ("b", Action::Replace), ("c", Action::Start)])
    );
    let gone = BASE.replace("- {name: a, port: 20001}\n", "");
    assert_eq!(changes(BASE, &gone), named(&[("b", Action::Keep), ("a", Action::Stop)]));
    let disabled = BASE.replace("port: 20001}", "port: 20001, enabled: no}");
    assert_eq!(changes(BASE, &disabled), named(&[("a", Action::Stop), ("b", Action::Keep)]));
}

#[test]
fn a_global_setting_touches_only_the_workers_that_use_it() {
    // The table of task slots is changed in place.
    assert_eq!(changes(BASE, &BASE.replace("32", "16")), named(&[("a", Action::Keep), ("b", Action::Keep)]));
    let debug = format!("debug_mode: true\n{BASE}");
    assert_eq!(changes(BASE, &debug), named(&[("a", Action::Replace), ("b", Action::Replace)]));
    let solr = format!("solr_servers: [{{name: s}}]\n{BASE}");
    assert_eq!(changes(BASE, &solr), named(&[("a", Action::Keep), ("b", Action::Keep)]));
    let dfapi = format!("dfapi: {{name: d}}\n{BASE}");
    assert_eq!(changes(BASE, &dfapi), named(&[("a", Action::Keep), ("b", Action::Keep)]));
}

const SECRETS: &str = "\
create_credentials: true
solr_servers: [{name: s}]
dfapi: {token: DFAPI_TOKEN}
channels:
- name: a
  port: 20001
  resend: {server: s, port: 1, filter: {source_core: c, match_source: PID.1.3, match_field: f, search_field: g, match_values: [v]}}
  db_insert: {driver: MySQL, username: u, database: d, table: t, password: DB_TOKEN}
  mapping: {x: PID.1.3}
  db_metadata: {x: {field_name: X, field_type: Text}}
  drop_folders: {far: {remote: true, path: /a, server: s, user: u, password: FAR_TOKEN, passphrase: KEY_TOKEN}}
- name: b
  port: 20002
  message_types: {ADT^A01: store, ADT^A08: store, ADT^A34: store, ORM^O01: store}
";

fn config(known: &dyn Fn(&str) -> bool, mode: Mode) -> Result<config::Loaded, config::Problems> {
    let files = Files::new(&[("f.yaml", SECRETS)]);
    config::load(&files.path("f.yaml"), known, mode)
}

#[test]
fn a_worker_is_given_only_what_its_plan_uses() {
    let config: Config = config(&|_| true, Mode::Run).unwrap().config;
    let a = config.worker_settings(&config.channels[0]);
    assert!(a.solr.is_some() && a.dfapi.is_some());
    let names: Vec<String> = a.secret_names().into_iter().collect();
    assert_eq!(names, ["DB_TOKEN", "DFAPI_TOKEN", "FAR_TOKEN", "KEY_TOKEN", "SOLR_TOKEN"]);
    let b = config.worker_settings(&config.channels[1]);
    assert!(b.solr.is_none() && b.dfapi.is_none());
    assert!(b.secret_names().is_empty());
}

#[test]
fn an_unknown_secret_is_a_warning_at_check_and_an_error_at_run() {
    let checked = config(&|_| false, Mode::Check).unwrap();
    let paths: Vec<&str> = checked
        .warnings
        .iter()
        .filter(|p| p.severity == Severity::Warning && p.what.contains("secret"))
        .map(|p| p.key_path.as_str())
        .collect();
    let wanted = [
        "solr_servers[1].password",
        "dfapi.token",
        "channels[1].db_insert.password",
        "channels[1].drop_folders.far.password",
        "channels[1].drop_folders.far.passphrase",
    ];
    assert_eq!(paths, wanted);
    let problems = config(&|name| name != "DB_TOKEN", Mode::Run).unwrap_err();
    let errors: Vec<&str> = problems.errors().map(|p| p.what.as_str()).collect();
    assert_eq!(errors, ["the secret DB_TOKEN is not known here"]);
}

#[test]
fn a_secret_that_nothing_enabled_needs_is_never_an_error() {
    let text =
        SECRETS.replace("port: 20001", "port: 20001\n  enabled: no").replace("true\nsolr", "false\nsolr");
    let files = Files::new(&[("f.yaml", &text)]);
    let loaded = config::load(&files.path("f.yaml"), &|_| false, Mode::Run).unwrap();
    assert_eq!(loaded.config.channels.len(), 2);
}

#[test]
fn a_solr_password_is_a_variable_only_where_that_is_set() {
    let load = |password: &str, known: &dyn Fn(&str) -> bool| {
        let text =
            format!("solr_servers: [{{password: {password}}}]\nchannels: [{{name: a, port: 20001}}]\n");
        let files = Files::new(&[("f.yaml", &text)]);
        config::load(&files.path("f.yaml"), known, Mode::Run).unwrap().config.service.solr.unwrap().password
    };
    assert!(matches!(load("MY_TOKEN", &|name| name == "MY_TOKEN"), config::Password::Named(_)));
    assert!(matches!(load("MY_TOKEN", &|_| false), config::Password::Plain(_)));
    assert!(matches!(load("HOME", &|_| true), config::Password::Plain(_)));
    assert!(matches!(load("secret", &|_| true), config::Password::Plain(_)));
    assert!(
        matches!(load("null", &|_| false), config::Password::Named(name) if name.as_str() == "SOLR_TOKEN")
    );
}
