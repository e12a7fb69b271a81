//! Whole files whose YAML or first keys are wrong.

use super::Wrong;

pub(super) const FILES: &[Wrong] = &[
    (
        r#"channels: [
"#,
        &[
            r#"2:1: not YAML: while parsing a node, did not find expected node content; look at the indentation, quotes and brackets here and in the line before"#,
        ],
    ),
    (
        r#"channels:
	- name: a
"#,
        &[
            r#"2:2: not YAML: tabs disallowed within this context (block indentation); indent with spaces, not tabs"#,
        ],
    ),
    (
        r#"channels:
- name: a
  port: 20001
  local_archive: {format: '%Y/%m/%d’}
  x: 1
"#,
        &[
            r#"4:27: not YAML: while scanning a quoted scalar, found unexpected end of stream; line 4 has the typographic quote ’, write ' or " instead"#,
        ],
    ),
    (r#""#, &[r#"1:1: an empty file; write channels: with at least one channel"#]),
    (
        r#"just text
"#,
        &[r#"1:1: "just text" where the service is wanted; write its keys below"#],
    ),
    (
        r#"- a
"#,
        &[r#"1:1: a list where the service is wanted; write its keys below"#],
    ),
    (
        r#"channels: []
"#,
        &[r#"1:11: channels: no channel; a server has at least one channel"#],
    ),
    (
        r#"channels:
  name: a
  port: 20001
"#,
        &[r#"2:3: channels: a table of keys where a list is wanted; begin each item with "- ""#],
    ),
    (
        r#"channels: a
"#,
        &[r#"1:11: channels: "a" where a list is wanted; write [a]"#],
    ),
    (
        r#"max_tasks: 4
"#,
        &[r#"1:1: channels: missing; a server has at least one channel"#],
    ),
    (
        r#"a: 1
---
b: 2
"#,
        &[r#"2:1: a second document begins here; a file holds one document"#],
    ),
    (
        r#"channels: &a [*a]
"#,
        &[r#"1:15: an alias that contains itself; write the value out"#],
    ),
    (
        r#"service:
  channels:
  - name: a
    port: 80
"#,
        &[r#"4:11: service.channels[1].port: 80 is out of range; a channel's port is 1024 to 49151"#],
    ),
    (
        r#"service: {debug_mode: true}
channels: [{name: a, port: 20001}]
"#,
        &[r#"1:1: service: unknown key of the service; take it out, or set unknown_keys: warn at the root"#],
    ),
    (
        r#"channels:
- name: a
  port: 20001
  port: 20002
"#,
        &[r#"4:3: channels[1].port: duplicate key, it stands in line 3 too; keep one of them"#],
    ),
    (
        r#"channels:
- name: a
  port: 20001
channels: []
debug_mode: yes
debug_mode: no
"#,
        &[
            r#"4:1: channels: duplicate key, it stands in line 1 too; keep one of them"#,
            r#"6:1: debug_mode: duplicate key, it stands in line 5 too; keep one of them"#,
        ],
    ),
    (
        r#"channels:
- name: a
  port: 20001
  ? [x, y]
  : 1
"#,
        &[r#"4:5: channels[1]: a list as a key; a key is plain text"#],
    ),
    (
        r#"channels:
- name: !env NAME
  port: 20001
"#,
        &[r#"2:9: channels[1].name: unknown tag "!env"; the only tag is !include PATH"#],
    ),
    (
        r#"channels:
- <<: 5
  name: a
  port: 20001
"#,
        &[
            r#"2:7: channels[1].<<: cannot merge "5"; << takes a table of keys, or a list of them: <<: *anchor"#,
        ],
    ),
    (
        r#"channels:
- 
- name: a
  port: 20001
"#,
        &[r#"2:3: channels[1]: an empty list item; take it out, or write a value after "- ""#],
    ),
    (
        r#"channels:
- port: 20001
- name: b
"#,
        &[
            r#"2:3: channels[1].name: missing; write letters, digits, _ . and -, first a letter or digit, at most 64"#,
            r#"3:3: channels[2].port: missing; a channel's port is 1024 to 49151"#,
        ],
    ),
    (
        r#"channels:
- {name: a, port: 20001}
- {name: A, port: 20001}
"#,
        &[
            r#"3:10: channels[2].name: "A" is taken, see f.yaml:2:10; a channel's name is unique"#,
            r#"3:19: channels[2].port: 20001 is taken, see f.yaml:2:19; the port of an enabled channel is unique"#,
        ],
    ),
    (
        r#"channels:
- {name: 'a b', port: 20001}
- {name: .x, port: 49152}
- {name: b, port: 1023}
- {name: ../etc, port: 2e4}
"#,
        &[
            r#"2:10: channels[1].name: "a b" cannot name a channel; write letters, digits, _ . and -, first a letter or digit, at most 64"#,
            r#"3:10: channels[2].name: ".x" cannot name a channel; write letters, digits, _ . and -, first a letter or digit, at most 64"#,
            r#"3:20: channels[2].port: 49152 is out of range; a channel's port is 1024 to 49151"#,
            r#"4:19: channels[3].port: 1023 is out of range; a channel's port is 1024 to 49151"#,
            r#"5:10: channels[4].name: "../etc" cannot name a channel; write letters, digits, _ . and -, first a letter or digit, at most 64"#,
            r#"5:24: channels[4].port: "2e4" is no whole number; write digits only"#,
        ],
    ),
    (
        r#"unknown_keys: maybe
channels: [{name: a, port: 20001}]
"#,
        &[r#"1:15: unknown_keys: unknown value "maybe"; known are error, warn"#],
    ),
];
