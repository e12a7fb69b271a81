//! Microsoft SQL Server, by tiberius over a blocking socket.

use crate::fault::Fault;
use crate::sql::{Connection, Dialect};
use crate::target::Target;
use config::ColumnKind;

/// SQL Server's statements.
#[derive(Debug)]
pub(crate) struct SqlServer;

/// Opens a connection.
pub(crate) fn connect(_target: &Target) -> Result<Box<dyn Connection>, Fault> {
    Err(Fault::Failed("SQL Server is not built".to_owned()))
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
    fn column_type(&self, _kind: ColumnKind, _column: &str) -> String {
        String::new()
    }
    fn auto_increment(&self) -> &'static str {
        ""
    }
    fn insert(&self, _table: &str, _columns: &[&str], _key: Option<&str>) -> String {
        String::new()
    }
    fn exact(&self, _column: &str, _place: usize) -> String {
        String::new()
    }
}
