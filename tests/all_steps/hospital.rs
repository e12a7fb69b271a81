//! A hospital: one running server with the channels of every workflow, all steps on, and all the peers they need.

use crate::support::databases::{DATABASE, DatabaseServer, Engine, Mode, PASSWORD, USER};
use crate::support::dfapi::{Dfapi, TOKEN};
use crate::support::messages::{base64, pdf};
use crate::support::mllp::Peer;
use crate::support::peer::{Receives, answer};
use crate::support::solr::{self, Solr};
use crate::support::sshd::Sshd;
use crate::support::{Server, Site};
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard};

/// The channels that have every step of their workflow.
pub(crate) const CHANNELS: [&str; 4] = ["adt", "orm", "oru", "mdm"];
/// A channel of the same server that needs no peer.
pub(crate) const BESIDE: &str = "beside";
/// Patients of a channel.
const PATIENTS: usize = 4;

/// What the server talks to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PeerKind {
    Database,
    Sftp,
    Solr,
    Dfapi,
    Receiver,
}

pub(crate) const PEERS: [PeerKind; 5] =
    [PeerKind::Database, PeerKind::Sftp, PeerKind::Solr, PeerKind::Dfapi, PeerKind::Receiver];

/// A message as its sender knows it: it was told AA.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) channel: &'static str,
    pub(crate) control: String,
    /// From the acknowledgment.
    pub(crate) id: String,
    pub(crate) event: &'static str,
    /// Whom it is about: with a merge the survivor, then the retired one.
    pub(crate) patients: Vec<String>,
    /// The filter's answer.
    pub(crate) forwarded: bool,
    pub(crate) body: Vec<u8>,
    /// The document in it.
    pub(crate) pdf: Vec<u8>,
}

/// What a receiver answers to a message: bytes as they go over the wire.
pub(crate) type Manner = fn(&[u8]) -> Vec<u8>;

/// What senders need, and what they were told.
pub(crate) struct Desk {
    ports: BTreeMap<&'static str, u16>,
    ledger: Mutex<Vec<Sent>>,
}

/// The server, its peers and the desk of the senders.
pub(crate) struct Hospital {
    pub(crate) server: Server,
    pub(crate) database: DatabaseServer,
    pub(crate) sshd: Sshd,
    pub(crate) solr: Solr,
    pub(crate) dfapi: Dfapi,
    pub(crate) receiver: Option<Receives>,
    receiver_port: u16,
    receiver_says: Arc<Mutex<Manner>>,
    /// What earlier receivers took.
    received_before: Vec<Vec<u8>>,
    pub(crate) desk: Arc<Desk>,
    // Last, so that it is there while the others end.
    pub(crate) site: Site,
}

impl Hospital {
    /// Starts everything. `timeout` is that of every peer, in seconds. `None`, and a line that says so, without sshd.
    #[track_caller]
    pub(crate) fn start(engine: Engine, timeout: u32, max_tasks: u32) -> Option<Hospital> {
        let mut site = Site::new();
        let ports: BTreeMap<&'static str, u16> =
            CHANNELS.into_iter().chain([BESIDE]).map(|name| (name, site.port())).collect();
        let (ssh, solr_port, dfapi_port, receiver_port) =
            (site.port(), site.port(), site.port(), site.port());
        let sshd = Sshd::start(&site.path("sshd"), ssh)?;
        let database = DatabaseServer::start(engine, Mode::default());
        fill_worklist(&database);
        let solr = Solr::start(solr_port, None, &["hl7", "archive"]);
        for (uid, institution) in [("1.2.840.0", "CENTER_NAME"), ("1.2.840.1", "ELSEWHERE")] {
            let study = json!({"StudyInstanceUID": uid, "InstitutionName": [institution]});
            solr.state().documents.entry("archive".to_owned()).or_default().insert(uid.to_owned(), study);
        }
        let dfapi = Dfapi::start(dfapi_port, "/api", None);

        let mut channels = Vec::new();
        for name in CHANNELS {
            let mut channel = channel(&site, name, ports[name]);
            channel["db_insert"]["driver"] =
                json!(if engine == Engine::MariaDb { "MariaDB" } else { "PostgreSQL" });
            channel["db_insert"]["port"] = json!(database.port);
            channel["db_insert"]["timeout"] = json!(timeout);
            channel["drop_folders"] = json!({
                "near": {"path": site.text(&format!("near/{name}"))},
                "far": {
                    "remote": true, "server": "127.0.0.1", "port": ssh, "timeout": timeout,
                    "path": site.text(&format!("far/{name}")),
                    "user": sshd.user(), "key_file": sshd.key(), "known_hosts": sshd.known_hosts(),
                },
            });
            channel["resend"]["port"] = json!(receiver_port);
            channel["resend"]["timeout"] = json!(timeout);
            channels.push(channel);
        }
        channels.push(site.store_channel(BESIDE, ports[BESIDE]));
        site.configure(json!({
            "max_tasks": max_tasks, "store_solr": true, "create_credentials": true,
            "solr_servers": [{
                "name": "127.0.0.1", "port": solr_port, "protocol": "http", "user": solr::USER,
                "password": solr::PASSWORD, "active_cores": ["hl7", "archive"], "timeout": timeout,
            }],
            "dfapi": {
                "name": "127.0.0.1", "port": dfapi_port, "protocol": "http", "path": "/api",
                "token": "DFAPI_TOKEN", "timeout": timeout,
            },
            "channels": channels,
        }));
        let mut command = site.command(&["run"]);
        Hospital::give_secrets(&mut command);
        let server = site.launch(command);
        server.wait_ready();
        let mut hospital = Hospital {
            server,
            database,
            sshd,
            solr,
            dfapi,
            receiver: None,
            receiver_port,
            receiver_says: Arc::new(Mutex::new(|body| answer("AA", body))),
            received_before: Vec::new(),
            desk: Arc::new(Desk { ports, ledger: Mutex::default() }),
            site,
        };
        hospital.up(PeerKind::Receiver);
        Some(hospital)
    }

    /// The secrets that the configuration names.
    pub(crate) fn give_secrets(command: &mut Command) {
        command.env("DB_TOKEN", PASSWORD).env("DFAPI_TOKEN", TOKEN);
    }

    /// Ends a peer as a power cut does.
    pub(crate) fn down(&mut self, peer: PeerKind) {
        match peer {
            PeerKind::Database => self.database.kill(),
            PeerKind::Sftp => self.sshd.kill(),
            PeerKind::Solr => self.solr.down(),
            PeerKind::Dfapi => self.dfapi.down(),
            PeerKind::Receiver => {
                let receiver = self.receiver.take().expect("it is up");
                self.received_before.extend(receiver.end());
            }
        }
    }

    /// Starts it again on what it had.
    pub(crate) fn up(&mut self, peer: PeerKind) {
        match peer {
            PeerKind::Database => self.database.start_again(Mode::default()),
            PeerKind::Sftp => self.sshd.run(&["ed25519", "ecdsa"], None),
            PeerKind::Solr => self.solr.up(),
            PeerKind::Dfapi => self.dfapi.up(),
            PeerKind::Receiver => {
                let says = Arc::clone(&self.receiver_says);
                let answers = move |body: &[u8]| (*says.lock().unwrap())(body);
                self.receiver = Some(Receives::start(self.receiver_port, Box::new(answers)));
            }
        }
    }

    /// A peer keeps its connections and says nothing any more; or goes on. What a double was asked meanwhile it does not
    /// remember: its connections are cut.
    pub(crate) fn hang(&mut self, peer: PeerKind, hangs: bool) {
        match (peer, hangs) {
            (PeerKind::Database, true) => self.database.freeze(),
            (PeerKind::Database, false) => self.database.thaw(),
            (PeerKind::Sftp, true) => self.sshd.signal(Signal::SIGSTOP, true),
            (PeerKind::Sftp, false) => self.sshd.signal(Signal::SIGCONT, true),
            (PeerKind::Solr, _) => self.solr.state().silent = hangs,
            (PeerKind::Dfapi, _) => self.dfapi.state().silent = hangs,
            (PeerKind::Receiver, true) => self.receiver_says(|_| Vec::new()),
            (PeerKind::Receiver, false) => self.receiver_says(|body| answer("AA", body)),
        }
        if !hangs && [PeerKind::Solr, PeerKind::Dfapi, PeerKind::Receiver].contains(&peer) {
            self.down(peer);
            self.up(peer);
        }
    }

    /// What the receiver answers from now on, whatever comes.
    pub(crate) fn receiver_says(&self, manner: Manner) {
        *self.receiver_says.lock().unwrap() = manner;
    }

    /// Everything that was resent, in the order it came.
    pub(crate) fn received(&self) -> Vec<Vec<u8>> {
        let now = self.receiver.as_ref().map(Receives::bodies).unwrap_or_default();
        self.received_before.iter().cloned().chain(now).collect()
    }
}

impl Desk {
    /// A connection to a channel.
    #[track_caller]
    pub(crate) fn sender(&self, channel: &str) -> Peer {
        Peer::connect(self.ports[channel])
    }

    /// What was acknowledged so far, in that order for each channel.
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Vec<Sent>> {
        self.ledger.lock().unwrap()
    }

    /// Sends message number `n` of a channel over `sender` and puts what was answered into the ledger.
    #[track_caller]
    pub(crate) fn send(&self, sender: &mut Peer, channel: &'static str, n: usize) {
        let mut sent = message(channel, n);
        let answer = sender.exchange(&sent.body);
        answer.accepts(sent.control.as_bytes());
        sent.id = answer.message_id();
        self.ledger().push(sent);
    }

    /// Sends one message after the other over a connection of its own until told to stop.
    pub(crate) fn send_steadily(&self, channel: &'static str, stop: &AtomicBool) {
        let mut sender = self.sender(channel);
        for n in 0.. {
            if stop.load(SeqCst) {
                return;
            }
            self.send(&mut sender, channel, n);
            std::thread::sleep(std::time::Duration::from_millis(80));
        }
    }
}

/// Keys that the seed's examples set, for every step of the channel's workflow; addresses of peers are filled in later.
fn channel(site: &Site, name: &str, port: u16) -> Value {
    let mut channel = site.store_channel(name, port);
    channel.as_object_mut().unwrap().remove("message_types");
    channel["local_archive"]["attachment"] = json!(site.text(&format!("attachment/{name}")));
    channel["mapping"] = json!({
        "patient_id": "PID.1.3.1", "patient_name": ["PID.1.5.1", "PID.1.5.2"], "phone": "PID.1.13.1",
        "accession_number": "OBR.1.18.1", "control": "MSH.1.10", "report": "NTE.1.3", "slot": "OBR.1.36.1",
    });
    channel["mapping_ignore"] = json!(["slot"]);
    channel["custom_regex"] = json!({"phone": "[^0-9+]|(?<!^)\\+"});
    channel["patient_id_field"] = json!("PID.1.3.1");
    channel["solr_segments"] = json!(["MSH", "PID", "OBR", "ZDS"]);
    channel["db_mapping"] = json!({
        "new_patient_id": {"column": "WL_ACCNUMBER", "match": "accession_number", "return": "WL_PATIENTID"},
    });
    channel["db_insert"] = json!({
        "server": "127.0.0.1", "username": USER, "password": "DB_TOKEN", "database": DATABASE,
        "table": format!("{name}_rows"), "mapping_table": "worklist", "create_table": true,
        "message_key": "message_id", "replace_list": {"report": ["<br>", "\\r\\n"]},
    });
    channel["db_metadata"] = json!({
        "row": {"field_name": "id", "field_type": "Integer", "autoincrement": true},
        "patient_id": {"field_name": "patient", "field_type": "String(50)", "nullable": false},
        "control": {"field_name": "control", "field_type": "String(50)", "nullable": false},
        "new_patient_id": {"field_name": "found", "field_type": "String(50)", "nullable": false},
        "report": {"field_name": "report", "field_type": "Text"},
        "token": {"field_name": "token", "field_type": "Integer", "random": true},
        "inserted": {"field_name": "inserted", "field_type": "DateTime", "auto": true},
    });
    let after = ["orm", "mdm"].contains(&name);
    channel["resend"] = json!({"server": "127.0.0.1", "after_processing": after});
    if name != "oru" {
        channel["resend"]["filter"] = json!({
            "source_core": "archive", "match_source": "ZDS.1.1", "match_field": "StudyInstanceUID",
            "search_field": "InstitutionName", "match_values": ["CENTER_NAME", "MEDICALCENTER_NAME"],
        });
    }
    match name {
        "oru" | "mdm" => {
            channel["attachment_field"] = json!("OBX.1.5");
            channel["attachment_format"] = json!("pdf");
            channel["add_metadata_to_attachment"] = json!(true);
            channel["visible_metadata"] = json!(name == "oru");
            channel["archive_first"] = json!(name == "mdm");
        }
        _ => {
            // The task of an order does not wait for the database, that of an admission does.
            let id = if name == "adt" { "new_patient_id" } else { "patient_id" };
            channel["credentials_metadata"] =
                json!({"number": "patient_id", "id": id, "name": "patient_name"});
            channel["book_metadata"] = json!({"at": "slot"});
            channel["mobile"] = json!({"fields": ["phone"]});
        }
    }
    channel
}

fn fill_worklist(database: &DatabaseServer) {
    let rows: Vec<String> = CHANNELS
        .iter()
        .flat_map(|name| (0..PATIENTS).map(move |n| format!("('A-{name}{n}', 'W-{name}{n}')")))
        .collect();
    database.sql("CREATE TABLE worklist (WL_ACCNUMBER VARCHAR(50), WL_PATIENTID VARCHAR(50))");
    if database.engine == Engine::PostgreSql {
        // As administrators do it there: the names of the file are quoted, and so have capitals.
        database.sql("DROP TABLE worklist");
        database.sql("CREATE TABLE worklist (\"WL_ACCNUMBER\" VARCHAR(50), \"WL_PATIENTID\" VARCHAR(50))");
        database.sql(&format!("GRANT ALL ON worklist TO {USER}"));
    }
    database.sql(&format!("INSERT INTO worklist VALUES {}", rows.join(", ")));
}

/// Message number `n` of a channel. Patients take turns; one of `adt` is admitted, changed, merged into his next number,
/// and changed once more under the old one.
fn message(channel: &'static str, n: usize) -> Sent {
    let (turn, round) = (n % PATIENTS, n / PATIENTS);
    let person = format!("{channel}{turn}");
    let control = format!("{}{n:05}", channel.to_uppercase());
    let forwarded = channel == "oru" || turn % 2 == 0;
    let (event, patients) = match (channel, round % 4) {
        ("adt", 0) => ("ADT^A01", vec![format!("{person}-{}", round / 4)]),
        ("adt", 1 | 3) => ("ADT^A08", vec![format!("{person}-{}", round / 4)]),
        ("adt", _) => {
            ("ADT^A34", vec![format!("{person}-{}", round / 4 + 1), format!("{person}-{}", round / 4)])
        }
        ("orm", _) => ("ORM^O01", vec![person.clone()]),
        ("oru", _) => ("ORU^R01", vec![person.clone()]),
        ("mdm", _) => ("MDM^T02", vec![person.clone()]),
        _ => ("ADT^A01", vec![person.clone()]),
    };
    let mut body = format!(
        "MSH|^~\\&|LAB|WARD|SERVER|HOSPITAL|20260102030405||{event}|{control}|P|2.5\rEVN||20260102030405\r\
         PID|1||{}^^^HOSP^MR||Musterfrau^Erika||19640812|F|||||+49 (170) 1234567\r",
        patients[0]
    );
    if let Some(prior) = patients.get(1) {
        body.push_str(&format!("MRG|{prior}^^^HOSP^MR\r"));
    }
    body.push_str(&format!("OBR|1||1|REPORT|||20260102030405|||||||||||A-{person}\r"));
    let mut document = Vec::new();
    if ["oru", "mdm"].contains(&channel) {
        document = pdf(&control);
        body.push_str(&format!("OBX|1|ED|REPORT||^application^pdf^Base64^{}||||||F\r", base64(&document)));
    }
    body.push_str(&format!("NTE|1||one<br>{control}\rZDS|1.2.840.{}\r", turn % 2));
    Sent {
        channel,
        control,
        id: String::new(),
        event,
        patients,
        forwarded,
        body: body.into_bytes(),
        pdf: document,
    }
}
