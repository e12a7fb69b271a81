//! The accounts: what senders were told on one side, what is at each place on the other. The two share no code with the
//! server.

use crate::hospital::{BESIDE, CHANNELS, Hospital, PeerKind, Sent};
use crate::support::databases::Engine;
use crate::support::files;
use crate::support::peer::control_id;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where messages of a channel end up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    Archive,
    Attachment,
    Near,
    Far,
    Rows,
    Solr,
    Dfapi,
    Receiver,
}

const PLACES: [Place; 8] = [
    Place::Archive,
    Place::Attachment,
    Place::Near,
    Place::Far,
    Place::Rows,
    Place::Solr,
    Place::Dfapi,
    Place::Receiver,
];

/// What came to a place, and a number that tells what came first.
type Came = Vec<(String, u128)>;

/// Every place that a channel's messages go to.
pub(crate) fn places() -> Vec<(&'static str, Place)> {
    let all = CHANNELS.iter().flat_map(|channel| PLACES.map(|place| (*channel, place)));
    let wanted = all.filter(|(channel, place)| match place {
        Place::Attachment => ["oru", "mdm"].contains(channel),
        Place::Dfapi => ["adt", "orm"].contains(channel),
        _ => true,
    });
    wanted.chain([(BESIDE, Place::Archive)]).collect()
}

/// Whether a message cannot come to a place without a peer.
pub(crate) fn needs(channel: &str, place: Place, peer: PeerKind) -> bool {
    let own = match place {
        Place::Archive | Place::Attachment => None,
        Place::Near => None,
        Place::Far => Some(PeerKind::Sftp),
        Place::Rows => Some(PeerKind::Database),
        Place::Solr => Some(PeerKind::Solr),
        Place::Dfapi => Some(PeerKind::Dfapi),
        Place::Receiver => Some(PeerKind::Receiver),
    };
    let looks_up = channel == "adt" && [Place::Near, Place::Far, Place::Dfapi].contains(&place);
    let filters = place == Place::Receiver && channel != "oru";
    // After every other step.
    let last = place == Place::Receiver && ["orm", "mdm"].contains(&channel);
    let of_channel = peer != PeerKind::Dfapi || channel == "orm";
    own == Some(peer)
        || (looks_up && peer == PeerKind::Database)
        || (filters && peer == PeerKind::Solr)
        || (last && of_channel)
}

/// Whether a message must come to a place.
fn expected(sent: &Sent, place: Place) -> bool {
    let merge = sent.event == "ADT^A34";
    match place {
        Place::Archive | Place::Attachment | Place::Solr | Place::Dfapi => true,
        Place::Near | Place::Far | Place::Rows => !merge,
        Place::Receiver => sent.forwarded,
    }
}

impl Hospital {
    /// Messages acknowledged that must come to a place.
    pub(crate) fn owed(&self, channel: &str, place: Place) -> Vec<Sent> {
        let ledger = self.desk.ledger();
        ledger.iter().filter(|s| s.channel == channel && expected(s, place)).cloned().collect()
    }

    /// What came to a place, by control id. The database is not asked while it is away: none then.
    pub(crate) fn came(&self, channel: &str, place: Place) -> Came {
        let by_index = |controls: Vec<String>| controls.into_iter().zip(0..).collect::<Came>();
        match place {
            Place::Archive => self.dated(channel, "archive", |_, body| control_id(body)),
            Place::Attachment => self.dated(channel, "attachment", of_name),
            Place::Near => self.dated(channel, "near", of_name),
            Place::Far => self.dated(channel, "far", of_name),
            Place::Rows => {
                let query = format!("SELECT control FROM {channel}_rows ORDER BY id");
                let listed = self.database.try_sql(&query).unwrap_or_default();
                by_index(listed.lines().map(str::to_owned).collect())
            }
            Place::Solr => {
                let state = self.solr.state();
                let of_channel = |id: &String| {
                    let document = &state.documents["hl7"][id];
                    (document["channel_s"] == channel)
                        .then(|| document["control_id_s"].as_str().unwrap().to_owned())
                };
                // The same document may come twice, it replaces itself: its first time counts.
                let mut seen = BTreeSet::new();
                let first = state.arrivals.iter().filter(|(core, id)| core == "hl7" && seen.insert(id));
                by_index(first.filter_map(|(_, id)| of_channel(id)).collect())
            }
            Place::Dfapi => {
                let ledger = self.desk.ledger();
                let controls: BTreeMap<&String, &String> =
                    ledger.iter().map(|sent| (&sent.id, &sent.control)).collect();
                let tasks = self.dfapi.tasks().into_iter().filter(|task| task.body["channel"] == channel);
                let control = |key: String| controls.get(&key).map_or(key.clone(), |c| (*c).clone());
                by_index(tasks.map(|task| control(task.key)).collect())
            }
            Place::Receiver => {
                let prefix = channel.to_uppercase();
                let mut seen = BTreeSet::new();
                let all = self.received().into_iter().map(|body| control_id(&body));
                by_index(all.filter(|c| c.starts_with(&prefix) && seen.insert(c.clone())).collect())
            }
        }
    }

    /// Files below a folder of a channel, with the time at which each got its name.
    fn dated(&self, channel: &str, folder: &str, control: fn(&Path, &[u8]) -> String) -> Came {
        let files = files(&self.site.path(&format!("{folder}/{channel}")), "");
        let visible =
            files.iter().filter(|(path, _)| !path.file_name().unwrap().as_encoded_bytes().starts_with(b"."));
        let dated = visible.filter_map(|(path, body)| {
            let meta = path.metadata().ok()?;
            let at = meta.ctime() as u128 * 1_000_000_000 + meta.ctime_nsec() as u128;
            Some((control(path, body), at))
        });
        dated.collect()
    }

    /// Fails unless exactly what was acknowledged is at a place, once each, in the order of each patient.
    #[track_caller]
    pub(crate) fn balance(&self, channel: &str, place: Place) {
        let (owed, came) = (self.owed(channel, place), self.came(channel, place));
        let at: BTreeMap<&String, u128> = came.iter().map(|(control, at)| (control, *at)).collect();
        assert_eq!(at.len(), came.len(), "{channel} {place:?}: something came twice");
        let wanted: BTreeSet<&String> = owed.iter().map(|sent| &sent.control).collect();
        let found: BTreeSet<&String> = at.keys().copied().collect();
        let (missing, more): (Vec<_>, Vec<_>) =
            (wanted.difference(&found).collect(), found.difference(&wanted).collect());
        assert!(
            missing.is_empty() && more.is_empty(),
            "{channel} {place:?}: missing {missing:?}, besides {more:?}"
        );
        let mut last: BTreeMap<&String, &Sent> = BTreeMap::new();
        for sent in &owed {
            for patient in &sent.patients {
                if let Some(before) = last.insert(patient, sent) {
                    assert!(
                        at[&before.control] <= at[&sent.control],
                        "{channel} {place:?}: {} came before {}, both of patient {patient}",
                        sent.control,
                        before.control
                    );
                }
            }
        }
    }

    /// Fails unless what is in the files is what was sent.
    #[track_caller]
    pub(crate) fn compare_files(&self) {
        for channel in CHANNELS {
            let sent: BTreeMap<String, Sent> =
                self.owed(channel, Place::Archive).into_iter().map(|s| (s.control.clone(), s)).collect();
            for (path, body) in files(&self.site.path(&format!("archive/{channel}")), "") {
                assert!(sent[&control_id(&body)].body == body, "{} is not what was sent", path.display());
            }
            let by_control = |folder: &str| -> BTreeMap<String, (PathBuf, Vec<u8>)> {
                let found = files(&self.site.path(&format!("{folder}/{channel}")), "");
                found.into_iter().map(|(path, bytes)| (of_name(&path, &bytes), (path, bytes))).collect()
            };
            let (near, far) = (by_control("near"), by_control("far"));
            for (control, (path, bytes)) in &near {
                assert!(far[control].1 == *bytes, "{} differs on the other machine", path.display());
                let sent = &sent[control];
                if sent.pdf.is_empty() {
                    let task: serde_json::Value = serde_json::from_slice(bytes).unwrap();
                    assert_eq!(
                        (&task["id"], &task["patient"]["number"]),
                        (&sent.id.as_str().into(), &sent.patients[0].as_str().into())
                    );
                    assert_eq!(task["mobile"], "+491701234567");
                } else {
                    assert!(
                        bytes.starts_with(&sent.pdf) && bytes.len() > sent.pdf.len(),
                        "{control}: not the document with a stamp"
                    );
                }
            }
            if ["oru", "mdm"].contains(&channel) {
                let archived = by_control("attachment");
                assert!(
                    archived.iter().all(|(c, (_, bytes))| near[c].1 == *bytes),
                    "{channel}: another document is archived than was dropped"
                );
            }
        }
    }

    /// Fails unless each row holds what its message and the merges after it say.
    #[track_caller]
    pub(crate) fn compare_rows(&self) {
        for channel in CHANNELS {
            let mut rows: BTreeMap<String, String> = BTreeMap::new();
            for sent in self.desk.ledger().iter().filter(|sent| sent.channel == channel) {
                if let [survivor, retired] = &sent.patients[..] {
                    rows.values_mut()
                        .filter(|patient| *patient == retired)
                        .for_each(|p| p.clone_from(survivor));
                } else {
                    rows.insert(sent.control.clone(), sent.patients[0].clone());
                }
            }
            let shown = if self.database.engine == Engine::MariaDb {
                "CONCAT_WS(' ', control, patient, found, REPLACE(report, '\\r\\n', '+'))"
            } else {
                "CONCAT_WS(' ', control, patient, found, REPLACE(report, E'\\r\\n', '+'))"
            };
            let found = self.database.sql(&format!("SELECT {shown} FROM {channel}_rows ORDER BY control"));
            let expected: Vec<String> = rows
                .iter()
                .map(|(control, patient)| {
                    let person = patient.split('-').next().unwrap();
                    format!("{control} {patient} W-{person} one+{control}")
                })
                .collect();
            let found: Vec<&str> = found.lines().collect();
            assert_eq!(found, expected, "{channel}");
        }
    }
}

/// `[PATIENT_]CONTROL.pdf` or `CONTROL.json`.
fn of_name(path: &Path, _: &[u8]) -> String {
    let stem = path.file_stem().unwrap().to_str().unwrap();
    stem.rsplit('_').next().unwrap().to_owned()
}
