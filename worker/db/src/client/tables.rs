//! What the tables that are there are like: found out before the first row, told where they differ from the settings, made
//! where that is asked for.

use super::{Client, lock};
use crate::fault::Fault;
use crate::sql::{ColumnInfo, Kind, Right};
use crate::table::{Table, find};
use std::collections::BTreeSet;
use std::sync::Arc;

/// What the tables that are there are like.
#[derive(Clone, Debug, Default)]
pub(super) struct Found {
    /// The key column has a unique index.
    pub(super) unique_key: bool,
    /// The column of the patient id is compared as text.
    pub(super) merges_text: bool,
    /// For each look-up, whether its column holds whole numbers.
    pub(super) numbers: Vec<bool>,
    /// How they differ from the settings.
    pub(super) differences: Vec<String>,
}

/// What `check --probe` learns.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Probe {
    /// What is as it should be.
    pub notes: Vec<String>,
    /// What will go wrong.
    pub problems: Vec<String>,
}

impl Client {
    /// Connects and looks, without writing: the tables, their columns, the user's rights.
    ///
    /// # Errors
    /// The database cannot be reached.
    pub fn probe(&mut self) -> Result<Probe, Fault> {
        self.again_if_lost(true, |client| {
            let shared = Arc::clone(&client.shared);
            let (table, insert) = (&shared.table, &shared.table.insert);
            let mut probe = Probe::default();
            probe.notes.push(format!("connected to {}", shared.target.label()));
            if table.inserts() {
                match client.connection()?.columns(&insert.table)? {
                    Some(there) => {
                        probe.problems.extend(table.differences(&there));
                        let mut needed = vec![Right::Insert];
                        if insert.message_key.is_some() || table.merge_column().is_some() {
                            needed.push(Right::Select);
                        }
                        client.rights(&insert.table, &needed, &mut probe)?;
                    }
                    None if insert.create_table => {
                        probe
                            .notes
                            .push(format!("table {:?} is not there and will be created", insert.table));
                    }
                    None => probe.problems.push(missing_table(&insert.table)),
                }
            }
            if let Some(mapping) = &insert.mapping_table
                && !table.lookups.is_empty()
            {
                match client.connection()?.columns(mapping)? {
                    Some(there) => {
                        probe.problems.extend(lookup_differences(table, mapping, &there));
                        client.rights(mapping, &[Right::Select], &mut probe)?;
                    }
                    None => probe.problems.push(missing_table(mapping)),
                }
            }
            Ok(probe)
        })
    }

    fn rights(&mut self, table: &str, needed: &[Right], probe: &mut Probe) -> Result<(), Fault> {
        let missing = self.connection()?.missing_rights(table, needed)?;
        for right in &missing {
            probe.problems.push(format!("no right to {} on table {table:?}", right.name()));
        }
        if missing.is_empty() {
            let names: Vec<_> = needed.iter().map(|right| right.name()).collect();
            probe.notes.push(format!("table {table:?}: {}", names.join(", ")));
        }
        Ok(())
    }

    /// What the tables are like: looked up once a worker, and again after a failure, which may have come from a change.
    pub(super) fn found(&mut self) -> Result<Found, Fault> {
        // Also where it is known: a connection that is dead is noticed here, before anything is sent in doubt.
        self.rested()?;
        if let Some(found) = &*lock(&self.shared.found) {
            return Ok(found.clone());
        }
        let shared = Arc::clone(&self.shared);
        let (table, insert) = (&shared.table, &shared.table.insert);
        let mut found = Found { unique_key: true, merges_text: table.merges_text(), ..Found::default() };
        let mut complete = true;
        if table.inserts() {
            let mut there = self.connection()?.columns(&insert.table)?;
            if there.is_none() && insert.create_table {
                there = Some(self.create()?);
            }
            match there {
                Some(there) => {
                    found.differences.extend(table.differences(&there));
                    let column = |name: &String| find(&there, name);
                    found.unique_key = insert.message_key.as_ref().and_then(column).is_none_or(|c| c.unique);
                    let patient = table.merge_column().and_then(|c| find(&there, &c.column));
                    found.merges_text &= patient.is_none_or(|c| !matches!(c.kind, Kind::Integer(_)));
                }
                None => {
                    found.differences.push(missing_table(&insert.table));
                    complete = false;
                }
            }
        }
        if let Some(mapping) = &insert.mapping_table
            && !table.lookups.is_empty()
        {
            match self.connection()?.columns(mapping)? {
                Some(there) => {
                    found.differences.extend(lookup_differences(table, mapping, &there));
                    let is_number =
                        |name: &str| find(&there, name).is_some_and(|c| matches!(c.kind, Kind::Integer(_)));
                    found.numbers = table.lookups.iter().map(|lookup| is_number(&lookup.column)).collect();
                }
                None => {
                    found.differences.push(missing_table(mapping));
                    complete = false;
                }
            }
        }
        shared.tell(&found.differences);
        if complete {
            *lock(&shared.found) = Some(found.clone());
        }
        Ok(found)
    }

    fn create(&mut self) -> Result<Vec<ColumnInfo>, Fault> {
        let shared = Arc::clone(&self.shared);
        let (table, name) = (&shared.table, &shared.table.insert.table);
        let created = self.execute(&table.create_sql(), &[]);
        match (created, self.connection()?.columns(name)?) {
            // Another thread, or another server, was quicker.
            (_, Some(there)) => {
                log::info!("table {name:?} created in {}", shared.target.label());
                Ok(there)
            }
            (Err(fault), None) => {
                let reason = format!("could not create table {name:?}: {}", fault.reason());
                Err(if fault.is_again() { Fault::again(reason) } else { Fault::Failed(reason) })
            }
            (Ok(_), None) => Err(Fault::Failed(format!("table {name:?} was created and cannot be seen"))),
        }
    }

    pub(super) fn look_anew_after_failure<T>(&self, done: &Result<T, Fault>) {
        if matches!(done, Err(Fault::Failed(_) | Fault::Duplicate(_))) {
            *lock(&self.shared.found) = None;
        }
    }
}

fn lookup_differences(table: &Table, mapping: &str, there: &[ColumnInfo]) -> Vec<String> {
    let needed = table.lookups.iter().flat_map(|lookup| [&lookup.column, &lookup.returns]);
    let absent: BTreeSet<&String> = needed.filter(|name| find(there, name).is_none()).collect();
    let tell = |name| format!("table {mapping:?} has no column {name:?}: look-ups will fail");
    absent.into_iter().map(tell).collect()
}

fn missing_table(table: &str) -> String {
    format!("there is no table {table:?}")
}
