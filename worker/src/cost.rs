//! The work that `make cost` counts the instructions of: one stage of a message's way, so many times. A test, since what
//! it calls is this crate's own; `tests/support/cost` runs it under callgrind with two numbers of times and takes the
//! difference, so that what comes before the first message counts for nothing.

mod delivery;

use crate::clock;
use crate::committer::IntakeKind;
use crate::counters::Counters;
use crate::duplicates::TagKey;
use crate::extract::{self, Metadata};
use crate::failed::FailedFolder;
use crate::files::FileBatch;
use crate::folders::Folders;
use crate::intake::{Intake, NotDone, Taken};
use crate::names::NameParts;
use crate::plan::Plan;
use crate::resend::ResendClient;
use crate::returned::ReturnedFolder;
use crate::step::{
    Attachments, Context, Progress, archive, attachment, credentials, credentials_merge, db_merge,
    drop_folder, insert, lookup, solr, stamp,
};
use crate::testing;
use config::{WorkerSettings, Workflow};
use hl7::charset;
use hl7::message::Message;
use hl7::mllp::{Decoder, Event, Limits, wrap};
use journal::{FileStorage, Ids, Journal, MessageId, Options, Received, Record, Tag};
use std::hint::black_box;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::Arc;

const SETTINGS: &str = "\
message_types: {'*': store}
encoding: UTF-8
attachment_field: OBX.1.5
attachment_format: pdf
mapping: {patient_id: PID.1.3.1, patient_name: [PID.1.5.1, PID.1.5.2], birth_date: PID.1.7.1, ward: PV1.1.3.1}
mapping_ignore: [patient_name, birth_date, ward]
add_metadata_to_attachment: true
visible_metadata: true
local_archive: {path: FOLDER/archive, attachment: FOLDER/attachments}
drop_folders: {pickup: {path: FOLDER/drop}}
credentials_metadata: {id: patient_id, name: patient_name}
resend: {server: 127.0.0.1, port: PORT}
db_insert: {driver: SQLite, database: FOLDER/rows.db, table: rows, mapping_table: wards, create_table: true,
            message_key: message_id}
db_mapping: {ward_name: {column: code, match: ward, return: name}}
db_metadata:
  patient_id: {field_name: patient_id, field_type: String(50)}
  patient_name: {field_name: patient_name, field_type: String(100)}
  birth_date: {field_name: birth_date, field_type: DateTime}
  ward: {field_name: ward, field_type: String(20)}
";

/// `COST_OF`, `COST_TIMES` and `COST_KIB` say what to do, how often, and how large the PDF of a report is.
#[test]
#[ignore = "it is to be counted, by make cost"]
fn work() {
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let folder = tempfile::tempdir().unwrap();
    let bench = Bench::new(folder.path(), variable("COST_KIB").parse().unwrap_or(100));
    bench.run(&variable("COST_OF"), variable("COST_TIMES").parse().unwrap_or(3));
}

#[test]
fn every_stage_can_be_counted() {
    const STAGES: [&str; 19] = [
        "frame",
        "intake",
        "journal",
        "read",
        "deliver",
        "index",
        "mapping",
        "archive",
        "attachment",
        "stamp",
        "drop",
        "lookup",
        "insert",
        "merge",
        "solr",
        "credentials",
        "credentials-merge",
        "resend",
        "report-intake",
    ];
    let script =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/support/cost")).unwrap();
    for stage in STAGES {
        let folder = tempfile::tempdir().unwrap();
        Bench::new(folder.path(), 10).run(stage, 2);
        assert!(script.contains(&format!("count {stage} ")), "tests/support/cost does not count {stage}");
    }
}

struct Bench<'a> {
    folder: &'a Path,
    settings: WorkerSettings,
    adt: Vec<u8>,
    merge: Vec<u8>,
    report: Vec<u8>,
}

impl<'a> Bench<'a> {
    fn new(folder: &'a Path, kib: usize) -> Bench<'a> {
        for below in ["archive", "attachments", "drop", "failed", "returned", "journal"] {
            std::fs::create_dir(folder.join(below)).unwrap();
        }
        let text = SETTINGS.replace("FOLDER", folder.to_str().unwrap()).replace("PORT", &peer().to_string());
        let pdf = base64_simd::STANDARD.encode_to_string(pdf(kib << 10));
        let message = |msh: &str, rest: &str| {
            format!(
                "MSH|^~\\&|RBGADT|RIVERBEND|HL7SERVER|RIVERBEND|20250510071512||{msh}|000000000000|P|2.5.1\r\
                 EVN|A01|20250510071512\r\
                 PID|1||48213377^^^RBG^PI||Vanterpool^Odile^M^^Ms||19610403|F|||22 Ferry Lane^^Riverbend^^RB4 1QX^GBR^H\r\
                 {rest}"
            )
        };
        let visit = "PV1|1|I|3B^12^2^RBG||||00317^Marchetti^Ilaria^^^Dr|||MED||||1|||00317^Marchetti^Ilaria^^^Dr|IP|\
             V-88120^^^RBG^VN|||||||||||||||||||||||||20250510071500\r\
             NK1|1|Vanterpool^Casimir|SPO^Spouse^HL70063|22 Ferry Lane^^Riverbend^^RB4 1QX|+441632960418\r\
             AL1|1|DA|^Penicillin|MO|Rash\r\
             DG1|1||J18.1^Lobar pneumonia, unspecified organism^I10||20250510|A\r\
             NTE|1||so that the message has the 750 bytes that an ADT has on the average, more or less\r";
        let result = format!("OBX|1|ED|11502-2^Report^LN||RBGLAB^application^pdf^Base64^{pdf}||||||F\r");
        Bench {
            folder,
            settings: testing::settings(&text),
            adt: message("ADT^A01^ADT_A01", visit).into_bytes(),
            merge: message("ADT^A34^ADT_A30", "MRG|48213378^^^RBG^PI\r").into_bytes(),
            report: message("ORU^R01^ORU_R01", &result).into_bytes(),
        }
    }

    fn run(&self, stage: &str, times: usize) {
        match stage {
            "frame" => self.frames(times),
            "intake" => self.intake(&self.adt, times),
            "report-intake" => self.intake(&self.report, times),
            "journal" => self.journal(times, false),
            "read" => self.journal(times, true),
            "deliver" => self.deliver(times),
            "index" => self.index(times),
            "merge" | "credentials-merge" => self.step(stage, &self.merge, Workflow::PatientMerge, times),
            "attachment" | "stamp" | "drop" => self.step(stage, &self.report, Workflow::Document, times),
            _ => self.step(stage, &self.adt, Workflow::Credentials, times),
        }
    }

    fn frames(&self, times: usize) {
        let mut decoder = Decoder::new(Limits { stream_limit_bytes: 10 << 20, message_timeout_ms: 0 });
        let frame = wrap(&self.adt);
        let mut events = Vec::new();
        for _ in 0..times {
            decoder.feed(black_box(&frame), 0, &mut events);
            assert!(matches!(events.pop(), Some(Event::Frame(_))));
        }
    }

    /// Admission, duplicates, id, order key and the acknowledgment.
    fn intake(&self, body: &[u8], times: usize) {
        let failed = FailedFolder::open(&self.folder.join("failed"), |_| false).unwrap();
        let returned = ReturnedFolder::open(&self.folder.join("returned"), |_| false).unwrap();
        let (settings, counters) =
            (Arc::new(self.settings.clone()), Arc::new(Counters::new(&Plan::of(&self.settings))));
        let (failed, returned) = (Arc::new(failed), Arc::new(returned));
        let not_done = NotDone { failed, returned, given_up: Default::default() };
        let mut intake = Intake::new(settings, counters, not_done, Vec::new(), TagKey::new([7; 16]), 1);
        let (peer, address): (Arc<str>, _) = ("192.0.2.17:54321".into(), IpAddr::V4(Ipv4Addr::LOCALHOST));
        let control_id = body.windows(12).position(|part| part == b"000000000000").unwrap();
        // One buffer for all: to copy it is the decoder's work, and counted there.
        let mut body = body.to_vec();
        for n in 0..times {
            (0..12).rfold(n, |left, at| {
                body[control_id + at] = b'0' + (left % 10) as u8;
                left / 10
            });
            let taken = intake.take(body, false, &peer, address, |_| false);
            let Taken::Store { kind: IntakeKind::New(new), .. } = black_box(taken) else { panic!() };
            body = new.body;
        }
    }

    /// Appended, written in batches of 16, and marked as done; or read back and read as HL7 as well.
    fn journal(&self, times: usize, read: bool) {
        let storage = FileStorage::open(&self.folder.join("journal")).unwrap();
        let mut journal = Journal::open(storage, Options::default(), &mut |_| {}).unwrap().0;
        let reader = journal.reader();
        let mut ids = Ids::new();
        let mut batch = Vec::new();
        for n in 0..times {
            let id = ids.next(1_700_000_000_000, n as u64);
            let record = Record::Received(Received {
                id,
                time_us: 1_700_000_000_000_000,
                utc_offset_s: 0,
                peer: "192.0.2.17:54321",
                keys: &[7],
                tag: Tag { identity: [1; 16], content: [2; 16] },
                flags: 0,
                body: &self.adt,
            });
            batch.push((id, journal.append(&record).unwrap()));
            if batch.len() < 16 && n + 1 < times {
                continue;
            }
            journal.write().unwrap();
            for (id, at) in batch.drain(..) {
                if read {
                    let received = reader.read(at).unwrap();
                    let decoded = charset::decode(&received.body, self.settings.channel.encoding);
                    black_box(Message::parse(&decoded.text).unwrap());
                }
                journal.append(&Record::Done { ids: &[id] }).unwrap();
            }
            journal.write().unwrap();
        }
    }

    fn step(&self, stage: &str, body: &[u8], workflow: Workflow, times: usize) {
        let channel = &self.settings.channel;
        let decoded = charset::decode(body, channel.encoding);
        let message = Message::parse(&decoded.text).unwrap();
        let metadata = extract::extract(&message, channel).unwrap();
        let time = clock::local(1_747_041_330_000_000, 0);
        let mut folders = Folders::default();
        let mut found = attachment::find(&message, channel).unwrap_or_default();
        let database = db::Database::new(channel, None).unwrap();
        let mut client = db::Client::new(&database);
        if matches!(stage, "lookup" | "insert") {
            client.prepare().unwrap();
            let wards = rusqlite::Connection::open(self.folder.join("rows.db")).unwrap();
            wards
                .execute_batch(
                    "CREATE TABLE wards (code TEXT, name TEXT); INSERT INTO wards VALUES ('3B', 'Three')",
                )
                .unwrap();
        }
        let mut resend = ResendClient::new(channel.resend.as_ref().unwrap());
        for n in 0..times {
            let id = MessageId::new(1_747_041_330_000, n as u64);
            let names = NameParts {
                message_id: id,
                time: clock::file_time(&time),
                control_id: format!("{n:012}"),
                patient_id: None,
                accession_number: None,
            };
            let context = Context {
                channel,
                id,
                workflow,
                peer: "192.0.2.17:54321",
                received: &time,
                first_tried: &[],
                now_us: 1_747_041_330_000_000,
                body,
                message: Some(&message),
                metadata: &metadata,
                names: &names,
                below: "2025/05/12",
                order: None,
            };
            match stage {
                "mapping" => drop(black_box(extract::extract(&message, channel).unwrap())),
                "archive" => {
                    let mut batch = FileBatch::new(&mut folders);
                    let progress = archive::stage(&context, &mut batch, &self.folder.join("archive"), 0);
                    placed(&progress, batch);
                }
                "attachment" => drop(black_box(attachment::find(&message, channel).unwrap())),
                "stamp" => {
                    let bytes = found[0].bytes.len();
                    found = black_box(stamp::mark(found, channel, &metadata).unwrap()).attachments;
                    // What was stamped begins with what it was: without a copy it is there again.
                    assert!(found[0].bytes.len() > bytes, "not stamped");
                    found[0].bytes.truncate(bytes);
                }
                "drop" => {
                    let mut batch = FileBatch::new(&mut folders);
                    let mut attachments = Attachments::default();
                    let to = self.folder.join("drop");
                    let progress = drop_folder::stage(&context, &mut attachments, &mut batch, &to, 0);
                    placed(&progress, batch);
                }
                "lookup" => drop(black_box(looked_up(&context, &mut client))),
                "insert" => over(&insert::run(&context, 0, &mut client)),
                "merge" => drop(black_box(db_merge::trial(&context, database.table()).unwrap())),
                "solr" => drop(black_box(solr::document(&context).unwrap().json)),
                "credentials" => drop(black_box(credentials::task_bytes(&context).unwrap())),
                "credentials-merge" => drop(black_box(credentials_merge::tasks(&context).unwrap())),
                "resend" => {
                    resend.send(body, b"000000000000", channel.encoding).unwrap_or_else(|_| panic!("refused"))
                }
                other => panic!("no stage {other:?}"),
            }
        }
    }
}

fn placed(progress: &Progress, batch: FileBatch<'_>) {
    let Progress::Staged(staged) = progress else { panic!("{progress:?}") };
    let placed = batch.commit();
    staged.iter().for_each(|file| drop(placed.of(*file).unwrap().to_owned()));
}

fn over(progress: &Progress) {
    assert!(matches!(progress, Progress::Ended(crate::dispatcher::StepEnd::Over)), "{progress:?}");
}

fn looked_up(context: &Context<'_>, client: &mut db::Client) -> Metadata {
    let metadata = lookup::complete(context, client).unwrap_or_else(|progress| panic!("{progress:?}"));
    assert_eq!(metadata.get("ward_name"), Some("Three"));
    metadata
}

/// Accepts whatever comes; returns where. What it costs is counted with `resend`.
fn peer() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut stream = listener.accept().unwrap().0;
        let mut chunk = vec![0; 64 << 10];
        while let Ok(read @ 1..) = stream.read(&mut chunk) {
            if chunk[..read].ends_with(b"\x1c\r") {
                stream
                    .write_all(b"\x0bMSH|^~\\&|A|B|C|D|2025||ACK|1|P|2.5.1\rMSA|AA|000000000000\r\x1c\r")
                    .unwrap();
            }
        }
    });
    port
}

/// One page with a grey picture of so many bytes.
fn pdf(bytes: usize) -> Vec<u8> {
    let mut pdf = b"%PDF-1.4\n".to_vec();
    let mut places = Vec::new();
    let picture = "x".repeat(bytes);
    for (n, object) in [
        "<</Type/Catalog/Pages 2 0 R>>".to_owned(),
        "<</Type/Pages/Kids[3 0 R]/Count 1>>".to_owned(),
        "<</Type/Page/Parent 2 0 R/MediaBox[0 0 595 842]/Resources<</XObject<</I 4 0 R>>>>>>".to_owned(),
        format!(
            "<</Type/XObject/Subtype/Image/Width {bytes}/Height 1/ColorSpace/DeviceGray/BitsPerComponent 8/Length {bytes}>>\
             stream\n{picture}\nendstream"
        ),
    ]
    .iter()
    .enumerate()
    {
        places.push(pdf.len());
        write!(pdf, "{} 0 obj\n{object}\nendobj\n", n + 1).unwrap();
    }
    let xref = pdf.len();
    write!(pdf, "xref\n0 5\n0000000000 65535 f \n").unwrap();
    places.iter().for_each(|place| writeln!(pdf, "{place:010} 00000 n ").unwrap());
    write!(pdf, "trailer\n<</Size 5/Root 1 0 R>>\nstartxref\n{xref}\n%%EOF\n").unwrap();
    pdf
}
