//! Files of the server that this one takes over load unchanged. The snippets are the keys and values its users have.

use crate::support::{errors_of, loaded, remarks_of};
use config::{ColumnKind, ColumnSource, Driver, DropTarget};

/// A channel with what is given, indented as it stands in the users' files.
fn channel(snippet: &str) -> String {
    let mut text = "channels:\n- name: seed\n  port: 20000\n".to_owned();
    for line in snippet.lines() {
        text.push_str(&format!("  {line}\n"));
    }
    text
}

const DROP_FOLDERS: &str = "\
drop_folders:
  localhost:
    enabled: true
    remote: false
    path: /opt/data/documents
  remote:
    enabled: true
    remote: true
    path: /opt/data/documents
    server: remote-server
    port: 22
    user: remote-user
";

const LOCAL_ARCHIVE: &str = "\
local_archive:
  enabled: true
  format: '%Y/%m/%d'
  path: /opt/archive/hl7server/oru
  attachment: /opt/archive/hl7server/oru_pdf
";

const MAPPING: &str = "\
mapping:
    patient_id: PID.1.2.1
    accession_number: OBR.1.18.1
    patient_name:  [PID.1.5.1, PID.1.5.2]
    referring_doctor_id: PV1.1.8.1
    referring_doctor_name: [PV1.1.8.2, PV1.1.8.3]
";

const DB_INSERT: &str = "\
db_insert:
  driver: MariaDB
  server: db-server-url
  port: 12345
  username: deskuser
  password: DB_TOKEN
  database: PACS_DB
  table: reports
  mapping_table: worklist
  create_table: true
  debug_table: true
  replace_list: { REPORT: ['<br>', '\\r\\n'] }
";

const DB_MAPPING: &str = "\
db_mapping:
  new_patient_id: { column: WL_ACCNUMBER, match: accession_number, return: WL_PATIENTID }
";

const CUSTOM_REGEX: &str = "\
custom_regex:
  patient_number_home: \"[^0-9+]|(?<!^)\\\\+\"
  patient_number_business: \"[^0-9+]|(?<!^)\\\\+\"
";

const RESEND: &str = "\
resend:
  enabled: true
  server: remote-server
  port: 20002
  timeout: 5
  after_processing: true
  filter:
    source_core: archive
    match_source: OBX.1.3.2
    match_field: StudyInstanceUID
    search_field: InstitutionName
    match_values: ['CENTER_NAME', 'MEDICALCENTER_NAME', 'FACILITY_NAME']
";

#[test]
fn local_archive_loads_as_it_stands() {
    let loaded = loaded(&channel(LOCAL_ARCHIVE));
    let archive = loaded.config.channels[0].local_archive.clone().unwrap();
    assert_eq!(archive.format.as_str(), "%Y/%m/%d");
    assert_eq!(archive.path.unwrap().to_str(), Some("/opt/archive/hl7server/oru"));
    assert_eq!(archive.attachment.unwrap().to_str(), Some("/opt/archive/hl7server/oru_pdf"));
}

#[test]
fn drop_folders_load_as_they_stand() {
    let loaded = loaded(&channel(DROP_FOLDERS));
    let folders = &loaded.config.channels[0].drop_folders;
    assert_eq!(folders[0].name, "localhost");
    assert_eq!(folders[0].target, DropTarget::Local { path: "/opt/data/documents".into() });
    let DropTarget::Remote(remote) = &folders[1].target else { panic!("{folders:?}") };
    assert_eq!(
        (remote.server.as_str(), remote.port, remote.user.as_str()),
        ("remote-server", 22, "remote-user")
    );
}

#[test]
fn mapping_loads_as_it_stands_and_lists_are_shown() {
    let text = channel(MAPPING);
    let loaded = loaded(&text);
    let mapping = &loaded.config.channels[0].mapping;
    let names: Vec<&str> = mapping.iter().map(|m| m.name.as_str()).collect();
    let wanted =
        ["patient_id", "accession_number", "patient_name", "referring_doctor_id", "referring_doctor_name"];
    assert_eq!(names, wanted);
    assert_eq!(mapping[2].paths.len(), 2);
    assert_eq!(loaded.config.channels[0].mapping_separator, " ");
    assert_eq!(
        remarks_of(&text)[0],
        "note 7:22: channels[1].mapping.patient_name: reads PID.1.5.1, PID.1.5.2 joined by \" \"; set \
         mapping_separator for another one"
    );
}

#[test]
fn the_database_loads_as_it_stands() {
    let columns = "\
db_metadata:
  ID: {field_name: ID, field_type: Integer, autoincrement: true}
  new_patient_id: {field_name: PATIENT, field_type: String(50), nullable: false}
  accession_number: {field_name: REPORT, field_type: Text}
  token: {field_name: TOKEN, field_type: Integer, random: true}
  now: {field_name: NOW, field_type: DateTime, auto: true}
";
    let loaded = loaded(&channel(&format!("{MAPPING}{DB_INSERT}{DB_MAPPING}{columns}")));
    let channel = &loaded.config.channels[0];
    let db = channel.db_insert.clone().unwrap();
    assert_eq!((db.driver, db.port, db.create_table, db.debug_table), (Driver::MariaDb, 12_345, true, true));
    assert_eq!(db.password.unwrap().as_str(), "DB_TOKEN");
    assert_eq!(db.replace_list["REPORT"], [("<br>".to_owned(), "\r\n".to_owned())]);
    assert_eq!(channel.db_mapping[0].matches, "accession_number");
    assert_eq!(channel.db_mapping[0].returns, "WL_PATIENTID");
    let sources: Vec<ColumnSource> = channel.db_metadata.iter().map(|c| c.source).collect();
    assert_eq!(
        sources,
        [
            ColumnSource::AutoIncrement,
            ColumnSource::Variable,
            ColumnSource::Variable,
            ColumnSource::Random,
            ColumnSource::Now
        ]
    );
    assert_eq!(channel.db_metadata[1].kind, ColumnKind::String(50));
    assert!(!channel.db_metadata[1].nullable);
}

#[test]
fn custom_regex_loads_as_it_stands() {
    let mapping = "mapping: {patient_number_home: PID.1.13.1, patient_number_business: PID.1.14.1}\n";
    let loaded = loaded(&channel(&format!("{mapping}{CUSTOM_REGEX}")));
    let replace = loaded.config.channels[0].mapping[0].replace.clone().unwrap();
    assert_eq!(replace.pattern.as_str(), "[^0-9+]|(?<!^)\\+");
    assert_eq!(replace.pattern.replace_all("+34 600-1+2", &replace.with).unwrap(), "+3460012");
    // Alone, as it stands, it is of no use and no error.
    assert_eq!(remarks_of(&channel(CUSTOM_REGEX)).len(), 2);
}

#[test]
fn resend_loads_as_it_stands() {
    let loaded = loaded(&channel(RESEND));
    let resend = loaded.config.channels[0].resend.clone().unwrap();
    assert_eq!(
        (resend.server.as_str(), resend.port, resend.after_processing),
        ("remote-server", 20_002, true)
    );
    assert_eq!(resend.timeout.as_secs(), 5);
    let filter = resend.filter.unwrap();
    assert_eq!(filter.match_source.to_string(), "OBX.1.3.2");
    assert_eq!(filter.match_values.len(), 3);
}

#[test]
fn every_snippet_together_in_a_whole_file_loads() {
    let service = "\
debug_values: false
debug_mode: false
config_version: 1.10
max_tasks: 10
store_solr: true
create_credentials: true
solr_servers:
  - server_version: 7.7.1
    name: null
    port: null
    protocol: null
    user: null
    password: null
    certificate: false
    active: true
    active_cores: [hl7, archive]
";
    let rest = "\
debug_message: false
stream_limit: 10094304
debug_metadata: false
patient_id_field: PID.1.3.1
accession_number_field: OBX.1.3.1
attachment_field: OBX.1.5
attachment_format: pdf
archive_first: false
encoding: UTF-8
add_metadata_to_attachment: true
visible_metadata: true
mapping_ignore: [accession_number]
solr_segments: [MSH, PID, OBX, OBR, ZDS, TXA, ORC, PV1, PV2, EVN, CTI, NK1, AL1, DG1, PR1, ROL, GT1, IN1]
credentials_metadata: {id: new_patient_id}
book_metadata: {}
mobile: {fields: [patient_id]}
";
    let channel = channel(&format!(
        "{rest}{LOCAL_ARCHIVE}{DROP_FOLDERS}{MAPPING}{DB_INSERT}{DB_MAPPING}{CUSTOM_REGEX}{RESEND}"
    ));
    let loaded = loaded(&format!("{service}{channel}"));
    // The text of a number is kept, down to its last zero.
    assert_eq!(loaded.config.service.config_version.as_deref(), Some("1.10"));
    let solr = loaded.config.service.solr.unwrap();
    assert_eq!(
        (solr.name.as_str(), solr.port, solr.https, solr.user.as_str()),
        ("localhost", 8_983, true, "istmia")
    );
    assert!(loaded.config.service.dfapi.is_some());
}

#[test]
fn the_same_keys_below_service_load_too() {
    let text = "service:\n  max_tasks: 10\n  channels:\n  - name: a\n    port: 20000\nx-mine: 1\n";
    assert_eq!(loaded(text).config.service.max_tasks, 10);
}

#[test]
fn keys_that_nobody_documented_load_where_the_file_says_so() {
    let text = "unknown_keys: warn\nsmtp: x\nchannels:\n- name: a\n  port: 20000\n  archive_lst: true\n";
    assert_eq!(
        remarks_of(text),
        [
            "warning 2:1: smtp: unknown key of the service; it has no effect",
            "warning 6:3: channels[1].archive_lst: unknown key, did you mean archive_first?",
        ]
    );
    let errors = errors_of(&text.replace("unknown_keys: warn\n", ""));
    assert_eq!(errors.len(), 2);
}

#[test]
fn archive_list_is_archive_first() {
    assert!(
        loaded(&channel("archive_list: true\nlocal_archive: {path: /a}")).config.channels[0].archive_first
    );
}

#[test]
fn the_default_format_in_typographic_quotes_is_shown() {
    let errors = errors_of(&channel("local_archive: {path: /a, format: ’%Y/%m/%d’}"));
    assert!(errors[0].contains("\"’%Y/%m/%d’\" has the typographic quote ’"), "{errors:?}");
}
