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
        401 | 403 => Err(Fault::Failed(reason("refused the task") + ": is the token right?")),
        404 => Err(Fault::Failed(reason("refused the task") + ": is the path right?")),
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
    use crate::testing::dfapi::{Dfapi as Double, TOKEN};
    use crate::testing::http_server::{Certificate, Reply};
    use std::time::Duration;
    use ureq::http::StatusCode;

    fn settings(double: &Double) -> Dfapi {
        Dfapi {
            name: "127.0.0.1".to_owned(),
            port: double.port(),
            https: false,
            path: "/api/v1".to_owned(),
            token: None,
            certificate: true,
            ca_file: None,
            timeout: Duration::from_secs(2),
        }
    }

    fn client(double: &Double) -> DfapiClient {
        DfapiClient::new(&settings(double), Some(&SecretValue::new(TOKEN.to_owned())))
    }

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
        let Err(Fault::Failed(reason)) = of(401) else { panic!() };
        assert!(reason.ends_with("(401 Unauthorized): is the token right?"), "{reason}");
        assert!(matches!(of(302), Err(Fault::Again { target_down: true, .. })));
    }

    #[test]
    fn tasks_go_below_the_path_with_their_key_and_the_token() {
        let double = Double::start(0, "/api/v1", None);
        let mut client = client(&double);
        assert_eq!(client.credentials("k1", br#"{"id":"k1"}"#), Ok(()));
        assert_eq!(client.merge("k2", br#"{"id":"k2"}"#), Ok(()));
        let tasks = double.tasks();
        let paths: Vec<(&str, &str)> = tasks.iter().map(|t| (t.path.as_str(), t.key.as_str())).collect();
        assert_eq!(paths, [("/credentials", "k1"), ("/patients/merge", "k2")]);
        let without = DfapiClient::new(&settings(&double), None).credentials("k3", b"{}");
        assert!(matches!(without, Err(Fault::Failed(_))));
    }

    #[test]
    fn a_call_whose_answer_is_lost_is_made_again_and_carried_out_once() {
        let double = Double::start(0, "/api/v1", None);
        let mut client = client(&double);
        double.state().does_it_all_the_same = true;
        for lost in [Reply::HangUp, Reply::Raw(b"HTTP/1.1 2".to_vec())] {
            double.state().next.push_back(lost);
            let key = double.tasks().len().to_string();
            let fault = client.credentials(&key, b"{}").unwrap_err();
            assert!(matches!(fault, Fault::Again { target_down: true, .. }), "{fault:?}");
            assert_eq!(client.credentials(&key, b"{}"), Ok(()));
        }
        assert_eq!((double.tasks().len(), double.state().repeated), (2, 2));
    }

    #[test]
    fn a_status_counts_although_its_body_never_ends() {
        let double = Double::start(0, "/api/v1", None);
        let body = b"HTTP/1.1 201 Created\r\nContent-Length: 1000\r\n\r\n{";
        double.state().next.push_back(Reply::Raw(body.to_vec()));
        assert_eq!(client(&double).credentials("k", b"{}"), Ok(()));
    }

    #[test]
    fn a_probe_makes_no_credentials_and_says_what_came() {
        let folder = tempfile::tempdir().unwrap();
        let certificate = Certificate::make(folder.path(), "a");
        let ca_file = Some(certificate.certificate.clone());
        let double = Double::start(0, "/api/v1", Some(certificate));
        let tls = Dfapi { https: true, ca_file, ..settings(&double) };
        let token = SecretValue::new(TOKEN.to_owned());
        let said = DfapiClient::new(&tls, Some(&token)).probe().unwrap();
        assert!(said.ends_with("HEAD /api/v1/credentials is answered with 405 Method Not Allowed"), "{said}");
        let said = DfapiClient::new(&tls, None).probe().unwrap_err();
        assert!(said.ends_with("401 Unauthorized: is the token right?"), "{said}");
        let elsewhere = Dfapi { path: "/other".to_owned(), ..tls };
        let said = DfapiClient::new(&elsewhere, Some(&token)).probe().unwrap_err();
        assert!(said.ends_with("404 Not Found: is the path right?"), "{said}");
        assert!(double.tasks().is_empty());
    }
}
