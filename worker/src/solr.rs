//! Solr: messages are indexed as documents, cores are checked and created, and the resend filter looks things up.
//!
//! Built for how a real Solr answers: success is only a parsed result whose status is 0 (a wrong kind of authorization
//! gets 200 and nothing); refusals of a user are HTML; a batch that is refused is partly kept. What a peer says of a
//! document never goes into a reason, as it quotes values; the names of fields are ours and do.
//!
//! [`Fault::Again`]: no answer, a user refused (a password may be changed right now), a core that is missing or not
//! ready, an overloaded or broken server. [`Fault::Failed`]: a document or look-up that Solr refuses by itself.

mod answer;
mod document;
#[cfg(test)]
mod tests;

pub use document::{Document, Facts, document};

use crate::fault::Fault;
use crate::http::{Authorization, Endpoint, Http, form};
use answer::{CoreState, Page, Update, core_state, page, short_text, update};
use config::{Password, ResendFilter, SolrServer};
use link::SecretValue;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The core that messages are indexed in.
pub const CORE: &str = "hl7";
/// Documents of one request: more hardly index faster (measured), and a refused batch is sent singly.
const BATCH_MAX: usize = 100;
/// Bytes of one request, unless one document alone has more.
const BATCH_BYTES_MAX: usize = 4 << 20;
/// How long Solr may keep documents before a search finds them. A commit for each is eighty times slower.
const COMMIT_WITHIN_MS: u32 = 5000;
/// Documents of one page of a look-up.
const ROWS: usize = 100;
/// Documents that one look-up goes through before it gives up.
const FOUND_MAX: usize = 10_000;
/// Documents in a row that a server may have an error of its own with before it is taken for the server's.
const FAULTS_MAX: usize = 3;
/// How often a loading core is looked at.
const LOADING_POLL: Duration = Duration::from_millis(200);
/// How often cores are looked at again that indexing does not need.
const OTHERS_EVERY: Duration = Duration::from_secs(60);

/// A client of the Solr server. Keeps its connection.
#[derive(Debug)]
pub struct SolrClient {
    http: Http,
    user: String,
    /// `active_cores`.
    cores: Vec<String>,
    /// Those of them that have not been seen ready.
    unchecked: Vec<String>,
    /// When those that indexing does not need are looked at again.
    others_due: Instant,
}

/// The password of a server: as it stands in the file, or from the secrets the worker was given.
pub fn password(server: &SolrServer, secrets: &BTreeMap<String, SecretValue>) -> SecretValue {
    match &server.password {
        Password::Plain(secret) => SecretValue::new(secret.reveal().to_owned()),
        // The master starts no worker without the secrets its settings name.
        Password::Named(name) => {
            secrets.get(name.as_str()).cloned().unwrap_or(SecretValue::new(String::new()))
        }
    }
}

impl SolrClient {
    /// A client; it connects when it is used.
    pub fn new(server: &SolrServer, password: &SecretValue) -> SolrClient {
        let endpoint = Endpoint {
            what: "solr",
            name: server.name.clone(),
            port: server.port,
            https: server.https,
            certificate: server.certificate,
            ca_file: server.ca_file.clone(),
            timeout: server.timeout,
        };
        SolrClient {
            http: Http::new(endpoint, &Authorization::Basic(server.user.clone(), password.clone())),
            user: server.user.clone(),
            cores: server.active_cores.clone(),
            unchecked: server.active_cores.clone(),
            others_due: Instant::now(),
        }
    }

    /// Indexes documents; the results are in their order. Before the first, the cores of `active_cores` are checked.
    pub fn index(&mut self, documents: &[Document]) -> Vec<Result<(), Fault>> {
        if let Err(fault) = self.check_cores() {
            return vec![Err(fault); documents.len()];
        }
        let mut results = Vec::with_capacity(documents.len());
        while results.len() < documents.len() {
            let rest = &documents[results.len()..];
            let mut bytes = 0;
            let fits = |document: &&Document| {
                bytes += document.json.len();
                bytes <= BATCH_BYTES_MAX
            };
            let batch = &rest[..rest.iter().take(BATCH_MAX).take_while(fits).count().max(1)];
            match (self.send(batch), batch) {
                (Update::Indexed, _) => results.extend(batch.iter().map(|_| Ok(()))),
                (Update::Refused(refusal), [document]) => results.push(Err(refusal.fault(document))),
                // One of them is the cause. Those before it are kept, so each goes again, under its own id.
                (Update::Refused(_), _)
                | (Update::Fault(Fault::Again { target_down: false, .. }), [_, _, ..]) => {
                    results.extend(self.singly(batch));
                }
                // Whatever ails the server ails it for the rest as well.
                (Update::Fault(fault), _) => results.resize(documents.len(), Err(fault)),
            }
        }
        results
    }

    /// Each document by itself, until it shows that the fault is not in one of them.
    fn singly(&mut self, batch: &[Document]) -> Vec<Result<(), Fault>> {
        let mut results = Vec::with_capacity(batch.len());
        let mut faults = 0;
        for document in batch {
            match self.send(std::slice::from_ref(document)) {
                Update::Indexed => {
                    faults = 0;
                    results.push(Ok(()));
                }
                Update::Refused(refusal) => results.push(Err(refusal.fault(document))),
                Update::Fault(fault) => {
                    faults += 1;
                    let down = matches!(fault, Fault::Again { target_down: true, .. });
                    if down || faults == FAULTS_MAX {
                        results.resize(batch.len(), Err(fault));
                        return results;
                    }
                    results.push(Err(fault));
                }
            }
        }
        results
    }

    fn send(&mut self, documents: &[Document]) -> Update {
        let mut body = String::with_capacity(documents.iter().map(|d| d.json.len() + 1).sum::<usize>() + 2);
        for document in documents {
            body.push(if body.is_empty() { '[' } else { ',' });
            body.push_str(&document.json);
        }
        body.push(']');
        let path = format!("/solr/{CORE}/update?commitWithin={COMMIT_WITHIN_MS}&wt=json");
        let answer = self.http.post(&path, "application/json", &[], body.as_bytes());
        match answer {
            Ok(response) => {
                if response.status.as_u16() == 404 && !self.unchecked.iter().any(|c| c == CORE) {
                    // Gone, as from a Solr that was set up afresh: checked again before the next.
                    self.unchecked.extend(self.cores.iter().filter(|c| *c == CORE).cloned());
                }
                update(response, self.http.label(), &self.user, CORE)
            }
            Err(fault) => Update::Fault(fault),
        }
    }

    /// Checks the cores of `active_cores` that were not yet ready. A fault of one that indexing does not need is logged.
    pub fn check_cores(&mut self) -> Result<(), Fault> {
        let others_due = Instant::now() >= self.others_due;
        let due = |core: &String| core == CORE || others_due;
        let cores: Vec<String> = self.unchecked.iter().filter(|c| due(c)).cloned().collect();
        if others_due {
            self.others_due = Instant::now() + OTHERS_EVERY;
        }
        for core in cores {
            match self.check_core(&core) {
                Ok(()) => self.unchecked.retain(|c| *c != core),
                Err(fault) if core == CORE => return Err(fault),
                Err(Fault::Again { reason, .. } | Fault::Failed(reason)) => log::warn!("{reason}"),
            }
        }
        Ok(())
    }

    /// Sees to it that a core is there and ready: created where absent, waited for while it loads, at most for the
    /// server's timeout.
    ///
    /// # Errors
    /// It is not ready.
    pub fn check_core(&mut self, core: &str) -> Result<(), Fault> {
        let deadline = Instant::now() + self.http.timeout();
        let mut created = false;
        loop {
            let label = self.http.label().to_owned();
            match self.core_state(core)? {
                // Without the right to look, the first document shows how things are.
                CoreState::Forbidden => {
                    log::warn!("{label} does not let user {:?} look at its cores", self.user);
                    return Ok(());
                }
                CoreState::Present => return self.ping(core),
                CoreState::Broken(why) => {
                    return Err(Fault::down(format!("core {core} of {label} is broken: {why}")));
                }
                CoreState::Absent if created => {
                    return Err(Fault::down(format!("{label} created core {core} and does not have it")));
                }
                CoreState::Absent => {
                    self.create(core)?;
                    created = true;
                }
                CoreState::Loading if Instant::now() >= deadline => {
                    return Err(Fault::down(format!("core {core} of {label} is still loading")));
                }
                CoreState::Loading => std::thread::sleep(LOADING_POLL),
            }
        }
    }

    fn core_state(&mut self, core: &str) -> Result<CoreState, Fault> {
        let response = self.http.get(&format!("/solr/admin/cores?action=STATUS&core={core}&wt=json"))?;
        core_state(response, self.http.label(), &self.user, core)
    }

    fn ping(&mut self, core: &str) -> Result<(), Fault> {
        let response = self.http.get(&format!("/solr/{core}/admin/ping?wt=json"))?;
        answer::ping(response, self.http.label(), &self.user, core)
    }

    /// Creates a core. Another worker may do so at the same time, which Solr answers with 500: what counts is whether
    /// it is there afterwards.
    fn create(&mut self, core: &str) -> Result<(), Fault> {
        let path = format!(
            "/solr/admin/cores?action=CREATE&name={core}&instanceDir={core}&configSet=_default&wt=json"
        );
        let response = self.http.get(&path)?;
        match answer::created(response, self.http.label(), &self.user, core) {
            Ok(true) => log::info!("created core {core} of {}", self.http.label()),
            Ok(false) => {}
            Err(fault) => return Err(fault),
        }
        Ok(())
    }

    /// Whether a message is forwarded: some document that holds `value` in `match_field` holds one of `match_values` in
    /// `search_field`. A message without a value is not.
    ///
    /// # Errors
    /// It could not be looked up; never taken for a no.
    pub fn filter_says(&mut self, filter: &ResendFilter, value: Option<&str>) -> Result<bool, Fault> {
        let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(false) };
        let mut start = 0;
        loop {
            let Page { total, rows, values } = self.find(filter, value, start)?;
            if values.iter().any(|found| filter.match_values.contains(found)) {
                return Ok(true);
            }
            start += rows;
            if start >= total || rows == 0 {
                return Ok(false);
            }
            if start >= FOUND_MAX {
                return Err(Fault::Failed(format!(
                    "the look-up in core {} of {} finds {total} documents, more than {FOUND_MAX}",
                    filter.source_core,
                    self.http.label()
                )));
            }
        }
    }

    /// One page of the documents whose `match_field` is `value`: what their `search_field` holds.
    fn find(&mut self, filter: &ResendFilter, value: &str, start: usize) -> Result<Page, Fault> {
        let ResendFilter { source_core, match_field, search_field, .. } = filter;
        let query = format!("{{!term f={match_field} v=$v}}");
        let (rows, start) = (ROWS.to_string(), start.to_string());
        // The parser is named and `${…}` switched off: both could be set otherwise over there, and the value is a
        // stranger's. A form, as a URL over 9 kB is refused.
        let body = form(&[
            ("q", &query),
            ("v", value),
            ("defType", "lucene"),
            ("expandMacros", "false"),
            ("fl", search_field),
            ("start", &start),
            ("rows", &rows),
            ("wt", "json"),
        ]);
        let path = format!("/solr/{source_core}/select");
        let response = self.http.post(&path, "application/x-www-form-urlencoded", &[], body.as_bytes())?;
        page(response, self.http.label(), &self.user, source_core, search_field)
    }

    /// For `check --probe`: whether each of these cores answers. Creates nothing.
    pub fn probe(&mut self, cores: &[&str]) -> Vec<Result<String, String>> {
        let mut said = Vec::new();
        for core in cores {
            let label = self.http.label().to_owned();
            let state = self.core_state(core).and_then(|state| match state {
                CoreState::Present => self.ping(core).map(|()| format!("{label}: core {core} answers")),
                CoreState::Forbidden => self
                    .ping(core)
                    .map(|()| format!("{label}: core {core} answers; its state may not be asked for")),
                CoreState::Absent if self.unchecked.iter().any(|c| c == core) => {
                    Ok(format!("{label}: core {core} is absent and will be created"))
                }
                CoreState::Absent => Err(Fault::down(format!("{label} has no core {core}"))),
                CoreState::Loading => Err(Fault::down(format!("core {core} of {label} is still loading"))),
                CoreState::Broken(why) => {
                    Err(Fault::down(format!("core {core} of {label} is broken: {}", short_text(&why))))
                }
            });
            said.push(state.map_err(|fault| match fault {
                Fault::Again { reason, .. } | Fault::Failed(reason) => reason,
            }));
        }
        said
    }
}
