//! What Solr's answers mean. Pure.

use super::Document;
use crate::fault::Fault;
use crate::http::Response;
use serde_json::Value;

/// Characters of what Solr says of a core that go into a reason.
const TEXT_CHARS_MAX: usize = 200;

/// What became of documents.
#[derive(Debug, PartialEq)]
pub(super) enum Update {
    /// They are in the index.
    Indexed,
    /// Solr will not have at least one of them.
    Refused(Refusal),
    /// Something else.
    Fault(Fault),
}

/// Why Solr will not have documents.
#[derive(Debug, PartialEq)]
pub(super) struct Refusal {
    who: String,
    status: u16,
    /// In its own words, which may quote values: never shown.
    text: String,
}

impl Refusal {
    /// The fault of the one document that was refused. Of what Solr says it has the names of fields only.
    pub(super) fn fault(&self, document: &Document) -> Fault {
        let Refusal { who, status, text } = self;
        // In quotes, or as the last word.
        let quoted = text.split(['\'', '"']).skip(1).step_by(2);
        let last = text.rsplit(' ').next();
        let field = quoted.chain(last).find(|word| document.has_field(word));
        let field = field.map(|field| format!(" because of field {field}")).unwrap_or_default();
        Fault::Failed(format!("{who} refused the document{field} ({status})"))
    }
}

/// A page of a look-up.
#[derive(Debug, PartialEq)]
pub(super) struct Page {
    /// Documents there are.
    pub(super) total: usize,
    /// Documents on this page.
    pub(super) rows: usize,
    /// What they hold.
    pub(super) values: Vec<String>,
}

/// How a core is.
#[derive(Debug, PartialEq)]
pub(super) enum CoreState {
    Present,
    Absent,
    Loading,
    /// With Solr's reason.
    Broken(String),
    /// The user may not ask.
    Forbidden,
}

/// An answer to documents.
pub(super) fn update(response: Response, label: &str, user: &str, core: &str) -> Update {
    let status = response.status.as_u16();
    if !matches!(status, 400 | 413) {
        return match result(response, label, user, core) {
            Ok(_) => Update::Indexed,
            Err(fault) => Update::Fault(fault),
        };
    }
    let body = response.body.ok().and_then(|body| serde_json::from_slice::<Value>(&body).ok());
    let text = body.as_ref().and_then(|body| body["error"]["msg"].as_str()).unwrap_or_default();
    Update::Refused(Refusal { who: label.to_owned(), status, text: text.to_owned() })
}

/// An answer to a look-up.
pub(super) fn page(
    response: Response,
    label: &str,
    user: &str,
    core: &str,
    field: &str,
) -> Result<Page, Fault> {
    if response.status.as_u16() == 400 {
        return Err(Fault::Failed(format!(
            "{label} refused the look-up in core {core}: has it these fields? (400)"
        )));
    }
    let body = result(response, label, user, core)?;
    let found = &body["response"];
    let (Some(total), Some(docs)) = (found["numFound"].as_u64(), found["docs"].as_array()) else {
        return Err(no_result(label));
    };
    if body["responseHeader"]["partialResults"] == true {
        return Err(Fault::own(format!("{label} looked through a part of core {core} only")));
    }
    let mut values = Vec::new();
    for doc in docs {
        match &doc[field] {
            Value::Array(several) => values.extend(several.iter().filter_map(text)),
            one => values.extend(text(one)),
        }
    }
    Ok(Page { total: usize::try_from(total).unwrap_or(usize::MAX), rows: docs.len(), values })
}

/// An answer to `STATUS`.
pub(super) fn core_state(
    response: Response,
    label: &str,
    user: &str,
    core: &str,
) -> Result<CoreState, Fault> {
    if response.status.as_u16() == 403 {
        return Ok(CoreState::Forbidden);
    }
    let body = result(response, label, user, core)?;
    if let Some(why) = body["initFailures"][core].as_str() {
        return Ok(CoreState::Broken(short_text(why)));
    }
    match &body["status"][core] {
        // The booleans come as texts.
        state if state["isLoading"] == "true" || state["isLoading"] == true => Ok(CoreState::Loading),
        Value::Object(state) if state.is_empty() => Ok(CoreState::Absent),
        Value::Object(_) => Ok(CoreState::Present),
        _ => Err(no_result(label)),
    }
}

/// An answer to a ping.
pub(super) fn ping(response: Response, label: &str, user: &str, core: &str) -> Result<(), Fault> {
    let body = result(response, label, user, core)?;
    match body["status"].as_str() {
        Some("OK") => Ok(()),
        _ => Err(Fault::down(format!("core {core} of {label} does not answer a ping with OK"))),
    }
}

/// An answer to `CREATE`; `false`: it was there already.
pub(super) fn created(response: Response, label: &str, user: &str, core: &str) -> Result<bool, Fault> {
    let status = response.status.as_u16();
    if let Ok(body) = &response.body
        && let Ok(body) = serde_json::from_slice::<Value>(body)
        && let Some(text) = body["error"]["msg"].as_str()
    {
        if text.contains("already exists") {
            return Ok(false);
        }
        let why = short_text(text);
        return Err(Fault::down(format!("{label} could not create core {core} ({status}): {why}")));
    }
    result(response, label, user, core).map(|_| true)
}

/// The body of an answer that is a result. The content type is not looked at: JSON comes as `text/plain`.
fn result(response: Response, label: &str, user: &str, core: &str) -> Result<Value, Fault> {
    let status = response.status.as_u16();
    let wanted_us = response.wanted_us;
    match status {
        200 => {}
        401 => {
            return Err(Fault::down(format!("{label} refused user {user:?}: is the password right? (401)")));
        }
        403 => return Err(Fault::down(format!("{label} does not allow user {user:?} to do this (403)"))),
        404 => return Err(Fault::down(format!("{label} has no core {core} (404)"))),
        // One document may bring a server to answer 500; others must not wait for it.
        500 => return Err(Fault::own(format!("{label} has an error of its own in core {core} (500)"))),
        _ => {
            let reason = response.status.canonical_reason().unwrap_or_default();
            let to = response.location.map(|_| " and points elsewhere").unwrap_or_default();
            return Err(Fault::Again {
                reason: format!("{label} answered {status} {reason}{to}"),
                target_down: true,
                wanted_us,
            });
        }
    }
    let body: Value = serde_json::from_slice(&response.body?).map_err(|_| no_result(label))?;
    match body["responseHeader"]["status"].as_i64() {
        Some(0) => Ok(body),
        _ => Err(no_result(label)),
    }
}

/// 200, and yet nothing was done: as for a wrong kind of authorization.
fn no_result(label: &str) -> Fault {
    Fault::down(format!("{label} answered 200 without a result of Solr: is it Solr that listens there?"))
}

/// What Solr says of a core, on one line.
pub(super) fn short_text(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(TEXT_CHARS_MAX).collect()
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(yes) => Some(yes.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ureq::http::StatusCode;

    fn answer(status: u16, body: &str) -> Response {
        Response {
            status: StatusCode::from_u16(status).unwrap(),
            wanted_us: None,
            location: None,
            body: Ok(body.as_bytes().to_vec()),
        }
    }

    fn document() -> Document {
        Document { json: r#"{"id":"1","name_s":"O'Hara","n_i":"abc"}"#.into() }
    }

    fn of_update(status: u16, body: &str) -> Update {
        update(answer(status, body), "solr \"s:1\"", "istmia", "hl7")
    }

    #[test]
    fn only_a_result_with_status_0_counts_as_indexed() {
        assert_eq!(of_update(200, r#"{"responseHeader":{"status":0,"QTime":302}}"#), Update::Indexed);
        for body in ["", "{}", "<html>OK</html>", r#"{"responseHeader":{"status":500}}"#, "[]", "null"] {
            let Update::Fault(Fault::Again { reason, target_down: true, .. }) = of_update(200, body) else {
                panic!("{body}");
            };
            assert!(reason.contains("answered 200 without a result"), "{reason}");
        }
    }

    #[test]
    fn a_refused_user_and_a_missing_core_wait_for_an_operator() {
        let html = "<html><body>Error 401 require authentication</body></html>";
        for (status, down) in
            [(401, true), (403, true), (404, true), (503, true), (302, true), (409, true), (500, false)]
        {
            let Update::Fault(Fault::Again { target_down, .. }) = of_update(status, html) else {
                panic!("{status}");
            };
            assert_eq!(target_down, down, "{status}");
        }
    }

    #[test]
    fn a_refusal_names_the_field_and_never_its_value() {
        for (text, field) in [
            ("Error adding field 'n_i'='abc' msg=For input string: \\\"abc\\\"", "because of field n_i "),
            ("ERROR: [doc=1] unknown field 'name_s'", "because of field name_s "),
            (
                "ERROR: [doc=1] multiple values encountered for non multiValued field name_s",
                "because of field name_s ",
            ),
            (
                "Document contains at least one immense term in field=\\\"name_s\\\" abc",
                "because of field name_s ",
            ),
            ("Invalid Date String:'abc'", "document (400)"),
        ] {
            let body =
                format!(r#"{{"responseHeader":{{"status":400}},"error":{{"msg":"{text}","code":400}}}}"#);
            let Update::Refused(refusal) = of_update(400, &body) else { panic!("{text}") };
            let Fault::Failed(reason) = refusal.fault(&document()) else { panic!("{text}") };
            assert!(reason.contains(field) && !reason.contains("abc"), "{reason}");
        }
        let Update::Refused(refusal) = of_update(400, "<html>") else { panic!() };
        assert!(matches!(refusal.fault(&document()), Fault::Failed(_)));
    }

    fn state(body: &str) -> Result<CoreState, Fault> {
        core_state(answer(200, body), "solr", "u", "hl7")
    }

    #[test]
    fn a_core_is_there_absent_loading_or_broken_and_all_of_them_come_with_200() {
        let with = |status: &str| {
            format!(r#"{{"responseHeader":{{"status":0}},"initFailures":{{}},"status":{status}}}"#)
        };
        assert_eq!(state(&with(r#"{"hl7":{"name":"hl7","uptime":1270}}"#)), Ok(CoreState::Present));
        assert_eq!(state(&with(r#"{"hl7":{}}"#)), Ok(CoreState::Absent));
        let loading = r#"{"hl7":{"name":"hl7","isLoaded":"false","isLoading":"true"}}"#;
        assert_eq!(state(&with(loading)), Ok(CoreState::Loading));
        let broken = r#"{"responseHeader":{"status":0},"initFailures":{"hl7":"org.apache:no conf"},"status":{"hl7":{}}}"#;
        assert_eq!(state(broken), Ok(CoreState::Broken("org.apache:no conf".into())));
        assert!(state(&with("{}")).is_err());
        assert!(state("").is_err());
    }

    #[test]
    fn a_core_that_another_worker_created_meanwhile_is_there() {
        let exists = r#"{"responseHeader":{"status":500},"error":{"msg":"Core with name 'hl7' already exists.","code":500}}"#;
        assert_eq!(created(answer(500, exists), "solr", "u", "hl7"), Ok(false));
        let other = r#"{"error":{"msg":"Can't find configset _default","code":400}}"#;
        let fault = created(answer(400, other), "solr", "u", "hl7").unwrap_err();
        assert!(
            matches!(fault, Fault::Again { reason, .. } if reason.ends_with("Can't find configset _default"))
        );
    }

    #[test]
    fn found_values_are_read_whatever_their_type_and_an_error_is_never_an_empty_page() {
        let body = r#"{"responseHeader":{"status":0},"response":{"numFound":9,"start":0,
                       "docs":[{"f":"a"},{"f":["b","c"]},{"f":7},{"f":true},{}]}}"#;
        let found = page(answer(200, body), "solr", "u", "pacs", "f").unwrap();
        assert_eq!((found.total, found.rows), (9, 5));
        assert_eq!(found.values, ["a", "b", "c", "7", "true"]);
        for (status, body) in
            [(200, ""), (200, r#"{"responseHeader":{"status":0}}"#), (404, "<html>"), (401, "<html>")]
        {
            let fault = page(answer(status, body), "solr", "u", "pacs", "f").unwrap_err();
            assert!(matches!(fault, Fault::Again { .. }), "{status}");
        }
        let undefined =
            r#"{"responseHeader":{"status":400},"error":{"msg":"undefined field nofield","code":400}}"#;
        assert!(matches!(page(answer(400, undefined), "solr", "u", "pacs", "f"), Err(Fault::Failed(_))));
    }
}
