//! `db_insert`, `db_metadata`, `db_mapping`.

use super::service::certificate;
use super::{Context, Variables};
use crate::model::{ColumnKind, ColumnSource, DbColumn, DbInsert, DbTls, Driver, Lookup};
use crate::problem::quoted;
use crate::raw;
use crate::raw::read::{At, Key, nearest};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// The names that a driver goes by.
const DRIVERS: [(&str, Driver); 7] = [
    ("MariaDB", Driver::MariaDb),
    ("MySQL", Driver::MariaDb),
    ("PostgreSQL", Driver::PostgreSql),
    ("SQLite", Driver::Sqlite),
    ("SQL Server", Driver::SqlServer),
    ("ODBC Driver 17 for SQL Server", Driver::SqlServer),
    ("ODBC Driver 18 for SQL Server", Driver::SqlServer),
];

/// Longest `String(n)`: what a VARCHAR of the engines holds at most.
const STRING_MAX: u32 = 65_535;

impl Driver {
    /// The port that its servers listen on by default; 0 where there is none.
    pub fn default_port(self) -> u16 {
        match self {
            Driver::MariaDb => 3_306,
            Driver::PostgreSql => 5_432,
            Driver::SqlServer => 1_433,
            Driver::Sqlite => 0,
        }
    }

    /// Its name in a file.
    pub fn name(self) -> &'static str {
        match self {
            Driver::MariaDb => "MariaDB",
            Driver::PostgreSql => "PostgreSQL",
            Driver::SqlServer => "SQL Server",
            Driver::Sqlite => "SQLite",
        }
    }
}

pub(super) fn insert(
    raw: &raw::Channel,
    columns: &[DbColumn],
    used: bool,
    context: &mut Context<'_>,
) -> Option<DbInsert> {
    let Some(at) = raw.db_insert.given() else {
        without_database(raw, context);
        return None;
    };
    let channel = raw;
    let raw = &at.value;
    let known = "write MariaDB, PostgreSQL, SQLite or ODBC Driver 17 for SQL Server";
    let driver = raw.driver.need(&raw.spot, "driver", known, context.report).cloned();
    let driver = driver.and_then(|at| self::driver(&at, known, context));
    let is_file = driver == Some(Driver::Sqlite);
    let username = match is_file {
        true => raw.username.or(String::new()),
        false => {
            let hint = "write the database user";
            let at = raw.username.need(&raw.spot, "username", hint, context.report);
            at.map_or(String::new(), |at| at.value.clone())
        }
    };
    let database = {
        let hint = if is_file { "write the path of the database file" } else { "write the database's name" };
        let at = raw.database.need(&raw.spot, "database", hint, context.report).cloned();
        at.map_or(String::new(), |at| database_name(&at, is_file, context))
    };
    let table = raw.table.need(&raw.spot, "table", "write the table that is inserted into", context.report);
    let table = table.cloned().map_or(String::new(), |at| context.identifier(&at, true));
    let mapping_table = raw.mapping_table.given().map(|at| context.identifier(at, true));
    if mapping_table.is_none()
        && matches!(raw.mapping_table, Key::Absent(_))
        && let Some(lookups) = channel.db_mapping.given()
    {
        context.report.error(
            &lookups.spot,
            "db_mapping without db_insert.mapping_table",
            "set mapping_table",
        );
    }
    if matches!(channel.db_metadata, Key::Absent(_)) && matches!(channel.db_mapping, Key::Absent(_)) {
        context.report.warn(&at.spot, "db_insert without db_metadata inserts nothing", "set db_metadata");
    }
    let port = context.remote_port(&raw.port, driver.map_or(0, Driver::default_port));
    Some(DbInsert {
        driver: driver.unwrap_or(Driver::MariaDb),
        server: context.host_or(&raw.server, "localhost"),
        port,
        username,
        password: context.secret(&raw.password, used),
        database,
        table,
        mapping_table,
        create_table: raw.create_table.is_true(),
        debug_table: raw.debug_table.is_true(),
        replace_list: replace_list(raw, columns, context),
        timeout: context.wait(&raw.timeout, Duration::from_secs(10)),
        tls: context.choice(
            &raw.tls,
            &[("require", DbTls::Require), ("prefer", DbTls::Prefer), ("disable", DbTls::Disable)],
            DbTls::Prefer,
        ),
        certificate: certificate(&raw.certificate, "this database server", context),
        ca_file: context.optional_path(&raw.ca_file),
        message_key: message_key(raw, columns, context),
    })
}

/// What makes no sense without a database.
fn without_database(raw: &raw::Channel, context: &mut Context<'_>) {
    if matches!(raw.db_insert, Key::Wrong) {
        return;
    }
    if let Some(at) = raw.db_mapping.given() {
        context.report.error(
            &at.spot,
            "db_mapping without db_insert",
            "set db_insert, where the database is",
        );
    }
    if let Some(at) = raw.db_metadata.given() {
        context.report.warn(&at.spot, "db_metadata without db_insert inserts nothing", "set db_insert");
    }
}

fn driver(at: &At<String>, known: &str, context: &mut Context<'_>) -> Option<Driver> {
    let found = DRIVERS.iter().find(|(name, _)| name.eq_ignore_ascii_case(at.value.trim()));
    if found.is_none() {
        let near = nearest(&at.value, DRIVERS.iter().map(|(name, _)| *name));
        let hint = near.map_or(known.to_owned(), |near| format!("did you mean {near}?"));
        context.report.error(&at.spot, format!("unknown driver {}", quoted(&at.value)), hint);
    }
    found.map(|(_, driver)| *driver)
}

fn database_name(at: &At<String>, is_file: bool, context: &mut Context<'_>) -> String {
    if is_file {
        return context.local_path(at).to_string_lossy().into_owned();
    }
    if at.value.trim().is_empty() || at.value.chars().any(char::is_control) {
        context.report.error(&at.spot, format!("{} is no database", quoted(&at.value)), "write its name");
    }
    at.value.clone()
}

fn message_key(raw: &raw::DbInsert, columns: &[DbColumn], context: &mut Context<'_>) -> Option<String> {
    let at = raw.message_key.given()?;
    let name = context.identifier(at, false);
    if columns.iter().any(|column| column.column.eq_ignore_ascii_case(&name)) {
        let what = format!("{} is a column of db_metadata", quoted(&name));
        context.report.error(&at.spot, what, "the message id has a column of its own");
    }
    Some(name)
}

/// Column → pairs. A key may be the column's name or the variable that fills it.
fn replace_list(
    raw: &raw::DbInsert,
    columns: &[DbColumn],
    context: &mut Context<'_>,
) -> BTreeMap<String, Vec<(String, String)>> {
    let mut list: BTreeMap<String, Vec<(String, String)>> = BTreeMap::new();
    for (name, value) in raw.replace_list.given().into_iter().flat_map(|at| &at.value) {
        let column = columns
            .iter()
            .find(|column| column.column == name.value)
            .or_else(|| columns.iter().find(|column| column.variable == name.value))
            .map(|column| column.column.clone());
        if column.is_none() {
            let what = format!("{} is no column of db_metadata, so nothing is replaced", quoted(&name.value));
            let near = nearest(&name.value, columns.iter().map(|column| column.column.as_str()));
            let hint =
                near.map_or("write a field_name of db_metadata".to_owned(), |n| format!("did you mean {n}?"));
            context.report.warn(&name.spot, what, hint);
        }
        let Some(pairs) = value.given() else { continue };
        for pair in &pairs.value.0 {
            let (from, to) = &pair.value;
            if from.is_empty() {
                context.report.error(&pair.spot, "nothing to replace", "write [FROM, TO], FROM not empty");
            }
            let column = column.clone().unwrap_or_else(|| name.value.clone());
            list.entry(column).or_default().push((line_breaks(from), line_breaks(to)));
        }
    }
    list
}

/// `\r`, `\n` and `\t` written with a backslash, as a single-quoted YAML text has them.
fn line_breaks(text: &str) -> String {
    text.replace("\\r", "\r").replace("\\n", "\n").replace("\\t", "\t")
}

/// `db_metadata`, in the order of the file.
pub(super) fn columns(
    raw: &raw::Channel,
    variables: &Variables<'_>,
    context: &mut Context<'_>,
) -> Vec<DbColumn> {
    let mut columns: Vec<DbColumn> = Vec::new();
    let mut taken: HashMap<String, String> = HashMap::new();
    for (name, value) in raw.db_metadata.given().into_iter().flat_map(|at| &at.value) {
        context.label(&name.value, &name.spot);
        let value = match value {
            Key::Given(value) => value,
            Key::Wrong => continue,
            Key::Absent(_) => {
                context.report.error(&name.spot, "an empty column", "set field_name and field_type");
                continue;
            }
        };
        let Some(column) = column(name, &value.value, variables, context) else { continue };
        let at = value.value.field_name.given().map_or(&value.spot, |at| &at.spot);
        if let Some(other) = taken.insert(column.column.to_ascii_lowercase(), name.value.clone()) {
            let what = format!("{} is the column of {} too", quoted(&column.column), quoted(&other));
            context.report.error(at, what, "a column is filled once");
        }
        let second = column.source == ColumnSource::AutoIncrement
            && columns.iter().any(|other| other.source == ColumnSource::AutoIncrement);
        if second {
            context.report.error(&value.spot, "a second autoincrement column", "a table has one");
        }
        columns.push(column);
    }
    columns
}

fn column(
    name: &At<String>,
    raw: &raw::DbColumn,
    variables: &Variables<'_>,
    context: &mut Context<'_>,
) -> Option<DbColumn> {
    let field_name = raw.field_name.need(&raw.spot, "field_name", "write the column's name", context.report);
    let field_name = field_name.cloned().map(|at| context.identifier(&at, false));
    let types = "write Integer, String(n), Text or DateTime";
    let kind = raw.field_type.need(&raw.spot, "field_type", types, context.report).cloned();
    let kind = kind.and_then(|at| column_kind(&at, types, context));
    let source = column_source(raw, kind, context);
    if source == ColumnSource::Variable && !variables.has(&name.value) {
        let what = format!("{} is no mapping and no db_mapping", quoted(&name.value));
        let hint = match nearest(&name.value, variables.mapped.iter().chain(&variables.looked_up).copied()) {
            Some(near) => format!("did you mean {near}?"),
            None => "map it, or set autoincrement, random or auto".to_owned(),
        };
        context.report.error(&name.spot, what, hint);
    }
    Some(DbColumn {
        variable: name.value.clone(),
        column: field_name?,
        kind: kind?,
        source,
        nullable: raw.nullable.or(true),
    })
}

fn column_kind(at: &At<String>, types: &str, context: &mut Context<'_>) -> Option<ColumnKind> {
    let text = at.value.trim();
    let kind = match text {
        "Integer" => Some(ColumnKind::Integer),
        "Text" => Some(ColumnKind::Text),
        "DateTime" => Some(ColumnKind::DateTime),
        _ => text
            .strip_prefix("String(")
            .and_then(|rest| rest.strip_suffix(')'))
            .and_then(|digits| digits.trim().parse().ok())
            .filter(|length| (1..=STRING_MAX).contains(length))
            .map(ColumnKind::String),
    };
    if kind.is_none() {
        let hint = match text.to_ascii_lowercase().as_str() {
            "string" => "write its length: String(50)".to_owned(),
            lower if lower.starts_with("string(") => "the length of a String is 1 to 65535".to_owned(),
            lower => match nearest(lower, ["Integer", "Text", "DateTime"].into_iter()) {
                Some(near) => format!("did you mean {near}?"),
                None => types.to_owned(),
            },
        };
        context.report.error(&at.spot, format!("unknown type {}", quoted(&at.value)), hint);
    }
    kind
}

fn column_source(raw: &raw::DbColumn, kind: Option<ColumnKind>, context: &mut Context<'_>) -> ColumnSource {
    let switches = [
        (&raw.autoincrement, ColumnSource::AutoIncrement, "autoincrement"),
        (&raw.random, ColumnSource::Random, "random"),
        (&raw.auto, ColumnSource::Now, "auto"),
    ];
    let mut chosen = ColumnSource::Variable;
    for (key, source, word) in switches {
        let Some(at) = key.given().filter(|at| at.value) else { continue };
        if chosen != ColumnSource::Variable {
            let what = format!("{word} besides another source of the value");
            context.report.error(&at.spot, what, "keep one of autoincrement, random and auto");
            continue;
        }
        chosen = source;
        let fits = match (source, kind) {
            (_, None) | (ColumnSource::Variable, _) => true,
            (ColumnSource::AutoIncrement, Some(kind)) => kind == ColumnKind::Integer,
            (ColumnSource::Random, Some(kind)) => matches!(kind, ColumnKind::Integer | ColumnKind::String(_)),
            (ColumnSource::Now, Some(kind)) => kind == ColumnKind::DateTime,
        };
        if !fits {
            let hint = match source {
                ColumnSource::Now => "auto goes with field_type DateTime only",
                ColumnSource::Random => "random goes with field_type Integer or String(n) only",
                ColumnSource::AutoIncrement | ColumnSource::Variable => {
                    "autoincrement goes with field_type Integer only"
                }
            };
            context.report.error(&at.spot, format!("{word} with this field_type"), hint);
        }
    }
    chosen
}

/// `db_mapping`, in the order of the file.
pub(super) fn lookups(
    raw: &raw::Channel,
    variables: &Variables<'_>,
    context: &mut Context<'_>,
) -> Vec<Lookup> {
    let ignored = |name: &str| {
        raw.mapping_ignore.given().is_some_and(|list| list.value.iter().any(|at| at.value == name))
    };
    let mut lookups = Vec::new();
    for (name, value) in raw.db_mapping.given().into_iter().flat_map(|at| &at.value) {
        context.label(&name.value, &name.spot);
        if variables.mapped.contains(name.value.as_str()) {
            let what = format!("{} is a mapping too", quoted(&name.value));
            context.report.error(&name.spot, what, "give one of them another name");
        }
        let value = match value {
            Key::Given(value) => &value.value,
            Key::Wrong => continue,
            Key::Absent(_) => {
                context.report.error(&name.spot, "an empty look-up", "set column, match and return");
                continue;
            }
        };
        let column =
            value.column.need(&value.spot, "column", "write the column that is searched", context.report);
        let column = column.cloned().map(|at| context.identifier(&at, false));
        let matches = value.matches.need(&value.spot, "match", "write the name of a mapping", context.report);
        let matches = matches.cloned();
        if let Some(at) = &matches
            && !variables.mapped.contains(at.value.as_str())
        {
            let near = nearest(&at.value, variables.mapped.iter().copied());
            let hint =
                near.map_or("write the name of a mapping".to_owned(), |n| format!("did you mean {n}?"));
            context.report.error(&at.spot, format!("{} is no mapping", quoted(&at.value)), hint);
        }
        let returns =
            value.returns.need(&value.spot, "return", "write the column that is read", context.report);
        let returns = returns.cloned().map(|at| context.identifier(&at, false));
        if let (Some(column), Some(matches), Some(returns)) = (column, matches, returns) {
            let optional = ignored(&name.value);
            lookups.push(Lookup {
                name: name.value.clone(),
                column,
                matches: matches.value,
                returns,
                optional,
            });
        }
    }
    lookups
}
