//! What a channel does with its database, compiled once from its settings: the rows, the statements, the comparison
//! with what is there. Pure.

use crate::convert::{Fit, convert};
use crate::sql::{ColumnInfo, Dialect, Kind};
use crate::value::Value;
use config::{Channel, ColumnKind, ColumnSource, DbColumn, DbInsert, Lookup};
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use siphasher::sip::SipHasher24;
use std::hash::Hasher;

/// Characters of a message id: what the column of `message_key` must hold.
const KEY_CHARACTERS: u32 = 20;
/// The variable that names the patient: its column is the one a merge changes.
const PATIENT_ID: &str = "patient_id";
/// How often a random value that is taken is drawn again.
pub(crate) const DRAWS_MAX: u32 = 8;

/// A channel's settings of its database, and what follows from them.
pub struct Table {
    pub(crate) insert: DbInsert,
    pub(crate) columns: Vec<DbColumn>,
    pub(crate) lookups: Vec<Lookup>,
    pub(crate) dialect: &'static dyn Dialect,
    zone: TimeZone,
}

/// What one message's values are taken from.
pub struct Source<'a> {
    /// The message id.
    pub id: &'a str,
    /// The value of a variable; `None` where nothing was found.
    pub value: &'a dyn Fn(&str) -> Option<&'a str>,
    /// What `auto` columns take: the local time of the step's first attempt.
    pub now: DateTime,
}

/// One row, ready to be inserted. `Debug` shows kinds and lengths, no values.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    id: String,
    pub(crate) values: Vec<Value>,
}

impl Row {
    /// The message's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The values, in the order of the insert's columns.
    pub fn values(&self) -> &[Value] {
        &self.values
    }
}

impl Table {
    /// Compiles a channel's settings; `None` where it has no database.
    pub fn of(channel: &Channel) -> Option<Table> {
        let insert = channel.db_insert.clone()?;
        Some(Table {
            dialect: crate::dialect(insert.driver),
            columns: channel.db_metadata.clone(),
            lookups: channel.db_mapping.clone(),
            zone: TimeZone::system(),
            insert,
        })
    }

    /// With another time zone than the system's.
    #[must_use]
    pub fn in_zone(mut self, zone: TimeZone) -> Table {
        self.zone = zone;
        self
    }

    /// The table's name.
    pub fn name(&self) -> &str {
        &self.insert.table
    }

    /// The zone of the times that are written.
    pub fn zone(&self) -> &TimeZone {
        &self.zone
    }

    /// Whether a message is inserted at all: a channel may only look up.
    pub fn inserts(&self) -> bool {
        !self.columns.is_empty()
    }

    /// The row of a message.
    ///
    /// # Errors
    /// The column and what is wrong with its value: too long, not of the type, missing.
    pub fn row(&self, source: &Source<'_>) -> Result<Row, String> {
        let mut values = Vec::with_capacity(self.columns.len() + 1);
        for column in self.inserted() {
            values.push(self.column_value(column, source)?);
        }
        if self.insert.message_key.is_some() {
            values.push(Value::Text(source.id.to_owned()));
        }
        Ok(Row { id: source.id.to_owned(), values })
    }

    fn column_value(&self, column: &DbColumn, source: &Source<'_>) -> Result<Value, String> {
        match column.source {
            ColumnSource::Variable => self.value(column, (source.value)(&column.variable)),
            ColumnSource::Random => Ok(random(source.id, column, 0)),
            ColumnSource::Now => Ok(Value::Time(source.now)),
            ColumnSource::AutoIncrement => unreachable!("left out of the insert"),
        }
    }

    /// The same row with its random values drawn once more; `None` where it has none.
    pub(crate) fn redrawn(&self, row: &Row, draw: u32) -> Option<Row> {
        let mut again = row.clone();
        let mut any = false;
        for (value, column) in again.values.iter_mut().zip(self.inserted()) {
            if column.source == ColumnSource::Random {
                *value = random(&row.id, column, draw);
                any = true;
            }
        }
        any.then_some(again)
    }

    /// A variable's text as the column's value: HL7's null and nothing found are null, `replace_list` comes before the
    /// type is looked at, so that it can make a value fit.
    fn value(&self, column: &DbColumn, text: Option<&str>) -> Result<Value, String> {
        let mut text = text.unwrap_or_default().to_owned();
        for (from, to) in self.insert.replace_list.get(&column.column).into_iter().flatten() {
            text = text.replace(from.as_str(), to);
        }
        if text.is_empty() {
            return match column.nullable {
                true => Ok(Value::Null),
                false => Err(format!("column {:?}: no value, and it may not be null", column.column)),
            };
        }
        if let Some(why) = self.dialect.refuses_text(&text) {
            return Err(format!("column {:?}: {why}", column.column));
        }
        let fit = Fit {
            column: &column.column,
            kind: column.kind,
            length: self.dialect.text_length(),
            zone: &self.zone,
        };
        convert(text, &fit)
    }

    /// The column that a merge changes, and the values of one pair: the surviving id and the prior one.
    ///
    /// # Errors
    /// No column holds the patient id, or an id is missing or does not fit it.
    pub fn merge_values(&self, survivor: &str, prior: &str) -> Result<(Value, Value), String> {
        let column = self.merge_column().ok_or("no column of db_metadata holds patient_id")?;
        let value = |text: &str, whose: &str| match text.is_empty() {
            true => Err(format!("the message names no {whose} patient id")),
            false => match self.value(column, Some(text))? {
                Value::Null => Err(format!("replace_list leaves nothing of the {whose} patient id")),
                value => Ok(value),
            },
        };
        Ok((value(survivor, "surviving")?, value(prior, "prior")?))
    }

    /// The column of the patient id.
    pub fn merge_column(&self) -> Option<&DbColumn> {
        let is_patient = |c: &&DbColumn| c.source == ColumnSource::Variable && c.variable == PATIENT_ID;
        self.columns.iter().find(is_patient)
    }

    /// The columns that an insert names, before that of the message key.
    fn inserted(&self) -> impl Iterator<Item = &DbColumn> {
        self.columns.iter().filter(|column| column.source != ColumnSource::AutoIncrement)
    }

    fn inserted_names(&self) -> Vec<&str> {
        let names = self.inserted().map(|column| column.column.as_str());
        names.chain(self.insert.message_key.as_deref()).collect()
    }

    /// The insert; `unique` says whether the key column has a unique index.
    pub(crate) fn insert_sql(&self, unique: bool) -> String {
        let (table, names) = (&self.insert.table, self.inserted_names());
        let key = self.insert.message_key.as_deref().filter(|_| unique);
        self.dialect.insert(table, &names, key)
    }

    /// The search for a message's own row.
    pub(crate) fn key_sql(&self) -> Option<String> {
        self.insert.message_key.as_ref().map(|key| self.dialect.key_exists(&self.insert.table, key))
    }

    pub(crate) fn lookup_sql(&self, lookup: &Lookup) -> String {
        let table = self.insert.mapping_table.as_deref().unwrap_or(&self.insert.table);
        self.dialect.lookup(table, &lookup.column, &lookup.returns, 2)
    }

    /// The merge, for a column whose values are compared as text or not.
    pub(crate) fn merge_sql(&self, as_text: bool) -> Option<String> {
        let column = &self.merge_column()?.column;
        let d = self.dialect;
        let condition = match as_text {
            true => d.exact(column, 2),
            false => format!("{} = {}", d.quote(column), d.placeholder(2)),
        };
        let (table, quoted) = (d.table(&self.insert.table), d.quote(column));
        Some(format!("UPDATE {table} SET {quoted} = {} WHERE {condition}", d.placeholder(1)))
    }

    /// What `create_table` creates.
    pub fn create_sql(&self) -> String {
        let d = self.dialect;
        let mut lines = Vec::with_capacity(self.columns.len() + 1);
        for column in &self.columns {
            let name = d.quote(&column.column);
            let null = if column.nullable { "" } else { " NOT NULL" };
            lines.push(match column.source {
                ColumnSource::AutoIncrement => format!("{name} {}", d.auto_increment()),
                _ => format!("{name} {}{null}", d.column_type(column.kind, &column.column)),
            });
        }
        if let Some(key) = &self.insert.message_key {
            let kind = d.column_type(ColumnKind::String(KEY_CHARACTERS), key);
            lines.push(format!("{} {kind} NOT NULL UNIQUE", d.quote(key)));
        }
        let head = d.create_table(&self.insert.table);
        format!("{head} (\n  {}\n){}", lines.join(",\n  "), d.create_suffix())
    }

    /// Every statement this channel sends, as `check --plan` prints them.
    pub fn statements(&self) -> Vec<String> {
        let mut all = Vec::new();
        if self.inserts() {
            if self.insert.create_table {
                all.push(self.create_sql());
            }
            all.push(self.insert_sql(true));
        }
        all.extend(self.lookups.iter().map(|lookup| self.lookup_sql(lookup)));
        all.extend(self.merge_sql(self.merges_text()));
        all
    }

    /// What a message would send: each statement with its parameters as `try` prints them. Nothing is looked up, so what
    /// a look-up would find stands as its name.
    ///
    /// # Errors
    /// The column and what is wrong with its value.
    pub fn trial(&self, source: &Source<'_>) -> Result<Vec<(String, Vec<String>)>, String> {
        let mut all = Vec::new();
        for lookup in &self.lookups {
            let wanted = (source.value)(&lookup.matches).unwrap_or_default().to_owned();
            all.push((self.lookup_sql(lookup), vec![Value::Text(wanted).shown()]));
        }
        if !self.inserts() {
            return Ok(all);
        }
        let looked_up = |column: &DbColumn| {
            column.source == ColumnSource::Variable && self.lookups.iter().any(|l| l.name == column.variable)
        };
        let mut shown = Vec::new();
        for column in self.inserted() {
            shown.push(match looked_up(column) {
                true => format!("(what {} finds)", column.variable),
                false => self.column_value(column, source)?.shown(),
            });
        }
        shown.extend(self.insert.message_key.as_ref().map(|_| Value::Text(source.id.to_owned()).shown()));
        all.push((self.insert_sql(true), shown));
        Ok(all)
    }

    /// The merge of one pair as `try` prints it.
    ///
    /// # Errors
    /// As [`merge_values`](Table::merge_values).
    pub fn trial_merge(&self, survivor: &str, prior: &str) -> Result<(String, Vec<String>), String> {
        let (survivor, prior) = self.merge_values(survivor, prior)?;
        let as_text = self.merges_text();
        let sql = self.merge_sql(as_text).ok_or("no column of db_metadata holds patient_id")?;
        let copies = if as_text { self.dialect.exact_params() } else { 1 };
        let mut shown = vec![survivor.shown()];
        shown.extend(std::iter::repeat_n(prior.shown(), copies));
        Ok((sql, shown))
    }

    pub(crate) fn merges_text(&self) -> bool {
        self.merge_column().is_some_and(|c| matches!(c.kind, ColumnKind::String(_) | ColumnKind::Text))
    }

    /// How the table that is there differs from what this channel needs of it; each a sentence for an operator. What
    /// is there is never changed.
    pub(crate) fn differences(&self, there: &[ColumnInfo]) -> Vec<String> {
        let table = &self.insert.table;
        let mut found = Vec::new();
        for column in &self.columns {
            match find(there, &column.column) {
                None => found
                    .push(format!("table {table:?} has no column {:?}: inserts will fail", column.column)),
                Some(info) => found.extend(difference(table, column, info)),
            }
        }
        if let Some(key) = &self.insert.message_key {
            match find(there, key) {
                None => found.push(format!("table {table:?} has no column {key:?} (message_key): inserts will fail")),
                Some(info) if !info.unique => found.push(format!(
                    "column {key:?} (message_key) of table {table:?} has no unique index of its own: what keeps a \
                     redelivered message from being inserted twice is slower and holds for one server at a time. Create \
                     a unique index on it"
                )),
                Some(_) => {}
            }
        }
        for info in there {
            let ours = self.columns.iter().any(|c| c.column.eq_ignore_ascii_case(&info.name));
            let key =
                self.insert.message_key.as_ref().is_some_and(|key| key.eq_ignore_ascii_case(&info.name));
            if self.inserts() && !ours && !key && !info.nullable && !info.filled {
                found.push(format!(
                    "column {:?} of table {table:?} must have a value and db_metadata gives it none: inserts will fail",
                    info.name
                ));
            }
        }
        found
    }
}

/// A column by its name, as the engines find it: without case.
pub(crate) fn find<'a>(there: &'a [ColumnInfo], name: &str) -> Option<&'a ColumnInfo> {
    let exact = there.iter().find(|info| info.name == name);
    exact.or_else(|| there.iter().find(|info| info.name.eq_ignore_ascii_case(name)))
}

fn difference(table: &str, column: &DbColumn, info: &ColumnInfo) -> Option<String> {
    let what = format!("column {:?} of table {table:?} is {}", column.column, info.declared);
    if column.source == ColumnSource::AutoIncrement {
        return (!info.filled)
            .then(|| format!("{what} and is not counted up by the database: inserts will fail"));
    }
    let fits = match (column.kind, info.kind) {
        (_, Kind::Other) => true,
        (ColumnKind::Integer, Kind::Integer(bits)) => bits >= 32,
        (ColumnKind::Integer, Kind::Text(max)) => max.is_none_or(|max| max >= 11),
        (ColumnKind::String(n), Kind::Text(max)) => max.is_none_or(|max| max >= n),
        (ColumnKind::Text, Kind::Text(max)) => max.is_none(),
        (ColumnKind::DateTime, kind) => kind == Kind::DateTime,
        (_, Kind::Integer(_) | Kind::DateTime | Kind::Date) => false,
    };
    if !fits {
        return Some(format!("{what}, db_metadata says {}: some values will not fit", name_of(column.kind)));
    }
    (column.nullable && !info.nullable && !info.filled && column.source == ColumnSource::Variable)
        .then(|| format!("{what} and may not be null, db_metadata says it may"))
}

fn name_of(kind: ColumnKind) -> String {
    match kind {
        ColumnKind::Integer => "Integer".to_owned(),
        ColumnKind::String(n) => format!("String({n})"),
        ColumnKind::Text => "Text".to_owned(),
        ColumnKind::DateTime => "DateTime".to_owned(),
    }
}

/// A value drawn for a message and a column: the same at every attempt, without a record of it. The id itself is random
/// (52 bits), so nobody outside can foresee the value; the hash only spreads it.
fn random(id: &str, column: &DbColumn, draw: u32) -> Value {
    let bits = |round: u32| {
        let mut hash = SipHasher24::new_with_keys(0x686c_3773_6572_7665, 0x7261_6e64_6f6d_2031);
        for part in [id.as_bytes(), column.column.as_bytes()] {
            hash.write_usize(part.len());
            hash.write(part);
        }
        hash.write_u32(draw);
        hash.write_u32(round);
        hash.finish()
    };
    match column.kind {
        ColumnKind::String(n) => {
            let digit = |place: u32| char::from(b'0' + (bits(place) % 10) as u8);
            Value::Text((0..n).map(digit).collect())
        }
        // 1 to 2³¹ - 1.
        _ => Value::Integer((bits(0) % 0x7fff_ffff) as i64 + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BESIDE: &str = "mapping: {patient_id: PID.1.3.1, v: PID.1.1}
db_mapping: {ward: {column: acc, match: patient_id, return: ward}}
db_metadata:
  row: {field_name: id, field_type: Integer, autoincrement: true}
  patient_id: {field_name: patient, field_type: String(20), nullable: false}
  v: {field_name: v, field_type: Text}
  ward: {field_name: ward, field_type: Integer}
  pin: {field_name: pin, field_type: String(8), random: true}
  draw: {field_name: draw, field_type: Integer, random: true}
  at: {field_name: at, field_type: DateTime, auto: true}
";

    fn table(driver: &str) -> Table {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("test.yaml");
        let insert = format!(
            "{{driver: {driver}, username: u, database: /d, table: ris.t, mapping_table: w, create_table: true, \
             message_key: k, replace_list: {{v: [['<br>', ' '], [' ', '']]}}}}"
        );
        let beside: String = BESIDE.lines().map(|line| format!("    {line}\n")).collect();
        let text = format!("channels:\n  - name: a\n    port: 20001\n    db_insert: {insert}\n{beside}");
        std::fs::write(&file, text).unwrap();
        let loaded = config::load(&file, &|_| true, config::Mode::Run).unwrap_or_else(|p| panic!("{p}"));
        Table::of(&loaded.config.channels[0]).unwrap()
    }

    fn row(table: &Table, id: &str) -> Row {
        let value =
            |name: &str| [("patient_id", "P1"), ("v", "<br> ")].iter().find(|v| v.0 == name).map(|v| v.1);
        table.row(&Source { id, value: &value, now: jiff::civil::date(2026, 1, 2).at(3, 4, 5, 0) }).unwrap()
    }

    #[test]
    fn each_engine_gets_its_own_words_for_the_same_table() {
        let first = |driver| table(driver).statements().remove(0).replace('\n', "");
        assert_eq!(
            first("MariaDB"),
            "CREATE TABLE IF NOT EXISTS `ris`.`t` (  `id` INT AUTO_INCREMENT PRIMARY KEY,  \
             `patient` VARCHAR(20) NOT NULL,  `v` LONGTEXT,  `ward` INT,  `pin` VARCHAR(8),  `draw` INT,  \
             `at` DATETIME,  `k` VARCHAR(20) NOT NULL UNIQUE) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4"
        );
        assert_eq!(
            first("PostgreSQL"),
            "CREATE TABLE IF NOT EXISTS \"ris\".\"t\" (  \
             \"id\" INTEGER GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,  \"patient\" VARCHAR(20) NOT NULL,  \
             \"v\" TEXT,  \"ward\" INTEGER,  \"pin\" VARCHAR(8),  \"draw\" INTEGER,  \"at\" TIMESTAMP,  \
             \"k\" VARCHAR(20) NOT NULL UNIQUE)"
        );
        let sqlite = first("SQLite");
        assert!(sqlite.contains("\"patient\" TEXT CHECK (length(\"patient\") <= 20) NOT NULL"), "{sqlite}");
    }

    #[test]
    fn every_value_is_a_parameter_and_every_name_is_quoted() {
        let statements = table("PostgreSQL").statements();
        assert_eq!(
            statements[1..],
            [
                "INSERT INTO \"ris\".\"t\" (\"patient\", \"v\", \"ward\", \"pin\", \"draw\", \"at\", \"k\") \
                 VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (\"k\") DO NOTHING",
                "SELECT DISTINCT \"ward\" FROM \"w\" WHERE \"acc\" = $1 LIMIT 2",
                "UPDATE \"ris\".\"t\" SET \"patient\" = $1 WHERE \"patient\" = $2",
            ]
        );
        for driver in ["MariaDB", "PostgreSQL", "SQLite", "SQL Server"] {
            let quoted = crate::dialect(table(driver).insert.driver).quote("a`b\"c]d");
            assert!(["`a``b\"c]d`", "\"a`b\"\"c]d\"", "[a`b\"c]]d]"].contains(&quoted.as_str()), "{quoted}");
        }
    }

    #[test]
    fn a_retry_is_the_same_row_and_a_redraw_another() {
        let table = table("MariaDB");
        let once = row(&table, "0A");
        assert!(once == row(&table, "0A"));
        assert!(once != row(&table, "0B"));
        let again = table.redrawn(&once, 1).unwrap();
        assert!(again == table.redrawn(&once, 1).unwrap() && again != once);
        assert_eq!((&again.values[0], again.values.last()), (&once.values[0], once.values.last()));
        let Value::Text(pin) = &once.values[3] else { panic!() };
        assert!(pin.len() == 8 && pin.bytes().all(|b| b.is_ascii_digit()));
        for n in 0..1000 {
            let Value::Integer(draw) = row(&table, &n.to_string()).values[4] else { panic!() };
            assert!((1..=i64::from(i32::MAX)).contains(&draw));
        }
        assert_eq!(once.values[1], Value::Null, "what replace_list empties is null");
    }

    #[test]
    fn no_value_shows_in_debug() {
        let shown = format!("{:?}", row(&table("SQLite"), "0A"));
        assert!(!shown.contains("P1") && shown.contains("text of 2 characters"), "{shown}");
    }

    #[test]
    fn a_trial_shows_parameters_and_names_what_is_looked_up() {
        let value = |name: &str| (name == "patient_id").then_some("P1");
        let source = Source { id: "0A", value: &value, now: jiff::civil::date(2026, 1, 2).at(3, 4, 5, 0) };
        let trial = table("SQLite").trial(&source).unwrap();
        assert_eq!(trial[0].1, ["\"P1\""]);
        assert_eq!(trial[1].1[..3], ["\"P1\"", "NULL", "(what ward finds)"]);
        assert_eq!(trial[1].1.last().unwrap(), "\"0A\"");
        assert!(
            table("SQLite")
                .trial(&Source { value: &|_| None, ..source })
                .unwrap_err()
                .contains("\"patient\"")
        );
    }
}
