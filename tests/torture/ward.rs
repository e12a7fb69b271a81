//! A ward: one running server with channels that need no peers and together show every kind of file and row.
//!
//! `adt` archives and inserts into SQLite; `oru` archives and drops stamped documents; `big` archives messages so large
//! that a journal segment is full after some twenty.

use crate::ledger::{Ledger, Message};
use crate::senders::Stream;
use crate::support::messages::{self, PDF_FIELD};
use crate::support::{Server, Site};
use crate::verdict::Checker;
use serde_json::{Value, json};
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

/// Patients of a channel.
const PATIENTS: usize = 40;
/// A journal segment is 64 MiB.
const BIG_BYTES: usize = 3 << 20;

/// The channels.
pub(crate) const CHANNELS: [&str; 3] = ["adt", "oru", "big"];

/// The server and its book.
pub(crate) struct Ward {
    pub(crate) server: Server,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) ports: [u16; 3],
    // Last, so that it is there while the others end.
    pub(crate) site: Site,
}

impl Ward {
    /// Starts it.
    #[track_caller]
    pub(crate) fn start() -> Ward {
        let mut site = Site::new();
        let ports = [site.port(), site.port(), site.port()];
        fs::create_dir(site.path("rows")).unwrap();
        site.configure(config(&site, ports, 4));
        let ledger = Arc::new(Ledger::new(&site.path("ledger.jsonl")));
        let server = site.start();
        Ward { server, ledger, ports, site }
    }

    /// Changes every channel, so that a reload replaces their workers.
    pub(crate) fn change(&self, tasks: usize) {
        self.site.configure(config(&self.site, self.ports, tasks));
    }

    /// Many small messages and some documents.
    pub(crate) fn streams(&self) -> [Stream; 2] {
        let stream = |n: usize, senders, window, pause, make| Stream {
            channel: CHANNELS[n],
            port: self.ports[n],
            senders,
            window,
            pause: Duration::from_millis(pause),
            make,
        };
        [stream(0, 8, 4, 25, adt), stream(1, 2, 1, 60, oru)]
    }

    /// Large messages.
    pub(crate) fn big_stream(&self) -> Stream {
        let (port, pause) = (self.ports[2], Duration::ZERO);
        Stream { channel: "big", port, senders: 2, window: 1, pause, make: big }
    }

    /// The checker, told of every place.
    pub(crate) fn checker(&self) -> Checker {
        let mut checker = Checker::of(&self.ledger);
        for name in CHANNELS {
            checker.messages(&format!("{name}/archive"), &self.site.path(&format!("archive/{name}")));
        }
        checker
            .documents("oru/attachment", &self.site.path("attachment"))
            .documents("oru/ward", &self.site.path("ward"))
            .sqlite("adt/rows", &self.site.path("rows/rows.sqlite"), "rows", "id,control,patient")
            .listed(&self.site);
        checker
    }
}

/// Its configuration.
pub(crate) fn config(site: &Site, ports: [u16; 3], tasks: usize) -> Value {
    let [mut adt, mut oru, mut big] = [0, 1, 2].map(|n| site.store_channel(CHANNELS[n], ports[n]));
    for channel in [&mut adt, &mut oru, &mut big] {
        channel["tasks"] = json!(tasks);
    }
    adt["mapping"] = json!({"patient_id": "PID.1.3.1", "control": "MSH.1.10"});
    adt["db_metadata"] = json!({
        "row": {"field_name": "id", "field_type": "Integer", "autoincrement": true},
        "patient_id": {"field_name": "patient", "field_type": "String(50)", "nullable": false},
        "control": {"field_name": "control", "field_type": "String(50)", "nullable": false},
    });
    adt["db_insert"] = json!({
        "driver": "SQLite", "database": site.text("rows/rows.sqlite"), "table": "rows",
        "create_table": true, "message_key": "message_id", "timeout": 1,
    });
    oru["message_types"] = json!({"ORU^R01": "document"});
    oru["mapping"] = json!({"patient_id": "PID.1.3.1", "control": "MSH.1.10"});
    oru["attachment_field"] = json!(PDF_FIELD);
    oru["attachment_format"] = json!("pdf");
    oru["add_metadata_to_attachment"] = json!(true);
    oru["local_archive"]["attachment"] = json!(site.text("attachment"));
    oru["drop_folders"] = json!([{"path": site.text("ward")}]);
    json!({"channels": [adt, oru, big]})
}

/// A number that no other message of this process has.
fn next() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Relaxed)
}

/// An ADT message of one of the channel's patients: each patient's come from several senders.
pub(crate) fn adt(sender: usize, n: usize) -> Message {
    let (control, patient) = (format!("A{}", next()), format!("P{}", (sender * 7 + n) % PATIENTS));
    let body = messages::adt(&control, &patient);
    Message { control, patients: vec![patient], body, document: None, places: None }
}

/// A document.
pub(crate) fn oru(sender: usize, n: usize) -> Message {
    let (control, patient) = (format!("O{}", next()), format!("P{}", (sender * 3 + n) % 6));
    let (body, pdf) = messages::oru(&control, &patient);
    Message { control, patients: vec![patient], body, document: Some(pdf), places: None }
}

/// A message of three megabytes.
pub(crate) fn big(_: usize, _: usize) -> Message {
    let control = format!("B{}", next());
    let body = messages::adt_of(BIG_BYTES, &control);
    Message { control, patients: vec!["P1".to_owned()], body, document: None, places: None }
}
