//! Solr's answers: a reason is one line and has no value of the document.

#[allow(dead_code, reason = "part of the module is fuzzed")]
#[path = "../../../worker/src/solr/answer.rs"]
mod answer;

use crate::fault::Fault;
use crate::http::Response;
use answer::{CoreState, Update};
use http::StatusCode;

/// As `worker::solr::Document`: of its names, one is in the index and one is not.
pub struct Document;

impl Document {
    fn has_field(&self, name: &str) -> bool {
        name == "name_s"
    }
}

/// A value that an answer may quote, and no reason may.
const VALUE: &str = "4711";

pub(crate) fn fuzz(bytes: &[u8]) {
    let [status, body @ ..] = bytes else { return };
    let status = StatusCode::from_u16([200, 400, 401, 403, 404, 500, 503, 413][usize::from(*status) % 8]);
    let status = status.expect("each is one");
    let response = || Response { status, wanted_us: None, location: None, body: Ok(body.to_vec()) };
    match answer::update(response(), "solr \"s:1\"", "user", "hl7") {
        Update::Indexed => {}
        Update::Refused(refusal) => check(refusal.fault(&Document)),
        Update::Fault(fault) => check(fault),
    }
    if let Err(fault) = answer::page(response(), "solr \"s:1\"", "user", "hl7", "name_s") {
        check(fault);
    }
    if let Ok(CoreState::Broken(why)) = answer::core_state(response(), "solr \"s:1\"", "user", "hl7") {
        assert!(!why.chars().any(char::is_control), "{why:?}");
    }
    if let Err(fault) = answer::ping(response(), "solr \"s:1\"", "user", "hl7") {
        check(fault);
    }
    if let Err(Fault::Again { reason, .. } | Fault::Failed(reason)) =
        answer::created(response(), "solr \"s:1\"", "user", "hl7")
    {
        assert!(!reason.chars().any(char::is_control), "{reason:?}");
    }
}

fn check(fault: Fault) {
    let (Fault::Again { reason, .. } | Fault::Failed(reason)) = fault;
    assert!(!reason.contains(VALUE) && !reason.chars().any(char::is_control), "{reason:?}");
}
