//! Defaults, what is warned of, and what is not built yet.

use crate::support::{errors_of, loaded, remarks_of};
use config::*;
use std::time::Duration;

fn channel(keys: &str) -> String {
    let mut text = "channels:\n- name: a\n  port: 20001\n".to_owned();
    for line in keys.lines() {
        text.push_str(&format!("  {line}\n"));
    }
    text
}

#[test]
fn the_smallest_file_has_every_default() {
    let text = channel("");
    assert_eq!(remarks_of(&text), Vec::<String>::new());
    let config = loaded(&text).config;
    let service = &config.service;
    assert_eq!((service.max_tasks, service.stop_timeout), (32, Duration::from_secs(30)));
    assert_eq!(service.state_path.to_str(), Some("/var/lib/hl7server"));
    assert_eq!(service.runtime_path.to_str(), Some("/run/hl7server"));
    assert!(service.solr.is_none() && service.dfapi.is_none() && service.alerts.is_empty());
    let channel = &config.channels[0];
    assert!(channel.enabled && !channel.archive_first && channel.tls.is_none() && channel.allow.is_empty());
    assert_eq!(channel.listen.to_string(), "0.0.0.0");
    assert_eq!(channel.stream_limit_bytes, 10_485_760);
    assert_eq!(channel.encoding.name(), hl7::charset::Encoding::from_label("UTF-8").unwrap().name());
    assert_eq!((channel.tasks, channel.answer_timeout), (4, Duration::from_secs(20)));
    assert_eq!(
        channel.bounds,
        Bounds {
            connections_max: 256,
            connections_per_address_max: 64,
            idle_timeout: Duration::ZERO,
            message_timeout: Duration::from_secs(60),
            buffer_limit_bytes: 256 << 20,
            backlog_max: 1_000_000,
        }
    );
    assert_eq!(
        channel.retry,
        Retry {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(300),
            give_up: Duration::from_secs(259_200)
        }
    );
    assert_eq!(channel.duplicates, Duplicates::Suppress);
    assert_eq!(channel.ack, AckMode::Received);
    assert_eq!(channel.workflows, WorkflowTable::standard());
    assert_eq!(channel.mapping_separator, " ");
    assert_eq!((channel.stamp, &channel.drop_folders), (None, &Vec::new()));
}

#[test]
fn every_key_of_a_channel_arrives() {
    let text = channel(
        "listen: '::'\nenabled: no\nstream_limit: 20MiB\nencoding: cp1252\non_undecodable: refuse\ndebug_message: on\n\
         debug_metadata: on\nack: processed\nanswer_timeout: 5\nduplicates: process\n\
         message_types: {ADT: store, '*': document}\naccept_versions: [2.5]\naccept_processing_ids: [P]\n\
         max_connections: 5\nmax_connections_per_address: 2\nidle_timeout: 60\nmessage_timeout: 10\nbuffer_limit: 64MiB\n\
         max_backlog: 9\nallow: [10.0.0.0/8, fd00::/8]\n\
         tls: {certificate: /c, key: /k, client_ca: /ca, client_names: [x]}\ntasks: 8\nattachment_format: text\n\
         attachment_output: pdf\nadd_metadata_to_attachment: true\nvisible_metadata: true\nmetadata_pages: all\n\
         on_stamp_failure: fail\nlocal_archive: {path: /a, retention_days: 30}\nmapping_separator: ', '\n\
         mapping: {patient_id: [PID.1.3.1, PID.1.4.1]}\nmapping_ignore: [patient_id]\n\
         credentials_metadata: {id: patient_id}\nbook_metadata: {when: patient_id}\n\
         mobile: {fields: [patient_id], pattern: '^6'}\nsolr_segments: [PID, ZDS, PID]\n\
         retention_days: {failed: 90, quarantine: 7}\n\
         resend: {server: s, port: 7, tls: true, accept_codes: [AA]}",
    );
    let c = loaded(&text).config.channels.remove(0);
    assert_eq!((c.listen.to_string().as_str(), c.enabled, c.stream_limit_bytes), ("::", false, 20 << 20));
    assert_eq!(
        (c.on_undecodable, c.ack, c.duplicates),
        (OnUndecodable::Refuse, AckMode::Processed, Duplicates::Process)
    );
    assert!(c.debug_message && c.debug_metadata && !c.debug_values);
    assert_eq!(c.workflows.any, Some(Workflow::Document));
    assert_eq!(c.workflows.workflow("ADT", "A99"), Some(Workflow::Store));
    assert_eq!(
        (c.accept_versions, c.accept_processing_ids),
        (Some(vec!["2.5".into()]), Some(vec!["P".into()]))
    );
    assert_eq!((c.bounds.connections_max, c.bounds.backlog_max, c.tasks), (5, 9, 8));
    assert_eq!(c.allow.len(), 2);
    assert_eq!(c.tls.unwrap().client_names, ["x"]);
    assert_eq!(c.stamp, Some(Stamp { visible: true, all_pages: true, must_succeed: true }));
    assert_eq!((c.attachment_format, c.attachment_output), (AttachmentFormat::Text, AttachmentOutput::Pdf));
    assert_eq!(c.local_archive.unwrap().retention_days, Some(30));
    assert_eq!((c.mapping[0].paths.len(), c.mapping[0].optional), (2, true));
    assert_eq!(c.mapping_separator, ", ");
    assert_eq!(c.credentials_metadata, [("id".to_owned(), "patient_id".to_owned())]);
    assert_eq!(c.book_metadata.len(), 1);
    assert!(c.mobile.unwrap().pattern.is_match("612").unwrap());
    assert_eq!(c.solr_segments, ["PID", "ZDS"]);
    assert_eq!((c.retention_failed_days, c.retention_quarantine_days), (Some(90), Some(7)));
    let resend = c.resend.unwrap();
    assert!(resend.tls.is_some());
    assert_eq!(resend.accept_codes.into_iter().collect::<Vec<_>>(), ["AA"]);
}

#[test]
fn the_default_mobile_pattern_wants_six_digits() {
    let text = channel("mapping: {x: PID.1.3}\nmobile: {fields: [x]}");
    let pattern = loaded(&text).config.channels[0].mobile.clone().unwrap().pattern;
    assert!(pattern.is_match("+34 600 12").unwrap());
    assert!(!pattern.is_match("60012").unwrap());
}

#[test]
fn disabled_parts_are_checked_and_left_out() {
    let text = channel(
        "local_archive: {enabled: no, path: /a}\ndrop_folders: {x: {enabled: no, path: /a}, y: {path: /b}}\n\
         resend: {enabled: no, server: s, port: 1}",
    );
    let loaded = loaded(&text);
    let c = &loaded.config.channels[0];
    assert!(c.local_archive.is_none() && c.resend.is_none());
    assert_eq!(c.drop_folders.len(), 1);
}

#[test]
fn lists_of_drop_folders_are_named_by_position() {
    let text = channel("drop_folders:\n- {path: /a, enabled: no}\n- {path: /b}");
    assert_eq!(loaded(&text).config.channels[0].drop_folders[0].name, "2");
}

#[test]
fn every_driver_name_is_known_with_its_port() {
    for (name, driver, port) in [
        ("MariaDB", Driver::MariaDb, 3_306),
        ("MySQL", Driver::MariaDb, 3_306),
        ("PostgreSQL", Driver::PostgreSql, 5_432),
        ("SQL Server", Driver::SqlServer, 1_433),
        ("ODBC Driver 17 for SQL Server", Driver::SqlServer, 1_433),
        ("ODBC Driver 18 for SQL Server", Driver::SqlServer, 1_433),
    ] {
        let text = channel(&format!("db_insert: {{driver: {name}, username: u, database: d, table: s.t}}"));
        let db = loaded(&text).config.channels[0].db_insert.clone().unwrap();
        assert_eq!((db.driver, db.port, db.tls), (driver, port, DbTls::Prefer), "{name}");
    }
    let text = channel("db_insert: {driver: SQLite, database: /var/lib/x.db, table: t}");
    assert_eq!(loaded(&text).config.channels[0].db_insert.clone().unwrap().database, "/var/lib/x.db");
}

#[test]
fn several_pairs_may_be_replaced_and_a_variable_stands_for_its_column() {
    let text = channel(
        "mapping: {report: OBX.1.5}\ndb_metadata: {report: {field_name: REPORT, field_type: Text}}\n\
         db_insert: {driver: MySQL, username: u, database: d, table: t, replace_list: {report: [[a, b], ['<br>', '\\n'], [x, ~]]}}",
    );
    let db = loaded(&text).config.channels[0].db_insert.clone().unwrap();
    let pair = |from: &str, to: &str| (from.to_owned(), to.to_owned());
    assert_eq!(db.replace_list["REPORT"], [pair("a", "b"), pair("<br>", "\n"), pair("x", "")]);
}

#[test]
fn alerts_arrive_with_their_limits() {
    let text = "\
alerts:
- {name: quiet, when: silent, limit: 2h, hours: '8-18:30', channels: [a], command: /usr/bin/page oncall}
- {name: room, when: disk, limit: 5GiB, webhook: 'https://ops.example.org/hook'}
- {name: bad, when: failed, limit: 10, command: [/usr/bin/page, 'on call']}
channels: [{name: a, port: 20001}]
";
    let loaded = loaded(text);
    let alerts = &loaded.config.service.alerts;
    assert_eq!((alerts[0].limit, alerts[0].hours), (Some(120), Some((480, 1_110))));
    assert_eq!(alerts[0].action, AlertAction::Command(vec!["/usr/bin/page".into(), "oncall".into()]));
    assert_eq!(alerts[1].limit, Some(5 << 30));
    assert_eq!(alerts[2].action, AlertAction::Command(vec!["/usr/bin/page".into(), "on call".into()]));
}

#[test]
fn what_an_operator_should_look_at_is_warned_of() {
    let table: [(&str, &str); 13] = [
        (
            "resend: {server: s, port: 1, filter: {source_core: c, match_source: PID.1.3, match_field: f, search_field: g, match_values: [v]}}",
            "warning 4:40: channels[1].resend.filter: a filter without an active solr server: messages would wait for one; set solr_servers",
        ),
        (
            "port_: 40000",
            "warning 3:9: channels[1].port: 40000 is in the range the kernel takes ports for outgoing connections from; a port \
             below 32768 is never taken",
        ),
        (
            "stream_limit: 512",
            "note 4:17: channels[1].stream_limit: 512 bytes counts as 64 KiB; a real message is easily larger, and nothing is \
             set aside for it",
        ),
        (
            "archive_first: true\nlocal_archive: {path: /a}\npatient_id_field: PID.1.3.1",
            "note 6:21: channels[1].patient_id_field: with archive_first the archived message's name goes without the patient \
             id; set archive_first: false to have it there",
        ),
        (
            "archive_first: true\nlocal_archive: {path: /a}\naccession_number_field: OBR.1.18.1",
            "note 6:27: channels[1].accession_number_field: with archive_first the archived message's name goes without the \
             accession number; set archive_first: false to have it there",
        ),
        (
            "solr_segments: [ARV]",
            "warning 4:19: channels[1].solr_segments[1]: ARV is not one of the segments that are usually indexed; it is indexed \
             all the same",
        ),
        (
            "mapping: {a: PDI.1.3.1}",
            "warning 4:16: channels[1].mapping.a: HL7 has no segment PDI; it is looked for all the same",
        ),
        (
            "mapping: {patient_id: PID.1.3}\nmapping_ignore: [patientid]",
            "warning 5:20: channels[1].mapping_ignore[1]: \"patientid\" is no mapping, so there is nothing to ignore; did you \
             mean patient_id?",
        ),
        (
            "custom_regex: {phone: x}",
            "warning 4:18: channels[1].custom_regex.phone: \"phone\" is no mapping, so the pattern is never used; write the name \
             of a mapping",
        ),
        (
            "local_archive: {path: a}",
            "warning 4:25: channels[1].local_archive.path: \"a\" is relative to the folder that the server runs in; write the \
             whole path",
        ),
        (
            "drop_folders: {x: {path: /a, server: s}}",
            "warning 4:40: channels[1].drop_folders.x.server: server \"s\" has no effect on a local folder; set remote: true, or \
             take it out",
        ),
        (
            "mapping: {a: PID.1.3}\ndb_metadata: {a: {field_name: A, field_type: Text}}",
            "warning 5:16: channels[1].db_metadata: db_metadata without db_insert inserts nothing; set db_insert",
        ),
        (
            "archive_first: true",
            "warning 4:18: channels[1].archive_first: archive_first without a local_archive archives nothing; set local_archive \
             with a path",
        ),
    ];
    for (keys, wanted) in table {
        let text = match keys.strip_prefix("port_: ") {
            Some(port) => channel("").replace("20001", port),
            None => channel(keys),
        };
        assert_eq!(remarks_of(&text), [wanted]);
    }
}

#[test]
fn a_small_stream_limit_counts_as_64_kib() {
    assert_eq!(loaded(&channel("stream_limit: 512")).config.channels[0].stream_limit_bytes, 65_536);
    // The largest message fits into the buffers without a word about them.
    let large = loaded(&channel("stream_limit: 1GiB")).config.channels.remove(0);
    assert_eq!(large.bounds.buffer_limit_bytes, 1 << 30);
}

#[test]
fn tasks_follow_max_tasks_where_nothing_is_said() {
    let text = format!("max_tasks: 2\n{}", channel(""));
    assert_eq!(loaded(&text).config.channels[0].tasks, 2);
}

#[test]
fn the_service_is_warned_of_too() {
    let text = "\
debug_values: true
create_credentials: true
solr_servers: [{server_version: 6.6, certificate: false}]
channels: [{name: a, port: 20001}]
";
    assert_eq!(
        remarks_of(text),
        [
            "warning 1:15: debug_values: every field of every message goes into the log; it holds patient data, switch it off \
             when done",
            "warning 2:21: create_credentials: dfapi is not set, so its defaults hold: https://localhost:443/ without a token; \
             set dfapi",
            "warning 3:33: solr_servers[1].server_version: solr \"6.6\" was never tried; 7.x to 9.x are known to work",
            "warning 3:51: solr_servers[1].certificate: any certificate of this solr server is accepted; set ca_file to its CA \
             instead",
        ]
    );
}

#[test]
fn everything_may_be_set_at_once() {
    let keys = "\
ack: processed
on_undecodable: refuse
accept_versions: [2.5]
accept_processing_ids: [P]
retention_days: {failed: 1, quarantine: 1}
encoding: cp850
allow: [10.0.0.0/8]
max_connections: 5
max_connections_per_address: 5
idle_timeout: 5
message_timeout: 5
buffer_limit: 32MiB
max_backlog: 5
duplicates: process
retry: {first: 5}
tasks: 5
debug_message: true
debug_metadata: true
message_types: {ADT^A01: credentials, ADT^A34: patient_merge}
mapping: {a: PID.1.3}
mapping_ignore: [a]
custom_regex: {a: x}
db_insert: {driver: MySQL, username: u, database: d, table: t, mapping_table: m}
db_mapping: {y: {column: A, match: a, return: B}}
db_metadata: {a: {field_name: X, field_type: Text}}
credentials_metadata: {a: a}
book_metadata: {a: a}
mobile: {fields: [a]}
resend: {server: s, port: 1}
attachment_field: OBX.*.5
tls: {certificate: /c, key: /k, client_ca: /ca, client_names: [x]}
archive_first: true
local_archive: {path: /a, attachment: /b, retention_days: 3}
drop_folders: {a: {path: /c}, far: {remote: true, path: /a, server: s, user: u}}
metadata_pages: all
solr_segments: [PID]
";
    let service = "store_solr: true\ncreate_credentials: true\nsolr_servers: [{name: s}]\ndfapi: {}\n\
        debug_mode: true\ndebug_values: true\nlog_format: json\nalerts: [{name: x, when: down, command: /x}]\n";
    let text = format!("{service}{}", channel(keys));
    assert_eq!(loaded(&text).config.channels.len(), 1);
}

#[test]
fn channels_that_share_an_archive_keep_it_for_equally_long() {
    let two = |first: &str, second: &str| {
        format!(
            "channels:\n- {{name: a, port: 2000, local_archive: {{{first}}}}}\n\
             - {{name: b, port: 2001, local_archive: {{{second}}}}}\n"
        )
    };
    for (first, second) in [
        ("path: /a", "path: /b, retention_days: 3"),
        ("path: /a, retention_days: 3", "attachment: /a, retention_days: 3"),
        ("path: /a", "path: /a"),
        ("path: /a", "path: /a/b, retention_days: 3"),
    ] {
        loaded(&two(first, second));
    }
    for (first, second, told) in [
        ("path: /a", "path: /a, retention_days: 3", 1),
        ("path: /a, retention_days: 30", "attachment: /a, retention_days: 3", 2),
    ] {
        let errors = errors_of(&two(first, second));
        assert_eq!(errors.len(), told, "{errors:?}");
        assert!(
            errors[0].contains("archives into the same folder and keeps it for another time"),
            "{errors:?}"
        );
    }
}
