//! Keys of a channel: mappings and what uses them.

use super::Wrong;

pub(super) const FILES: &[Wrong] = &[
    (
        r#"mapping: {a: PID.1}"#,
        &[
            r#"4:16: channels[1].mapping.a: field path "PID.1" has too few parts; write SEG.n.FIELD, SEG.n.FIELD.COMPONENT or SEG.n.FIELD.COMPONENT.SUBCOMPONENT, such as PID.1.5.1"#,
        ],
    ),
    (
        r#"mapping: {a: [PID.1.3.1, PID.x.5]}"#,
        &[
            r#"4:28: channels[1].mapping.a[2]: "PID.x.5": segment number "x" is no number; count segments from 1, or write * for every one"#,
        ],
    ),
    (
        r#"mapping: {a: }"#,
        &[r#"4:13: channels[1].mapping.a: a mapping without a path; write a field path: PID.1.3.1"#],
    ),
    (
        r#"mapping: {a: []}"#,
        &[r#"4:16: channels[1].mapping.a: an empty list; write at least one field path"#],
    ),
    (
        r#"mapping: {a: {path: PID.1.3}}"#,
        &[r#"4:16: channels[1].mapping.a: a table of keys where text is wanted"#],
    ),
    (
        r#"mapping: [PID.1.3]"#,
        &[
            r#"4:12: channels[1].mapping: a list where a table of names is wanted; write NAME: VALUE lines below it"#,
        ],
    ),
    (
        r#"mapping: {'': PID.1.3}"#,
        &[r#"4:13: channels[1].mapping.: "" is no name; a name has 1 to 64 characters on one line"#],
    ),
    (
        r#"mapping_ignore: accession_number"#,
        &[
            r#"4:19: channels[1].mapping_ignore: "accession_number" where a list is wanted; write [accession_number]"#,
        ],
    ),
    (
        r#"mapping: {a: PID.1.3}
custom_regex: {a: '('}"#,
        &[
            r#"5:21: channels[1].custom_regex.a: "(" is no pattern: at position 1: Opening parenthesis without closing parenthesis; escape what is meant literally with \, in single quotes"#,
        ],
    ),
    (
        r#"mapping: {a: PID.1.3}
custom_regex: {a: {replace: x}}"#,
        &[
            r#"5:21: channels[1].custom_regex.a.pattern: missing; write the pattern whose matches are replaced"#,
        ],
    ),
    (
        r#"mapping: {a: PID.1.3}
custom_regex: {a: '(?<!x'}"#,
        &[
            r#"5:21: channels[1].custom_regex.a: "(?<!x" is no pattern: at position 5: Opening parenthesis without closing parenthesis; escape what is meant literally with \, in single quotes"#,
        ],
    ),
    (
        r#"mapping: {patient_id: PID.1.3}
credentials_metadata: {id: patient_ide}"#,
        &[
            r#"5:30: channels[1].credentials_metadata.id: "patient_ide" is no mapping and no db_mapping; did you mean patient_id?"#,
        ],
    ),
    (
        r#"book_metadata: {id: nothing}"#,
        &[
            r#"4:23: channels[1].book_metadata.id: "nothing" is no mapping and no db_mapping; write the name of a mapping or db_mapping"#,
        ],
    ),
    (
        r#"mobile: {pattern: '['}"#,
        &[
            r#"4:11: channels[1].mobile.fields: missing; list the mappings that may hold a mobile number"#,
            r#"4:21: channels[1].mobile.pattern: "[" is no pattern: at position 1: Invalid character class; escape what is meant literally with \, in single quotes"#,
        ],
    ),
    (
        r#"mobile: {fields: []}"#,
        &[
            r#"4:20: channels[1].mobile.fields: an empty list; list the mappings that may hold a mobile number"#,
        ],
    ),
    (
        r#"mobile: {fields: [phone]}"#,
        &[
            r#"4:21: channels[1].mobile.fields[1]: "phone" is no mapping and no db_mapping; write the name of a mapping or db_mapping"#,
        ],
    ),
];
