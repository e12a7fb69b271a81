//! dfapi: the service that makes credentials of a patient and merges two.
//!
//! Every call carries an `Idempotency-Key`, so a call whose answer was lost is made again without harm. Of an answer only
//! the status counts: a body may repeat what was sent, and goes into no reason.
//!
//! [`Fault::Again`]: no answer, 408, 425, 429, 5xx, a redirection. [`Fault::Failed`]: every other refusal.

use crate::fault::Fault;
use crate::http::{Authorization, Endpoint, Http, Response, escape_path};
use config::Dfapi;
use link::SecretValue;

/// A client of dfapi. Keeps its connection.
#[derive(Debug)]
pub struct DfapiClient {
    http: Http,
    path: String,
}

impl DfapiClient {
    /// A client; it connects when it is used.
    pub fn new(settings: &Dfapi, token: Option<&SecretValue>) -> DfapiClient {
        let endpoint = Endpoint {
            what: "dfapi",
            name: settings.name.clone(),
            port: settings.port,
            https: settings.https,
            certificate: settings.certificate,
            ca_file: settings.ca_file.clone(),
            timeout: settings.timeout,
        };
        let authorization = token.map_or(Authorization::None, |token| Authorization::Bearer(token.clone()));
        DfapiClient { http: Http::new(endpoint, &authorization), path: escape_path(&settings.path) }
    }

    /// Hands over a credential task.
    ///
    /// # Errors
    /// It was not taken.
    pub fn credentials(&mut self, key: &str, task: &[u8]) -> Result<(), Fault> {
        self.post("credentials", key, task)
    }

    /// Hands over one merge.
    ///
    /// # Errors
    /// It was not taken.
    pub fn merge(&mut self, key: &str, task: &[u8]) -> Result<(), Fault> {
        self.post("patients/merge", key, task)
    }

    fn post(&mut self, call: &str, key: &str, task: &[u8]) -> Result<(), Fault> {
        let path = format!("{}/{call}", self.path);
        let response = self.http.post(&path, "application/json", &[("idempotency-key", key)], task)?;
        taken(&response, self.http.label())
    }

    /// For `check --probe`: whether something answers at the path of the credentials. Makes none.
    ///
    /// # Errors
    /// Why a task would not get through.
    pub fn probe(&mut self) -> Result<String, String> {
        let label = self.http.label().to_owned();
        let path = format!("{}/credentials", self.path);
        let response = self.http.head(&path).map_err(|fault| match fault {
            Fault::Again { reason, .. } | Fault::Failed(reason) => reason,
        })?;
        let said = format!("{label}: HEAD {path} is answered with {}", said(&response));
        match response.status.as_u16() {
            401 | 403 => Err(format!("{said}: is the token right?")),
            404 => Err(format!("{said}: is the path right?")),
            _ => Ok(said),
        }
    }
}

/// Whether an answer says that the task was taken: now, or (409) at an earlier attempt.
fn taken(response: &Response, label: &str) -> Result<(), Fault> {
    let reason = |what: &str| format!("{label} {what} ({})", said(response));
    let again = |target_down| {
        let reason = reason("could not take the task");
        Err(Fault::Again { reason, target_down, wanted_us: response.wanted_us })
    };
    match response.status.as_u16() {
        200..=299 | 409 => Ok(()),
        // About this one call; others need not wait for it.
        408 | 425 | 500 => again(false),
        429 | 501..=599 => again(true),
        400..=499 => Err(Fault::Failed(reason("refused the task"))),
        _ => Err(Fault::down(reason("took no task and points elsewhere"))),
    }
}

fn said(response: &Response) -> String {
    let status = response.status;
    let reason = status.canonical_reason().map(|reason| format!(" {reason}"));
    format!("{}{}", status.as_u16(), reason.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ureq::http::StatusCode;

    fn of(status: u16) -> Result<(), Fault> {
        let response = Response {
            status: StatusCode::from_u16(status).unwrap(),
            wanted_us: Some(7),
            location: None,
            body: Ok(b"patient 4711 is unknown".to_vec()),
        };
        taken(&response, "dfapi \"d:443\"")
    }

    #[test]
    fn a_task_is_taken_tried_again_or_refused_by_the_status_alone() {
        for status in [200, 201, 202, 204, 409] {
            assert_eq!(of(status), Ok(()), "{status}");
        }
        for (status, down) in
            [(408, false), (425, false), (500, false), (429, true), (502, true), (503, true), (504, true)]
        {
            let Err(Fault::Again { target_down, wanted_us, reason }) = of(status) else { panic!("{status}") };
            assert_eq!((target_down, wanted_us), (down, Some(7)), "{status}");
            assert!(reason.contains(&status.to_string()), "{reason}");
        }
        for status in [400, 401, 403, 404, 405, 413, 422] {
            let Err(Fault::Failed(reason)) = of(status) else { panic!("{status}") };
            assert!(!reason.contains("4711"), "{reason}");
        }
        assert_eq!(
            of(422),
            Err(Fault::Failed("dfapi \"d:443\" refused the task (422 Unprocessable Entity)".into()))
        );
        assert!(matches!(of(302), Err(Fault::Again { target_down: true, .. })));
    }
}
