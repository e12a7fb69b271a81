//! Keys of a channel: resend and Solr.

use super::Wrong;

pub(super) const FILES: &[Wrong] = &[
    (
        r#"resend: {enabled: false}"#,
        &[
            r#"4:11: channels[1].resend.server: missing; write the host that messages go to"#,
            r#"4:11: channels[1].resend.port: missing; write the port that messages go to"#,
        ],
    ),
    (
        r#"resend: {server: s, port: 0, timeout: 0}"#,
        &[
            r#"4:29: channels[1].resend.port: 0 is out of range; a port is 1 to 65535"#,
            r#"4:41: channels[1].resend.timeout: a wait of zero; write at least 1ms"#,
        ],
    ),
    (
        r#"resend: {server: s, port: 1, filter: {source_core: a b}}"#,
        &[
            r#"4:40: channels[1].resend.filter.match_source: missing; write the field path whose value is searched for"#,
            r#"4:40: channels[1].resend.filter.match_field: missing; write the Solr field that holds it"#,
            r#"4:40: channels[1].resend.filter.search_field: missing; write the Solr field that is looked at"#,
            r#"4:40: channels[1].resend.filter.match_values: missing; list the values that forward a message"#,
            r#"4:54: channels[1].resend.filter.source_core: "a b" cannot name a core; letters, digits, _ . and -, not first a dot or dash"#,
        ],
    ),
    (
        r#"resend: {server: s, port: 1, filter: {source_core: a, match_source: OBX, match_field: 'a:b', search_field: c, match_values: []}}"#,
        &[
            r#"4:71: channels[1].resend.filter.match_source: field path "OBX" has too few parts; write SEG.n.FIELD, SEG.n.FIELD.COMPONENT or SEG.n.FIELD.COMPONENT.SUBCOMPONENT, such as PID.1.5.1"#,
            r#"4:89: channels[1].resend.filter.match_field: "a:b" cannot name a Solr field; letters, digits, _ . and -, first a letter or _"#,
            r#"4:127: channels[1].resend.filter.match_values: an empty list; list the values that forward a message"#,
        ],
    ),
    (
        r#"resend: {server: s, port: 1, tls: maybe}"#,
        &[r#"4:37: channels[1].resend.tls: "maybe" is no boolean; write true or false"#],
    ),
    (
        r#"resend: {server: s, port: 1, tls: {key: /k}}"#,
        &[r#"4:43: channels[1].resend.tls.key: a key without its certificate; set certificate"#],
    ),
    (
        r#"resend: {server: s, port: 1, accept_codes: [AA, OK]}"#,
        &[
            r#"4:51: channels[1].resend.accept_codes[2]: "OK" is no acknowledgment code; known are AA, AE, AR, CA, CE, CR"#,
        ],
    ),
    (
        r#"solr_segments: [PID, PIDX, pid]"#,
        &[
            r#"4:24: channels[1].solr_segments[2]: "PIDX" is no segment; a segment has three capital letters or digits: PID"#,
            r#"4:30: channels[1].solr_segments[3]: "pid" is no segment; a segment has three capital letters or digits: PID"#,
        ],
    ),
];
