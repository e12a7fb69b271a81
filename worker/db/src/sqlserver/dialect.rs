//! SQL Server's statements. Pure.

use crate::sql::{ColumnInfo, Dialect, Kind};
use crate::value::Value;
use config::ColumnKind;
use std::time::Duration;

/// Longest `NVARCHAR(n)`; what is longer is `NVARCHAR(MAX)`.
const NVARCHAR_MAX: u32 = 4_000;

/// A table has at most 1,024 columns, a wide one 30,000; nobody maps those.
pub(super) const COLUMNS_MAX: usize = 1_024;

/// What [`column`] reads, a row a column. A unique index whose filter only leaves nulls out is as good as one without:
/// it is what tables use where older rows have none.
pub(super) const COLUMNS: &str = "\
SELECT c.name, TYPE_NAME(c.system_type_id), TYPE_NAME(c.user_type_id), CAST(c.max_length AS INT), \
CAST(c.precision AS INT), CAST(c.scale AS INT), CAST(c.is_nullable AS INT), \
CASE WHEN c.is_identity = 1 OR c.is_computed = 1 OR c.default_object_id <> 0 OR c.system_type_id = 189 \
THEN 1 ELSE 0 END, \
CASE WHEN EXISTS (SELECT 1 FROM sys.indexes AS i WHERE i.object_id = c.object_id AND i.is_unique = 1 \
AND i.is_disabled = 0 \
AND (i.has_filter = 0 OR i.filter_definition = N'(' + QUOTENAME(c.name) + N' IS NOT NULL)') \
AND EXISTS (SELECT 1 FROM sys.index_columns AS k WHERE k.object_id = i.object_id AND k.index_id = i.index_id \
AND k.key_ordinal = 1 AND k.column_id = c.column_id) \
AND NOT EXISTS (SELECT 1 FROM sys.index_columns AS k WHERE k.object_id = i.object_id AND k.index_id = i.index_id \
AND k.key_ordinal > 1)) THEN 1 ELSE 0 END \
FROM sys.columns AS c WHERE c.object_id = OBJECT_ID(@P1) ORDER BY c.column_id";

/// 1 where the user has a right (second parameter) on a table (first).
pub(super) const HAS_RIGHT: &str = "SELECT HAS_PERMS_BY_NAME(@P1, N'OBJECT', @P2)";

/// SQL Server's statements.
#[derive(Debug)]
pub(crate) struct SqlServer;

/// What a session must be told, since a server's or a login's defaults may say otherwise.
pub(super) fn session_settings(lock_wait: Duration) -> String {
    [
        // Error texts in one language, which ours pick names from.
        "SET LANGUAGE us_english",
        // Without ANSI_WARNINGS a text too long is cut short and nobody told; the others are what a table with an
        // indexed view or a computed column wants of whoever inserts.
        "SET ANSI_NULLS, ANSI_PADDING, ANSI_WARNINGS, ARITHABORT, CONCAT_NULL_YIELDS_NULL, QUOTED_IDENTIFIER ON",
        "SET NUMERIC_ROUNDABORT OFF",
        // A column created without a word on nulls takes them.
        "SET ANSI_NULL_DFLT_ON ON",
        // Each statement commits by itself, and a failed one takes its whole transaction with it.
        "SET IMPLICIT_TRANSACTIONS OFF",
        "SET XACT_ABORT ON",
        "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
        // The counts of rows are wanted.
        "SET NOCOUNT OFF",
        &format!("SET LOCK_TIMEOUT {}", lock_wait.as_millis()),
    ]
    .join("; ")
}

/// A column from a row of [`COLUMNS`].
pub(super) fn column(row: Vec<Value>) -> Option<ColumnInfo> {
    let [name, base, declared, bytes, precision, scale, nullable, filled, unique] = row.try_into().ok()?;
    let Value::Text(name) = name else { return None };
    let text = |value| if let Value::Text(text) = value { text } else { String::new() };
    let (base, declared) = (text(base), text(declared));
    let number = |value| if let Value::Integer(number) = value { number } else { 0 };
    let (bytes, precision, scale) = (number(bytes), number(precision), number(scale));
    let is = |value| value == Value::Integer(1);
    // An NVARCHAR's length is in bytes here, two a character; -1 is MAX.
    let characters = u32::try_from(if base.starts_with('n') { bytes / 2 } else { bytes }).ok();
    let length = match characters {
        Some(characters) if bytes > 0 => characters.to_string(),
        _ => "max".to_owned(),
    };
    let (kind, size) = match base.as_str() {
        "bit" => (Kind::Integer(1), String::new()),
        "tinyint" => (Kind::Integer(8), String::new()),
        "smallint" => (Kind::Integer(16), String::new()),
        "int" => (Kind::Integer(32), String::new()),
        "bigint" => (Kind::Integer(64), String::new()),
        "char" | "varchar" | "nchar" | "nvarchar" => {
            (Kind::Text(characters.filter(|_| bytes > 0)), format!("({length})"))
        }
        "text" | "ntext" => (Kind::Text(None), String::new()),
        "datetime" | "smalldatetime" => (Kind::DateTime, String::new()),
        "datetime2" => (Kind::DateTime, format!("({scale})")),
        "date" => (Kind::Date, String::new()),
        "decimal" | "numeric" => (Kind::Other, format!("({precision},{scale})")),
        "binary" | "varbinary" => (Kind::Other, format!("({length})")),
        _ => (Kind::Other, String::new()),
    };
    // A type of the user's own (sysname, one made by CREATE TYPE) has its length within.
    let size = if declared == base { size } else { String::new() };
    let declared = (declared + &size).to_uppercase();
    Some(ColumnInfo { name, declared, kind, nullable: is(nullable), filled: is(filled), unique: is(unique) })
}

impl Dialect for SqlServer {
    fn name(&self) -> &'static str {
        "SQL Server"
    }

    fn quote(&self, name: &str) -> String {
        format!("[{}]", name.replace(']', "]]"))
    }

    fn placeholder(&self, place: usize) -> String {
        format!("@P{place}")
    }

    fn column_type(&self, kind: ColumnKind, _column: &str) -> String {
        match kind {
            ColumnKind::Integer => "INT".to_owned(),
            ColumnKind::String(characters @ ..=NVARCHAR_MAX) => format!("NVARCHAR({characters})"),
            ColumnKind::String(_) | ColumnKind::Text => "NVARCHAR(MAX)".to_owned(),
            ColumnKind::DateTime => "DATETIME2".to_owned(),
        }
    }

    fn auto_increment(&self) -> &'static str {
        "INT IDENTITY(1,1) PRIMARY KEY"
    }

    fn insert(&self, table: &str, columns: &[&str], key: Option<&str>) -> String {
        let Some(key) = key else { return self.insert_values(table, columns) };
        let names: Vec<_> = columns.iter().map(|name| self.quote(name)).collect();
        let values: Vec<_> = (1..=columns.len()).map(|place| self.placeholder(place)).collect();
        let place =
            columns.iter().position(|column| *column == key).expect("the key is among the columns") + 1;
        // Without locks: whoever comes between the look and the insert runs into the unique index.
        format!(
            "INSERT INTO {table} ({}) SELECT {} WHERE NOT EXISTS (SELECT 1 FROM {table} WHERE {} = {})",
            names.join(", "),
            values.join(", "),
            self.quote(key),
            self.placeholder(place),
            table = self.table(table),
        )
    }

    /// `=` goes by the column's collation and can use its index; the rest sorts out what only that takes as equal. A
    /// CHAR column's padding is not part of its value, so trailing spaces of the column count for nothing and those of
    /// the parameter do.
    fn exact(&self, column: &str, place: usize) -> String {
        let (column, parameter) = (self.quote(column), self.placeholder(place));
        let text = format!("CAST({column} AS NVARCHAR(MAX))");
        format!(
            "({column} = {parameter} AND {text} COLLATE Latin1_General_BIN2 = {parameter} \
             AND DATALENGTH({parameter}) IN (DATALENGTH({text}), DATALENGTH(RTRIM({text}))))"
        )
    }

    fn lookup(&self, table: &str, column: &str, returns: &str, limit: usize) -> String {
        format!(
            "SELECT DISTINCT TOP ({limit}) {} FROM {} WHERE {} = {}",
            self.quote(returns),
            self.table(table),
            self.quote(column),
            self.placeholder(1),
        )
    }

    fn create_table(&self, table: &str) -> String {
        let table = self.table(table);
        format!("IF OBJECT_ID(N'{}') IS NULL CREATE TABLE {table}", table.replace('\'', "''"))
    }

    /// NVARCHAR(n) holds n units of UTF-16: a letter beyond the first 65,536 takes two.
    fn text_length(&self) -> fn(&str) -> usize {
        |text| text.encode_utf16().count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_so_that_nothing_leaves_them() {
        assert_eq!(SqlServer.quote("a]; DROP TABLE x--"), "[a]]; DROP TABLE x--]");
        assert_eq!(SqlServer.table("dbo.orders"), "[dbo].[orders]");
        assert_eq!(
            SqlServer.create_table("o'brien]"),
            "IF OBJECT_ID(N'[o''brien]]]') IS NULL CREATE TABLE [o'brien]]]"
        );
    }

    #[test]
    fn column_types_are_those_of_the_reference() {
        let declared = |kind| SqlServer.column_type(kind, "c");
        assert_eq!(declared(ColumnKind::Integer), "INT");
        assert_eq!(declared(ColumnKind::String(1)), "NVARCHAR(1)");
        assert_eq!(declared(ColumnKind::String(4_000)), "NVARCHAR(4000)");
        assert_eq!(declared(ColumnKind::String(4_001)), "NVARCHAR(MAX)");
        assert_eq!(declared(ColumnKind::Text), "NVARCHAR(MAX)");
        assert_eq!(declared(ColumnKind::DateTime), "DATETIME2");
    }

    #[test]
    fn an_insert_with_a_key_leaves_a_row_with_that_key_alone() {
        assert_eq!(
            SqlServer.insert("dbo.t", &["a", "b"], None),
            "INSERT INTO [dbo].[t] ([a], [b]) VALUES (@P1, @P2)"
        );
        assert_eq!(
            SqlServer.insert("t", &["a", "k"], Some("k")),
            "INSERT INTO [t] ([a], [k]) SELECT @P1, @P2 WHERE NOT EXISTS (SELECT 1 FROM [t] WHERE [k] = @P2)"
        );
    }

    #[test]
    fn a_look_up_asks_for_no_more_than_its_limit() {
        assert_eq!(
            SqlServer.lookup("map", "code", "name", 2),
            "SELECT DISTINCT TOP (2) [name] FROM [map] WHERE [code] = @P1"
        );
    }

    #[test]
    fn a_text_is_as_long_as_the_server_counts_it() {
        assert_eq!(SqlServer.text_length()("äé𝄞"), 4);
    }

    #[test]
    fn lock_waits_are_told_to_the_session_in_milliseconds() {
        assert!(session_settings(Duration::from_secs(9)).ends_with("SET LOCK_TIMEOUT 9000"));
    }

    #[test]
    fn a_column_is_read_with_its_length_in_characters() {
        let row = |base: &str, declared: &str, bytes, precision, scale| {
            let mut row = vec![Value::Text("c".to_owned()), Value::Text(base.to_owned())];
            row.push(Value::Text(declared.to_owned()));
            row.extend([bytes, precision, scale, 1, 0, 1].map(Value::Integer));
            let column = column(row).unwrap();
            assert!(column.nullable && !column.filled && column.unique);
            (column.declared, column.kind)
        };
        assert_eq!(row("nvarchar", "nvarchar", 100, 0, 0), ("NVARCHAR(50)".to_owned(), Kind::Text(Some(50))));
        assert_eq!(row("varchar", "varchar", 100, 0, 0), ("VARCHAR(100)".to_owned(), Kind::Text(Some(100))));
        assert_eq!(row("nvarchar", "nvarchar", -1, 0, 0), ("NVARCHAR(MAX)".to_owned(), Kind::Text(None)));
        assert_eq!(row("ntext", "ntext", 16, 0, 0), ("NTEXT".to_owned(), Kind::Text(None)));
        assert_eq!(row("nvarchar", "sysname", 256, 0, 0), ("SYSNAME".to_owned(), Kind::Text(Some(128))));
        assert_eq!(row("bigint", "bigint", 8, 19, 0), ("BIGINT".to_owned(), Kind::Integer(64)));
        assert_eq!(row("datetime2", "datetime2", 8, 27, 7), ("DATETIME2(7)".to_owned(), Kind::DateTime));
        assert_eq!(row("decimal", "decimal", 9, 18, 2), ("DECIMAL(18,2)".to_owned(), Kind::Other));
        assert_eq!(row("", "geometry", -1, 0, 0), ("GEOMETRY".to_owned(), Kind::Other));
    }

    #[test]
    fn a_row_of_another_shape_is_no_column() {
        assert_eq!(column(vec![Value::Null; 9]), None);
        assert_eq!(column(vec![Value::Integer(1)]), None);
    }
}
