//! What is read from a message, and where it goes by name: mappings, patterns, the fields of credential tasks.

use super::{Context, Variables};
use crate::model::{Mapping, Mobile, Replacement};
use crate::pattern::Pattern;
use crate::problem::quoted;
use crate::raw;
use crate::raw::read::{At, FreeText, Key, ShortOr, Table, nearest};
use std::collections::{HashMap, HashSet};

/// At least six digits, whatever stands between them.
const MOBILE_PATTERN: &str = "(?:[0-9][^0-9]*){6}";

/// `mapping` with what `mapping_ignore` and `custom_regex` say of it.
pub(super) fn mapping(
    raw: &raw::Channel,
    variables: &Variables<'_>,
    context: &mut Context<'_>,
) -> Vec<Mapping> {
    let optional = ignored(raw, variables, context);
    let mut replacements = replacements(raw, variables, context);
    let separator = raw.mapping_separator.given().map_or(" ", |at| at.value.0.as_str());
    let mut mapping = Vec::new();
    for (name, value) in raw.mapping.given().into_iter().flat_map(|at| &at.value) {
        context.label(&name.value, &name.spot);
        let value = match value {
            Key::Given(value) => value,
            Key::Wrong => continue,
            Key::Absent(_) => {
                context.report.error(&name.spot, "a mapping without a path", "write a field path: PID.1.3.1");
                continue;
            }
        };
        let paths: Vec<_> = value.value.items.iter().filter_map(|at| context.field_path(at)).collect();
        if value.value.items.is_empty() {
            context.report.error(&value.spot, "an empty list", "write at least one field path");
        }
        if paths.len() > 1 && paths.len() == value.value.items.len() {
            let names: Vec<String> = paths.iter().map(ToString::to_string).collect();
            let what = format!("reads {} joined by {}", names.join(", "), quoted(separator));
            context.report.note(&value.spot, what, "set mapping_separator for another one");
        }
        let optional = optional.contains(name.value.as_str());
        let replace = replacements.remove(name.value.as_str());
        mapping.push(Mapping { name: name.value.clone(), paths, optional, replace });
    }
    mapping
}

/// Names in `mapping_ignore`. One that nothing has is left over from a change: a warning, as the original said nothing.
fn ignored<'a>(
    raw: &'a raw::Channel,
    variables: &Variables<'_>,
    context: &mut Context<'_>,
) -> HashSet<&'a str> {
    let mut names = HashSet::new();
    for at in raw.mapping_ignore.given().into_iter().flat_map(|list| &list.value) {
        if !variables.has(&at.value) {
            let what = format!("{} is no mapping, so there is nothing to ignore", quoted(&at.value));
            context.report.warn(&at.spot, what, variables.hint(&at.value));
        }
        names.insert(at.value.as_str());
    }
    names
}

fn replacements<'a>(
    raw: &'a raw::Channel,
    variables: &Variables<'_>,
    context: &mut Context<'_>,
) -> HashMap<&'a str, Replacement> {
    let mut found = HashMap::new();
    for (name, value) in raw.custom_regex.given().into_iter().flat_map(|at| &at.value) {
        if !variables.mapped.contains(name.value.as_str()) {
            let what = format!("{} is no mapping, so the pattern is never used", quoted(&name.value));
            let near = nearest(&name.value, variables.mapped.iter().copied());
            let hint =
                near.map_or("write the name of a mapping".to_owned(), |near| format!("did you mean {near}?"));
            context.report.warn(&name.spot, what, hint);
        }
        let value = match value {
            Key::Given(value) => value,
            Key::Wrong | Key::Absent(_) => continue,
        };
        let (pattern, with) = match &value.value {
            ShortOr::Short(text) => {
                let at = At { value: FreeText(text.clone()), spot: value.spot.clone() };
                (pattern(&at, context), String::new())
            }
            ShortOr::Section(section) => {
                let hint = "write the pattern whose matches are replaced";
                let at = section.pattern.need(&section.spot, "pattern", hint, context.report).cloned();
                let with = section.replace.given().map_or(String::new(), |at| at.value.0.clone());
                (at.and_then(|at| pattern(&at, context)), with)
            }
        };
        if let Some(pattern) = pattern {
            found.insert(name.value.as_str(), Replacement { pattern, with });
        }
    }
    found
}

fn pattern(at: &At<FreeText>, context: &mut Context<'_>) -> Option<Pattern> {
    match Pattern::new(&at.value.0) {
        Ok(pattern) => Some(pattern),
        Err(fault) => {
            let what = format!("{} is no pattern: {fault}", quoted(&at.value.0));
            context.report.error(&at.spot, what, "escape what is meant literally with \\, in single quotes");
            None
        }
    }
}

/// `credentials_metadata` and `book_metadata`: task field → variable.
pub(super) fn task_fields(
    key: &Key<Table<String>>,
    variables: &Variables<'_>,
    context: &mut Context<'_>,
) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    for (name, value) in key.given().into_iter().flat_map(|at| &at.value) {
        context.label(&name.value, &name.spot);
        match value {
            Key::Given(at) => {
                variable(at, variables, context);
                fields.push((name.value.clone(), at.value.clone()));
            }
            Key::Absent(_) => {
                context.report.error(&name.spot, "a field without a variable", "write the name of a mapping");
            }
            Key::Wrong => {}
        }
    }
    fields
}

fn variable(at: &At<String>, variables: &Variables<'_>, context: &mut Context<'_>) {
    if !variables.has(&at.value) {
        let what = format!("{} is no mapping and no db_mapping", quoted(&at.value));
        context.report.error(&at.spot, what, variables.hint(&at.value));
    }
}

/// `mobile`.
pub(super) fn mobile(
    raw: &raw::Channel,
    variables: &Variables<'_>,
    context: &mut Context<'_>,
) -> Option<Mobile> {
    let raw = &raw.mobile.given()?.value;
    let hint = "list the mappings that may hold a mobile number";
    if let Some(at) = raw.fields.need(&raw.spot, "fields", hint, context.report).cloned() {
        for field in &at.value {
            variable(field, variables, context);
        }
    }
    let fields = context.texts(&raw.fields, hint).unwrap_or_default();
    let pattern = match raw.pattern.given() {
        Some(at) => pattern(at, context),
        None => None,
    };
    let pattern = pattern.unwrap_or_else(|| Pattern::new(MOBILE_PATTERN).expect("a constant that compiles"));
    Some(Mobile { fields, pattern })
}
