//! Keys of a channel: the database.

use super::Wrong;

pub(super) const FILES: &[Wrong] = &[
    (
        r#"db_insert: {}"#,
        &[
            r#"4:14: channels[1].db_insert.driver: missing; write MariaDB, PostgreSQL, SQLite or ODBC Driver 17 for SQL Server"#,
            r#"4:14: channels[1].db_insert.username: missing; write the database user"#,
            r#"4:14: channels[1].db_insert.database: missing; write the database's name"#,
            r#"4:14: channels[1].db_insert.table: missing; write the table that is inserted into"#,
        ],
    ),
    (
        r#"db_insert: {driver: Oracle, username: u, database: d, table: t}
db_metadata: {}"#,
        &[
            r#"4:23: channels[1].db_insert.driver: unknown driver "Oracle"; write MariaDB, PostgreSQL, SQLite or ODBC Driver 17 for SQL Server"#,
        ],
    ),
    (
        r#"db_insert: {driver: MariDB, username: u, database: d, table: 't; drop'}
db_metadata: {}"#,
        &[
            r#"4:23: channels[1].db_insert.driver: unknown driver "MariDB"; did you mean MariaDB?"#,
            r#"4:64: channels[1].db_insert.table: "t; drop" cannot name a table or column; letters, digits, _ and $, not first a digit, at most 63, one dot after a schema"#,
        ],
    ),
    (
        r#"db_insert: {driver: SQLite, database: '', table: a.b.c, tls: maybe}
db_metadata: {}"#,
        &[
            r#"4:41: channels[1].db_insert.database: an empty path; write a path, or take the key out"#,
            r#"4:52: channels[1].db_insert.table: "a.b.c" cannot name a table or column; letters, digits, _ and $, not first a digit, at most 63, one dot after a schema"#,
            r#"4:64: channels[1].db_insert.tls: unknown value "maybe"; known are require, prefer, disable"#,
        ],
    ),
    (
        r#"db_insert: {driver: MySQL, username: u, database: d, table: t, replace_list: {A: x}}
db_metadata: {}"#,
        &[
            r#"4:84: channels[1].db_insert.replace_list.A: "x" where a pair is wanted; write [FROM, TO], or a list of such pairs"#,
        ],
    ),
    (
        r#"db_insert: {driver: MySQL, username: u, database: d, table: t, replace_list: {A: [x, y, z]}}
db_metadata: {}"#,
        &[
            r#"4:84: channels[1].db_insert.replace_list.A: a list of 3 where a pair is wanted; write [FROM, TO]"#,
        ],
    ),
    (
        r#"db_insert: {driver: MySQL, username: u, database: d, table: t, replace_list: {A: ['', y]}}
db_metadata: {}"#,
        &[
            r#"4:84: channels[1].db_insert.replace_list.A: nothing to replace; write [FROM, TO], FROM not empty"#,
        ],
    ),
    (
        r#"db_insert: {driver: MySQL, username: u, database: d, table: t, message_key: ID}
mapping: {id: PID.1.3}
db_metadata: {id: {field_name: id, field_type: Text}}"#,
        &[
            r#"4:79: channels[1].db_insert.message_key: "ID" is a column of db_metadata; the message id has a column of its own"#,
        ],
    ),
    (
        r#"db_mapping: {a: {column: A, match: b, return: C}}"#,
        &[
            r#"4:15: channels[1].db_mapping: db_mapping without db_insert; set db_insert, where the database is"#,
            r#"4:38: channels[1].db_mapping.a.match: "b" is no mapping; write the name of a mapping"#,
        ],
    ),
    (
        r#"mapping: {b: PID.1.3}
db_insert: {driver: MySQL, username: u, database: d, table: t}
db_mapping: {a: {column: A, match: c, return: C}}"#,
        &[
            r#"6:15: channels[1].db_mapping: db_mapping without db_insert.mapping_table; set mapping_table"#,
            r#"6:38: channels[1].db_mapping.a.match: "c" is no mapping; write the name of a mapping"#,
        ],
    ),
    (
        r#"mapping: {b: PID.1.3}
db_insert: {driver: MySQL, username: u, database: d, table: t, mapping_table: w}
db_mapping: {b: {column: 'A B', match: b}}"#,
        &[
            r#"6:16: channels[1].db_mapping.b: "b" is a mapping too; give one of them another name"#,
            r#"6:19: channels[1].db_mapping.b.return: missing; write the column that is read"#,
            r#"6:28: channels[1].db_mapping.b.column: "A B" cannot name a table or column; letters, digits, _ and $, not first a digit, at most 63"#,
        ],
    ),
    (
        r#"db_insert: {driver: MySQL, username: u, database: d, table: t}
mapping: {patient_id: PID.1.3}
db_metadata: {patient_di: {field_name: A, field_type: Text}}"#,
        &[
            r#"6:17: channels[1].db_metadata.patient_di: "patient_di" is no mapping and no db_mapping; did you mean patient_id?"#,
        ],
    ),
    (
        r#"db_insert: {driver: MySQL, username: u, database: d, table: t}
mapping: {patient_id: PID.1.3}
db_metadata: {patient_id: {field_name: 1A, field_type: Varchar}}"#,
        &[
            r#"6:42: channels[1].db_metadata.patient_id.field_name: "1A" cannot name a table or column; letters, digits, _ and $, not first a digit, at most 63"#,
            r#"6:58: channels[1].db_metadata.patient_id.field_type: unknown type "Varchar"; write Integer, String(n), Text or DateTime"#,
        ],
    ),
    (
        r#"db_insert: {driver: MySQL, username: u, database: d, table: t}
mapping: {patient_id: PID.1.3}
db_metadata: {patient_id: {field_name: A, field_type: String}}"#,
        &[
            r#"6:57: channels[1].db_metadata.patient_id.field_type: unknown type "String"; write its length: String(50)"#,
        ],
    ),
    (
        r#"db_insert: {driver: MySQL, username: u, database: d, table: t}
mapping: {patient_id: PID.1.3}
db_metadata: {patient_id: {field_name: A, field_type: String(0)}}"#,
        &[
            r#"6:57: channels[1].db_metadata.patient_id.field_type: unknown type "String(0)"; the length of a String is 1 to 65535"#,
        ],
    ),
    (
        r#"db_insert: {driver: MySQL, username: u, database: d, table: t}
mapping: {patient_id: PID.1.3}
db_metadata: {patient_id: {field_name: A, field_type: integer}}"#,
        &[
            r#"6:57: channels[1].db_metadata.patient_id.field_type: unknown type "integer"; did you mean Integer?"#,
        ],
    ),
    (
        r#"db_insert: {driver: MySQL, username: u, database: d, table: t}
mapping: {patient_id: PID.1.3}
db_metadata: {patient_id: {}}"#,
        &[
            r#"6:29: channels[1].db_metadata.patient_id.field_name: missing; write the column's name"#,
            r#"6:29: channels[1].db_metadata.patient_id.field_type: missing; write Integer, String(n), Text or DateTime"#,
        ],
    ),
    (
        r#"db_insert: {driver: MySQL, username: u, database: d, table: t}
mapping: {patient_id: PID.1.3}
db_metadata: {now: {field_name: A, field_type: Text, auto: true}}"#,
        &[
            r#"6:62: channels[1].db_metadata.now.auto: auto with this field_type; auto goes with field_type DateTime only"#,
        ],
    ),
    (
        r#"db_insert: {driver: MySQL, username: u, database: d, table: t}
mapping: {patient_id: PID.1.3}
db_metadata: {r: {field_name: A, field_type: DateTime, random: true}}"#,
        &[
            r#"6:66: channels[1].db_metadata.r.random: random with this field_type; random goes with field_type Integer or String(n) only"#,
        ],
    ),
    (
        r#"db_insert: {driver: MySQL, username: u, database: d, table: t}
mapping: {patient_id: PID.1.3}
db_metadata: {r: {field_name: A, field_type: Text, autoincrement: true}}"#,
        &[
            r#"6:69: channels[1].db_metadata.r.autoincrement: autoincrement with this field_type; autoincrement goes with field_type Integer only"#,
        ],
    ),
    (
        r#"db_insert: {driver: MySQL, username: u, database: d, table: t}
mapping: {patient_id: PID.1.3}
db_metadata: {r: {field_name: A, field_type: Integer, autoincrement: true, random: true}}"#,
        &[
            r#"6:86: channels[1].db_metadata.r.random: random besides another source of the value; keep one of autoincrement, random and auto"#,
        ],
    ),
    (
        r#"db_insert: {driver: MySQL, username: u, database: d, table: t}
mapping: {patient_id: PID.1.3}
db_metadata: {r: {field_name: A, field_type: Integer, autoincrement: true}, s: {field_name: a, field_type: Integer, autoincrement: true}}"#,
        &[
            r#"6:82: channels[1].db_metadata.s: a second autoincrement column; a table has one"#,
            r#"6:95: channels[1].db_metadata.s.field_name: "a" is the column of "r" too; a column is filled once"#,
        ],
    ),
];
