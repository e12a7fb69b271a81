//! PURE: what became of one failed message. Its summary holds nothing of the patient; its fields are shown only by a
//! dashboard that was started for it.

use super::super::html::Html;
use super::{definitions, document, header};
use crate::cli::failed::Record;
use crate::cli::output::local_time;

/// What may be shown of the message itself.
pub(in crate::cli::dashboard) enum Fields {
    /// Nothing.
    Hidden,
    /// Its fields, as `hl7server show` prints them.
    Shown(String),
    /// They could not be read.
    Unreadable(String),
}

/// The page of one message.
pub(in crate::cli::dashboard) fn message(record: &Record, fields: &Fields, nonce: &str) -> Html {
    let mut lines = vec![
        ("channel", record.channel.clone()),
        ("message id", record.id.clone()),
        ("type", record.message_type.clone()),
        ("received", local_time(record.received_us)),
        ("failed", local_time(record.failed_us)),
        ("step", record.step.clone()),
        ("attempts", record.attempts.to_string()),
        ("reason", record.reason.clone()),
        ("steps done", record.steps_done.join(", ")),
    ];
    if !matches!(fields, Fields::Hidden) {
        lines.insert(2, ("control id", record.control_id.clone()));
    }
    let mut main = Html::new();
    main.raw("<p><a href=\"/\">All channels</a></p><h2>Failed message</h2>").add(&definitions(&lines));
    match fields {
        Fields::Hidden => {
            main.raw("<p class=\"soft\">The message itself is not shown here. On the server, <code>hl7server failed show ");
            main.text(&record.id).raw("</code> prints it, <code>hl7server failed retry ").text(&record.id);
            main.raw("</code> delivers it again.</p>");
        }
        Fields::Shown(text) => {
            main.raw("<h3>Fields</h3><pre tabindex=\"0\">").text(text).raw("</pre>");
        }
        Fields::Unreadable(reason) => {
            main.element("p class=\"hot\"", reason);
        }
    }
    document(&format!("hl7server: failed message {}", record.id), &header(None), &main, nonce)
}
