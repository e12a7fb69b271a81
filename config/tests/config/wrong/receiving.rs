//! Keys of a channel: how it receives.

use super::Wrong;

pub(super) const FILES: &[Wrong] = &[
    (r#"drop_folder: {}"#, &[r#"4:3: channels[1].drop_folder: unknown key, did you mean drop_folders?"#]),
    (
        r#"debug_values: true"#,
        &[
            r#"4:3: channels[1].debug_values: unknown key of a channel; take it out, or set unknown_keys: warn at the root"#,
        ],
    ),
    (
        r#"listen: localhost"#,
        &[
            r#"4:11: channels[1].listen: "localhost" is no IP address; write an address of this machine: 0.0.0.0, ::, 10.1.2.3"#,
        ],
    ),
    (r#"enabled: 1"#, &[r#"4:12: channels[1].enabled: "1" is no boolean; write true or false"#]),
    (
        r#"stream_limit: 10MB"#,
        &[
            r#"4:17: channels[1].stream_limit: "10MB" is no size; write bytes, or a number with KiB, MiB or GiB: 4194304, 512KiB, 10MiB"#,
        ],
    ),
    (
        r#"stream_limit: 0"#,
        &[r#"4:17: channels[1].stream_limit: 0 bytes is out of range; write at most 1GiB"#],
    ),
    (
        r#"stream_limit: 2GiB"#,
        &[r#"4:17: channels[1].stream_limit: 2147483648 bytes is out of range; write at most 1GiB"#],
    ),
    (
        r#"stream_limit: 100MiB
buffer_limit: 64MiB"#,
        &[
            r#"4:17: channels[1].stream_limit: 104857600 bytes is over buffer_limit, 67108864; the largest message must fit into buffer_limit"#,
        ],
    ),
    (
        r#"buffer_limit: 1KiB"#,
        &[
            r#"4:17: channels[1].buffer_limit: 1024 bytes is out of range; write at least 64KiB, room for one message"#,
        ],
    ),
    (
        r#"encoding: utf-9"#,
        &[
            r#"4:13: channels[1].encoding: unknown encoding "utf-9"; write utf-8, latin-1, cp1252, ascii, another codec, or auto"#,
        ],
    ),
    (r#"ack: proccessed"#, &[r#"4:8: channels[1].ack: unknown value "proccessed"; did you mean processed?"#]),
    (
        r#"on_undecodable: ignore"#,
        &[r#"4:19: channels[1].on_undecodable: unknown value "ignore"; known are accept, refuse"#],
    ),
    (
        r#"duplicates: yes"#,
        &[r#"4:15: channels[1].duplicates: unknown value "yes"; known are suppress, process"#],
    ),
    (r#"answer_timeout: 0"#, &[r#"4:19: channels[1].answer_timeout: a wait of zero; write at least 1ms"#]),
    (
        r#"message_timeout: 0"#,
        &[r#"4:20: channels[1].message_timeout: a wait of zero; a message that stops midway must end: 60s"#],
    ),
    (
        r#"idle_timeout: -1"#,
        &[
            r#"4:17: channels[1].idle_timeout: "-1" is no duration; write seconds, or a number with ms, s, m, h or d: 90, 90s, 5m, 72h"#,
        ],
    ),
    (
        r#"max_connections: 0"#,
        &[r#"4:20: channels[1].max_connections: 0 is out of range; max_connections is 1 to 100000"#],
    ),
    (
        r#"max_connections_per_address: x"#,
        &[r#"4:32: channels[1].max_connections_per_address: "x" is no whole number; write digits only"#],
    ),
    (
        r#"max_backlog: 0"#,
        &[r#"4:16: channels[1].max_backlog: 0 is out of range; max_backlog is 1 to 100000000"#],
    ),
    (
        r#"tasks: 33"#,
        &[r#"4:10: channels[1].tasks: 33 is out of range; tasks is 1 to max_tasks, which is 32"#],
    ),
    (
        r#"retry: {first: 10, longest: 5}"#,
        &[
            r#"4:31: channels[1].retry.longest: longest is below first, 10 s; waits double from first up to longest"#,
        ],
    ),
    (
        r#"retry: {first: 10m, give_up: 1m}"#,
        &[
            r#"4:32: channels[1].retry.give_up: give_up is below first, 600 s; leave room for at least one more try"#,
        ],
    ),
    (r#"retry: {frist: 10}"#, &[r#"4:11: channels[1].retry.frist: unknown key, did you mean first?"#]),
    (
        r#"allow: 10.0.0.0/8"#,
        &[r#"4:10: channels[1].allow: "10.0.0.0/8" where a list is wanted; write [10.0.0.0/8]"#],
    ),
    (
        r#"allow: []"#,
        &[r#"4:10: channels[1].allow: an empty list; leave the key out to let everybody connect"#],
    ),
    (
        r#"allow: [10.0.0.0/33, 10.1.2.3/8, host, '::1/128']"#,
        &[
            r#"4:11: channels[1].allow[1]: "10.0.0.0/33" is no network; write ADDRESS or ADDRESS/PREFIX: 10.0.0.0/8, 192.168.1.5, fd00::/8"#,
            r#"4:24: channels[1].allow[2]: "10.1.2.3/8" has bits past its prefix; write 10.0.0.0/8 or 10.1.2.3"#,
            r#"4:36: channels[1].allow[3]: "host" is no network; write ADDRESS or ADDRESS/PREFIX: 10.0.0.0/8, 192.168.1.5, fd00::/8"#,
        ],
    ),
    (
        r#"accept_versions: []"#,
        &[r#"4:20: channels[1].accept_versions: an empty list; leave the key out to accept every version"#],
    ),
    (
        r#"accept_processing_ids: ['']"#,
        &[r#"4:27: channels[1].accept_processing_ids[1]: an empty value; take it out"#],
    ),
    (
        r#"message_types: {adt^A01: store, 'ADT^A01^ADT_A01': store, ADT: stor, '*': null}"#,
        &[
            r#"4:19: channels[1].message_types.adt^A01: "adt^A01" is no message type; write TYPE^EVENT, TYPE, or "*" for every other: ADT^A01"#,
            r#"4:35: channels[1].message_types.ADT^A01^ADT_A01: "ADT^A01^ADT_A01" is no message type; write TYPE^EVENT, TYPE, or "*" for every other: ADT^A01"#,
            r#"4:66: channels[1].message_types.ADT: unknown value "stor"; did you mean store?"#,
            r#"4:77: channels[1].message_types.*: missing; write credentials, document, patient_merge or store"#,
        ],
    ),
    (
        r#"tls: {certificate: /c.pem}"#,
        &[r#"4:8: channels[1].tls.key: missing; write the path of the PEM file with the private key"#],
    ),
    (
        r#"tls: {certificate: /c.pem, key: /k.pem, client_names: [a]}"#,
        &[
            r#"4:57: channels[1].tls.client_names: client_names without client_ca; set client_ca: without it no client shows a certificate"#,
        ],
    ),
    (
        r#"retention_days: {failed: 0, quarantin: 3}"#,
        &[
            r#"4:28: channels[1].retention_days.failed: 0 is out of range; write at least 1 day, or null to keep everything"#,
            r#"4:31: channels[1].retention_days.quarantin: unknown key, did you mean quarantine?"#,
        ],
    ),
];
