//! A dry run of one message: what the channel would answer, map and write. Nothing is sent, journaled or put in place.

use crate::admission::{Admission, admit};
use crate::clock;
use crate::extract::{self, Metadata};
use crate::folders::folder_path;
use crate::names::NameParts;
use crate::plan::{Plan, Step};
use crate::solr::CORE;
use crate::step::{Attachments, Context, credentials, credentials_merge, db_merge, insert, solr};
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
    /// What peers would be sent, in the order of the plan.
    pub sent: Vec<TrialCall>,
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

/// What a peer would be sent.
#[derive(Clone, Debug)]
pub struct TrialCall {
    /// The step's name.
    pub step: String,
    /// Whom, or where to.
    pub to: String,
    /// What, as text.
    pub text: String,
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
                trial.dropped(&step, path.clone(), &context, &mut attachments);
            }
            Step::RemoteFolder { folder, .. } => {
                trial.dropped(&step, PathBuf::from(&folder.path), &context, &mut attachments);
            }
            Step::Solr => {
                let document = solr::document(&context).map(|document| vec![document.json]);
                trial.calls(&step, &format!("core {CORE} of solr"), document);
            }
            Step::Credentials => {
                let task = credentials::task_bytes(&context).map(|task| vec![text_of(&task)]);
                trial.calls(&step, "dfapi", task);
            }
            Step::CredentialsMerge => {
                let tasks = credentials_merge::tasks(&context);
                let texts = tasks.map(|tasks| tasks.iter().map(|(_, task)| text_of(task)).collect());
                trial.calls(&step, "dfapi", texts);
            }
            Step::Insert { .. } | Step::DbMerge => trial.database(&step, place, &context),
            other @ Step::Resend(_) => trial.notes.push(format!("{step}: would {other}, as it came")),
        }
    }
    if let Some(marked) = attachments.marked() {
        trial.notes.extend(marked.unstamped.iter().map(|why| format!("delivered without its stamp: {why}")));
        trial.notes.extend(marked.notes.iter().cloned());
    }
    trial
}

fn text_of(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

impl Trial {
    /// The statements with their parameters; nothing is looked up.
    fn database(&mut self, step: &str, place: usize, context: &Context<'_>) {
        let Some(table) = db::Table::of(context.channel) else { return };
        let found = match context.workflow {
            Workflow::PatientMerge => db_merge::trial(context, &table),
            Workflow::Store | Workflow::Document | Workflow::Credentials => {
                insert::trial(context, place, &table)
            }
        };
        let text = |(sql, with): (String, Vec<String>)| format!("{sql} -- {}", with.join(", "));
        self.calls(step, "the database", found.map(|found| found.into_iter().map(text).collect()));
    }

    fn calls(&mut self, step: &str, to: &str, texts: Result<Vec<String>, String>) {
        match texts {
            Ok(texts) => self.sent.extend(texts.into_iter().map(|text| TrialCall {
                step: step.to_owned(),
                to: to.to_owned(),
                text,
            })),
            Err(reason) => self.problems.push(format!("{step}: {reason}")),
        }
    }

    /// What a drop folder would get: the attachments, or the task of a message that makes one.
    fn dropped(&mut self, step: &str, folder: PathBuf, context: &Context<'_>, attachments: &mut Attachments) {
        if context.workflow != Workflow::Credentials {
            return self.attachments(step, folder, context, attachments);
        }
        match credentials::task_bytes(context) {
            Ok(bytes) => {
                let path = folder.join(format!("{}.json", context.names.task_stem()));
                self.files.push(TrialFile { step: step.to_owned(), path, bytes });
            }
            Err(reason) => self.problems.push(format!("{step}: {reason}")),
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

    #[test]
    fn a_trial_shows_what_dfapi_and_solr_would_be_sent() {
        let lines = "drop_folders: { tasks: { path: /c } }\nmapping: { patient_id: PID.1.3.1 }\n\
                     credentials_metadata: { number: patient_id }";
        let mut settings = settings(lines);
        settings.store_solr = true;
        settings.solr = Some(config::SolrServer {
            name: "solr".to_owned(),
            port: 1,
            https: true,
            user: String::new(),
            password: config::Password::Plain(config::PlainSecret::new(String::new())),
            certificate: true,
            ca_file: None,
            active_cores: Vec::new(),
            timeout: std::time::Duration::from_secs(1),
        });
        settings.dfapi = Some(config::Dfapi {
            name: "dfapi".to_owned(),
            port: 1,
            https: true,
            path: String::new(),
            token: None,
            certificate: true,
            ca_file: None,
            timeout: std::time::Duration::from_secs(1),
        });
        let of =
            |msh: &str, rest: &str| run(&settings, format!("MSH|^~\\&|A|B|C|D|1||{msh}\r{rest}").as_bytes());
        let trial = of("ADT^A01|M1|P|2.5", "PID|1||4711\r");
        assert_eq!(trial.problems, Vec::<String>::new());
        assert_eq!(trial.files[0].path.to_str(), Some("/c/M1.json"));
        let sent: Vec<(&str, &str)> = trial.sent.iter().map(|c| (c.step.as_str(), c.to.as_str())).collect();
        assert_eq!(sent, [("credentials", "dfapi"), ("solr", "core hl7 of solr")]);
        assert_eq!(trial.sent[0].text.as_bytes(), trial.files[0].bytes);
        assert!(trial.sent[0].text.contains(r#""patient":{"number":"4711"}"#), "{}", trial.sent[0].text);
        assert!(trial.sent[1].text.contains(r#""patient_id_s":"4711""#), "{}", trial.sent[1].text);
        let merge = of("ADT^A34|M2|P|2.5", "PID|1||NEW\rMRG|OLD\r");
        assert!(merge.sent[0].text.contains(r#""prior_patient_id":"OLD","patient_id":"NEW""#), "{merge:?}");
        let lone = of("ADT^A34|M3|P|2.5", "PID|1||NEW\r");
        assert_eq!(lone.problems, ["credentials_merge: there is no MRG segment"]);
    }
}
