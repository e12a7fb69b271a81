//! What a delivery thread talks to peers with: each client is made when the first step needs it, and kept.

use crate::dfapi::DfapiClient;
use crate::extract::Metadata;
use crate::fault::Fault;
use crate::plan::Step;
use crate::resend::ResendClient;
use crate::sftp::SftpClient;
use crate::solr::{self, Document, SolrClient};
use crate::step::solr as solr_step;
use crate::step::{
    Attachments, Context, Progress, credentials, credentials_merge, db_merge, insert, lookup, remote_drop,
    resend,
};
use config::{RemoteFolder, Resend, WorkerSettings};
use db::{Client, Database, Row};
use link::SecretValue;
use std::collections::BTreeMap;

/// The clients of one delivery thread.
pub struct Peers<'a> {
    settings: &'a WorkerSettings,
    secrets: &'a BTreeMap<String, SecretValue>,
    database: Option<Client>,
    solr: Option<SolrClient>,
    dfapi: Option<DfapiClient>,
    resend: Option<ResendClient>,
    /// By the place of their step.
    folders: BTreeMap<usize, SftpClient>,
}

/// What the steps of one job gathered for a peer, to go out together.
#[derive(Debug, Default)]
pub struct Gathered {
    documents: Vec<Document>,
    rows: Vec<Row>,
    order: Vec<Kind>,
}

/// What was gathered, in order.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Document,
    Row,
}

/// What became of it.
#[derive(Debug)]
pub struct Sent {
    results: Vec<Progress>,
}

impl Gathered {
    /// Whether there is nothing to send.
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    fn document(&mut self, document: Document) -> Progress {
        self.documents.push(document);
        self.number(Kind::Document)
    }

    fn row(&mut self, row: Row) -> Progress {
        self.rows.push(row);
        self.number(Kind::Row)
    }

    fn number(&mut self, kind: Kind) -> Progress {
        self.order.push(kind);
        Progress::Gathered(self.order.len() - 1)
    }
}

impl Sent {
    /// How it ended for what was gathered as number `at`.
    pub fn of(&self, at: usize) -> Progress {
        self.results[at].clone()
    }
}

impl<'a> Peers<'a> {
    /// None is connected yet.
    pub fn new(
        settings: &'a WorkerSettings,
        secrets: &'a BTreeMap<String, SecretValue>,
        database: Option<&Database>,
    ) -> Peers<'a> {
        let database = database.map(Client::new);
        Peers { settings, secrets, database, solr: None, dfapi: None, resend: None, folders: BTreeMap::new() }
    }

    /// Looks at the peer of a step before the first message needs it, and says what is wrong. One that is down is met
    /// again with the first message.
    pub fn look_at(&mut self, step: &Step) {
        let reason = match step {
            Step::Solr => match self.solr().and_then(SolrClient::check_cores) {
                Err(Fault::Again { reason, .. } | Fault::Failed(reason)) => reason,
                Ok(()) => return,
            },
            // What the tables lack is said by the client.
            Step::Insert { .. } | Step::DbMerge => match self.database().prepare() {
                Err(fault) => fault.reason().to_owned(),
                Ok(_) => return,
            },
            _ => return,
        };
        log::warn!("{reason}; trying again with the first message");
    }

    /// The metadata with what the channel looks up in its database.
    ///
    /// # Errors
    /// How the step that wanted it ends.
    pub fn looked_up(&mut self, context: &Context<'_>) -> Result<Metadata, Progress> {
        lookup::complete(context, self.database())
    }

    /// Carries out one step of one message, or gathers it.
    pub fn step(
        &mut self,
        step: &Step,
        place: usize,
        context: &Context<'_>,
        attachments: &mut Attachments,
        gathered: &mut Gathered,
    ) -> Progress {
        match step {
            Step::Insert { batches: false } => insert::run(context, place, self.database()),
            Step::Insert { batches: true } => match insert::row(context, place, self.database().table()) {
                Ok(row) => gathered.row(row),
                Err(reason) => Progress::Failed(reason),
            },
            Step::DbMerge => db_merge::run(context, self.database()),
            Step::Solr => match solr_step::document(context) {
                Ok(document) => gathered.document(document),
                Err(reason) => Progress::Failed(reason),
            },
            Step::Credentials => credentials::run(context, self.dfapi()),
            Step::CredentialsMerge => credentials_merge::run(context, self.dfapi()),
            Step::RemoteFolder { folder, .. } => {
                remote_drop::run(context, attachments, self.folder(place, folder))
            }
            Step::Resend(to) => {
                let wanted = match &to.filter {
                    Some(filter) => self.solr().and_then(|solr| solr_step::forwards(context, filter, solr)),
                    None => Ok(true),
                };
                resend::run(context, wanted, self.resend(to))
            }
            step => Progress::Failed(format!("this version cannot {step}")),
        }
    }

    /// Sends what was gathered.
    pub fn send(&mut self, gathered: Gathered) -> Sent {
        // A job is of one kind, but for the pool that is shared by what found no pool of its own.
        let mut documents = match gathered.documents.is_empty() {
            true => Vec::new(),
            false => match self.solr() {
                Ok(solr) => solr.index(&gathered.documents).into_iter().map(solr_step::progress).collect(),
                Err(fault) => gathered.documents.iter().map(|_| fault.clone().into()).collect(),
            },
        }
        .into_iter();
        let mut rows = match gathered.rows.is_empty() {
            true => Vec::new(),
            false => self.database().insert_many(&gathered.rows),
        }
        .into_iter()
        .map(insert::progress);
        let result = |kind: &Kind| match kind {
            Kind::Document => documents.next(),
            Kind::Row => rows.next(),
        };
        Sent { results: gathered.order.iter().filter_map(result).collect() }
    }

    fn database(&mut self) -> &mut Client {
        self.database.as_mut().expect("the plan has steps of a database only where there is one")
    }

    /// A filter may stand in the file without an active server: a warning there, and a wait here.
    fn solr(&mut self) -> Result<&mut SolrClient, Fault> {
        let Some(server) = &self.settings.solr else {
            return Err(Fault::down("no solr server is active".to_owned()));
        };
        let password = || solr::password(server, self.secrets);
        Ok(self.solr.get_or_insert_with(|| SolrClient::new(server, &password())))
    }

    fn dfapi(&mut self) -> &mut DfapiClient {
        let settings =
            self.settings.dfapi.as_ref().expect("the plan has its steps only where it is configured");
        let token = settings.token.as_ref().and_then(|name| self.secrets.get(name.as_str()));
        self.dfapi.get_or_insert_with(|| DfapiClient::new(settings, token))
    }

    fn folder(&mut self, place: usize, folder: &RemoteFolder) -> &mut SftpClient {
        self.folders.entry(place).or_insert_with(|| SftpClient::new(folder, self.secrets))
    }

    fn resend(&mut self, to: &Resend) -> &mut ResendClient {
        self.resend.get_or_insert_with(|| ResendClient::new(to))
    }
}
