//! A dry run of one message: what the channel would answer, map and write. Nothing is sent, journaled or put in place.

use crate::admission::{Admission, admit};
use crate::clock;
use crate::extract::{self, Metadata};
use crate::folders::folder_path;
use crate::names::NameParts;
use crate::plan::{Plan, Step};
use crate::step::{self, Attachments, Context};
use config::{WorkerSettings, Workflow};
use hl7::charset;
use hl7::message::Message;
use journal::MessageId;
use std::path::PathBuf;

/// What a message would come to.
#[derive(Clone, Debug, Default)]
pub struct Trial {
    /// The acknowledgment code; `None` where there would be no answer.
    pub code: Option<&'static str>,
    /// Why, where it would be refused.
    pub refusal: Option<&'static str>,
    /// What would be done with it.
    pub workflow: Option<Workflow>,
    /// Bytes that the channel's encoding does not have.
    pub undecodable: usize,
    /// The mapped values, in order.
    pub metadata: Vec<(String, Option<String>)>,
    /// The files that would be written, in the order of the plan.
    pub files: Vec<TrialFile>,
    /// What would be said to peers, in the order of the plan.
    pub requests: Vec<TrialRequest>,
    /// Why it would fail.
    pub problems: Vec<String>,
    /// What the log would say of its attachments.
    pub notes: Vec<String>,
}

/// A file that would be written.
#[derive(Clone, Debug)]
pub struct TrialFile {
    /// The step's name.
    pub step: String,
    /// Where, unless the name is taken by another message's file.
    pub path: PathBuf,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// Something that a peer would be sent.
#[derive(Clone, Debug)]
pub struct TrialRequest {
    /// The step's name.
    pub step: String,
    /// To whom, and what it is.
    pub what: String,
    /// The document, the task, or the statement with its values.
    pub body: String,
}

/// Carries a message as far through a channel's plan as can be done without doing anything.
pub fn run(settings: &WorkerSettings, body: &[u8]) -> Trial {
    let channel = &settings.channel;
    let mut trial = Trial::default();
    let not_hl7 = &hl7::ack::Refusal::NOT_HL7;
    let Ok(readable) = charset::transcode_header(body, channel.encoding) else {
        (trial.code, trial.refusal) = (Some(not_hl7.code.as_str()), Some(not_hl7.text));
        return trial;
    };
    let (header, workflow) = match admit(&readable, channel) {
        Admission::Accept { header, workflow } => (header, workflow),
        Admission::Refuse { refusal, .. } => {
            (trial.code, trial.refusal) = (Some(refusal.code.as_str()), Some(refusal.text));
            return trial;
        }
        Admission::InboundAcknowledgment => return trial,
    };
    (trial.code, trial.workflow) = (Some("AA"), Some(workflow));
    let decoded = charset::decode(body, channel.encoding);
    trial.undecodable = decoded.undecodable;
    let message = match Message::parse(&decoded.text) {
        Ok(message) => message,
        Err(fault) => {
            trial.problems.push(fault.to_string());
            return trial;
        }
    };
    let metadata = extract::extract(&message, channel).unwrap_or_else(|reason| {
        trial.problems.push(format!("mapping: {reason}"));
        Metadata::default()
    });
    trial.metadata = metadata.iter().map(|(n, v)| (n.to_owned(), v.map(str::to_owned))).collect();
    let now_us = clock::system_us();
    let time = clock::local(now_us, clock::utc_offset_s(&jiff::tz::TimeZone::system(), now_us));
    let mut names = NameParts {
        message_id: MessageId::new((now_us / 1000).max(0) as u64, 0),
        time: clock::file_time(&time),
        control_id: String::from_utf8_lossy(header.control_id()).into_owned(),
        patient_id: None,
        accession_number: None,
    };
    let below = channel.local_archive.as_ref().map(|a| a.format.render(&time)).unwrap_or_default();
    let plan = Plan::of(settings);
    let plain = names.clone();
    let text_at = |path: &Option<_>| path.as_ref().and_then(|p| extract::text_at(&message, p));
    names.patient_id = text_at(&channel.patient_id_field);
    names.accession_number = text_at(&channel.accession_number_field);
    let mut attachments = Attachments::default();
    for place in plan.steps_of(workflow).places() {
        let names = if plan.is_before_mapping(place) { &plain } else { &names };
        if !trial.problems.is_empty() && !plan.is_before_mapping(place) {
            continue;
        }
        let context = Context {
            channel,
            id: names.message_id,
            workflow,
            peer: "",
            received: &time,
            first_tried: &[],
            now_us,
            body,
            message: Some(&message),
            metadata: &metadata,
            names,
            below: &below,
            order: None,
        };
        let step = plan.name(place).to_owned();
        match plan.step(place) {
            Step::Mapping => {}
            Step::Archive(root) => trial.files.push(TrialFile {
                step,
                path: folder_path(root, &below).join(format!("{}.hl7", names.message_stem())),
                bytes: body.to_vec(),
            }),
            Step::Attachment(root) => {
                trial.attachments(&step, folder_path(root, &below), &context, &mut attachments);
            }
            Step::DropFolder { path, .. } => {
                trial.attachments(&step, path.clone(), &context, &mut attachments);
            }
            Step::RemoteFolder { folder, .. } => {
                trial.attachments(&step, PathBuf::from(&folder.path), &context, &mut attachments);
            }
            Step::Solr => trial.requests(&step, "document for core hl7 of Solr", solr_document(&context)),
            Step::Credentials => trial.requests(&step, "task for dfapi", credential_task(&context)),
            Step::CredentialsMerge => trial.requests(&step, "merge for dfapi", credential_merges(&context)),
            Step::Insert { .. } => trial.insert(&step, place, &context),
            Step::DbMerge => trial.requests(&step, "statement with its values", db_merges(&context)),
            other @ Step::Resend(_) => trial.notes.push(format!("{step}: would {other}, as it came")),
        }
    }
    if let Some(marked) = attachments.marked() {
        trial.notes.extend(marked.unstamped.iter().map(|why| format!("delivered without its stamp: {why}")));
        trial.notes.extend(marked.notes.iter().cloned());
    }
    trial
}

fn solr_document(context: &Context<'_>) -> Result<Vec<String>, String> {
    Ok(vec![step::solr::document(context)?.json])
}

fn credential_task(context: &Context<'_>) -> Result<Vec<String>, String> {
    Ok(vec![String::from_utf8_lossy(&step::credentials::task_bytes(context)?).into_owned()])
}

fn credential_merges(context: &Context<'_>) -> Result<Vec<String>, String> {
    let tasks = step::credentials_merge::tasks(context)?;
    Ok(tasks.iter().map(|(_, task)| String::from_utf8_lossy(task).into_owned()).collect())
}

fn db_merges(context: &Context<'_>) -> Result<Vec<String>, String> {
    let table = db::Table::of(context.channel).ok_or("the channel has no database")?;
    let sql = table.statements().pop().unwrap_or_default();
    let pairs = step::db_merge::pairs(context, &table)?;
    Ok(pairs
        .iter()
        .map(|(surviving, prior)| format!("{sql} -- {}, {}", surviving.shown(), prior.shown()))
        .collect())
}

impl Trial {
    fn requests(&mut self, step: &str, what: &str, bodies: Result<Vec<String>, String>) {
        match bodies {
            Ok(bodies) => self.requests.extend(bodies.into_iter().map(|body| TrialRequest {
                step: step.to_owned(),
                what: what.to_owned(),
                body,
            })),
            Err(reason) => self.problems.push(format!("{step}: {reason}")),
        }
    }

    /// The insert and its look-ups, which are not made.
    fn insert(&mut self, step: &str, place: usize, context: &Context<'_>) {
        let Some(table) = db::Table::of(context.channel) else { return };
        for lookup in &context.channel.db_mapping {
            self.notes.push(format!("{step}: {} would be looked up and has no value here", lookup.name));
        }
        let row = step::insert::row(context, place, &table).map(|row| {
            let values: Vec<String> = row.values().iter().map(db::Value::shown).collect();
            vec![format!("{} -- {}", table.insert_statement(), values.join(", "))]
        });
        match row {
            Err(reason) if !context.channel.db_mapping.is_empty() => {
                self.notes.push(format!("{step}: {reason}"));
            }
            row => self.requests(step, "statement with its values", row),
        }
    }

    fn attachments(
        &mut self,
        step: &str,
        folder: PathBuf,
        context: &Context<'_>,
        attachments: &mut Attachments,
    ) {
        match attachments.of(context) {
            Ok(found) => {
                for (at, attachment) in found.iter().enumerate() {
                    let stem = context.names.attachment_stem((found.len() > 1).then_some(at + 1));
                    let path = folder.join(format!("{stem}{}", attachment.suffix));
                    self.files.push(TrialFile {
                        step: step.to_owned(),
                        path,
                        bytes: attachment.bytes.clone(),
                    });
                }
            }
            Err(reason) if self.problems.iter().any(|p| p.ends_with(&reason)) => {}
            Err(reason) => self.problems.push(format!("{step}: {reason}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::settings;

    const LINES: &str = "local_archive: { path: /a, attachment: /b, format: '%Y' }\n\
        drop_folders: { ward: { path: /c } }\n\
        patient_id_field: PID.1.3.1\nmapping: { patient_id: PID.1.3.1 }";

    #[test]
    fn a_trial_says_what_would_be_written_and_under_which_names() {
        let pdf = base64_simd::STANDARD.encode_to_string(b"%PDF-1.4 x");
        let body = format!(
            "MSH|^~\\&|A|B|C|D|20260101||ORU^R01|M1|P|2.5\rPID|1||4711\rOBX|1|ED|||^application^pdf^Base64^{pdf}\r"
        );
        let trial = run(&settings(LINES), body.as_bytes());
        assert_eq!((trial.code, trial.workflow), (Some("AA"), Some(Workflow::Document)));
        assert_eq!(trial.metadata, [("patient_id".to_owned(), Some("4711".to_owned()))]);
        let paths: Vec<String> = trial.files.iter().map(|f| f.path.display().to_string()).collect();
        assert!(paths[0].starts_with("/a/") && paths[0].ends_with("_M1_4711.hl7"), "{paths:?}");
        assert!(paths[1].starts_with("/b/") && paths[1].ends_with("/4711_M1.pdf"), "{paths:?}");
        assert_eq!(paths[2], "/c/4711_M1.pdf");
        assert_eq!(trial.files[2].bytes, b"%PDF-1.4 x");
    }

    #[test]
    fn a_trial_says_why_a_message_would_be_refused_or_fail() {
        let of = |msh: &str, rest: &str| {
            run(&settings(LINES), format!("MSH|^~\\&|A|B|C|D|1||{msh}\r{rest}").as_bytes())
        };
        assert_eq!(of("SIU^S12|1|P|2.5", "").code, Some("AR"));
        assert_eq!(of("ACK|1|P|2.5", "").code, None);
        let failed = of("ORU^R01|1|P|2.5", "OBX|1|TX|||x\r");
        assert_eq!(failed.problems.len(), 1, "{:?}", failed.problems);
        assert!(failed.problems[0].starts_with("mapping: "));
        let failed = of("ORU^R01|1|P|2.5", "PID|1||4711\rOBX|1|TX|||x\r");
        assert_eq!(failed.problems, ["attachment: no PDF found in any OBX or Z segment"]);
    }
}
