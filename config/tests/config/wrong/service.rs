//! Keys of the service; a sound channel follows.

use super::Wrong;

pub(super) const FILES: &[Wrong] = &[
    (r#"max_task: 4"#, &[r#"1:1: max_task: unknown key, did you mean max_tasks?"#]),
    (
        r#"zzz: 4"#,
        &[r#"1:1: zzz: unknown key of the service; take it out, or set unknown_keys: warn at the root"#],
    ),
    (r#"debug_mode: maybe"#, &[r#"1:13: debug_mode: "maybe" is no boolean; write true or false"#]),
    (
        r#"debug_mode: 'yes'"#,
        &[r#"1:13: debug_mode: "yes" is no boolean; write true or false, without quotes"#],
    ),
    (r#"debug_mode: [yes]"#, &[r#"1:13: debug_mode: a list where true or false is wanted"#]),
    (r#"max_tasks: 0"#, &[r#"1:12: max_tasks: 0 is out of range; max_tasks is 1 to 65535"#]),
    (r#"max_tasks: 65536"#, &[r#"1:12: max_tasks: 65536 is out of range; max_tasks is 1 to 65535"#]),
    (r#"max_tasks: four"#, &[r#"1:12: max_tasks: "four" is no whole number; write digits only"#]),
    (r#"max_tasks: 1.5"#, &[r#"1:12: max_tasks: "1.5" is no whole number; write digits only"#]),
    (
        r#"stop_timeout: 5 weeks"#,
        &[
            r#"1:15: stop_timeout: "5 weeks" is no duration; write seconds, or a number with ms, s, m, h or d: 90, 90s, 5m, 72h"#,
        ],
    ),
    (r#"stop_timeout: 0"#, &[r#"1:15: stop_timeout: a wait of zero; write at least 1ms"#]),
    (r#"log_format: jsn"#, &[r#"1:13: log_format: unknown value "jsn"; did you mean json?"#]),
    (r#"log_format: xml"#, &[r#"1:13: log_format: unknown value "xml"; known are text, json"#]),
    (r#"state_path: var/lib"#, &[r#"1:13: state_path: "var/lib" is relative; write the whole path"#]),
    (r#"state_path: ''"#, &[r#"1:13: state_path: an empty path; write a path, or take the key out"#]),
    (r#"user: 1000"#, &[r#"1:7: user: "1000" is no name of a user or group; write a name, not a number"#]),
    (r#"group: 'a b'"#, &[r#"1:8: group: "a b" is no name of a user or group; write a name, not a number"#]),
    (
        r#"store_solr: true"#,
        &[r#"1:13: store_solr: no active solr server; set solr_servers, with one of them active"#],
    ),
    (
        r#"solr_servers: {name: x}"#,
        &[r#"1:15: solr_servers: a table of keys where a list is wanted; begin each item with "- ""#],
    ),
    (
        r#"solr_servers:
- {name: a}
- {name: b}
- {name: c, active: no}"#,
        &[
            r#"3:3: solr_servers[2]: a second active solr server, see f.yaml:2:3; only one is supported, set active: false on the others"#,
        ],
    ),
    (
        r#"solr_servers:
- {name: 'http://arc01', port: 70000, protocol: htps, timeout: x}"#,
        &[
            r#"2:10: solr_servers[1].name: "http://arc01" is no host; write a host name or an IP address alone"#,
            r#"2:32: solr_servers[1].port: 70000 is out of range; a port is 1 to 65535"#,
            r#"2:49: solr_servers[1].protocol: unknown value "htps"; did you mean https?"#,
            r#"2:64: solr_servers[1].timeout: "x" is no duration; write seconds, or a number with ms, s, m, h or d: 90, 90s, 5m, 72h"#,
        ],
    ),
    (
        r#"solr_servers:
- {active_cores: [hl7, 'a/b'], passwort: x}"#,
        &[
            r#"2:24: solr_servers[1].active_cores[2]: "a/b" cannot name a core; letters, digits, _ . and -, not first a dot or dash"#,
            r#"2:32: solr_servers[1].passwort: unknown key, did you mean password?"#,
        ],
    ),
    (
        r#"dfapi: {path: api, token: 'p@ss word', name: ''}"#,
        &[
            r#"1:15: dfapi.path: "api" is no path of a URL; begin it with /, without ?, # and spaces"#,
            r#"1:27: dfapi.token: not the name of a secret; write the NAME of a systemd credential or environment variable"#,
            r#"1:46: dfapi.name: "" is no host; write a host name or an IP address alone"#,
        ],
    ),
    (
        r#"alerts:
- {name: a, when: quiet, command: [mail]}
- {when: down}
- {name: b, when: disk, limit: much, webhook: ftp://x}
- {name: c, when: silent, hours: 25-3, command: '/bin/a | b', channels: [b]}
- {name: c, when: down, command: [/x], webhook: 'http://h/'}"#,
        &[
            r#"2:19: alerts[1].when: unknown value "quiet"; known are silent, waiting, failed, refused, down, disk, certificate"#,
            r#"2:35: alerts[1].command: a command without a program; begin with the program's whole path"#,
            r#"3:3: alerts[2].name: missing; name the alert"#,
            r#"3:3: alerts[2]: an alert that tells nobody; set command or webhook"#,
            r#"4:32: alerts[3].limit: "much" is no limit of this alert; write a size: 5GiB"#,
            r#"4:47: alerts[3].webhook: not a URL; write http://HOST/PATH or https://HOST/PATH"#,
            r#"5:34: alerts[4].hours: "25-3" are no hours of the day; write FROM-TO: 8-18 or 08:00-18:30"#,
            r#"5:49: alerts[4].command: no shell reads this command; write it as a list: [PROGRAM, ARGUMENT, …]"#,
            r#"5:74: alerts[4].channels[1]: no channel "b"; write the name of a channel"#,
            r#"6:49: alerts[5].webhook: a webhook besides a command; keep one of them"#,
        ],
    ),
    (
        r#"alerts:
- {name: c, when: down, command: /x}
- {name: c, when: down, command: /x}"#,
        &[r#"3:10: alerts[2].name: "c" is taken; an alert's name is unique"#],
    ),
];
