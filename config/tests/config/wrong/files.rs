//! Keys of a channel: archive, attachments, drop folders.

use super::Wrong;

pub(super) const FILES: &[Wrong] = &[
    (
        r#"patient_id_field: PID.3"#,
        &[
            r#"4:21: channels[1].patient_id_field: field path "PID.3" has too few parts; write SEG.n.FIELD, SEG.n.FIELD.COMPONENT or SEG.n.FIELD.COMPONENT.SUBCOMPONENT, such as PID.1.5.1"#,
        ],
    ),
    (
        r#"patient_id_field: pid.1.3.1"#,
        &[
            r#"4:21: channels[1].patient_id_field: "pid.1.3.1": segment name "pid" is not a capital letter and two capital letters or digits; write PID"#,
        ],
    ),
    (
        r#"accession_number_field: OBR.0.18"#,
        &[
            r#"4:27: channels[1].accession_number_field: "OBR.0.18": segment number is 0; count segments from 1, or write * for every one"#,
        ],
    ),
    (
        r#"attachment_field: OBX.1.1000"#,
        &[
            r#"4:21: channels[1].attachment_field: "OBX.1.1000": field number 1000 is over 999; count fields as HL7 does"#,
        ],
    ),
    (
        r#"attachment_format: PDF"#,
        &[r#"4:22: channels[1].attachment_format: unknown value "PDF"; did you mean pdf?"#],
    ),
    (
        r#"attachment_output: html"#,
        &[r#"4:22: channels[1].attachment_output: unknown value "html"; known are same, pdf"#],
    ),
    (
        r#"metadata_pages: last"#,
        &[r#"4:19: channels[1].metadata_pages: unknown value "last"; known are first, all"#],
    ),
    (
        r#"on_stamp_failure: ignore"#,
        &[r#"4:21: channels[1].on_stamp_failure: unknown value "ignore"; known are deliver, fail"#],
    ),
    (
        r#"archive_first: true
archive_list: true"#,
        &[
            r#"5:3: channels[1].archive_list: the same key as archive_first, which is set too; keep one of them"#,
        ],
    ),
    (
        r#"local_archive: /opt/archive"#,
        &[
            r#"4:18: channels[1].local_archive: "/opt/archive" where local_archive is wanted; write its keys below"#,
        ],
    ),
    (
        r#"local_archive: {path: /a, format: '%Q'}"#,
        &[
            r#"4:37: channels[1].local_archive.format: "%Q": unknown specifier %Q; known are %Y %m %d %H %M %S %j and the others of Python's strftime"#,
        ],
    ),
    (
        r#"local_archive: {path: /a, format: '%Y/%'}"#,
        &[
            r#"4:37: channels[1].local_archive.format: "%Y/%": a % without a letter at the end; write %% for a percent sign"#,
        ],
    ),
    (
        r#"local_archive: {path: /a, format: '../%Y'}"#,
        &[
            r#"4:37: channels[1].local_archive.format: "../%Y" leads out of the archive; write folders below its path, without .. and a leading /"#,
        ],
    ),
    (
        r#"local_archive: {path: /a, format: '/%Y'}"#,
        &[
            r#"4:37: channels[1].local_archive.format: "/%Y" leads out of the archive; write folders below its path, without .. and a leading /"#,
        ],
    ),
    (
        r#"local_archive: {path: /a, format: ’%Y’}"#,
        &[
            r#"4:37: channels[1].local_archive.format: "’%Y’" has the typographic quote ’; write ' or " around the value, and no quotes inside it"#,
        ],
    ),
    (
        r#"local_archive: {path: /a, retention_days: 0}"#,
        &[
            r#"4:45: channels[1].local_archive.retention_days: 0 is out of range; write at least 1 day, or null to keep everything"#,
        ],
    ),
    (
        r#"local_archive: {path: /a, format: '%Y/%H%M', retention_days: 3}"#,
        &[
            r#"4:64: channels[1].local_archive.retention_days: folders of the format "%Y/%H%M" are not told apart by day or hour; write a format of days or hours, such as %Y/%m/%d, or take it out"#,
        ],
    ),
    (
        r#"local_archive: {path: /a, format: all, retention_days: 3}"#,
        &[
            r#"4:58: channels[1].local_archive.retention_days: nothing to prune: the format "all" names no time; write a format of days or hours, such as %Y/%m/%d, or take it out"#,
        ],
    ),
    (
        r#"local_archive: {pth: /a}"#,
        &[r#"4:19: channels[1].local_archive.pth: unknown key, did you mean path?"#],
    ),
    (
        r#"drop_folders:
  local: {}"#,
        &[
            r#"5:12: channels[1].drop_folders.local.path: missing; write the folder that attachments are dropped into"#,
        ],
    ),
    (
        r#"drop_folders:
  local:"#,
        &[r#"5:5: channels[1].drop_folders.local: an empty drop folder; set its path"#],
    ),
    (
        r#"drop_folders:
- {remote: true, path: /a}"#,
        &[
            r#"5:5: channels[1].drop_folders[1].server: missing; a remote folder has a server"#,
            r#"5:5: channels[1].drop_folders[1].user: missing; a remote folder has a user"#,
        ],
    ),
    (
        r#"drop_folders:
  far: {remote: true, path: /a, server: 'a b', user: u, port: 0, password: 'not a name!'}"#,
        &[
            r#"5:43: channels[1].drop_folders.far.server: "a b" is no host; write a host name or an IP address alone"#,
            r#"5:65: channels[1].drop_folders.far.port: 0 is out of range; a port is 1 to 65535"#,
            r#"5:78: channels[1].drop_folders.far.password: not the name of a secret; write the NAME of a systemd credential or environment variable"#,
        ],
    ),
    (
        r#"drop_folders: /opt/documents"#,
        &[
            r#"4:17: channels[1].drop_folders: "/opt/documents" where a table of names is wanted; write NAME: VALUE lines below it"#,
        ],
    ),
];

#[test]
fn a_channel_has_at_most_twenty_drop_folders() {
    let folders: String = (0..21).map(|n| format!("- {{path: /d{n}}}\n")).collect();
    let found = crate::support::errors_of(&super::in_channel(&format!("drop_folders:\n{folders}")));
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].contains("drop_folders: 21 enabled drop folders; a channel has at most 20"),
        "{found:?}"
    );
}
