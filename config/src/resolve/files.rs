//! What ends in files: the archive, attachments and their stamp, drop folders.

use super::Context;
use crate::model::{
    AttachmentFormat, AttachmentOutput, Channel, DropFolder, DropTarget, LocalArchive, RemoteFolder, Stamp,
};
use crate::problem::{Spot, quoted};
use crate::raw;
use crate::raw::read::{At, Key, TableOrList};
use crate::time_format::{Granularity, TimeFormat};
use std::collections::HashMap;
use std::path::{Component, Path};
use std::time::Duration;

/// What `archive_first` makes of the fields that would go into names.
pub(super) fn note_names(raw: &raw::Channel, context: &mut Context<'_>) {
    if !raw.archive_first.is_true() {
        return;
    }
    for (key, what) in
        [(&raw.patient_id_field, "patient id"), (&raw.accession_number_field, "accession number")]
    {
        if let Some(at) = key.given() {
            let what = format!("with archive_first the archived message's name goes without the {what}");
            context.report.note(&at.spot, what, "set archive_first: false to have it there");
        }
    }
}

/// `local_archive`; `None` where it is absent or disabled.
pub(super) fn archive(raw: &raw::Channel, context: &mut Context<'_>) -> Option<LocalArchive> {
    let Some(at) = raw.local_archive.given() else {
        if let Some(first) = raw.archive_first.given()
            && first.value
            && !matches!(raw.local_archive, Key::Wrong)
        {
            let what = "archive_first without a local_archive archives nothing";
            context.report.warn(&first.spot, what, "set local_archive with a path");
        }
        return None;
    };
    let raw = &at.value;
    let enabled = raw.enabled.is_not_false();
    let archive = LocalArchive {
        format: raw.format.given().and_then(|at| format(at, context)).unwrap_or_default(),
        path: context.optional_path(&raw.path),
        attachment: context.optional_path(&raw.attachment),
        retention_days: context.days(&raw.retention_days),
    };
    if let Some(days) = raw.retention_days.given() {
        check_granularity(&archive.format, &days.spot, context);
    }
    let nothing = |key: &Key<String>| matches!(key, Key::Absent(_));
    if enabled && nothing(&raw.path) && nothing(&raw.attachment) {
        let what = "a local_archive without a path or attachment archives nothing";
        context.report.warn(&at.spot, what, "set path for messages, attachment for attachments");
    }
    enabled.then_some(archive)
}

/// Whole folders are pruned: they must be folders of some time.
fn check_granularity(format: &TimeFormat, spot: &Spot, context: &mut Context<'_>) {
    let what = match format.granularity() {
        Granularity::Day | Granularity::Hour => return,
        Granularity::None => {
            format!("nothing to prune: the format {} names no time", quoted(format.as_str()))
        }
        Granularity::Finer => {
            format!("folders of the format {} are not told apart by day or hour", quoted(format.as_str()))
        }
    };
    context.report.error(spot, what, "write a format of days or hours, such as %Y/%m/%d, or take it out");
}

/// Whole folders are pruned, whoever filled them: channels that share an archive keep it for equally long.
pub(super) fn check_shared_archives(
    list: &raw::read::List<raw::Channel>,
    channels: &[Channel],
    context: &mut Context<'_>,
) {
    let archives =
        || channels.iter().enumerate().filter_map(|(n, channel)| Some((n, channel.local_archive.as_ref()?)));
    let mut roots: HashMap<&Path, Vec<usize>> = HashMap::new();
    for (n, archive) in archives() {
        for root in [&archive.path, &archive.attachment].into_iter().flatten() {
            roots.entry(root).or_default().push(n);
        }
    }
    let days = |n: usize| channels[n].local_archive.as_ref().and_then(|archive| archive.retention_days);
    for (n, archive) in archives() {
        let same = [&archive.path, &archive.attachment].into_iter().flatten();
        let others = same.filter_map(|root| roots.get(root.as_path())).flatten();
        let Some(kept) = others.copied().find(|other| days(*other) != days(n)) else { continue };
        // Told at each that prunes.
        let raw = list.get(n).and_then(|at| at.value.local_archive.given());
        if let Some(at) = raw.and_then(|at| at.value.retention_days.given()) {
            let what = format!(
                "channel {} archives into the same folder and keeps it for another time",
                quoted(&channels[kept].name)
            );
            context.report.error(&at.spot, what, "give each its own folder, or both the same retention_days");
        }
    }
}

/// A format whose result stays below the archive's root.
fn format(at: &At<String>, context: &mut Context<'_>) -> Option<TimeFormat> {
    match TimeFormat::new(&at.value) {
        Ok(format) => {
            let inside = Path::new(&at.value)
                .components()
                .all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
            if !inside {
                let what = format!("{} leads out of the archive", quoted(&at.value));
                context.report.error(
                    &at.spot,
                    what,
                    "write folders below its path, without .. and a leading /",
                );
            }
            Some(format)
        }
        Err(fault) => {
            context.report.error(&at.spot, format!("{}: {}", quoted(&at.value), fault.what), fault.hint);
            None
        }
    }
}

pub(super) fn attachment_format(raw: &raw::Channel, context: &mut Context<'_>) -> AttachmentFormat {
    let words = [("pdf", AttachmentFormat::Pdf), ("text", AttachmentFormat::Text)];
    context.choice(&raw.attachment_format, &words, AttachmentFormat::default())
}

pub(super) fn attachment_output(raw: &raw::Channel, context: &mut Context<'_>) -> AttachmentOutput {
    let words = [("same", AttachmentOutput::Same), ("pdf", AttachmentOutput::Pdf)];
    context.choice(&raw.attachment_output, &words, AttachmentOutput::default())
}

/// The stamp; `None` where nothing is stamped.
pub(super) fn stamp(raw: &raw::Channel, context: &mut Context<'_>) -> Option<Stamp> {
    let stamp = Stamp {
        visible: raw.visible_metadata.is_true(),
        all_pages: context.choice(&raw.metadata_pages, &[("first", false), ("all", true)], false),
        must_succeed: context.choice(&raw.on_stamp_failure, &[("deliver", false), ("fail", true)], false),
    };
    raw.add_metadata_to_attachment.is_true().then_some(stamp)
}

/// Enabled drop folders of a channel: its plan has room for 32 steps, the others among them.
const DROP_FOLDERS_MAX: usize = 20;

/// Enabled drop folders; disabled ones are checked and left out.
pub(super) fn drop_folders(
    raw: &raw::Channel,
    channel_enabled: bool,
    context: &mut Context<'_>,
) -> Vec<DropFolder> {
    let Some(at) = raw.drop_folders.given() else { return Vec::new() };
    let mut folders = Vec::new();
    match &at.value {
        TableOrList::Table(table) => {
            for (name, value) in table {
                context.label(&name.value, &name.spot);
                let empty = Spot { place: name.spot.place, path: name.spot.path.clone() };
                match value {
                    Key::Given(folder) => {
                        folders.extend(drop_folder(&name.value, &folder.value, channel_enabled, context));
                    }
                    Key::Absent(_) => context.report.error(&empty, "an empty drop folder", "set its path"),
                    Key::Wrong => {}
                }
            }
        }
        TableOrList::List(list) => {
            for (n, folder) in list.iter().enumerate() {
                folders.extend(drop_folder(&(n + 1).to_string(), &folder.value, channel_enabled, context));
            }
        }
    }
    if folders.len() > DROP_FOLDERS_MAX {
        let what = format!("{} enabled drop folders", folders.len());
        context.report.error(&at.spot, what, format!("a channel has at most {DROP_FOLDERS_MAX}"));
    }
    folders
}

fn drop_folder(
    name: &str,
    raw: &raw::DropFolder,
    channel_enabled: bool,
    context: &mut Context<'_>,
) -> Option<DropFolder> {
    let enabled = raw.enabled.is_not_false();
    let hint = "write the folder that attachments are dropped into";
    let path = raw.path.need(&raw.spot, "path", hint, context.report).cloned();
    let target = match raw.remote.is_true() {
        false => {
            warn_unused(raw, context);
            path.map(|at| DropTarget::Local { path: context.local_path(&at) })
        }
        true => remote(raw, path, enabled && channel_enabled, context).map(DropTarget::Remote),
    };
    target.filter(|_| enabled).map(|target| DropFolder { name: name.to_owned(), target })
}

/// A local folder with the keys of a remote one is most likely meant to be remote.
fn warn_unused(raw: &raw::DropFolder, context: &mut Context<'_>) {
    if let Some(at) = raw.server.given() {
        let what = format!("server {} has no effect on a local folder", quoted(&at.value));
        context.report.warn(&at.spot, what, "set remote: true, or take it out");
    }
}

fn remote(
    raw: &raw::DropFolder,
    path: Option<At<String>>,
    used: bool,
    context: &mut Context<'_>,
) -> Option<RemoteFolder> {
    let hint = "a remote folder has a server";
    let server = raw.server.need(&raw.spot, "server", hint, context.report).cloned();
    let server = server.map(|at| context.host(&at));
    let user = raw.user.need(&raw.spot, "user", "a remote folder has a user", context.report).cloned();
    if let Some(at) = &user
        && (at.value.trim().is_empty() || at.value.chars().any(char::is_control))
    {
        context.report.error(&at.spot, format!("{} is no user", quoted(&at.value)), "write the user's name");
    }
    if let Some(at) = &path
        && (at.value.trim().is_empty() || at.value.chars().any(char::is_control))
    {
        context.report.error(&at.spot, format!("{} is no path", quoted(&at.value)), "write a folder");
    }
    let port = context.remote_port(&raw.port, 22);
    let key_file = context.home_path(&raw.key_file);
    let passphrase = context.secret(&raw.passphrase, used);
    let password = context.secret(&raw.password, used);
    let known_hosts = context.home_path(&raw.known_hosts);
    let timeout = context.wait(&raw.timeout, Duration::from_secs(10));
    Some(RemoteFolder {
        path: path?.value,
        server: server?,
        port,
        user: user?.value,
        key_file,
        passphrase,
        password,
        known_hosts,
        timeout,
    })
}
